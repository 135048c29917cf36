//! The one watch over all services, as a kubelet has it: a request per pod would cost more, and come late.

use futures::StreamExt;
use k8s_openapi::api::core::v1::Service;
use kube::Api;
use kube::runtime::{WatchStreamExt, watcher};
use tokio::sync::watch as latest;
use tokio_util::sync::CancellationToken;

use super::{Known, Services};

/// Keeps [`Services`] up to date.
pub struct ServiceWatch {
    client: kube::Client,
    known: latest::Sender<Known>,
}

impl Services {
    /// Nothing is known until the watch runs.
    pub fn new(client: kube::Client) -> (Self, ServiceWatch) {
        let (sender, known) = latest::channel(Known::default());
        (Self { known }, ServiceWatch { client, known: sender })
    }

    /// These, for tests.
    #[cfg(test)]
    pub(crate) fn these(services: &[Service]) -> Self {
        let (sender, known) = latest::channel(Known::default());
        sender.send_modify(|known| {
            known.begin_list();
            services.iter().for_each(|service| known.put(service));
            known.end_list();
        });
        Self { known }
    }
}

impl ServiceWatch {
    /// Watches until told to stop. An error of the API is waited out.
    pub async fn run(self, stop: CancellationToken) {
        let Self { client, known } = self;
        let events = watcher(Api::<Service>::all(client), watcher::Config::default()).default_backoff();
        let mut events = std::pin::pin!(events);
        let mut reported = false;
        loop {
            let event = tokio::select! {
                // Cancel-safe: a token only ever goes one way.
                () = stop.cancelled() => return,
                // Cancel-safe: an event not taken stays in the stream.
                event = events.next() => event,
            };
            match event {
                Some(Ok(event)) => {
                    reported = false;
                    known.send_modify(|known| take(known, event));
                }
                Some(Err(error)) => {
                    if !std::mem::replace(&mut reported, true) {
                        tracing::error!(%error, "cannot watch Services, whose addresses pods are to get; trying again (may the bridge list services, `hawser manifests rbac`?)");
                    }
                    let words = denial(&error);
                    known.send_modify(|known| known.denied = words);
                }
                // The watcher's stream never ends.
                None => return,
            }
        }
    }
}

fn take(known: &mut Known, event: watcher::Event<Service>) {
    match event {
        watcher::Event::Init => known.begin_list(),
        watcher::Event::InitApply(service) | watcher::Event::Apply(service) => known.put(&service),
        watcher::Event::Delete(service) => known.remove(&service),
        watcher::Event::InitDone => known.end_list(),
    }
}

/// The API server's own words, if it says that the bridge may not.
fn denial(error: &watcher::Error) -> Option<String> {
    match error {
        watcher::Error::InitialListFailed(kube::Error::Api(status))
        | watcher::Error::WatchStartFailed(kube::Error::Api(status))
            if status.code == 403 =>
        {
            Some(status.message.clone())
        }
        _ => None,
    }
}

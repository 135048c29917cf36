//! Reaching the cluster, and saying in one line why something did not work: the thing, the cause, the fix.

use anyhow::anyhow;
use kube::config::{KubeConfigOptions, Kubeconfig};
use kube::{Client, Config, Error};

use super::Where;

/// A client for the cluster that the arguments name.
pub(super) async fn client(place: &Where) -> anyhow::Result<Client> {
    let options = KubeConfigOptions { context: place.context.clone(), ..KubeConfigOptions::default() };
    let config = match (&place.kubeconfig, &place.context) {
        (Some(file), _) => match Kubeconfig::read_from(file) {
            Ok(kubeconfig) => Config::from_custom_kubeconfig(kubeconfig, &options).await,
            Err(error) => Err(error),
        }
        .map_err(|error| {
            let file = file.display();
            anyhow!("the kubeconfig `{file}` cannot be used: {}; pass another with --kubeconfig", chain(&error))
        })?,
        (None, Some(context)) => Config::from_kubeconfig(&options).await.map_err(|error| {
            anyhow!(
                "the context `{context}` cannot be used: {}; `kubectl config get-contexts` lists them",
                chain(&error)
            )
        })?,
        (None, None) => Config::infer().await.map_err(|error| {
            anyhow!("no cluster is configured: {}; set KUBECONFIG or pass --kubeconfig FILE", chain(&error))
        })?,
    };
    Client::try_from(config)
        .map_err(|error| anyhow!("the kubeconfig cannot be used: {}; try it with `kubectl version`", chain(&error)))
}

/// Says why something that was asked of the API server did not happen.
pub(super) fn explain(doing: &str, error: &Error) -> anyhow::Error {
    let Error::Api(status) = error else {
        return anyhow!(
            "{doing} failed: the API server gave no usable answer ({}); check the server's address in your kubeconfig with `kubectl version`",
            chain(error)
        );
    };
    let said = status.message.trim();
    match status.code {
        401 => anyhow!(
            "{doing} failed: the API server does not know you ({said}); renew the credentials in your kubeconfig"
        ),
        403 => anyhow!("{doing} failed: you may not ({said}); use a kubeconfig that may, or have it granted"),
        404 if status.details.as_ref().is_none_or(|details| details.name.is_empty()) => {
            anyhow!(
                "{doing} failed: the cluster knows no Devices; install them with `hawser manifests all | kubectl apply -f -`"
            )
        }
        code => anyhow!("{doing} failed: the API server says {code}: {said}"),
    }
}

/// Whether the API server says that there is no such object.
pub(super) fn is_missing(error: &Error) -> bool {
    matches!(error, Error::Api(status) if status.code == 404 && status.details.as_ref().is_some_and(|details| !details.name.is_empty()))
}

/// Whether the API server says that there is such an object already.
pub(super) fn is_taken(error: &Error) -> bool {
    matches!(error, Error::Api(status) if status.code == 409)
}

/// An error and its causes in one line, each said once.
fn chain(error: &dyn std::error::Error) -> String {
    let mut line = error.to_string();
    let mut source = error.source();
    while let Some(error) = source {
        let words = error.to_string();
        if !line.contains(&words) {
            line = format!("{line}: {words}");
        }
        source = error.source();
    }
    line.lines().map(str::trim).collect::<Vec<_>>().join(" ")
}

//! `kubectl logs`.
//!
//! [`choose`] says which run's log is meant; [`parts`] are its files, [`tail`] finds where the last lines begin, [`reader`]
//! goes through them, [`select`] makes lines of [`record`]s, and [`follow`] waits for more. A [`position`] is a place to go
//! on from.
//!
//! Nothing of a log is held but the piece that is on its way, whatever its lines look like; nothing is read while the client
//! does not read.

use std::path::PathBuf;

use hawser_wire::deployment::RestartPolicy;
use hawser_wire::stream::{LogsRequest, StreamRefusal};

use self::follow::{Changes, Ended, Following};
use self::position::Position;
use self::reader::{OpenError, Reader, Start};
use self::record::Stamp;
use self::select::Wanted;
use super::pulled::Pulled;
use crate::runtime::{Exit, Found, FoundState};
use crate::streams::service::{Log, failed, not_found, refusal};

mod follow;
mod parts;
mod position;
mod reader;
mod record;
mod select;
mod tail;

/// The container whose log is wanted, as far as that says which run is meant.
#[derive(Debug, Clone, Copy)]
pub(super) struct Subject<'a> {
    pub(super) pod: &'a str,
    pub(super) container: &'a str,
    /// Other containers have to end before it is started.
    pub(super) waits_for_init: bool,
    /// Why it has not been started, if that is known.
    pub(super) waits: Option<&'a str>,
    /// When it is started again after it has ended; `None`: nothing of the pod is started any more.
    pub(super) restart: Option<RestartPolicy>,
}

/// The run whose log is meant.
///
/// As for a kubelet, the previous run of a container that waits to be started again is the one that has ended.
pub(super) fn choose(subject: Subject<'_>, runs: &[Found], previous: bool) -> Result<u32, StreamRefusal> {
    let Subject { pod, container, .. } = subject;
    let Some((last, before)) = runs.split_last() else {
        // The words and the status are a kubelet's.
        return Err(match (previous, subject.waits, subject.waits_for_init) {
            (true, ..) => no_previous(subject),
            (false, Some("ErrImagePull"), _) => waiting(pod, container, "image can't be pulled"),
            (false, Some("ImagePullBackOff"), _) => waiting(pod, container, "trying and failing to pull image"),
            (false, Some(reason), _) => waiting(pod, container, reason),
            (false, None, true) => waiting(pod, container, "PodInitializing"),
            (false, None, false) => waiting(pod, container, "ContainerCreating"),
        });
    };
    let waits = match &last.state {
        FoundState::Running { .. } => false,
        FoundState::Ended(exit) => restarts(subject.restart, exit),
    };
    let meant = if previous && !waits { before.last().ok_or_else(|| no_previous(subject))? } else { last };
    Ok(meant.id.attempt)
}

fn restarts(policy: Option<RestartPolicy>, exit: &Exit) -> bool {
    match policy {
        Some(RestartPolicy::Always) => true,
        Some(RestartPolicy::OnFailure) => exit.code != 0,
        Some(RestartPolicy::Never) | None => false,
    }
}

fn waiting(pod: &str, container: &str, reason: &str) -> StreamRefusal {
    refusal(400, format!("container {container:?} in pod {pod:?} is waiting to start: {reason}"))
}

fn no_previous(subject: Subject<'_>) -> StreamRefusal {
    let Subject { pod, container, .. } = subject;
    refusal(400, format!("previous terminated container {container:?} in pod {pod:?} not found"))
}

/// Who moves a log file away when it has become long.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(crate) enum Rotation {
    /// Whoever writes to it. When there is a new file, nothing more goes to the old one.
    ByTheWriter,
    /// Somebody else, who then tells the writer. What that has in hand still goes to the old file a little later, and after
    /// the end of the container likewise.
    ByAnother,
}

/// The log of one run.
pub(super) struct Run {
    /// The file to which it is written now.
    pub(super) path: PathBuf,
    pub(super) attempt: u32,
    pub(super) rotation: Rotation,
    /// Resolves when nobody writes to it any more.
    pub(super) ended: Ended,
}

/// Which run an earlier reading was of; `None` if the request begins anew.
pub(super) fn resumed(request: &LogsRequest) -> Result<Option<Position>, StreamRefusal> {
    let decode =
        |position| Position::decode(position).ok_or_else(|| refusal(400, "the position is none of this device's"));
    request.from.as_ref().map(decode).transpose()
}

/// Opens a log. `since`: what the request says, on the wall clock, in milliseconds since 1970.
pub(super) async fn open(
    run: Run,
    request: &LogsRequest,
    from: Option<Position>,
    since: Option<i64>,
) -> Result<Log, StreamRefusal> {
    let stamp =
        |millis: i64| Stamp { seconds: millis.div_euclid(1_000), nanos: millis.rem_euclid(1_000) as u32 * 1_000_000 };
    let wanted = Wanted { since: since.map(stamp), timestamps: request.timestamps, limit: request.limit_bytes };
    let start = match (from, request.tail) {
        (Some(position), _) => Start::At(position),
        (None, Some(lines)) => Start::Tail(lines),
        (None, None) => Start::Oldest,
    };
    let Run { path, attempt, rotation, ended } = run;
    let (follow, newest) = (request.follow, request.newest);
    // Before the reader: what is written in between is then seen by one of them.
    let changes = follow.then(|| Changes::of(&path));
    let opening = tokio::task::spawn_blocking(move || {
        Reader::open(path, attempt, &start, newest, wanted, follow.then_some(rotation))
    });
    let reader = match opening.await {
        Ok(Ok(reader)) => reader,
        Ok(Err(OpenError::Gone)) => return Err(refusal(410, OpenError::Gone.to_string())),
        Ok(Err(OpenError::Io(error))) => return Err(failed(format!("the log cannot be read: {error}"))),
        Err(error) => return Err(failed(format!("the log cannot be read: {error}"))),
    };
    let marks = Some(reader.marks());
    let following = match changes {
        Some(changes) => Following::on(reader, ended, changes),
        None => Following::to_the_end(reader),
    };
    Ok(Log { output: Box::pin(Pulled::new(following)), marks })
}

/// A run that is not kept any more.
pub(super) fn gone() -> StreamRefusal {
    refusal(410, OpenError::Gone.to_string())
}

/// A container that the pod does not have.
pub(super) fn no_container(pod: &str, container: &str) -> StreamRefusal {
    not_found(format!("container {container:?} not found in pod {pod:?}"))
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::runtime::{ContainerId, ExitCause, Handle};
    use hawser_wire::PodUid;
    use std::time::Duration;

    fn runs(ends: &[Option<i32>]) -> Vec<Found> {
        let state = |end: &Option<i32>| match end {
            None => FoundState::Running { started_ago: Duration::ZERO },
            Some(code) => FoundState::Ended(Exit {
                code: *code,
                signal: None,
                cause: ExitCause::Own,
                message: None,
                ran: None,
                ago: None,
            }),
        };
        let id = |attempt| ContainerId { pod: PodUid::new("u").unwrap(), name: "c".into(), attempt };
        ends.iter()
            .enumerate()
            .map(|(at, end)| Found { id: id(4 + at as u32), image: None, handle: Handle::default(), state: state(end) })
            .collect()
    }

    #[test]
    fn the_run_is_the_one_that_a_kubelet_would_show() {
        use RestartPolicy::{Always, Never, OnFailure};
        let none = "previous terminated container \"c\" in pod \"p\" not found";
        for (ends, restart, previous, expected) in [
            (&[][..], Some(Always), false, Err("container \"c\" in pod \"p\" is waiting to start: ContainerCreating")),
            (&[], Some(Always), true, Err(none)),
            (&[None], Some(Always), false, Ok(4)),
            (&[None], Some(Always), true, Err(none)),
            (&[Some(1), None], Some(Always), true, Ok(4)),
            (&[Some(1), None], Some(Always), false, Ok(5)),
            // Waiting to be started again: it is both.
            (&[Some(1), Some(1)], Some(Always), false, Ok(5)),
            (&[Some(1), Some(1)], Some(Always), true, Ok(5)),
            (&[Some(1), Some(0)], Some(OnFailure), true, Ok(4)),
            (&[Some(1), Some(2)], Some(OnFailure), true, Ok(5)),
            (&[Some(1)], Some(Never), false, Ok(4)),
            (&[Some(1)], Some(Never), true, Err(none)),
            (&[Some(1), Some(1)], None, true, Ok(4)),
        ] {
            let subject = Subject { pod: "p", container: "c", waits_for_init: false, waits: None, restart };
            let chosen = choose(subject, &runs(ends), previous);
            let chosen = chosen.as_ref().map(|attempt| *attempt).map_err(|refusal| refusal.message.as_str());
            assert_eq!(chosen, expected, "{ends:?} {restart:?} {previous}");
        }
        for (waits, waits_for_init, words) in [
            (None, true, "PodInitializing"),
            (None, false, "ContainerCreating"),
            (Some("PodInitializing"), false, "PodInitializing"),
            (Some("CreateContainerConfigError"), true, "CreateContainerConfigError"),
            (Some("ErrImagePull"), false, "image can't be pulled"),
            (Some("ImagePullBackOff"), false, "trying and failing to pull image"),
        ] {
            let subject = Subject { pod: "p", container: "c", waits_for_init, waits, restart: Some(Always) };
            let refused = choose(subject, &[], false).unwrap_err();
            let words = format!("container \"c\" in pod \"p\" is waiting to start: {words}");
            assert_eq!((refused.status, refused.message), (400, words));
        }
    }
}

//! What has to be done from time to time, and what is said about the ledger.

use std::sync::Arc;

use hawser_wire::DeviceTime;
use hawser_wire::report::{DeviceEvent, ReportItem};
use tokio::sync::mpsc;
use tokio_util::sync::CancellationToken;

use crate::clock::{DeviceClock, MOVE_BOUND_EVERY};
use crate::ledger::{Change, Durability, Found, Ledger, Recovered, Urgency};

/// Logs in what state the ledger was found, and tells the bridge what an operator should know.
pub(super) fn report_what_was_found(recovered: &Recovered, reports: &mpsc::Sender<ReportItem>, now: DeviceTime) {
    let (reason, message) = match &recovered.found {
        Some(Found::Whole) => {
            let version = recovered.accepted.as_ref().map(|accepted| accepted.version.to_string());
            return tracing::info!(version, objects = recovered.objects.len(), "going on from the ledger");
        }
        Some(Found::Nothing) => return tracing::info!("a new ledger was made"),
        Some(Found::Torn { bytes }) => {
            tracing::warn!(bytes, "the last write before the power went was cut off and is removed");
            ("LedgerTorn", format!("the last {bytes} bytes of the ledger were cut off by a power failure and removed"))
        }
        Some(Found::SetAside { path, what }) => {
            tracing::error!(path = %path.display(), what, "the ledger is corrupt and was set aside; what runs goes on");
            let path = path.display();
            ("LedgerCorrupt", format!("the ledger is corrupt ({what}) and was set aside as {path}; what runs goes on"))
        }
        None => ("LedgerUnavailable", "the ledger cannot be opened; the agent goes on from memory".to_owned()),
    };
    // The channel is empty at the start.
    let _ = reports.try_send(event(now, reason, message));
}

/// Moves the bound of the clock in the ledger, and tells when the disk refuses or takes again what it is given.
pub(super) async fn run(
    ledger: Ledger,
    clock: DeviceClock,
    reports: mpsc::Sender<ReportItem>,
    stop: CancellationToken,
) {
    let mut health = ledger.health();
    let mut well = true;
    loop {
        ledger.submit_unawaited(vec![Change::Clock(clock.running_record())], Urgency::Soon).await;
        let next = tokio::time::sleep(MOVE_BOUND_EVERY);
        tokio::pin!(next);
        loop {
            // All arms are cancel-safe: a token, a watch and a timer have nothing to lose.
            tokio::select! {
                () = stop.cancelled() => return,
                () = &mut next => break,
                changed = health.changed() => if changed.is_err() { return },
            }
            let durability = health.borrow_and_update().clone();
            if let Some((now_well, item)) = change_of_health(well, &durability, clock.now()) {
                well = now_well;
                // Full: the condition DiskPressure says the same.
                let _ = reports.try_send(item);
            }
        }
    }
}

fn change_of_health(well: bool, durability: &Durability, now: DeviceTime) -> Option<(bool, ReportItem)> {
    match durability {
        Durability::InMemory { reason } if well => Some((false, refused(reason, now))),
        Durability::Durable if !well => {
            let message = "the agent's state can be written again".to_owned();
            Some((true, event(now, "StateWritable", message)))
        }
        Durability::InMemory { .. } | Durability::Durable => None,
    }
}

fn refused(reason: &Arc<str>, now: DeviceTime) -> ReportItem {
    let message = format!(
        "the agent's state cannot be written ({reason}): it goes on from memory; free space or make its directory writable"
    );
    event(now, "StateNotWritable", message)
}

fn event(at: DeviceTime, reason: &str, message: String) -> ReportItem {
    let warning = reason != "StateWritable";
    let (pod, container) = (None, None);
    ReportItem::Event(DeviceEvent { pod, container, at, warning, reason: reason.to_owned(), message, count: 1 })
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_refusing_disk_is_told_once_and_so_is_its_return() {
        let bad = Durability::InMemory { reason: "No space left on device".into() };
        let (well, item) = change_of_health(true, &bad, DeviceTime(1)).unwrap();
        let ReportItem::Event(told) = item else { panic!() };
        assert_eq!((well, told.reason.as_str(), told.warning), (false, "StateNotWritable", true));
        assert!(told.message.contains("No space left on device"), "{}", told.message);
        assert_eq!(change_of_health(false, &bad, DeviceTime(2)), None);
        let (well, _) = change_of_health(false, &Durability::Durable, DeviceTime(3)).unwrap();
        assert!(well);
        assert_eq!(change_of_health(true, &Durability::Durable, DeviceTime(4)), None);
    }
}

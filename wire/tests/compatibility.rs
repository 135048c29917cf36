//! An old reader meets what a later version sends.

use hawser_wire::codec::Open;
use hawser_wire::deployment::{Container, EdgeDeployment, EphemeralContainer, RestartPolicy};
use hawser_wire::messages::{Down, Up};
use hawser_wire::report::{Report, ReportItem};
use hawser_wire::{BootId, DeviceTime, PodUid, decode, encode};
use minicbor::{CborLen, Decode, Encode};

/// The heartbeat of a later version.
#[derive(Encode, CborLen)]
struct LaterHeartbeat {
    #[n(0)]
    boot: BootId,
    #[n(1)]
    now: DeviceTime,
    #[n(2)]
    wall_millis: u64,
    #[n(5)]
    battery: Option<u8>,
    #[n(6)]
    history: Vec<Vec<String>>,
}

#[derive(Encode, CborLen)]
enum LaterUp {
    #[n(0)]
    Heartbeat(#[n(0)] LaterHeartbeat),
    #[n(40)]
    Telemetry(#[n(0)] Vec<String>),
}

#[test]
fn fields_of_a_later_version_are_skipped_and_counted() {
    let later = LaterUp::Heartbeat(LaterHeartbeat {
        boot: BootId([1; 8]),
        now: DeviceTime(5),
        wall_millis: 9,
        battery: Some(80),
        history: vec![vec!["a".into()], vec![]],
    });
    let decoded = decode::<Open<Up>>(&encode(&later), usize::MAX).unwrap();
    assert!(decoded.unfamiliar);
    let Open::Known(Up::Heartbeat(heartbeat)) = decoded.value else { panic!("{:?}", decoded.value) };
    assert_eq!((heartbeat.boot, heartbeat.now, heartbeat.wall_millis), (BootId([1; 8]), DeviceTime(5), 9));
    assert_eq!((heartbeat.digest, heartbeat.answers), (None, None));
}

#[test]
fn variants_of_a_later_version_are_skipped_and_counted() {
    let later = LaterUp::Telemetry(vec!["x".into(); 3]);
    let decoded = decode::<Open<Up>>(&encode(&later), usize::MAX).unwrap();
    assert!(decoded.unfamiliar);
    assert_eq!(decoded.value, Open::Unknown);
    assert_eq!(decode::<Open<Down>>(&encode(&later), usize::MAX).unwrap().value, Open::Unknown);
}

#[test]
fn an_unknown_report_item_spares_its_neighbours() {
    // Report{items: [[7, [99, ["new"]]], [8, [1, [uid, null]]]]}
    let mut bytes = vec![0x81, 0x82, 0x82, 0x07, 0x82, 0x18, 99, 0x81, 0x63, b'n', b'e', b'w'];
    bytes.extend([0x82, 0x08, 0x82, 0x01, 0x81, 0x82, 0x61, b'u', 0xf6]);
    let report = decode::<Report>(&bytes, usize::MAX).unwrap();
    assert!(report.unfamiliar);
    assert_eq!(report.value.items.len(), 2);
    assert_eq!((report.value.items[0].seq, &report.value.items[0].item), (7, &Open::Unknown));
    assert!(matches!(&report.value.items[1].item, Open::Known(ReportItem::Gone(gone)) if gone.uid.as_str() == "u"));
}

#[test]
fn a_deployment_with_an_unknown_kind_of_volume_is_refused_not_half_understood() {
    // [uid, ns, name, policy, grace, deadline, init, containers, volumes: [["v", [77, []]]], ...]
    let bytes =
        [0x89, 0x61, b'u', 0x60, 0x60, 0x00, 0x00, 0xf6, 0x80, 0x80, 0x81, 0x82, 0x61, b'v', 0x82, 0x18, 77, 0x80];
    assert!(decode::<EdgeDeployment>(&bytes, usize::MAX).is_err());
    assert_eq!(decode::<Open<EdgeDeployment>>(&bytes, usize::MAX).unwrap().value, Open::Unknown);
}

/// What an agent reads of an edge deployment that knows nothing of containers that are added to a pod.
#[derive(Encode, Decode, CborLen)]
struct EarlierDeployment {
    #[n(0)]
    uid: PodUid,
    #[n(7)]
    containers: Vec<Container>,
    #[n(14)]
    priority: Option<i32>,
}

#[test]
fn containers_that_were_added_to_a_pod_are_skipped_by_an_earlier_reader() {
    let bytes = include_str!("golden.txt").lines().find_map(|line| line.strip_prefix("EdgeDeployment/Pressure "));
    let bytes: Vec<u8> = bytes.into_iter().flat_map(|hex| hex.as_bytes().chunks(2)).map(byte).collect();
    let mut pod = decode::<EdgeDeployment>(&bytes, usize::MAX).unwrap().value;
    assert_eq!((pod.restart_policy, pod.ephemeral_containers.len()), (RestartPolicy::Always, 0));
    let added = EphemeralContainer { container: pod.containers[0].clone(), target: None, hindrance: None };
    pod.ephemeral_containers = vec![added];
    let bytes = encode(&pod);
    assert!(!decode::<EdgeDeployment>(&bytes, usize::MAX).unwrap().unfamiliar);
    let read = decode::<EarlierDeployment>(&bytes, usize::MAX).unwrap();
    assert!(read.unfamiliar);
    assert_eq!((read.value.uid, read.value.containers), (pod.uid, pod.containers));
    assert_eq!(read.value.priority, pod.priority);
}

fn byte(hex: &[u8]) -> u8 {
    u8::from_str_radix(std::str::from_utf8(hex).unwrap(), 16).unwrap()
}

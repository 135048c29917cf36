use hawser_wire::deployment::{Engine, HugePages};

use super::*;
use crate::workloads::tests::pod;

fn device() -> BTreeMap<String, u64> {
    [("cpu", 2_000), ("memory", 1_000), (PODS, 3)].map(|(name, amount)| (name.to_owned(), amount)).into()
}

fn asking(name: &str, cpu: u64, memory: u64) -> EdgeDeployment {
    let mut pod = pod(name);
    pod.containers[0].resources.cpu_request_millis = Some(cpu);
    pod.containers[0].resources.memory_request_bytes = Some(memory);
    pod
}

fn on_port(name: &str, host: u16, protocol: Protocol, address: Option<&str>) -> EdgeDeployment {
    let port = HostPort { host, pod: 80, protocol, address: address.map(str::to_owned) };
    EdgeDeployment { engine: Some(Engine { host_ports: vec![port], ..Engine::default() }), ..pod(name) }
}

#[test]
fn what_does_not_fit_is_rejected_in_a_kubelets_words() {
    let room = Room::default();
    let first = room.take(&asking("a", 1_500, 600), &device()).unwrap();
    let refused = |name: &str, cpu, memory| room.take(&asking(name, cpu, memory), &device()).unwrap_err();
    assert_eq!(
        refused("b", 600, 0),
        Refusal {
            reason: "OutOfcpu".into(),
            message: "Node didn't have enough resource: cpu, requested: 600, used: 1500, capacity: 2000".into(),
        }
    );
    assert_eq!(refused("b", 500, 401).reason, "OutOfmemory");
    let _second = room.take(&asking("b", 500, 400), &device()).unwrap();
    let _third = room.take(&pod("c"), &device()).unwrap();
    assert_eq!(
        refused("d", 0, 0),
        Refusal {
            reason: "OutOfpods".into(),
            message: "Node didn't have enough resource: pods, requested: 1, used: 3, capacity: 3".into(),
        }
    );
    drop(first);
    let _fourth = room.take(&asking("d", 1_500, 600), &device()).unwrap();
}

#[test]
fn huge_pages_are_there_for_those_who_ask_for_them() {
    let asking = |name: &str, page_bytes: u64, pages: u64| {
        let pod = pod(name);
        let container = Some(pod.containers[0].name.clone());
        let asks = vec![Ask::HugePages(HugePages { container, page_bytes, bytes: pages * page_bytes })];
        EdgeDeployment { engine: Some(Engine { asks, ..Engine::default() }), ..pod }
    };
    let mut device = device();
    device.insert("hugepages-2Mi".to_owned(), 8 << 20);
    let room = Room::default();
    let _first = room.take(&asking("a", 2 << 20, 3), &device).unwrap();
    let refused = |page, pages| room.take(&asking("b", page, pages), &device).unwrap_err();
    assert_eq!(
        refused(2 << 20, 2),
        Refusal {
            reason: "OutOfhugepages-2Mi".into(),
            message:
                "Node didn't have enough resource: hugepages-2Mi, requested: 4194304, used: 6291456, capacity: 8388608"
                    .into(),
        }
    );
    assert_eq!(
        refused(1 << 30, 1),
        Refusal {
            reason: "OutOfhugepages-1Gi".into(),
            message: "Node didn't have enough resource: hugepages-1Gi, requested: 1073741824, used: 0, capacity: 0"
                .into(),
        }
    );
    let _second = room.take(&asking("b", 2 << 20, 1), &device).unwrap();
    assert!(room.take(&asking("c", 1 << 30, 1), &BTreeMap::new()).is_ok(), "the device does not say what it has");
}

#[test]
fn who_has_begun_is_counted_and_never_rejected() {
    let room = Room::default();
    let _begun = room.hold(&asking("a", 9_000, 0));
    assert_eq!(room.take(&asking("b", 1, 0), &device()).unwrap_err().reason, "OutOfcpu");
    // A pod is not in its own way, and one that asks for nothing is in nobody's.
    let _again = room.take(&asking("a", 2_000, 0), &device()).unwrap();
    let _nothing = room.take(&pod("b"), &device()).unwrap();
    assert!(room.take(&asking("c", 1, 0), &BTreeMap::new()).is_ok(), "the device does not say what it has");
}

#[test]
fn who_holds_something_exchanges_it_if_there_is_room_and_to_take_less_is_always_possible() {
    let room = Room::default();
    let _a = room.take(&asking("a", 500, 100), &device()).unwrap();
    let _b = room.take(&asking("b", 1_000, 100), &device()).unwrap();
    assert_eq!(room.exchange(&asking("a", 1_000, 100), &device()), Ok(()));
    assert_eq!(
        room.exchange(&asking("a", 1_001, 100), &device()).unwrap_err(),
        "Node didn't have enough resource: cpu, requested: 1001, used: 1000, capacity: 2000"
    );
    // The device has become smaller than what is held.
    let small = BTreeMap::from([("cpu".to_owned(), 100)]);
    assert_eq!(room.exchange(&asking("a", 900, 100), &small), Ok(()));
    assert!(room.exchange(&asking("a", 901, 100), &small).is_err());
    assert!(room.exchange(&asking("stranger", 1, 1), &small).is_err(), "who holds nothing has nothing to exchange");
}

#[test]
fn who_found_no_room_is_told_when_there_is_some_and_more_important_ones_come_first() {
    let room = Room::default();
    let important = |cpu| EdgeDeployment { priority: Some(9), ..asking("important", cpu, 10) };
    let _first = room.take(&asking("first", 400, 10), &device()).unwrap();
    let _important = room.take(&important(400), &device()).unwrap();
    let large = room.take(&asking("large", 1_000, 10), &device()).unwrap();
    let mut news = room.news();
    assert!(room.exchange(&asking("first", 1_200, 10), &device()).is_err());
    assert!(room.exchange(&important(1_200), &device()).is_err());
    assert!(!news.has_changed().unwrap());
    drop(large);
    assert!(news.has_changed().unwrap());
    news.borrow_and_update();
    // Whoever asks first, the other one has it.
    assert!(room.exchange(&asking("first", 1_200, 10), &device()).is_err());
    assert_eq!(room.exchange(&important(1_200), &device()), Ok(()));
    assert!(!news.has_changed().unwrap());
    // One that takes less makes room.
    assert_eq!(room.exchange(&important(700), &device()), Ok(()));
    assert!(news.has_changed().unwrap());
    assert_eq!(room.exchange(&asking("first", 1_200, 10), &device()), Ok(()));
}

#[test]
fn who_takes_its_place_again_does_not_lose_it_to_its_own_earlier_hold() {
    let room = Room::default();
    let before = room.hold(&asking("a", 1_500, 0));
    let _b = room.take(&asking("b", 100, 0), &device()).unwrap();
    assert!(room.exchange(&asking("b", 1_000, 0), &device()).is_err());
    let _after = room.hold(&asking("a", 1_500, 0));
    drop(before);
    assert!(room.exchange(&asking("b", 1_000, 0), &device()).is_err());
}

#[test]
fn the_most_that_is_asked_for_at_once_counts() {
    let mut many = asking("a", 500, 0);
    let init = |cpu: u64, sidecar: bool| {
        let mut container = asking("i", cpu, 0).containers.remove(0);
        container.sidecar = sidecar;
        container
    };
    many.init_containers = vec![init(1_000, false), init(300, true), init(400, false)];
    assert_eq!(Needs::of(&many).amounts["cpu"], 1_000);
    many.init_containers.push(init(800, false));
    assert_eq!(Needs::of(&many).amounts["cpu"], 1_100);
    many.containers.push(many.containers[0].clone());
    assert_eq!(Needs::of(&many).amounts["cpu"], 1_300);
}

#[test]
fn a_pod_needs_what_it_asks_for_as_a_whole_and_its_overhead() {
    let resources = |cpu| Resources { cpu_request_millis: Some(cpu), ..Resources::default() };
    let mut pod = asking("a", 500, 100);
    let asks = vec![Ask::Resources(resources(800)), Ask::Overhead(resources(50))];
    pod.engine = Some(Engine { asks, ..Engine::default() });
    let needs = Needs::of(&pod).amounts;
    assert_eq!((needs["cpu"], needs["memory"]), (850, 100));
}

#[test]
fn two_pods_cannot_have_the_same_port_of_the_device() {
    let room = Room::default();
    let _held = room.take(&on_port("a", 80, Protocol::Tcp, Some("192.0.2.1")), &device()).unwrap();
    for (address, protocol, port, fits) in [
        (Some("192.0.2.1"), Protocol::Tcp, 80, false),
        (None, Protocol::Tcp, 80, false),
        (Some("0.0.0.0"), Protocol::Tcp, 80, false),
        (Some("192.0.2.2"), Protocol::Tcp, 80, true),
        (None, Protocol::Udp, 80, true),
        (None, Protocol::Tcp, 81, true),
    ] {
        let result = room.take(&on_port("b", port, protocol, address), &device());
        assert_eq!(result.as_ref().err().map(|refusal| refusal.reason.as_str()), (!fits).then_some("NodePorts"));
    }
}

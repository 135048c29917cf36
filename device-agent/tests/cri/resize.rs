//! Containers and their pods get other limits while they run.

use hawser_wire::deployment::{Container, EdgeDeployment, Resources, RestartPolicy, RestartToResize};
use hawser_wire::report::{Given, Resize, WorkloadReport};

use crate::cgroups::{says, with};
use crate::world::*;

const MIB: u64 = 1 << 20;

fn resources(cpu: u64, memory: u64) -> Resources {
    Resources {
        cpu_request_millis: Some(cpu),
        cpu_limit_millis: Some(cpu),
        memory_request_bytes: Some(memory * MIB),
        memory_limit_bytes: Some(memory * MIB),
        ..Resources::default()
    }
}

/// Holds 24 MiB of memory for as long as it runs.
const HOLDS: &str = "dd if=/dev/zero of=/dev/shm/held bs=1M count=24 2>/dev/null; echo held; exec sleep 1000";

fn of_size(generation: u64, cpu: u64, memory: u64, policy: Option<RestartToResize>) -> EdgeDeployment {
    let container = Container { resources: resources(cpu, memory), restart_to_resize: policy, ..shell(HOLDS) };
    EdgeDeployment { generation: Some(generation), ..hasty(pod("elastic", RestartPolicy::Always, container)) }
}

fn given(report: &WorkloadReport) -> Option<Given> {
    report.containers.first().and_then(|container| container.given)
}

/// The memory limits of the pod and of its container, and the pod's processor quota, as the kernel has them; `None`: it has no
/// such controller.
fn limits(device: &Device) -> [Option<String>; 3] {
    let pod = format!("{}/boat/podelastic", device.config.cgroup_root);
    let id = device.container("elastic").unwrap().container_id.clone().unwrap();
    let container = format!("{pod}/{}", device.engine.cgroup_name(&id));
    let memory = |place: &str| says("memory", place, ["memory.limit_in_bytes", "memory.max"]);
    let quota = says("cpu", &pod, ["cpu.cfs_quota_us", "cpu.max"]);
    [memory(&pod), memory(&container), quota.map(|text| text.split(' ').next().unwrap_or_default().to_owned())]
}

/// How much memory and swap together the container may have, or in version 2 how much swap; `None`: the kernel limits no swap.
fn swap(device: &Device) -> Option<(String, bool)> {
    let id = device.container("elastic").unwrap().container_id.clone().unwrap();
    let place = format!("{}/boat/podelastic/{}", device.config.cgroup_root, device.engine.cgroup_name(&id));
    let (dir, unified) = with("memory", &place)?;
    let file = dir.join(["memory.memsw.limit_in_bytes", "memory.swap.max"][usize::from(unified)]);
    std::fs::read_to_string(file).ok().map(|told| (told.trim().to_owned(), unified))
}

fn does_not_swap(device: &Device, memory: u64) {
    if let Some((told, unified)) = swap(device) {
        assert_eq!(told, if unified { "0".to_owned() } else { (memory * MIB).to_string() });
    }
}

fn is(told: [Option<String>; 3], cpu: u64, memory: u64) {
    let memory = (memory * MIB).to_string();
    for (told, expected) in told.into_iter().zip([memory.clone(), memory, (cpu * 100).to_string()]) {
        assert_eq!(told.unwrap_or(expected.clone()), expected);
    }
}

/// Whether the pod has this, and is told to have it.
fn has(device: &Device, cpu: u64, memory: u64) -> bool {
    let wanted = Some(Given { allocated: resources(cpu, memory), actual: None });
    let report = device.report("elastic");
    report.is_some_and(|report| given(report) == wanted && report.resize == Some(Resize::default()))
}

/// Whether it cannot be applied, because more is used now.
fn fails(device: &Device) -> bool {
    let resize = device.report("elastic").and_then(|report| report.resize.as_ref());
    let error = resize.and_then(|resize| resize.in_progress.as_ref()).and_then(|one| one.error.as_ref());
    error.is_some_and(|error| error.contains("below current usage"))
}

fn container(device: &Device) -> (Option<String>, u32) {
    let container = device.container("elastic").unwrap();
    (container.container_id.clone(), container.restart_count)
}

#[tokio::test]
async fn a_pod_that_runs_gets_more_and_less_and_keeps_its_containers() {
    let Some(mut device) = Device::new() else { return };
    device.start().await;
    device.run(&of_size(1, 100, 64, None));
    device.until_running("elastic").await;
    device.until("it holds memory", |device| device.output("elastic").contains("held")).await;
    let began = container(&device);
    does_not_swap(&device, 64);
    for (generation, cpu, memory) in [(2, 300, 128), (3, 200, 96)] {
        device.run(&of_size(generation, cpu, memory, None));
        device.until("it is resized", |device| has(device, cpu, memory)).await;
        assert_eq!(container(&device), began);
        is(limits(&device), cpu, memory);
        does_not_swap(&device, memory);
    }

    // Less than it uses: refused before anything is changed.
    device.run(&of_size(4, 200, 16, None));
    device.until("it is refused", fails).await;
    let expected = Some(Given { allocated: resources(200, 16), actual: Some(resources(200, 96)) });
    assert_eq!(given(device.report("elastic").unwrap()), expected);
    is(limits(&device), 200, 96);

    // The next agent knows what holds, and what does not.
    device.kill_agent().await;
    device.start().await;
    device.until("it is refused again", fails).await;
    assert_eq!((given(device.report("elastic").unwrap()), container(&device)), (expected, began.clone()));
    device.run(&of_size(5, 200, 96, None));
    device.until("it has what it had", |device| has(device, 200, 96)).await;
    assert_eq!(container(&device), began);
    is(limits(&device), 200, 96);
    for reason in ["ResizeStarted", "ResizeCompleted", "ResizeError"] {
        assert!(device.reasons().contains(&reason), "{reason}: {:?}", device.reasons());
    }
    device.sweep("elastic").await;
}

#[tokio::test]
async fn a_container_that_wants_to_is_started_again_for_another_limit() {
    let Some(mut device) = Device::new() else { return };
    device.start().await;
    let policy = Some(RestartToResize { cpu: false, memory: true });
    device.run(&of_size(1, 100, 64, policy));
    device.until_running("elastic").await;
    device.run(&of_size(2, 200, 64, policy));
    device.until("it is resized", |device| has(device, 200, 64)).await;
    assert_eq!(container(&device).1, 0);
    device.run(&of_size(3, 200, 96, policy));
    device.until("it is started again", |device| has(device, 200, 96) && container(device).1 == 1).await;
    is(limits(&device), 200, 96);
    device.sweep("elastic").await;
}

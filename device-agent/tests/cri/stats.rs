//! What the device and an engine's containers use.

use device_agent::streams::service::Service;
use hawser_wire::deployment::{Container, RestartPolicy};
use hawser_wire::stream::{Stats, Usage};

use crate::world::*;

fn usage(stats: &Stats, pod: &str) -> Usage {
    stats.pods.iter().find(|stats| stats.pod == uid(pod)).unwrap().containers[0].usage
}

#[tokio::test]
async fn busy_containers_are_told_from_idle_ones_and_ended_ones_are_not_there() {
    let Some(mut device) = Device::new() else { return };
    device.start().await;
    let busy = "i=0; while [ $i -lt 600000 ]; do i=$((i+1)); done; echo up; exec sleep 1000";
    let mut both = hasty(pod("busy", RestartPolicy::Never, shell(busy)));
    both.containers.push(Container { name: "also".into(), ..shell("exec sleep 1000") });
    device.run(&both);
    device.run(&hasty(pod("idle", RestartPolicy::Never, shell("exec sleep 1000"))));
    device.run_to_end(&pod("over", RestartPolicy::Never, shell("exit 0"))).await;
    device.until_running("idle").await;
    device.until_running("busy").await;
    device.until("the work to be done", |device| device.output("busy") == "up\n").await;
    let verbs = device.verbs();
    let stats = verbs.stats().await.unwrap();
    let names: Vec<&str> = stats.pods.iter().map(|pod| pod.pod.as_str()).collect();
    assert_eq!(names, ["busy", "idle"]);
    let pod = &stats.pods[0];
    let names: Vec<&str> = pod.containers.iter().map(|container| container.name.as_str()).collect();
    assert_eq!(names, ["also", "main"]);
    let (busy, idle) = (pod.containers[1].usage, usage(&stats, "idle"));
    assert!(busy.cpu_nanoseconds.unwrap() >= 100_000_000, "{stats:?}");
    assert!(busy.cpu_nanoseconds > idle.cpu_nanoseconds && idle.cpu_nanoseconds.is_some(), "{stats:?}");
    assert!((1..50_000_000).contains(&idle.memory_working_set_bytes.unwrap()), "{idle:?}");
    assert_eq!((busy.processes, idle.processes), (Some(1), Some(1)));
    assert!(stats.node.cpu_nanoseconds > busy.cpu_nanoseconds);
    assert!(pod.started.is_some() && pod.started <= pod.containers[0].started, "{pod:?}");
    assert!(pod.containers[0].started.unwrap() <= stats.at && busy.at.unwrap() <= stats.at, "{stats:?}");
    // Whoever asks at once again gets the same answer.
    let (first, second) = (verbs.stats().await.unwrap(), verbs.stats().await.unwrap());
    assert_eq!(first, second);
    for name in ["busy", "idle", "over"] {
        device.sweep(name).await;
    }
}

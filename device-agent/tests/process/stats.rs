//! What the device and its containers use.

use device_agent::streams::service::Service;
use hawser_wire::deployment::RestartPolicy;
use hawser_wire::stream::{Stats, Usage};

use crate::world::*;

fn usage(stats: &Stats, pod: &str) -> Usage {
    stats.pods.iter().find(|stats| stats.pod == uid(pod)).unwrap().containers[0].usage
}

#[tokio::test]
async fn busy_containers_are_told_from_idle_ones_and_ended_ones_are_not_there() {
    let mut device = Device::new();
    device.start();
    // A child that is gone when it is measured, and memory that stays.
    let busy = "sh -c 'i=0; while [ $i -lt 300000 ]; do i=$((i+1)); done'; \
                exec sh -c 'x=$(head -c 8000000 /dev/zero | tr \"\\0\" x); echo > up; while :; do sleep 1; done'";
    device.run(&pod("busy", RestartPolicy::Never, shell(busy)));
    device.run(&pod("idle", RestartPolicy::Never, shell("echo > up; exec sleep 1000")));
    device.run(&pod("over", RestartPolicy::Never, shell("exit 0")));
    device.written("busy", "up").await;
    device.written("idle", "up").await;
    device
        .until("the end", |device| {
            device.report("over").is_some_and(|report| report.phase == hawser_wire::report::Phase::Succeeded)
        })
        .await;
    let stats = device.verbs().stats().await.unwrap();
    let names: Vec<&str> = stats.pods.iter().map(|pod| pod.pod.as_str()).collect();
    assert_eq!(names, ["busy", "idle"]);
    let (busy, idle) = (usage(&stats, "busy"), usage(&stats, "idle"));
    assert!(busy.cpu_nanoseconds.unwrap() >= 50_000_000 && idle.cpu_nanoseconds.unwrap() < 50_000_000, "{stats:?}");
    assert!(busy.memory_working_set_bytes.unwrap() > 8_000_000, "{busy:?}");
    assert!((1..8_000_000).contains(&idle.memory_working_set_bytes.unwrap()), "{idle:?}");
    assert!(stats.node.cpu_nanoseconds > busy.cpu_nanoseconds);
    assert!(stats.node.memory_working_set_bytes > busy.memory_working_set_bytes);
    let pod = &stats.pods[0];
    assert!(pod.started <= pod.containers[0].started && pod.containers[0].started.unwrap() <= stats.at, "{pod:?}");
    assert!(pod.started.is_some());
    // Whoever asks at once again gets the same answer; later a newer one, which never goes back.
    let verbs = device.verbs();
    let (first, second) = (verbs.stats().await.unwrap(), verbs.stats().await.unwrap());
    assert_eq!(first, second);
    device.stop().await;
}

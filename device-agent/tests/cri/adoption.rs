//! The agent and the engine go and come back; containers do not notice.

use hawser_wire::deployment::RestartPolicy;

use crate::world::*;

const WAITS: &str = "echo up; until test -e /tmp/go; do sleep 0.05; done; exit 42";

#[tokio::test]
async fn the_same_containers_run_on_after_agent_and_engine_were_killed() {
    let Some(mut device) = Device::new() else { return };
    device.start().await;
    device.run(&pod("server", RestartPolicy::Always, shell("exec sleep 1000")));
    device.until_running("server").await;
    let before = device.container("server").unwrap().clone();
    device.kill_agent().await;
    device.start().await;
    device.until_running("server").await;
    assert_eq!(device.container("server").unwrap(), &before, "after the agent was killed");

    device.engine.crash();
    device.engine.run();
    device.kill_agent().await;
    device.start().await;
    device.until_running("server").await;
    assert_eq!(device.container("server").unwrap(), &before, "after the engine was killed");
    device.sweep("server").await;
}

#[tokio::test]
async fn an_end_that_nobody_saw_is_told_with_its_code_and_times() {
    let Some(mut device) = Device::new() else { return };
    device.start().await;
    device.run(&pod("job", RestartPolicy::Never, shell(WAITS)));
    device.until_running("job").await;
    let pid = device.engine.pid_of("until test");
    device.kill_agent().await;
    // The engine sees the end; there is no agent.
    std::fs::write(format!("/proc/{pid}/root/tmp/go"), "").unwrap();
    while std::path::Path::new(&format!("/proc/{pid}")).exists() {
        tokio::time::sleep(std::time::Duration::from_millis(10)).await;
    }
    let ended = clock()();
    tokio::time::sleep(std::time::Duration::from_secs(3)).await;
    device.start().await;
    let end = device.until_ended("job").await;
    assert_eq!((end.exit_code, end.reason.as_str()), (42, "Error"));
    let (began, finished) = (end.started.unwrap(), end.finished.unwrap());
    assert!(began < finished, "{began:?} {finished:?}");
    assert!(
        finished.millis_since(ended) < 2_000,
        "it ended at {ended:?}, and {finished:?} is told: when the agent was back"
    );
    device.sweep("job").await;
}

#[tokio::test]
async fn a_container_goes_on_while_its_engine_is_away_and_its_end_is_heard_later() {
    let Some(mut device) = Device::new() else { return };
    device.start().await;
    device.run(&pod("job", RestartPolicy::Never, shell(WAITS)));
    device.until_running("job").await;
    let pid = device.engine.pid_of("until test");
    device.until("the agent to watch the container", |_| is_held(pid)).await;
    device.engine.crash();
    std::fs::write(format!("/proc/{pid}/root/tmp/go"), "").unwrap();
    device.until("the container to end", |_| !std::path::Path::new(&format!("/proc/{pid}")).exists()).await;
    device.engine.run();
    let end = device.until_ended("job").await;
    // What ends while a newer engine is away it sweeps up when it is back, and its exit code with it. 2.4 is known to. A newer
    // kernel has kept it.
    let forgotten = device.engine.is_since((2, 0)) && !kernel_is_since((6, 15));
    let expected = if forgotten { (255, "ContainerStatusUnknown") } else { (42, "Error") };
    assert_eq!((end.exit_code, end.reason.as_str()), expected);
    // Once told it stays, whoever asks the engine again.
    device.kill_agent().await;
    device.start().await;
    assert_eq!(device.until_ended("job").await, end);
    device.sweep("job").await;
}

#[tokio::test]
async fn what_is_not_ours_is_left_alone_and_what_is_not_wanted_goes() {
    let Some(mut device) = Device::new() else { return };
    // Another agent's pod, on the same engine.
    let ours = device.config.device.clone();
    device.config.device = "other".into();
    device.start().await;
    device.run(&pod("foreign", RestartPolicy::Always, shell("exec sleep 1000")));
    device.until_running("foreign").await;
    device.kill_agent().await;
    device.forget_everything();
    // Ours, from a life of which the agent has no record.
    device.config.device = ours;
    device.start().await;
    device.run(&pod("orphan", RestartPolicy::Always, shell("exec sleep 2000")));
    device.until_running("orphan").await;
    let orphan = device.engine.pid_of("sleep 2000");
    device.kill_agent().await;
    device.forget_everything();
    device.start().await;
    let place = device.config.root.join("orphan");
    device.until("the orphan to go", |_| !place.exists()).await;
    assert!(!std::path::Path::new(&format!("/proc/{orphan}")).exists());
    device.engine.pid_of("sleep 1000");
    device.kill_agent().await;
    device.config.device = "other".into();
    device.start().await;
    device
        .until("the other's pod to go when its own agent says so", |device| {
            !device.config.root.join("foreign").exists()
        })
        .await;
}

#[tokio::test]
async fn a_sandbox_that_died_is_replaced() {
    let Some(mut device) = Device::new() else { return };
    if device.engine.of_a_sandbox() == 0 {
        return;
    }
    device.start().await;
    device.run(&pod(
        "web",
        RestartPolicy::Always,
        shell("echo up; until test -e /tmp/go; do sleep 0.05; done; exit 1"),
    ));
    device.until_running("web").await;
    let (pause, pid) = (device.engine.pid_of("2147483647"), device.engine.pid_of("until test"));
    let pause = rustix::process::Pid::from_raw(pause).unwrap();
    rustix::process::kill_process(pause, rustix::process::Signal::KILL).unwrap();
    std::fs::write(format!("/proc/{pid}/root/tmp/go"), "").unwrap();
    device
        .until("the pod to run in a new sandbox", |device| {
            device.container("web").is_some_and(|container| container.restart_count == 1 && container.ready)
        })
        .await;
    assert!(device.reasons().contains(&"SandboxChanged"), "{:?}", device.reasons());
    device.sweep("web").await;
}

/// Whether this program, of which the agent is a part, holds the process by a descriptor.
fn is_held(pid: i32) -> bool {
    let held = format!("Pid:\t{pid}\n");
    let all = std::fs::read_dir("/proc/self/fdinfo").unwrap().filter_map(|entry| entry.ok());
    all.filter_map(|entry| std::fs::read_to_string(entry.path()).ok()).any(|info| info.contains(&held))
}

fn kernel_is_since(since: (u32, u32)) -> bool {
    let release = rustix::system::uname().release().to_string_lossy().into_owned();
    let mut numbers = release.split(|c: char| !c.is_ascii_digit()).map(|number| number.parse().unwrap_or(0));
    (numbers.next().unwrap_or(0), numbers.next().unwrap_or(0)) >= since
}

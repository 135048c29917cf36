//! Probes and hooks of real programs.

use std::time::Duration;

use hawser_wire::deployment::{Action, Care, Container, Probe, RestartPolicy};

use crate::world::*;

fn command(script: &str) -> Action {
    Action::Exec(vec!["/bin/sh".into(), "-c".into(), script.into()])
}

fn probe(script: &str) -> Probe {
    Probe {
        action: command(script),
        initial_delay_seconds: 0,
        period_seconds: 1,
        timeout_seconds: 30,
        success_threshold: 1,
        failure_threshold: 1,
        grace_seconds: None,
    }
}

fn cared_for(script: &str, care: Care) -> Container {
    Container { care: Some(care), ..shell(script) }
}

#[tokio::test]
async fn a_readiness_probe_is_a_command_with_the_programs_own_directory() {
    let mut device = Device::new();
    device.start();
    let care = Care { readiness: Some(probe("test -e ready || { echo not there; exit 1; }")), ..Care::default() };
    device.run(&pod("web", RestartPolicy::Always, cared_for("echo $$ > pid; exec sleep 1000", care)));
    device.written("web", "pid").await;
    device.until("the probe to fail", |device| device.event("Unhealthy").is_some()).await;
    assert_eq!(device.event("Unhealthy").unwrap().message, "Readiness probe failed: not there\n");
    assert!(!device.is_running("web"));
    std::fs::write(device.work("web").join("ready"), "").unwrap();
    device.until_running("web").await;
    std::fs::remove_file(device.work("web").join("ready")).unwrap();
    device.until("the pod not to be ready", |device| !device.is_running("web")).await;
    assert_eq!(device.restarts("web"), 0);
    device.stop().await;
}

#[tokio::test]
async fn a_probe_that_hangs_is_ended_with_all_that_it_started() {
    let mut device = Device::new();
    device.start();
    let script = "sleep 1000 & echo $! > child; wait";
    let care = Care { liveness: Some(Probe { timeout_seconds: 1, ..probe(script) }), ..Care::default() };
    device.run(&pod("web", RestartPolicy::Always, cared_for("exec sleep 1000", care)));
    let child: i32 = device.written("web", "child").await.parse().unwrap();
    device.until("the container to be started anew", |device| device.restarts("web") == 1).await;
    let event = &device.event("Unhealthy").unwrap().message;
    assert!(event.starts_with("Liveness probe failed: command timed out: "), "{event}");
    let killing = &device.event("Killing").unwrap().message;
    assert_eq!(killing, "Container main failed liveness probe, will be restarted");
    device.until("the probe's child to end", |_| !is_alive(child)).await;
    device.stop().await;
}

#[tokio::test]
async fn what_was_ready_is_ready_after_a_restart_of_the_agent_until_a_probe_says_otherwise() {
    let mut device = Device::new();
    device.start();
    let care = Care {
        startup: Some(probe("test -e ready")),
        readiness: Some(Probe { period_seconds: 1_000, ..probe("test -e ready") }),
        ..Care::default()
    };
    device.run(&pod("web", RestartPolicy::Always, cared_for("touch ready; exec sleep 1000", care)));
    device.until_running("web").await;
    std::fs::remove_file(device.work("web").join("ready")).unwrap();
    device.stop().await;
    device.start();
    device.until_running("web").await;
    assert_eq!(device.restarts("web"), 0);
    device.stop().await;
}

#[tokio::test]
async fn hooks_run_after_the_start_and_before_term() {
    let mut device = Device::new();
    device.start();
    let care = Care {
        // The program hears TERM once it is up.
        post_start: Some(command("until [ -e up ]; do sleep 0.02; done; echo hello >> story")),
        pre_stop: Some(command("echo bye >> story")),
        ..Care::default()
    };
    let script = "trap 'echo term >> story; exit 0' TERM; echo > up; while :; do sleep 0.1; done";
    device.run(&pod("web", RestartPolicy::Always, cared_for(script, care)));
    device.until_running("web").await;
    let story = device.work("web").join("story");
    assert_eq!(std::fs::read_to_string(&story).unwrap(), "hello\n", "it runs when its hook is done");
    device.ask_to_stop("web", Duration::from_secs(60));
    device.until("the pod to be gone", |device| device.is_gone("web").is_some()).await;
    assert_eq!(std::fs::read_to_string(&story).unwrap(), "hello\nbye\nterm\n");
    device.stop().await;
}

#[tokio::test]
async fn a_pre_stop_hook_that_never_ends_is_cut_at_the_grace_period() {
    let mut device = Device::new();
    device.start();
    let care = Care { pre_stop: Some(command("echo $$ > hook; exec sleep 1000")), ..Care::default() };
    let script = "trap 'echo term > heard; exit 0' TERM; while :; do sleep 0.1; done";
    device.run(&pod("web", RestartPolicy::Always, cared_for(script, care)));
    device.until_running("web").await;
    device.ask_to_stop("web", Duration::from_secs(1));
    let hook: i32 = device.written("web", "hook").await.parse().unwrap();
    device.until("the pod to be gone", |device| device.is_gone("web").is_some()).await;
    device.until("the hook to end", |_| !is_alive(hook)).await;
    device.stop().await;
}

#[tokio::test]
async fn a_failed_post_start_hook_ends_the_program() {
    let mut device = Device::new();
    device.start();
    let care = Care { post_start: Some(command("exit 3")), ..Care::default() };
    let end = device.run_to_end(&pod("web", RestartPolicy::Never, cared_for("exec sleep 1000", care))).await;
    assert_eq!((end.exit_code, end.signal), (143, Some(15)));
    assert_eq!(device.event("FailedPostStartHook").unwrap().message, "PostStartHook failed");
    device.stop().await;
}

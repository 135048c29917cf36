//! Probes and hooks of containers of a real engine.

use hawser_wire::deployment::{Action, Care, Container, HttpGet, Probe, RestartPolicy, TcpSocket};

use crate::world::*;

fn command(script: &str) -> Action {
    Action::Exec(vec!["/bin/sh".into(), "-c".into(), script.into()])
}

fn probe(action: Action) -> Probe {
    Probe {
        action,
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
async fn probes_reach_into_the_container_and_its_network() {
    let Some(mut device) = Device::new() else { return };
    device.start().await;
    let get = HttpGet { https: false, host: None, port: 8080, path: "/started".into(), headers: vec![] };
    let care = Care {
        startup: Some(Probe { failure_threshold: 100, ..probe(command("test -e /tmp/started")) }),
        readiness: Some(probe(Action::Http(get))),
        liveness: Some(Probe { failure_threshold: 100, ..probe(Action::Tcp(TcpSocket { host: None, port: 8080 })) }),
        ..Care::default()
    };
    let script = "echo yes > /tmp/started; exec httpd -f -p 8080 -h /tmp";
    device.run(&pod("web", RestartPolicy::Always, cared_for(script, care)));
    device.until_running("web").await;
    assert_eq!(device.container("web").unwrap().started, Some(true));
    assert!(!device.reasons().contains(&"Killing"), "{:?}", device.events);
    device.sweep("web").await;
}

#[tokio::test]
async fn a_probe_that_hangs_ends_the_container_and_leaves_no_process() {
    let Some(mut device) = Device::new() else { return };
    device.start().await;
    let care = Care {
        liveness: Some(Probe { timeout_seconds: 1, grace_seconds: Some(1), ..probe(command("sleep 54321")) }),
        ..Care::default()
    };
    let script = "trap '' TERM; while :; do sleep 1; done";
    let mut spec = pod("web", RestartPolicy::Always, cared_for(script, care));
    spec.grace_seconds = 3;
    device.run(&spec);
    device.until("a restart", |device| device.container("web").is_some_and(|c| c.restart_count == 1)).await;
    let unhealthy = device.events.iter().find(|event| event.reason == "Unhealthy").unwrap();
    // CRI-O answers with words of its own.
    let detail = if device.engine.is_crio() { "" } else { ": \"/bin/sh -c sleep 54321\" timed out after 1s" };
    assert_eq!(unhealthy.message, format!("Liveness probe failed: command timed out{detail}"));
    let killing = device.events.iter().find(|event| event.reason == "Killing").unwrap();
    assert_eq!(killing.message, "Container main failed liveness probe, will be restarted");
    device.sweep("web").await;
}

#[tokio::test]
async fn hooks_run_in_the_container_after_its_start_and_before_term() {
    let Some(mut device) = Device::new() else { return };
    device.start().await;
    let care = Care {
        // The program hears TERM once it is up.
        post_start: Some(command("until [ -e /up ]; do sleep 0.05; done; echo hello > /proc/1/fd/1")),
        pre_stop: Some(command("echo bye > /proc/1/fd/1")),
        liveness: Some(Probe { initial_delay_seconds: 1, ..probe(command("exit 1")) }),
        ..Care::default()
    };
    let script = "trap 'echo term; exit 0' TERM; echo > /up; while :; do sleep 0.1; done";
    let end = device.run_to_end(&pod("web", RestartPolicy::Never, cared_for(script, care))).await;
    assert_eq!((end.exit_code, device.output("web").as_str()), (0, "hello\nbye\nterm\n"));
    device.sweep("web").await;
}

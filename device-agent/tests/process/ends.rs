//! How containers end.

use std::time::{Duration, Instant};

use hawser_wire::deployment::{Ask, Container, EdgeDeployment, Engine, HugePages, RestartPolicy};
use hawser_wire::report::{ContainerState, Phase};

use crate::world::*;

#[tokio::test]
async fn exit_codes_and_signals_are_exact() {
    let mut device = Device::new();
    device.start();
    for (number, (script, code, signal, reason)) in [
        ("exit 0", 0, None, "Completed"),
        ("exit 3", 3, None, "Error"),
        ("exit 255", 255, None, "Error"),
        ("kill -TERM $$", 143, Some(15), "Error"),
        ("kill -KILL $$", 137, Some(9), "Error"),
        ("kill -SEGV $$", 139, Some(11), "Error"),
    ]
    .into_iter()
    .enumerate()
    {
        let end = device.run_to_end(&pod(&format!("p{number}"), RestartPolicy::Never, shell(script))).await;
        assert_eq!((end.exit_code, end.signal, end.reason.as_str()), (code, signal, reason), "{script}");
        assert!(end.started <= end.finished && end.started.is_some(), "{end:?}");
        let state =
            std::fs::read_to_string(device.place(&format!("p{number}")).join("containers/main/0/state.json")).unwrap();
        let shim = state.split("\"shim\":{\"pid\":").nth(1).unwrap().split(',').next().unwrap().to_owned();
        assert!(!std::path::Path::new("/proc").join(shim).exists(), "the shim was reaped");
        assert_eq!(end.container_id.unwrap(), format!("process://p{number}-main-0"));
    }
    device.stop().await;
}

#[tokio::test]
async fn programs_that_cannot_be_started_say_so() {
    let mut device = Device::new();
    device.start();
    let not_executable = device.dir.path().join("text");
    std::fs::write(&not_executable, "no program").unwrap();
    for (name, program, code, words) in [
        ("missing", "/no/such/program", 127, "executable file not found"),
        ("not-in-path", "no-such-program", 127, "executable file not found"),
        ("text", not_executable.to_str().unwrap(), 126, "Permission denied"),
        ("directory", "/", 126, "denied"),
    ] {
        let container = Container { command: vec![program.into()], ..shell("") };
        let end = device.run_to_end(&pod(name, RestartPolicy::Never, container)).await;
        assert_eq!((end.exit_code, end.reason.as_str()), (code, "StartError"), "{name}");
        assert!(end.message.as_ref().unwrap().contains(words), "{end:?}");
    }
    let container = Container { working_dir: Some("/no/such/directory".into()), ..shell("exit 0") };
    let end = device.run_to_end(&pod("nowhere", RestartPolicy::Never, container)).await;
    assert_eq!((end.exit_code, end.message.unwrap().contains("/no/such/directory")), (128, true));
    let event = device.event("Failed").unwrap();
    assert!(event.warning && event.message.starts_with("Error: exec:"), "{event:?}");
    device.stop().await;
}

#[tokio::test]
async fn what_cannot_run_here_is_refused_by_name() {
    let mut device = Device::new();
    device.start();
    let pages = HugePages { container: Some("main".into()), page_bytes: 2 << 20, bytes: 2 << 20 };
    let asking = Some(Engine { asks: vec![Ask::HugePages(pages)], ..Engine::default() });
    for (name, container, reason, words) in [
        ("pages", shell("exec sleep 1000"), "UnsupportedField", "resources.limits.hugepages: the process runtime"),
        (
            "image",
            Container { image: "nginx:1".into(), ..shell("") },
            "ImageNotSupported",
            "set image: host (got nginx:1)",
        ),
        ("command", Container { command: vec![], ..shell("") }, "CreateContainerError", "set command"),
    ] {
        let engine = asking.clone().filter(|_| name == "pages");
        device.run(&EdgeDeployment { engine, ..pod(name, RestartPolicy::Always, container) });
        device
            .until("a refusal", |device| {
                device.report(name).is_some_and(|report| match &report.containers[0].state {
                    ContainerState::Waiting(waiting) => waiting.reason == reason,
                    _ => false,
                })
            })
            .await;
        assert_eq!(device.report(name).unwrap().phase, Phase::Pending);
        let event = device.events.iter().find(|event| event.pod == Some(uid(name))).unwrap();
        assert!(event.message.contains(words), "{event:?}");
    }
    device.stop().await;
}

#[tokio::test]
async fn nothing_of_a_container_stays() {
    let mut device = Device::new();
    device.start();
    // A child in the group, one in a session of its own, and a grandchild whose parent is gone.
    let script = "sleep 1000 & echo $! > a; setsid sleep 1000 & echo $! > b; (sleep 1000 & echo $! > c); exit 5";
    let end = device.run_to_end(&pod("orphans", RestartPolicy::Never, shell(script))).await;
    assert_eq!(end.exit_code, 5);
    for file in ["a", "b", "c"] {
        let pid = device.written("orphans", file).await.parse().unwrap();
        assert!(!is_alive(pid), "{file}");
    }
    device.stop().await;
}

#[tokio::test]
async fn a_stop_is_term_and_then_kill() {
    let mut device = Device::new();
    device.start();
    device.run(&pod(
        "polite",
        RestartPolicy::Always,
        shell("trap 'exit 7' TERM; echo > up; while :; do sleep 0.05; done"),
    ));
    device.run(&pod("stubborn", RestartPolicy::Always, shell("trap '' TERM; echo > up; while :; do sleep 0.05; done")));
    device.written("polite", "up").await;
    device.written("stubborn", "up").await;
    let asked = Instant::now();
    device.ask_to_stop("polite", Duration::from_secs(30));
    device.ask_to_stop("stubborn", Duration::from_secs(1));
    device
        .until("both to be gone", |device| ["polite", "stubborn"].iter().all(|name| device.is_gone(name).is_some()))
        .await;
    assert!(asked.elapsed() < Duration::from_secs(25), "nobody waited for the whole grace period");
    for (name, code) in [("polite", 7), ("stubborn", 137)] {
        let last = device.is_gone(name).unwrap().last.clone().unwrap();
        let ContainerState::Terminated(end) = &last.containers[0].state else { panic!("{last:?}") };
        assert_eq!((end.exit_code, last.phase), (code, Phase::Failed), "{name}");
        assert!(device.place(name).exists(), "remains are kept until the pod leaves the set");
        device.unwant(name);
    }
    device
        .until("the remains to go", |device| ["polite", "stubborn"].iter().all(|name| !device.place(name).exists()))
        .await;
    device.stop().await;
}

#[tokio::test]
async fn a_deadline_ends_a_pod() {
    let mut device = Device::new();
    device.start();
    let spec =
        EdgeDeployment { active_deadline_seconds: Some(1), ..pod("late", RestartPolicy::Always, shell("sleep 1000")) };
    let end = device.run_to_end(&spec).await;
    assert_eq!(end.exit_code, 143);
    assert_eq!(device.report("late").unwrap().reason.as_deref(), Some("DeadlineExceeded"));
    device.stop().await;
}

#[tokio::test]
async fn messages_come_from_the_file_or_from_the_log() {
    let mut device = Device::new();
    device.start();
    let script = "printf why > \"$HAWSER_WORKLOAD_DIR/dev/termination-log\"; exit 1";
    let end = device.run_to_end(&pod("file", RestartPolicy::Never, shell(script))).await;
    assert_eq!(end.message.as_deref(), Some("why"));
    let from_logs = |script| Container { termination_message_from_logs: true, ..shell(script) };
    let end = device.run_to_end(&pod("logs", RestartPolicy::Never, from_logs("echo last words; exit 1"))).await;
    assert_eq!(end.message.as_deref(), Some("last words\n"));
    let end = device.run_to_end(&pod("well", RestartPolicy::Never, from_logs("echo last words"))).await;
    assert_eq!(end.message, None);
    // A link to somebody else's file tells nothing.
    let script = "rm -r dev && ln -s /proc/self dev && exit 1";
    let sneaky = Container { termination_message_path: "/dev/cmdline".into(), ..shell(script) };
    let end = device.run_to_end(&pod("sneaky", RestartPolicy::Never, sneaky)).await;
    assert_eq!(end.message, None);
    device.stop().await;
}

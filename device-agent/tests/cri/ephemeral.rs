//! Containers that are added to a pod that runs, to look at it.

use device_agent::streams::service::Service;
use hawser_wire::deployment::{Container, EdgeDeployment, EphemeralContainer, Hindrance, Interactive, RestartPolicy};
use hawser_wire::report::{ContainerReport, ContainerState, Phase, Terminated};
use hawser_wire::stream::{AttachRequest, Channels};
use tokio::io::{AsyncReadExt, AsyncWriteExt};

use crate::world::*;

/// A pod that runs, with this container beside it.
fn looked_at(mut pod: EdgeDeployment, added: EphemeralContainer) -> EdgeDeployment {
    pod.ephemeral_containers.push(added);
    pod
}

fn added(name: &str, script: &str, target: Option<&str>) -> EphemeralContainer {
    let container = Container { name: name.into(), ..shell(script) };
    EphemeralContainer { container, target: target.map(Into::into), hindrance: None }
}

fn web() -> EdgeDeployment {
    hasty(pod("web", RestartPolicy::Always, shell("exec sleep 1000")))
}

fn of<'d>(device: &'d Device, name: &str) -> Option<&'d ContainerReport> {
    device.report("web")?.ephemeral_containers.iter().find(|container| container.name == name)
}

async fn until_ended(device: &mut Device, name: &str) -> Terminated {
    let ended = |device: &Device| match of(device, name).map(|container| &container.state) {
        Some(ContainerState::Terminated(end)) => Some(end.clone()),
        _ => None,
    };
    device.until("the added container to end", |device| ended(device).is_some()).await;
    ended(device).unwrap()
}

async fn until_running(device: &mut Device, name: &str) {
    let runs = |container: &ContainerReport| matches!(container.state, ContainerState::Running(_));
    device.until("the added container to run", |device| of(device, name).is_some_and(runs)).await;
}

fn log(device: &Device, name: &str) -> String {
    let file = device.config.root.join("web/logs").join(name).join("0.log");
    std::fs::read_to_string(file).unwrap_or_default()
}

#[tokio::test]
async fn one_sees_the_processes_of_its_target_or_only_its_own() {
    let Some(mut device) = Device::new() else { return };
    device.start().await;
    device.run(&web());
    device.until_running("web").await;
    let before = device.container("web").unwrap().clone();

    let look = "tr '\\0' ' ' < /proc/1/cmdline; exit 7";
    let beside = looked_at(web(), added("beside", look, Some("main")));
    device.run(&beside);
    let end = until_ended(&mut device, "beside").await;
    assert_eq!((end.exit_code, end.reason.as_str()), (7, "Error"));
    assert!(log(&device, "beside").contains("sleep 1000"), "{}", log(&device, "beside"));

    device.run(&looked_at(beside, added("apart", look, None)));
    until_ended(&mut device, "apart").await;
    assert!(!log(&device, "apart").contains("sleep 1000"), "{}", log(&device, "apart"));

    assert_eq!(device.container("web"), Some(&before), "the pod's own container noticed nothing");
    assert_eq!(device.report("web").unwrap().phase, Phase::Running);
    device.sweep("web").await;
}

#[tokio::test]
async fn one_is_talked_to_and_survives_the_agent() {
    let Some(mut device) = Device::new() else { return };
    device.start().await;
    let terminal = Some(Interactive { stdin: true, once: false, tty: true });
    let mut shell = added("shell", "while read -r line; do echo \"got $line\"; done; exit 5", Some("main"));
    shell.container.interactive = terminal;
    device.run(&looked_at(web(), shell));
    device.until_running("web").await;
    until_running(&mut device, "shell").await;
    let before = of(&device, "shell").unwrap().clone();
    device.kill_agent().await;
    device.start().await;
    until_running(&mut device, "shell").await;
    assert_eq!(of(&device, "shell"), Some(&before), "it is the same one");

    let channels = Channels { stdin: true, stdout: true, stderr: false, tty: true };
    let request = AttachRequest { pod: uid("web"), container: "shell".into(), channels };
    let mut process = device.verbs().attach(request).await.unwrap();
    let stdin = process.stdin.as_mut().unwrap();
    stdin.write_all(b"typed\n").await.unwrap();
    let stdout = process.stdout.as_mut().unwrap();
    let mut text = String::new();
    let reading = async {
        while !text.contains("got typed") {
            text.push(char::from(stdout.read_u8().await.unwrap()));
        }
    };
    tokio::time::timeout(PATIENCE, reading).await.unwrap();
    // Control-D at the beginning of a line.
    stdin.write_all(b"\x04").await.unwrap();
    assert_eq!(until_ended(&mut device, "shell").await.exit_code, 5);

    // An end is remembered, and it is not started again.
    device.kill_agent().await;
    device.start().await;
    assert_eq!(until_ended(&mut device, "shell").await.exit_code, 5);
    device.until_running("web").await;
    device.sweep("web").await;
}

#[tokio::test]
async fn what_is_in_its_way_is_told_and_the_pod_goes_on() {
    let Some(mut device) = Device::new() else { return };
    device.start().await;
    device.run(&web());
    device.until_running("web").await;
    let before = device.container("web").unwrap().clone();

    let hindrance = Hindrance { reason: "CreateContainerConfigError".into(), message: "a word".into() };
    let hindered = EphemeralContainer { hindrance: Some(hindrance), ..added("hindered", "exit 0", None) };
    let mut absent = added("absent", "exit 0", None);
    absent.container.image = "hawser.test/none:1".into();
    absent.container.pull_policy = hawser_wire::deployment::PullPolicy::Never;
    let lost = added("lost", "exit 0", Some("nobody"));
    let pod = [hindered, absent, lost].into_iter().fold(web(), looked_at);
    device.run(&pod);
    let waits = |device: &Device, name: &str| match of(device, name).map(|container| container.state.clone()) {
        Some(ContainerState::Waiting(waiting)) => (waiting.reason, waiting.message.unwrap_or_default()),
        _ => Default::default(),
    };
    for (name, reason, words) in [
        ("hindered", "CreateContainerConfigError", "a word"),
        ("absent", "ErrImageNeverPull", "is not present with pull policy of Never"),
        ("lost", "CreateContainerError", "unable to find target container nobody"),
    ] {
        device.until(reason, |device| waits(device, name).0 == reason).await;
        assert!(waits(&device, name).1.contains(words), "{:?}", waits(&device, name));
    }
    assert_eq!(device.container("web"), Some(&before));
    device.sweep("web").await;
}

#[tokio::test]
async fn a_pod_that_is_over_is_over_for_those_who_look_at_it() {
    let Some(mut device) = Device::new() else { return };
    device.start().await;
    let script = "until test -e /tmp/go; do sleep 0.05; done; exit 0";
    let job = hasty(pod("web", RestartPolicy::Never, shell(script)));
    device.run(&looked_at(job, added("look", "exec sleep 3000", None)));
    device.until_running("web").await;
    until_running(&mut device, "look").await;
    let pid = device.engine.pid_of("until test");
    std::fs::write(format!("/proc/{pid}/root/tmp/go"), "").unwrap();
    assert_eq!(device.until_ended("web").await.exit_code, 0);
    assert_eq!(device.report("web").unwrap().phase, Phase::Succeeded, "how it was looked at does not count");
    assert_eq!(until_ended(&mut device, "look").await.exit_code, 137);
    device.sweep("web").await;
}

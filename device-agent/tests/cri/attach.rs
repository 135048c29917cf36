//! Clients at the streams of a container's own program.

use device_agent::streams::service::{Process, Service};
use hawser_wire::deployment::{Container, Interactive, RestartPolicy};
use hawser_wire::stream::{AttachRequest, Channels};
use tokio::io::{AsyncRead, AsyncReadExt, AsyncWriteExt};

use crate::world::*;

const ALL: Channels = Channels { stdin: true, stdout: true, stderr: true, tty: false };
const STDIN: Interactive = Interactive { stdin: true, once: false, tty: false };

async fn attach(device: &Device, channels: Channels) -> Process {
    let request = AttachRequest { pod: uid("p"), container: "main".into(), channels };
    device.verbs().attach(request).await.unwrap()
}

async fn running(interactive: Option<Interactive>, script: &str) -> Option<Device> {
    let mut device = Device::new()?;
    device.start().await;
    device.run(&hasty(pod("p", RestartPolicy::Never, Container { interactive, ..shell(script) })));
    device.until_running("p").await;
    device.engine.pid_of("while");
    Some(device)
}

async fn until(output: &mut (impl AsyncRead + Unpin), words: &str) -> String {
    let mut text = String::new();
    let reading = async {
        while !text.contains(words) {
            text.push(char::from(output.read_u8().await.unwrap()));
        }
    };
    tokio::time::timeout(PATIENCE, reading).await.unwrap();
    text
}

#[tokio::test]
async fn clients_come_and_go_and_the_container_and_its_stdin_stay() {
    let script = "while read -r line; do echo \"got $line\"; echo \"and $line\" >&2; done; exit 3";
    let Some(mut device) = running(Some(STDIN), script).await else { return };
    for round in 0..3 {
        let mut process = attach(&device, ALL).await;
        let stdin = process.stdin.as_mut().unwrap();
        stdin.write_all(format!("line {round}\n").as_bytes()).await.unwrap();
        let stdout = until(process.stdout.as_mut().unwrap(), "\n").await;
        // Nothing of what was written before anybody was there.
        assert_eq!(stdout, format!("got line {round}\n"));
        assert_eq!(until(process.stderr.as_mut().unwrap(), "\n").await, format!("and line {round}\n"));
        drop(process);
    }
    assert!(device.container("p").unwrap().ready);
    device.until("the log", |device| device.output("p").matches("got line").count() == 3).await;
    device.sweep("p").await;
}

#[tokio::test]
async fn the_first_client_takes_a_stdin_for_once_with_it() {
    let script = "while read -r line; do echo \"got $line\"; done; echo over; exit 3";
    let Some(mut device) = running(Some(Interactive { once: true, ..STDIN }), script).await else { return };
    let mut process = attach(&device, ALL).await;
    let mut stdin = process.stdin.take().unwrap();
    stdin.write_all(b"a line\n").await.unwrap();
    let stdout = process.stdout.as_mut().unwrap();
    until(stdout, "got a line\n").await;
    stdin.shutdown().await.unwrap();
    until(stdout, "over\n").await;
    // How the program ended is told by the pod.
    assert_eq!(tokio::time::timeout(PATIENCE, process.exit).await.unwrap(), Ok(0));
    assert_eq!(device.until_ended("p").await.exit_code, 3);
    device.sweep("p").await;
}

#[tokio::test]
async fn a_container_with_a_terminal_is_used_as_one_whatever_the_client_says() {
    let interactive = Interactive { stdin: true, once: false, tty: true };
    let Some(mut device) = running(Some(interactive), "while read -r line; do echo \"$TERM $line\"; done").await else {
        return;
    };
    for round in 0..2 {
        let mut process = attach(&device, ALL).await;
        assert!(process.stderr.is_none() && process.resize.is_some());
        process.stdin.as_mut().unwrap().write_all(b"typed\n").await.unwrap();
        let text = until(process.stdout.as_mut().unwrap(), "xterm typed\r\n").await;
        assert!(text.contains("typed\r\n"), "{round}: {text:?}");
    }
    assert!(device.container("p").unwrap().ready);
    device.sweep("p").await;
}

#[tokio::test]
async fn a_container_without_stdin_is_only_watched() {
    let script = "i=0; while :; do i=$((i+1)); echo \"line $i\"; sleep 0.2; done";
    let Some(mut device) = running(None, script).await else { return };
    let mut process = attach(&device, ALL).await;
    assert!(process.stdin.is_none());
    until(process.stdout.as_mut().unwrap(), "line").await;
    let none = Channels { stdin: true, stdout: false, stderr: false, tty: false };
    let request = AttachRequest { pod: uid("p"), container: "main".into(), channels: none };
    assert_eq!(device.verbs().attach(request).await.unwrap_err().status, 400);
    device.engine.crash();
    let why = tokio::time::timeout(PATIENCE, process.exit).await.unwrap().unwrap_err();
    assert_eq!(why, "the container engine has gone away: attach again");
    device.engine.run();
    device.sweep("p").await;
}

//! Clients at a container's own streams.

use std::time::Duration;

use device_agent::streams::service::{Output, Process, Service, TerminalSize};
use hawser_wire::deployment::{Container, Interactive, RestartPolicy};
use hawser_wire::stream::{AttachRequest, Channels};
use tokio::io::{AsyncReadExt, AsyncWriteExt};

use crate::world::*;

const ALL: Channels = Channels { stdin: true, stdout: true, stderr: true, tty: false };
const TERMINAL: Channels = Channels { stdin: true, stdout: true, stderr: false, tty: true };

async fn attach(device: &Device, channels: Channels) -> Process {
    let request = AttachRequest { pod: uid("p"), container: "main".into(), channels };
    device.verbs().attach(request).await.unwrap()
}

/// A pod that never starts again, with a stdin.
async fn running(interactive: Interactive, script: &str) -> Device {
    let mut device = Device::new();
    device.start();
    let container = Container { interactive: Some(interactive), ..shell(&format!("echo > up; {script}")) };
    device.run(&pod("p", RestartPolicy::Never, container));
    device.written("p", "up").await;
    device.until_running("p").await;
    device
}

const STDIN: Interactive = Interactive { stdin: true, once: false, tty: false };

/// Reads until these words have come.
async fn until(output: &mut Output, words: &str) -> String {
    let mut text = String::new();
    let reading = async {
        while !text.contains(words) {
            let mut bytes = [0; 256];
            let read = output.read(&mut bytes).await.unwrap();
            assert!(read > 0, "{text:?} has no {words:?}");
            text.push_str(std::str::from_utf8(&bytes[..read]).unwrap());
        }
    };
    tokio::time::timeout(Duration::from_secs(60), reading).await.unwrap();
    text
}

#[tokio::test]
async fn clients_come_and_go_and_the_container_and_its_stdin_stay() {
    let script = "while read -r line; do echo \"got $line\"; echo \"and $line\" >&2; done; exit 3";
    let mut device = running(STDIN, script).await;
    for round in 0..3 {
        let mut process = attach(&device, ALL).await;
        let stdin = process.stdin.as_mut().unwrap();
        stdin.write_all(format!("line {round}\n").as_bytes()).await.unwrap();
        let stdout = until(process.stdout.as_mut().unwrap(), "\n").await;
        // Nothing of what was written before anybody was there.
        assert_eq!(stdout, format!("got line {round}\n"));
        assert_eq!(until(process.stderr.as_mut().unwrap(), "\n").await, format!("and line {round}\n"));
        // Its end is not the program's, however the client says it.
        process.stdin.as_mut().unwrap().shutdown().await.unwrap();
        drop(process);
        if round == 1 {
            device.stop().await;
            device.start();
            device.until_running("p").await;
        }
    }
    assert_eq!((device.is_running("p"), device.restarts("p")), (true, 0));
    device.until("the log", |device| device.log("p").matches("got line").count() == 3).await;
    device.stop().await;
}

#[tokio::test]
async fn the_first_client_takes_a_stdin_for_once_with_it() {
    for says_so in [true, false] {
        let mut device = running(Interactive { once: true, ..STDIN }, "cat; echo over; exit 3").await;
        let watching = attach(&device, Channels { stdin: false, ..ALL }).await;
        assert!(watching.stdin.is_none());
        let mut process = attach(&device, ALL).await;
        let mut stdin = process.stdin.take().unwrap();
        stdin.write_all(b"a line\n").await.unwrap();
        until(process.stdout.as_mut().unwrap(), "a line\n").await;
        if says_so {
            stdin.shutdown().await.unwrap();
            until(process.stdout.as_mut().unwrap(), "over\n").await;
            assert_eq!(process.exit.await, Ok(3));
        } else {
            drop((stdin, process));
        }
        let Process { stdout, exit, .. } = watching;
        assert_eq!(until(&mut stdout.unwrap(), "over\n").await, "a line\nover\n");
        assert_eq!(exit.await, Ok(3));
        device.stop().await;
    }
}

#[tokio::test]
async fn what_goes_through_a_container_comes_out_byte_by_byte() {
    let mut device = running(Interactive { once: true, ..STDIN }, "exec cat").await;
    let Process { stdin, stdout, exit, .. } = attach(&device, ALL).await;
    let bytes: Vec<u8> = (0..5_000_000_u32).map(|at| (at.wrapping_mul(2_654_435_761) >> 24) as u8).collect();
    let sent = bytes.clone();
    let sending = tokio::spawn(async move {
        let mut stdin = stdin.unwrap();
        stdin.write_all(&sent).await.unwrap();
        stdin.shutdown().await.unwrap();
    });
    let mut received = Vec::new();
    tokio::time::timeout(Duration::from_secs(60), stdout.unwrap().read_to_end(&mut received)).await.unwrap().unwrap();
    sending.await.unwrap();
    assert!(received == bytes, "{} of {} bytes", received.len(), bytes.len());
    assert_eq!(exit.await, Ok(0));
    device.stop().await;
}

#[tokio::test]
async fn a_container_with_a_terminal_is_used_as_one() {
    let interactive = Interactive { stdin: true, once: true, tty: true };
    let script = "echo; while read -r line; do [ \"$line\" = size ] && stty size || echo \"$TERM $line\"; done";
    let mut device = running(interactive, script).await;
    let mut process = attach(&device, TERMINAL).await;
    process.resize.as_ref().unwrap().send(TerminalSize { columns: 99, rows: 33 }).await.unwrap();
    // The size is set while somebody waits for the end.
    let mut exit = process.exit;
    assert!(tokio::time::timeout(Duration::from_millis(50), &mut exit).await.is_err());
    let stdout = process.stdout.as_mut().unwrap();
    process.stdin.as_mut().unwrap().write_all(b"size\n").await.unwrap();
    until(stdout, "33 99\r\n").await;
    process.stdin.as_mut().unwrap().write_all(b"typed\n").await.unwrap();
    until(stdout, "xterm typed\r\n").await;
    drop((process.stdin, process.stdout, exit));
    // Leaving a terminal hangs nobody up.
    let mut process = attach(&device, TERMINAL).await;
    process.stdin.as_mut().unwrap().write_all(b"again\n").await.unwrap();
    until(process.stdout.as_mut().unwrap(), "xterm again\r\n").await;
    assert!(device.is_running("p") && device.log("p").contains("xterm typed"));
    let shims = device.shims();
    assert_eq!(shims.len(), 1);
    device.ask_to_stop("p", Duration::from_secs(1));
    device.until("the pod to be gone", |device| device.is_gone("p").is_some()).await;
    device.stop().await;
}

#[tokio::test]
async fn a_client_that_does_not_read_is_cut_off_and_holds_nothing_up_for_ever() {
    let mut device =
        running(STDIN, "read -r line; head -c 3000000 /dev/zero; echo; echo done > done; sleep 1000").await;
    let mut stuck = attach(&device, ALL).await;
    stuck.stdin.as_mut().unwrap().write_all(b"go\n").await.unwrap();
    assert_eq!(device.written("p", "done").await, "done");
    let cut = tokio::time::timeout(Duration::from_secs(60), stuck.exit).await.unwrap();
    assert!(cut.unwrap_err().contains("cut off"));
    device.stop().await;
}

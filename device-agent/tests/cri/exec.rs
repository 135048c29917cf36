//! Commands that run beside the program of an engine's container.

use std::time::Duration;

use device_agent::streams::service::{Process, Service, TerminalSize};
use hawser_wire::deployment::{Container, EnvValue, EnvVar, RestartPolicy, User};
use hawser_wire::stream::{Channels, ExecRequest, StreamRefusal};
use tokio::io::{AsyncReadExt, AsyncWriteExt};

use crate::world::*;

const OUTPUTS: Channels = Channels { stdin: false, stdout: true, stderr: true, tty: false };
const ALL: Channels = Channels { stdin: true, ..OUTPUTS };
const TERMINAL: Channels = Channels { stdin: true, stdout: true, stderr: false, tty: true };

async fn exec(device: &Device, pod: &str, command: &[&str], channels: Channels) -> Result<Process, StreamRefusal> {
    let command = command.iter().map(|&word| word.to_owned()).collect();
    device.verbs().exec(ExecRequest { pod: uid(pod), container: "main".into(), command, channels }).await
}

async fn script(device: &Device, script: &str, channels: Channels) -> Process {
    exec(device, "p", &["/bin/sh", "-c", script], channels).await.unwrap()
}

/// What it wrote, and how it ended.
async fn outcome(process: Process) -> (String, String, Result<i32, String>) {
    let (mut stdout, mut stderr) = (Vec::new(), Vec::new());
    let Process { stdin: _stdin, stdout: out, stderr: err, exit, .. } = process;
    let read = async {
        let out = async {
            if let Some(mut out) = out {
                out.read_to_end(&mut stdout).await.unwrap();
            }
        };
        let err = async {
            if let Some(mut err) = err {
                err.read_to_end(&mut stderr).await.unwrap();
            }
        };
        tokio::join!(exit, out, err).0
    };
    let exit = tokio::time::timeout(PATIENCE, read).await.unwrap();
    (String::from_utf8(stdout).unwrap(), String::from_utf8(stderr).unwrap(), exit)
}

/// Reads until these words are there; all that was read.
async fn until(process: &mut Process, words: &str) -> String {
    let (mut text, out) = (String::new(), process.stdout.as_mut().unwrap());
    let reading = async {
        while !text.contains(words) {
            text.push(char::from(out.read_u8().await.unwrap()));
        }
    };
    tokio::time::timeout(PATIENCE, reading).await.unwrap();
    text
}

async fn running() -> Option<Device> {
    let mut device = Device::new()?;
    device.start().await;
    let env = vec![EnvVar { name: "GREETING".into(), value: EnvValue::Literal("hello there".into()) }];
    let user = User { uid: Some(0), ..User::default() };
    device.run(&hasty(pod("p", RestartPolicy::Never, Container { env, user, ..shell("exec sleep 1000") })));
    device.until_running("p").await;
    device.engine.pid_of("sleep 1000");
    Some(device)
}

/// Nothing but the program and the sandbox is left in the engine.
async fn until_alone(device: &mut Device) {
    let alone = 1 + device.engine.of_a_sandbox();
    device.until("only the program to be left", |device| device.engine.processes().len() == alone).await;
}

#[tokio::test]
async fn a_command_runs_where_and_as_the_program_does() {
    let Some(mut device) = running().await else { return };
    let (stdout, stderr, exit) =
        outcome(script(&device, "echo \"$GREETING\"; echo oops >&2; id -u; exit 7", OUTPUTS).await).await;
    assert_eq!((stdout.as_str(), stderr.as_str(), exit), ("hello there\n0\n", "oops\n", Ok(7)));
    for (text, code) in [("exit 0", 0), ("exit 255", 255), ("kill -TERM $$", 143)] {
        assert_eq!(outcome(script(&device, text, OUTPUTS).await).await.2, Ok(code), "{text}");
    }
    // No stream at all is a wish like any other.
    let none = Channels { stdin: false, stdout: false, stderr: false, tty: false };
    let nothing = script(&device, "echo nobody hears; exit 3", none).await;
    assert!(nothing.stdout.is_none());
    assert_eq!(outcome(nothing).await.2, Ok(3));
    // No shell sees the words.
    let (stdout, ..) =
        outcome(exec(&device, "p", &["echo", "$GREETING", "a  b", "; exit 9"], OUTPUTS).await.unwrap()).await;
    assert_eq!(stdout, "$GREETING a  b ; exit 9\n");
    // The end of what goes in is heard, and what comes out after it.
    let mut process = script(&device, "cat; echo over; exit 4", ALL).await;
    let mut stdin = process.stdin.take().unwrap();
    stdin.write_all(b"in and out\n").await.unwrap();
    stdin.shutdown().await.unwrap();
    assert_eq!(outcome(process).await, ("in and out\nover\n".into(), String::new(), Ok(4)));
    until_alone(&mut device).await;
    device.sweep("p").await;
}

#[tokio::test]
async fn what_cannot_be_run_says_so() {
    let Some(mut device) = running().await else { return };
    let (_, said, exit) = outcome(exec(&device, "p", &["no-such-program"], OUTPUTS).await.unwrap()).await;
    // CRI-O lets the program that was to start it speak.
    let why = if device.engine.is_crio() { said } else { exit.unwrap_err() };
    assert!(why.contains("no-such-program") && why.contains("executable file not found"), "{why}");
    device.run_to_end(&pod("over", RestartPolicy::Never, shell("exit 0"))).await;
    for (pod, command, status, words) in [
        ("p", &[][..], 400, "you must specify at least 1 command for the container"),
        ("nobody", &["true"][..], 404, "the device has no pod nobody"),
        ("over", &["true"][..], 404, "container not found (\"main\")"),
    ] {
        let refused = exec(&device, pod, command, OUTPUTS).await.unwrap_err();
        assert_eq!((refused.status, refused.message.as_str()), (status, words));
    }
    for name in ["p", "over"] {
        device.sweep(name).await;
    }
}

#[tokio::test]
async fn many_bytes_go_through_unchanged_and_wait_for_a_slow_reader() {
    let Some(mut device) = running().await else { return };
    let bytes: Vec<u8> = (0..20_000_000_u32).map(|at| (at.wrapping_mul(2_654_435_761) >> 24) as u8).collect();
    let mut process = exec(&device, "p", &["cat"], ALL).await.unwrap();
    let (mut stdin, mut stdout) = (process.stdin.take().unwrap(), process.stdout.take().unwrap());
    let sent = bytes.clone();
    let sending = tokio::spawn(async move {
        stdin.write_all(&sent).await.unwrap();
        stdin.shutdown().await.unwrap();
    });
    // While nobody reads, only so much is taken as finds room on the way.
    assert!(tokio::time::timeout(Duration::from_millis(300), process.exit.as_mut()).await.is_err());
    assert!(!sending.is_finished());
    let mut received = Vec::new();
    let (read, exit) = tokio::join!(stdout.read_to_end(&mut received), process.exit);
    read.unwrap();
    sending.await.unwrap();
    assert!(received == bytes, "{} of {} bytes", received.len(), bytes.len());
    assert_eq!(exit, Ok(0));
    device.sweep("p").await;
}

#[tokio::test]
async fn a_command_with_a_terminal_has_its_size_and_hears_an_end_as_from_a_keyboard() {
    let Some(mut device) = running().await else { return };
    let mut process =
        script(&device, "while read -r line; do busybox stty size; done; echo end; exit 5", TERMINAL).await;
    assert!(process.stderr.is_none());
    let resize = process.resize.clone().unwrap();
    let stdin = process.stdin.take().unwrap();
    let talk = async {
        let mut stdin = stdin;
        for (columns, rows) in [(99, 33), (120, 40)] {
            resize.send(TerminalSize { columns, rows }).await.unwrap();
            let words = format!("{rows} {columns}\r\n");
            let asking = async {
                loop {
                    // A size takes its own way, so it may come after the line.
                    stdin.write_all(b"\n").await.unwrap();
                    tokio::time::sleep(Duration::from_millis(50)).await;
                }
            };
            let mut text = String::new();
            let out = process.stdout.as_mut().unwrap();
            let reading = async {
                while !text.contains(&words) {
                    text.push(char::from(out.read_u8().await.unwrap()));
                }
            };
            tokio::select! {
                () = reading => {}
                () = asking => {}
            }
        }
        stdin.write_all(b"half a line").await.unwrap();
        stdin.shutdown().await.unwrap();
        let mut rest = String::new();
        process.stdout.as_mut().unwrap().read_to_string(&mut rest).await.unwrap();
        assert!(rest.contains("end\r\n"), "{rest:?}");
    };
    let (exit, ()) = tokio::time::timeout(PATIENCE, async { tokio::join!(process.exit, talk) }).await.unwrap();
    assert_eq!(exit, Ok(5));
    until_alone(&mut device).await;
    device.sweep("p").await;
}

#[tokio::test]
async fn a_command_whose_client_goes_is_ended_with_all_that_it_started() {
    let Some(mut device) = running().await else { return };
    let stubborn = "trap '' TERM HUP; sleep 2000 & busybox setsid sleep 3000 & echo up; while :; do sleep 1; done";
    for channels in [ALL, OUTPUTS, TERMINAL] {
        let mut process = script(&device, stubborn, channels).await;
        until(&mut process, "up").await;
        let inside = device.engine.everybody();
        assert!(inside.iter().any(|line| line.contains("sleep 3000")), "{inside:?}");
        drop(process);
        device
            .until("everybody to be gone", |device| {
                !device.engine.everybody().iter().any(|line| line.contains("000 ") && !line.contains("sleep 1000"))
            })
            .await;
        until_alone(&mut device).await;
    }
    // A client that goes is not taken for the end of the input.
    let mut process = script(&device, "echo up; cat > /tmp/part; touch /tmp/whole", ALL).await;
    until(&mut process, "up").await;
    process.stdin.as_mut().unwrap().write_all(b"half").await.unwrap();
    drop(process);
    until_alone(&mut device).await;
    let (_, _, exit) = outcome(script(&device, "test -e /tmp/whole", OUTPUTS).await).await;
    assert_eq!(exit, Ok(1), "what was only half sent was taken for whole");
    // One whose words change at once, and one that ends by itself and leaves a daemon, which is meant to stay.
    let mut process = script(&device, "exec sleep 4000", OUTPUTS).await;
    assert!(tokio::time::timeout(Duration::from_millis(50), process.exit.as_mut()).await.is_err());
    drop(process);
    until_alone(&mut device).await;
    let daemon = "busybox setsid sleep 5000 >/dev/null 2>&1 </dev/null & exit 0";
    assert_eq!(outcome(script(&device, daemon, OUTPUTS).await).await.2, Ok(0));
    assert!(device.engine.everybody().iter().any(|line| line.contains("sleep 5000")));
    device.sweep("p").await;
}

#[tokio::test]
async fn abandoned_commands_leave_nothing_in_engine_and_agent() {
    abandoned(1).await;
}

/// Thirty, and ten at once so many times more: what is left is counted.
async fn abandoned(times: usize) {
    let Some(mut device) = running().await else { return };
    let verbs = device.verbs();
    let request = |channels| ExecRequest {
        pod: uid("p"),
        container: "main".into(),
        command: vec!["sleep".into(), "3000".into()],
        channels,
    };
    // Once, so that what is made at the first time and kept is there.
    drop(verbs.exec(request(OUTPUTS)).await.unwrap());
    until_alone(&mut device).await;
    let tasks = || tokio::runtime::Handle::current().metrics().num_alive_tasks();
    let before = (device.engine.open_files(), device.engine.fifos(), tasks());
    for round in 0..30 {
        let process = verbs.exec(request(if round % 2 == 0 { OUTPUTS } else { ALL })).await.unwrap();
        // Every third before the engine has even begun.
        if round % 3 != 0 {
            tokio::time::sleep(Duration::from_millis(40)).await;
        }
        drop(process);
    }
    // Many at once, and none of them for long.
    for _ in 0..times {
        let many: Vec<_> = (0..10)
            .map(|_| {
                tokio::spawn({
                    let (verbs, request) = (verbs.clone(), request(ALL));
                    async move { drop(verbs.exec(request).await) }
                })
            })
            .collect();
        for one in many {
            one.await.unwrap();
        }
    }
    until_alone(&mut device).await;
    device
        .until("nothing to be left", |device| {
            let now = (device.engine.open_files(), device.engine.fifos(), tasks());
            now.0 <= before.0 && now.1 <= before.1 && now.2 <= before.2
        })
        .await;
    assert!(device.container("p").unwrap().ready);
    device.sweep("p").await;
}

#[tokio::test]
#[ignore = "takes the engine more than a minute"]
async fn a_thousand_abandoned_commands_leave_nothing_in_engine_and_agent() {
    abandoned(97).await;
}

#[tokio::test]
async fn an_engine_that_dies_ends_its_commands_with_a_word() {
    let Some(mut device) = running().await else { return };
    let mut process = script(&device, "echo up; while :; do sleep 1; done", ALL).await;
    until(&mut process, "up").await;
    let pid = device.engine.pid_of("while :");
    device.engine.crash();
    let why = tokio::time::timeout(PATIENCE, process.exit.as_mut()).await.unwrap().unwrap_err();
    assert_eq!(why, "the container engine has gone away: nobody saw how it ended");
    drop(process);
    device.until("the command to end", |_| !std::path::Path::new(&format!("/proc/{pid}")).exists()).await;
    let refused = exec(&device, "p", &["true"], OUTPUTS).await.unwrap_err();
    assert_eq!(refused.status, 500);
    assert!(refused.message.contains("the container engine is not running"), "{refused:?}");
    device.engine.run();
    let again = when_up(|| exec(&device, "p", &["/bin/sh", "-c", "exit 6"], OUTPUTS)).await.unwrap();
    assert_eq!(outcome(again).await.2, Ok(6));
    assert!(device.container("p").unwrap().ready);
    device.sweep("p").await;
}

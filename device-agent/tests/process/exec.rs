//! Commands that run beside a container's program.

use std::time::{Duration, Instant};

use device_agent::streams::service::{Process, Service, TerminalSize};
use hawser_wire::deployment::{Container, EnvValue, EnvVar, RestartPolicy};
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
    let (mut stdout, mut stderr) = (String::new(), String::new());
    let Process { stdout: out, stderr: err, exit, .. } = process;
    let read = async {
        tokio::join!(
            async {
                if let Some(mut out) = out {
                    out.read_to_string(&mut stdout).await.unwrap();
                }
            },
            async {
                if let Some(mut err) = err {
                    err.read_to_string(&mut stderr).await.unwrap();
                }
            },
            exit
        )
        .2
    };
    let exit = tokio::time::timeout(Duration::from_secs(60), read).await.unwrap();
    (stdout, stderr, exit)
}

/// Reads until the text ends with a newline, and says which numbers are in it.
async fn numbers(process: &mut Process) -> Vec<i32> {
    let mut text = String::new();
    let out = process.stdout.as_mut().unwrap();
    while !text.ends_with('\n') {
        let mut byte = [0];
        out.read_exact(&mut byte).await.unwrap();
        text.push(byte[0] as char);
    }
    text.split_ascii_whitespace().map(|number| number.parse().unwrap()).collect()
}

async fn until_dead(device: &mut Device, pids: &[i32]) {
    let pids = pids.to_vec();
    device.until("processes to end", |_| !pids.iter().any(|pid| is_alive(*pid))).await;
}

async fn running() -> Device {
    let mut device = Device::new();
    device.start();
    let env = vec![EnvVar { name: "GREETING".into(), value: EnvValue::Literal("hello there".into()) }];
    device.run(&pod("p", RestartPolicy::Never, Container { env, ..shell("echo > up; exec sleep 1000") }));
    device.written("p", "up").await;
    device.until_running("p").await;
    device
}

#[tokio::test]
async fn a_command_runs_where_and_as_the_program_does() {
    let mut device = running().await;
    let (stdout, stderr, exit) =
        outcome(script(&device, "pwd; echo \"$GREETING\"; echo oops >&2; id -u; exit 7", OUTPUTS).await).await;
    let expected = format!("{}\nhello there\n{}\n", device.work("p").display(), rustix::process::getuid().as_raw());
    assert_eq!((stdout, stderr, exit), (expected, "oops\n".into(), Ok(7)));
    for (text, code) in [("exit 0", 0), ("exit 255", 255), ("kill -TERM $$", 143), ("kill -KILL $$", 137)] {
        assert_eq!(outcome(script(&device, text, OUTPUTS).await).await.2, Ok(code), "{text}");
    }
    // No stream at all is a wish like any other.
    let none = Channels { stdin: false, stdout: false, stderr: false, tty: false };
    assert_eq!(outcome(script(&device, "echo nobody hears; exit 3", none).await).await.2, Ok(3));
    // No shell sees the words.
    let (stdout, ..) =
        outcome(exec(&device, "p", &["echo", "$GREETING", "a  b", "; exit 9"], OUTPUTS).await.unwrap()).await;
    assert_eq!(stdout, "$GREETING a  b ; exit 9\n");
    assert!(device.is_running("p"));
    device.stop().await;
}

#[tokio::test]
async fn what_cannot_be_run_says_so_with_its_exit_code() {
    let mut device = running().await;
    let text = device.work("p").join("text");
    std::fs::write(&text, "no program").unwrap();
    for (program, code, words) in [
        ("no-such-program", 127, "error: exec: \"no-such-program\": executable file not found in $PATH\n"),
        ("./text", 126, "Permission denied"),
    ] {
        let (stdout, stderr, exit) = outcome(exec(&device, "p", &[program], ALL).await.unwrap()).await;
        assert_eq!((stdout.as_str(), exit), ("", Ok(code)));
        assert!(stderr.contains(words), "{stderr}");
        let (stdout, _, exit) = outcome(exec(&device, "p", &[program], TERMINAL).await.unwrap()).await;
        assert!(stdout.contains(words.trim_end()) && exit == Ok(code), "{stdout}");
    }
    for (pod, command, status, words) in [
        ("p", &[][..], 400, "you must specify at least 1 command for the container"),
        ("nobody", &["true"][..], 404, "the device has no pod nobody"),
    ] {
        let refused = exec(&device, pod, command, OUTPUTS).await.unwrap_err();
        assert_eq!((refused.status, refused.message.as_str()), (status, words));
    }
    device.run(&pod("over", RestartPolicy::Never, shell("exit 0")));
    device
        .until("the end", |device| {
            device.report("over").is_some_and(|report| report.phase == hawser_wire::report::Phase::Succeeded)
        })
        .await;
    let refused = exec(&device, "over", &["true"], OUTPUTS).await.unwrap_err();
    assert_eq!((refused.status, refused.message.as_str()), (404, "container not found (\"main\")"));
    device.stop().await;
}

#[tokio::test]
async fn files_go_in_and_out_through_tar_byte_by_byte() {
    let mut device = running().await;
    let mut bytes = vec![0; 100 << 20];
    // Cheap, and no two blocks alike.
    let mut state = 1_u64;
    for chunk in bytes.chunks_mut(8) {
        state = state.wrapping_mul(6_364_136_223_846_793_005).wrapping_add(1_442_695_040_888_963_407);
        chunk.copy_from_slice(&state.to_le_bytes()[..chunk.len()]);
    }
    std::fs::write(device.work("p").join("big"), &bytes).unwrap();
    let mut out = exec(&device, "p", &["tar", "cf", "-", "big"], OUTPUTS).await.unwrap();
    let mut archive = Vec::new();
    out.stdout.as_mut().unwrap().read_to_end(&mut archive).await.unwrap();
    assert_eq!(outcome(out).await.2, Ok(0));
    std::fs::create_dir(device.work("p").join("copy")).unwrap();
    let mut back = exec(&device, "p", &["tar", "xmf", "-", "-C", "copy"], ALL).await.unwrap();
    let mut stdin = back.stdin.take().unwrap();
    stdin.write_all(&archive).await.unwrap();
    stdin.shutdown().await.unwrap();
    let (_, stderr, exit) = outcome(back).await;
    assert_eq!((stderr.as_str(), exit), ("", Ok(0)));
    assert!(std::fs::read(device.work("p").join("copy/big")).unwrap() == bytes);
    device.stop().await;
}

#[tokio::test]
async fn a_command_whose_client_goes_is_ended_with_all_that_it_started() {
    let mut device = running().await;
    let stubborn = "trap '' TERM; sleep 1000 & a=$!; setsid sleep 1000 & echo $$ $a $!; while :; do sleep 0.1; done";
    let mut process = script(&device, stubborn, ALL).await;
    let pids = numbers(&mut process).await;
    drop(process);
    until_dead(&mut device, &pids).await;
    // One that ends when it is asked to is not killed.
    // (A shell tells on stderr that its `sleep` was terminated, and would end of that: nobody reads it any more.)
    let polite = "exec 2>/dev/null; trap 'echo asked > asked; exit 0' TERM; echo $$; while :; do sleep 0.02; done";
    let mut process = script(&device, polite, OUTPUTS).await;
    let pids = numbers(&mut process).await;
    drop(process);
    until_dead(&mut device, &pids).await;
    assert_eq!(device.written("p", "asked").await, "asked");
    // A reader that stops reading holds the command up, and nothing else.
    let mut process = script(&device, "echo $$; cat /dev/zero", OUTPUTS).await;
    let pids = numbers(&mut process).await;
    tokio::time::sleep(Duration::from_millis(100)).await;
    drop(process);
    until_dead(&mut device, &pids).await;
    assert!(device.is_running("p"));
    device.stop().await;
}

#[tokio::test]
async fn nothing_that_a_command_started_outlives_the_container() {
    let mut device = running().await;
    // It ends, and what it left in the background lives with the container.
    let mut process = script(&device, "setsid sleep 1000 >/dev/null 2>&1 & echo $!", OUTPUTS).await;
    let mut pids = numbers(&mut process).await;
    assert_eq!(outcome(process).await.2, Ok(0));
    assert!(is_alive(pids[0]));
    let mut process = script(&device, "trap '' TERM; setsid sleep 1000 & echo $$ $!; wait", ALL).await;
    pids.extend(numbers(&mut process).await);
    let mut terminal =
        exec(&device, "p", &["/bin/sh", "-c", "trap '' HUP TERM; echo $$; sleep 1000"], TERMINAL).await.unwrap();
    pids.extend(numbers(&mut terminal).await);
    device.ask_to_stop("p", Duration::from_secs(5));
    device.until("the pod to be gone", |device| device.is_gone("p").is_some()).await;
    assert_eq!(pids.iter().filter(|pid| is_alive(**pid)).count(), 0);
    assert_eq!(process.exit.await, Ok(137));
    assert_eq!(terminal.exit.await, Ok(137));
    device.stop().await;
}

#[tokio::test]
async fn a_command_ends_when_the_agent_dies_and_the_container_goes_on() {
    let mut device = running().await;
    let mut process = script(&device, "echo $$; sleep 1000", ALL).await;
    let pids = numbers(&mut process).await;
    // All that a death of the agent closes.
    drop(process);
    device.stop().await;
    device.start();
    until_dead(&mut device, &pids).await;
    device.until_running("p").await;
    assert_eq!((device.restarts("p"), outcome(script(&device, "exit 4", OUTPUTS).await).await.2), (0, Ok(4)));
    device.stop().await;
}

#[tokio::test]
async fn a_terminal_is_one() {
    let mut device = running().await;
    let mut process = script(
        &device,
        "test -t 0 && test -t 1 && test -t 2 && echo terminal $TERM; read line; stty size; echo \"got $line\" >&2; read rest || echo end; exit 5",
        TERMINAL,
    )
    .await;
    process.resize.as_ref().unwrap().send(TerminalSize { columns: 132, rows: 43 }).await.unwrap();
    let mut stdin = process.stdin.take().unwrap();
    let Process { stdout, exit, .. } = process;
    let exit = tokio::spawn(exit);
    let mut stdout = stdout.unwrap();
    let mut text = String::new();
    let reading = async {
        let mut asked = false;
        let mut bytes = [0; 256];
        loop {
            let read = stdout.read(&mut bytes).await.unwrap();
            if read == 0 {
                return;
            }
            text.push_str(std::str::from_utf8(&bytes[..read]).unwrap());
            if text.contains("terminal xterm") && !asked {
                asked = true;
                stdin.write_all(b"a line\n").await.unwrap();
            }
            if text.contains("got a line") {
                stdin.shutdown().await.unwrap();
            }
        }
    };
    tokio::time::timeout(Duration::from_secs(60), reading).await.unwrap();
    assert_eq!(exit.await.unwrap(), Ok(5));
    for words in ["terminal xterm\r\n", "43 132\r\n", "got a line\r\n", "end\r\n"] {
        assert!(text.contains(words), "{text:?} has no {words:?}");
    }
    // Hanging up ends what does not mind.
    let mut process = script(&device, "sleep 1000 & echo $$ $!; cat", TERMINAL).await;
    let pids = numbers(&mut process).await;
    let hung_up = Instant::now();
    drop(process);
    until_dead(&mut device, &pids).await;
    assert!(hung_up.elapsed() < Duration::from_secs(30));
    device.stop().await;
}

/// How many commands are abandoned at every point of their lives.
const ABANDONED: usize = 200;

/// In a process of its own: other tests open descriptors, too.
#[test]
fn abandoned_commands_leave_no_process_and_no_descriptor() {
    const ALONE: &str = "HAWSER_TEST_ALONE";
    if std::env::var_os(ALONE).is_some() {
        let runtime = tokio::runtime::Builder::new_current_thread().enable_all().build().unwrap();
        return runtime.block_on(abandon_commands());
    }
    let name = "exec::abandoned_commands_leave_no_process_and_no_descriptor";
    let mut alone = std::process::Command::new(std::env::current_exe().unwrap());
    assert!(alone.args(["--exact", name, "--nocapture"]).env(ALONE, "1").status().unwrap().success());
}

async fn abandon_commands() {
    let mut device = running().await;
    let descriptors = || std::fs::read_dir("/proc/self/fd").unwrap().count();
    let children = |device: &Device| {
        let shims = device.shims();
        let stat = |pid: i32| std::fs::read_to_string(format!("/proc/{pid}/stat")).unwrap_or_default();
        let session = |pid: i32| stat(pid).rsplit_once(") ").and_then(|(_, rest)| rest.split(' ').nth(3)?.parse().ok());
        pids().into_iter().filter(|pid| session(*pid).is_some_and(|session: i32| shims.contains(&session))).count()
    };
    let of_shim = |device: &Device| std::fs::read_dir(format!("/proc/{}/fd", device.shims()[0])).unwrap().count();
    let _ = outcome(script(&device, "true", ALL).await).await;
    // The command has ended, and its shim may not have taken notice yet.
    device.until("the shim to be alone with its program", |device| children(device) == 2).await;
    let before = (descriptors(), children(&device), of_shim(&device));
    for round in 0..ABANDONED {
        let channels = if round % 3 == 0 { TERMINAL } else { ALL };
        let request = ExecRequest {
            pod: uid("p"),
            container: "main".into(),
            command: ["/bin/sh", "-c", "sleep 1000 & echo; cat"].map(str::to_owned).to_vec(),
            channels,
        };
        let verbs = device.verbs();
        match round % 4 {
            // Before it has begun.
            0 => drop(tokio::time::timeout(Duration::from_micros(round as u64 * 50), verbs.exec(request)).await),
            1 => drop(verbs.exec(request).await.unwrap()),
            _ => {
                let mut process = verbs.exec(request).await.unwrap();
                process.stdout.as_mut().unwrap().read_u8().await.unwrap();
            }
        }
    }
    device
        .until("everything to be as before", |device| (descriptors(), children(device), of_shim(device)) == before)
        .await;
    assert!(device.is_running("p"));
    device.stop().await;
}

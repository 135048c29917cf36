//! The agent goes and comes back; containers do not notice.

use std::process::{Command, Stdio};
use std::time::Duration;

use device_agent::runtime::Runtime;
use device_agent::runtime::process::Process;
use hawser_wire::deployment::RestartPolicy;
use hawser_wire::report::ContainerState;
use rustix::process::Signal;

use crate::world::*;

/// Not a test: the stand-in agent that other tests kill. It runs in a process of its own, on the directories that the
/// environment names.
#[tokio::test]
#[ignore = "run by other tests, in a process of its own"]
async fn stand_in_agent() {
    let Some(dir) = std::env::var_os("STAND_IN_AGENT") else { return };
    let mut device = Device::new();
    let secrets = std::env::var_os("STAND_IN_SECRETS").unwrap();
    device.config = config(dir.as_ref(), secrets.as_ref());
    device.run(&server());
    device.run(&job());
    device.start();
    device.until_running("server").await;
    device.until_running("job").await;
    let records = ["server", "job"].map(|name| device.work(name).join("pid"));
    device
        .until("both to be up", |device| device.restarts("server") == 1 && records.iter().all(|pid| pid.exists()))
        .await;
    println!("UP");
    device.until("the end of time", |_| false).await;
}

fn server() -> hawser_wire::deployment::EdgeDeployment {
    // The first attempt fails, so that there is a restart count to keep.
    let script = "test -e once || { echo > once; exit 1; }; echo $$ > pid; exec sleep 1000";
    pod("server", RestartPolicy::Always, shell(script))
}

fn job() -> hawser_wire::deployment::EdgeDeployment {
    pod("job", RestartPolicy::Never, shell("echo $$ > pid; until test -e go; do sleep 0.05; done; exit 42"))
}

#[tokio::test]
async fn kill_minus_nine_of_the_agent_changes_nothing() {
    let mut device = Device::new();
    let mut agent = Command::new(std::env::current_exe().unwrap())
        .args(["--exact", "adoption::stand_in_agent", "--ignored", "--nocapture"])
        .env("STAND_IN_AGENT", device.dir.path())
        .env("STAND_IN_SECRETS", device.secrets.path())
        .stdout(Stdio::piped())
        .spawn()
        .unwrap();
    let output = std::io::BufReader::new(agent.stdout.take().unwrap());
    let up = std::io::BufRead::lines(output).map_while(Result::ok).any(|line| line.contains("UP"));
    assert!(up, "the agent came up");
    agent.kill().unwrap();
    agent.wait().unwrap();

    let pid_of =
        |name: &str| -> i32 { std::fs::read_to_string(device.work(name).join("pid")).unwrap().trim().parse().unwrap() };
    let (server_pid, job_pid) = (pid_of("server"), pid_of("job"));
    assert!(is_alive(server_pid) && is_alive(job_pid), "they outlive the agent");
    // The job ends while there is no agent.
    std::fs::write(device.work("job").join("go"), "").unwrap();
    while is_alive(job_pid) {
        tokio::time::sleep(Duration::from_millis(10)).await;
    }

    device.run(&server());
    device.run(&job());
    device.start();
    device.until_running("server").await;
    let end = device.run_to_end(&job()).await;
    assert_eq!((end.exit_code, end.reason.as_str()), (42, "Error"));
    assert_eq!(device.restarts("server"), 1);
    assert_eq!(pid_of_work(&device, "server"), server_pid);
    assert!(is_alive(server_pid));
    assert!(device.event("Started").is_none(), "nothing was started: {:?}", device.events);

    device.unwant("server");
    device.until("the server to go", |device| !device.place("server").exists()).await;
    assert!(!is_alive(server_pid), "an adopted container can be stopped");
    device.stop().await;
}

fn pid_of_work(device: &Device, name: &str) -> i32 {
    std::fs::read_to_string(device.work(name).join("pid")).unwrap().trim().parse().unwrap()
}

#[tokio::test]
async fn a_stopped_agent_leaves_workloads_running_and_a_corrupt_record_does_not_change_that() {
    let mut device = Device::new();
    device.start();
    device.run(&pod("web", RestartPolicy::Always, shell("echo $$ > pid; exec sleep 1000")));
    device.until_running("web").await;
    device.written("web", "pid").await;
    let pid = pid_of_work(&device, "web");
    for record in [None, Some(&b"garbage"[..]), Some(&b"\x01"[..]), Some(&b"\x07later"[..])] {
        device.stop().await;
        assert!(is_alive(pid));
        if let Some(record) = record {
            std::fs::write(device.dir.path().join("records/web"), record).unwrap();
        }
        device.events.clear();
        device.start();
        device.until_running("web").await;
        device.until("evidence", |device| record.is_none() || device.event("WorkloadRecordLost").is_some()).await;
        assert_eq!((pid_of_work(&device, "web"), device.restarts("web")), (pid, 0), "{record:?}");
        assert!(is_alive(pid));
    }
    device.stop().await;
}

#[tokio::test]
async fn a_killed_shim_takes_its_container_with_it_and_the_policy_decides() {
    let mut device = Device::new();
    device.start();
    let script = "sleep 1000 & echo $! > child; echo $PPID > shim; echo $$ > pid; wait";
    device.run(&pod("web", RestartPolicy::Always, shell(script)));
    let shim: i32 = device.written("web", "shim").await.parse().unwrap();
    let child: i32 = device.written("web", "child").await.parse().unwrap();
    let pid: i32 = device.written("web", "pid").await.parse().unwrap();
    device.until_running("web").await;
    kill(shim, Signal::KILL);
    device.until("a restart", |device| device.is_running("web") && device.restarts("web") == 1).await;
    let last = device.report("web").unwrap().containers[0].last.clone().unwrap();
    assert_eq!((last.exit_code, last.reason.as_str()), (137, "ContainerStatusUnknown"));
    assert!(!is_alive(pid) && !is_alive(child), "nothing is left of the first attempt");
    device.stop().await;
}

#[tokio::test]
async fn a_pid_that_belongs_to_somebody_else_now_is_not_taken_for_ours() {
    let mut device = Device::new();
    let spec = pod("web", RestartPolicy::Never, shell("exit 0"));
    // As after a crash in which shim and program died; their pids belong to this test now.
    let attempt = device.place("web").join("containers/main/0");
    std::fs::create_dir_all(&attempt).unwrap();
    std::fs::write(attempt.join("lock"), "").unwrap();
    let boot = std::fs::read_to_string("/proc/sys/kernel/random/boot_id").unwrap();
    let own = std::process::id();
    let state = format!(
        r#"{{"boot":"{}","shim":{{"pid":{own},"start":1}},"program":{{"pid":{own},"start":1}},"started":{{"secs":1,"nanos":0}}}}"#,
        boot.trim()
    );
    std::fs::write(attempt.join("state.json"), state).unwrap();
    device.start();
    let end = device.run_to_end(&spec).await;
    assert_eq!((end.exit_code, end.reason.as_str()), (137, "ContainerStatusUnknown"));
    device.stop().await;
}

/// Writes down an attempt whose shim and program had these pids, long ago.
fn dead_attempt(device: &Device, name: &str, shim: i32, program: i32) {
    let attempt = device.place(name).join("containers/main/0");
    std::fs::create_dir_all(&attempt).unwrap();
    std::fs::write(attempt.join("lock"), "").unwrap();
    let boot = std::fs::read_to_string("/proc/sys/kernel/random/boot_id").unwrap();
    let state = format!(
        r#"{{"boot":"{}","shim":{{"pid":{shim},"start":1}},"program":{{"pid":{program},"start":1}},"started":{{"secs":1,"nanos":0}}}}"#,
        boot.trim()
    );
    std::fs::write(attempt.join("state.json"), state).unwrap();
}

#[tokio::test]
async fn whoever_got_a_dead_shims_pid_is_left_alone_and_so_is_its_session() {
    let mut device = Device::new();
    // A leader of a session with a child in it, as a login has; and a daemon whose leader has gone.
    let script =
        "setsid sh -c 'echo $$; sleep 1000 & echo $!; wait' & setsid sh -c 'echo $$; sleep 1000 & echo $!' & wait";
    let mut foreign =
        Command::new("sh").args(["-c", script]).stdout(Stdio::piped()).stderr(Stdio::null()).spawn().unwrap();
    let mut lines = std::io::BufRead::lines(std::io::BufReader::new(foreign.stdout.take().unwrap()));
    let mut pids: Vec<i32> = (0..4).map(|_| lines.next().unwrap().unwrap().parse().unwrap()).collect();
    let strangers = KillThem(pids.clone());
    pids.sort_unstable();
    let session = |pid: i32| {
        let stat = std::fs::read_to_string(format!("/proc/{pid}/stat")).unwrap_or_default();
        stat.rsplit_once(") ").map(|(_, rest)| rest.split(' ').nth(3).unwrap().parse::<i32>().unwrap())
    };
    let sleeping =
        |pid: &&i32| std::fs::read(format!("/proc/{pid}/cmdline")).is_ok_and(|line| line.starts_with(b"sleep"));
    let sleepers: Vec<i32> = loop {
        let sleepers: Vec<i32> = pids.iter().filter(sleeping).copied().collect();
        if sleepers.len() == 2 && pids.iter().filter(|pid| is_alive(**pid)).count() == 3 {
            break sleepers;
        }
        tokio::time::sleep(Duration::from_millis(10)).await;
    };
    for (number, sleeper) in sleepers.iter().enumerate() {
        let leader = session(*sleeper).unwrap();
        let spec = pod(&format!("p{number}"), RestartPolicy::Never, shell("exit 0"));
        // The group is the leader's as well; where that has gone, it is only the session that has the number.
        let program = if is_alive(leader) { leader } else { 1 };
        dead_attempt(&device, &spec.name, leader, program);
        device.start();
        let end = device.run_to_end(&spec).await;
        assert_eq!((end.exit_code, end.reason.as_str()), (137, "ContainerStatusUnknown"));
        device.stop().await;
        assert!(is_alive(*sleeper), "of session {leader} in {pids:?}");
    }
    drop(strangers);
    foreign.wait().unwrap();
}

struct KillThem(Vec<i32>);

impl Drop for KillThem {
    fn drop(&mut self) {
        for pid in self.0.iter().filter(|pid| is_alive(**pid)) {
            kill(*pid, Signal::KILL);
        }
    }
}

#[tokio::test]
async fn what_a_killed_shim_leaves_is_swept_wherever_it_has_gone() {
    let mut device = Device::new();
    device.start();
    // Another agent on this machine runs the same pod.
    let mut other = Device::new();
    other.start();
    other.run(&pod("web", RestartPolicy::Never, shell("echo $$ > pid; exec sleep 1000")));
    let others: i32 = other.written("web", "pid").await.parse().unwrap();
    // In the program's group and without its environment; in a session of its own.
    let script = "env -i sleep 1000 & echo $! > a; setsid sleep 1000 & echo $! > b; echo $PPID > shim; wait";
    device.run(&pod("web", RestartPolicy::Never, shell(script)));
    let mut pids = Vec::new();
    for file in ["a", "b", "shim"] {
        pids.push(device.written("web", file).await.parse::<i32>().unwrap());
    }
    device.until_running("web").await;
    kill(pids[2], Signal::KILL);
    device.until("the end", |device| device.report("web").unwrap().phase == hawser_wire::report::Phase::Failed).await;
    assert_eq!(pids.iter().map(|pid| is_alive(*pid)).collect::<Vec<_>>(), [false; 3]);
    assert!(is_alive(others));
    other.stop().await;
    device.stop().await;
}

#[tokio::test]
async fn what_was_started_is_known_without_a_record_and_a_shim_of_an_earlier_version_is_adopted() {
    let mut device = Device::new();
    device.start();
    device.run(&pod("web", RestartPolicy::Always, shell("exec sleep 1000")));
    device.until_running("web").await;
    device.stop().await;
    std::fs::remove_file(device.dir.path().join("records/web")).unwrap();
    let images = async |device: &Device| -> Vec<Option<String>> {
        let found = Process::new(device.config.clone()).inventory().await.unwrap();
        found.into_iter().map(|found| found.image).collect()
    };
    assert_eq!(images(&device).await, [Some("host".to_owned())]);
    // Earlier versions wrote less.
    let state = device.place("web").join("containers/main/0/state.json");
    let text = std::fs::read_to_string(&state).unwrap();
    let earlier = text.split(",\"image\"").next().unwrap().to_owned() + "}";
    std::fs::write(&state, earlier).unwrap();
    assert_eq!(images(&device).await, [None]);
    device.start();
    device.until_running("web").await;
    assert_eq!(device.restarts("web"), 0);
    device.unwant("web");
    device.until("it to go", |device| !device.place("web").exists()).await;
    device.stop().await;
}

#[tokio::test]
async fn a_reboot_starts_everything_again() {
    let mut device = Device::new();
    device.start();
    device.run(&pod("web", RestartPolicy::Always, shell("echo $$ > pid; exec sleep 1000")));
    device.until_running("web").await;
    device.written("web", "pid").await;
    let pid = pid_of_work(&device, "web");
    device.stop().await;
    // What a reboot does: processes end without a word, memory is empty, the boot has another name.
    let state = device.place("web").join("containers/main/0/state.json");
    let text = std::fs::read_to_string(&state).unwrap();
    let shim = text.split("\"shim\":{\"pid\":").nth(1).unwrap().split(',').next().unwrap().parse().unwrap();
    kill(shim, Signal::KILL);
    while is_alive(pid) || is_alive(shim) {
        tokio::time::sleep(Duration::from_millis(10)).await;
    }
    let boot = std::fs::read_to_string("/proc/sys/kernel/random/boot_id").unwrap();
    std::fs::write(&state, text.replace(boot.trim(), "another-boot")).unwrap();
    let record = device.dir.path().join("records/web");
    let bytes = std::fs::read(&record).unwrap();
    let at = bytes.windows(36).position(|part| part == boot.trim().as_bytes()).unwrap();
    let mut other = bytes;
    other[at..at + 36].copy_from_slice(b"00000000-0000-0000-0000-000000000000");
    std::fs::write(&record, other).unwrap();

    device.start();
    device.until("a new attempt", |device| device.is_running("web") && device.restarts("web") == 1).await;
    let status = &device.report("web").unwrap().containers[0];
    let last = status.last.clone().unwrap();
    assert_eq!((last.exit_code, last.reason.as_str()), (137, "ContainerStatusUnknown"));
    assert!(last.message.unwrap().contains("the device was restarted"));
    assert!(matches!(status.state, ContainerState::Running(_)));
    device.stop().await;
}

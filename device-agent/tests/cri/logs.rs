//! What is read of the log of an engine's container.

use std::os::unix::fs::MetadataExt;

use device_agent::streams::service::{Log, Service};
use hawser_wire::DeviceTime;
use hawser_wire::deployment::{Container, EdgeDeployment, PullPolicy, RestartPolicy};
use hawser_wire::stream::LogsRequest;
use tokio::io::AsyncReadExt;

use crate::world::*;

fn request(pod: &str) -> LogsRequest {
    LogsRequest {
        pod: uid(pod),
        container: "main".into(),
        follow: false,
        previous: false,
        timestamps: false,
        tail: None,
        since: None,
        limit_bytes: None,
        from: None,
        newest: None,
    }
}

async fn all(mut log: Log) -> String {
    let mut text = String::new();
    tokio::time::timeout(PATIENCE, log.output.read_to_string(&mut text)).await.unwrap().unwrap();
    text
}

async fn read(device: &Device, request: LogsRequest) -> String {
    all(device.verbs().logs(request).await.unwrap()).await
}

#[tokio::test]
async fn every_choice_of_lines_also_after_the_end() {
    let Some(mut device) = Device::new() else { return };
    device.start().await;
    let before = clock()();
    let script = "echo one; echo two >&2; sleep 0.3; printf 'three'; sleep 0.3; printf ' and a half\\nfour'";
    device.run_to_end(&pod("p", RestartPolicy::Never, shell(script))).await;
    // What follows waits for the last words.
    let text = read(&device, LogsRequest { follow: true, ..request("p") }).await;
    let mut lines: Vec<&str> = text.lines().collect();
    // Which of two streams is read first is nobody's promise.
    lines[..2].sort();
    assert_eq!(lines, ["one", "two", "three and a half", "four"]);
    let tail = LogsRequest { tail: Some(2), ..request("p") };
    // The last line has not ended.
    assert_eq!(read(&device, tail.clone()).await, "three and a half\nfour");
    assert_eq!(read(&device, LogsRequest { limit_bytes: Some(7), ..tail.clone() }).await, "three a");
    let timed = read(&device, LogsRequest { timestamps: true, tail: Some(1), ..request("p") }).await;
    let (time, text) = timed.split_once(' ').unwrap();
    assert!(text == "four" && time.len() >= 30, "{timed}");
    for (since, expected) in [(before, 4), (DeviceTime(0), 4), (DeviceTime(clock()().0 + 60_000), 0)] {
        let text = read(&device, LogsRequest { since: Some(since), ..request("p") }).await;
        assert_eq!(text.lines().count(), expected, "{since:?}");
    }
    device.sweep("p").await;
}

#[tokio::test]
async fn a_follower_gets_every_line_once_through_rotations() {
    let Some(mut device) = Device::new() else { return };
    (device.config.log_max_bytes, device.config.log_max_files) = (16 * 1024, 200);
    device.start().await;
    let script = "until [ -e /tmp/go ]; do sleep 0.02; done; i=0; \
                  until [ -e /tmp/end ]; do i=$((i+1)); echo $i; [ $((i%100)) = 0 ] && sleep 0.02; done; echo last $i";
    device.run(&pod("p", RestartPolicy::Never, shell(script)));
    device.until_running("p").await;
    let log = device.verbs().logs(LogsRequest { follow: true, ..request("p") }).await.unwrap();
    let reading = tokio::spawn(all(log));
    let root = format!("/proc/{}/root/tmp", device.engine.pid_of("until"));
    std::fs::write(format!("{root}/go"), "").unwrap();
    let part = |number: u32| device.log_file("p").with_extension(format!("log.{number}"));
    let (first, second) = (part(1), part(2));
    device.until("a rotation", |_| first.exists()).await;
    device.until("another rotation", |_| second.exists()).await;
    std::fs::write(format!("{root}/end"), "").unwrap();
    let text = reading.await.unwrap();
    let (lines, last) = text.trim_end().rsplit_once("\nlast ").unwrap();
    let expected: Vec<String> = (1..=last.parse::<u32>().unwrap()).map(|number| number.to_string()).collect();
    assert!(lines.lines().eq(expected.iter()), "{} lines of {}", lines.lines().count(), expected.len());
    assert!(read(&device, request("p")).await == text, "the same lines from the disk");
    // From the middle, after a lost connection.
    let mut log = device.verbs().logs(request("p")).await.unwrap();
    let mut some = vec![0; text.len() / 2];
    log.output.read_exact(&mut some).await.unwrap();
    let mark = log.marks.unwrap().borrow().clone();
    let rest = read(&device, LogsRequest { from: Some(mark.position), ..request("p") }).await;
    assert!(rest == text[mark.bytes as usize..], "from byte {}", mark.bytes);
    device.sweep("p").await;
}

#[tokio::test]
async fn a_log_that_is_written_at_full_speed_has_its_bounds_and_harms_nobody() {
    let Some(mut device) = Device::new() else { return };
    (device.config.log_max_bytes, device.config.log_max_files) = (1024 * 1024, 3);
    device.start().await;
    device.run(&pod(
        "flood",
        RestartPolicy::Always,
        shell("exec yes 'a line of a program that tells everything it does'"),
    ));
    device.until_running("flood").await;
    let file = device.log_file("flood");
    let inode =
        |number: u32| std::fs::metadata(file.with_extension(format!("log.{number}"))).ok().map(|found| found.ino());
    // What is the oldest part changes: one has gone already.
    device.until("two parts", |_| inode(2).is_some()).await;
    let oldest = inode(2);
    device.until("another rotation", |_| inode(2).is_some() && inode(2) != oldest).await;
    assert_eq!(inode(3), None);
    // Others come up, say what they have to say, and go, and so does this one.
    device.run(&hasty(pod("well", RestartPolicy::Always, shell("echo well; exec sleep 1000"))));
    device.until_running("well").await;
    device.until("its line", |device| std::fs::read_to_string(device.log_file("well")).unwrap().contains("well")).await;
    assert_eq!(device.container("flood").unwrap().restart_count, 0);
    for name in ["well", "flood"] {
        device.sweep(name).await;
    }
}

#[tokio::test]
async fn a_log_that_was_moved_away_is_begun_anew_although_nobody_told_the_engine() {
    let Some(mut device) = Device::new() else { return };
    device.start().await;
    device.run(&pod(
        "p",
        RestartPolicy::Always,
        shell("echo one; until [ -e /tmp/go ]; do sleep 0.05; done; echo two; exec sleep 1000"),
    ));
    device.until_running("p").await;
    let (log, root) = (device.log_file("p"), format!("/proc/{}/root/tmp", device.engine.pid_of("until")));
    device.until("its words", |_| std::fs::metadata(&log).is_ok_and(|log| log.len() > 0)).await;
    // As an agent that dies between the two steps leaves it.
    device.kill_agent().await;
    std::fs::rename(&log, log.with_extension("log.1")).unwrap();
    device.start().await;
    device.until("a new log", |_| log.exists()).await;
    std::fs::write(format!("{root}/go"), "").unwrap();
    device.until("further words", |_| std::fs::metadata(&log).is_ok_and(|log| log.len() > 0)).await;
    assert_eq!(read(&device, request("p")).await, "one\ntwo\n");
    device.sweep("p").await;
}

#[tokio::test]
async fn the_run_before_is_there_and_what_is_not_says_so_in_a_kubelets_words() {
    let Some(mut device) = Device::new() else { return };
    device.start().await;
    let script = "[ -e /data/again ] && { echo second; exec sleep 1000; }; echo > /data/again; echo first; exit 3";
    let mut again = pod("p", RestartPolicy::Always, shell(script));
    again.volumes = vec![scratch("data")];
    again.containers[0].mounts = vec![mount("data", "/data")];
    device.run(&EdgeDeployment { grace_seconds: 1, ..again });
    device
        .until("the second run", |device| {
            device.container("p").is_some_and(|container| container.restart_count == 1 && container.ready)
        })
        .await;
    assert_eq!(read(&device, LogsRequest { follow: true, previous: true, ..request("p") }).await, "first\n");
    let log = device.config.root.join("p/logs/main/1.log");
    device.until("its words", |_| std::fs::metadata(&log).is_ok_and(|log| log.len() > 0)).await;
    assert_eq!(read(&device, request("p")).await, "second\n");
    device.run_to_end(&pod("q", RestartPolicy::Never, shell("exit 0"))).await;
    let absent = Container { image: "hawser.test/none:1".into(), pull_policy: PullPolicy::Never, ..shell("") };
    device.run(&pod("r", RestartPolicy::Always, absent));
    device.until_waiting("r", "ErrImageNeverPull").await;
    for (request, status, words) in [
        (
            LogsRequest { previous: true, ..request("q") },
            400,
            "previous terminated container \"main\" in pod \"q\" not found",
        ),
        (request("r"), 400, "container \"main\" in pod \"r\" is waiting to start: ErrImageNeverPull"),
        (request("nobody"), 404, "the device has no pod nobody"),
        (LogsRequest { container: "../q".into(), ..request("q") }, 404, "container \"../q\" not found in pod \"q\""),
    ] {
        let refused = device.verbs().logs(request).await.unwrap_err();
        assert_eq!((refused.status, refused.message.as_str()), (status, words));
    }
    for name in ["p", "q", "r"] {
        device.sweep(name).await;
    }
}

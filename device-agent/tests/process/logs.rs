//! What is read of a container's log.

use std::time::Duration;

use device_agent::streams::service::{Log, Service};
use hawser_wire::DeviceTime;
use hawser_wire::deployment::{EdgeDeployment, RestartPolicy};
use hawser_wire::report::Phase;
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
    tokio::time::timeout(Duration::from_secs(60), log.output.read_to_string(&mut text)).await.unwrap().unwrap();
    text
}

async fn read(device: &Device, request: LogsRequest) -> String {
    all(device.verbs().logs(request).await.unwrap()).await
}

#[tokio::test]
async fn every_choice_of_lines() {
    let mut device = Device::new();
    device.start();
    let before = clock()();
    let script = "echo one; echo two >&2; printf 'three'; sleep 0.3; printf ' and a half\\nfour'";
    device.run_to_end(&pod("p", RestartPolicy::Never, shell(script))).await;
    let mut lines: Vec<String> = read(&device, request("p")).await.lines().map(str::to_owned).collect();
    // Which of two streams is read first is nobody's promise.
    lines[..2].sort();
    assert_eq!(lines, ["one", "two", "three and a half", "four"]);
    let tail = LogsRequest { tail: Some(2), ..request("p") };
    assert_eq!(read(&device, tail.clone()).await, "three and a half\nfour\n");
    assert_eq!(read(&device, LogsRequest { limit_bytes: Some(7), ..tail.clone() }).await, "three a");
    assert_eq!(read(&device, LogsRequest { tail: Some(0), ..request("p") }).await, "");
    let timed = read(&device, LogsRequest { timestamps: true, tail: Some(1), ..request("p") }).await;
    let (time, text) = timed.split_once(' ').unwrap();
    assert!(text == "four\n" && time.ends_with('Z') && time.len() == 30, "{timed}");
    for (since, expected) in [(before, 4), (DeviceTime(0), 4), (DeviceTime(clock()().0 + 60_000), 0)] {
        let text = read(&device, LogsRequest { since: Some(since), ..request("p") }).await;
        assert_eq!(text.lines().count(), expected, "{since:?}");
    }
    // A follower of what has ended has nothing to wait for.
    assert_eq!(read(&device, LogsRequest { follow: true, ..tail }).await, "three and a half\nfour\n");
    device.stop().await;
}

#[tokio::test]
async fn a_follower_gets_every_line_once_through_all_rotations() {
    let mut device = Device::new();
    (device.config.log_max_bytes, device.config.log_max_files) = (16 * 1024, 60);
    device.start();
    let script = "while [ ! -e go ]; do sleep 0.02; done; i=0; while [ $i -lt 8000 ]; do i=$((i+1)); echo $i; done";
    device.run(&pod("p", RestartPolicy::Never, shell(script)));
    device.until_running("p").await;
    let log = device.verbs().logs(LogsRequest { follow: true, ..request("p") }).await.unwrap();
    let reading = tokio::spawn(all(log));
    std::fs::write(device.work("p").join("go"), "").unwrap();
    let text = reading.await.unwrap();
    let expected: String = (1..=8_000).map(|number| format!("{number}\n")).collect();
    assert!(text == expected, "{} of {} bytes", text.len(), expected.len());
    assert!(device.place("p").join("logs/main/0.log.20").exists(), "it was rotated often");
    // The same lines from the disk, and from the middle after a lost connection.
    assert!(read(&device, request("p")).await == expected);
    let mut log = device.verbs().logs(request("p")).await.unwrap();
    let mut first = vec![0; 10_000];
    log.output.read_exact(&mut first).await.unwrap();
    let mark = log.marks.unwrap().borrow().clone();
    let rest = read(&device, LogsRequest { from: Some(mark.position), ..request("p") }).await;
    assert!(rest == expected[mark.bytes as usize..], "from byte {}", mark.bytes);
    device.stop().await;
}

#[tokio::test]
async fn a_follower_sees_lines_as_they_come_and_the_end() {
    let mut device = Device::new();
    device.start();
    let script =
        "echo first; while [ ! -e go ]; do sleep 0.02; done; echo second; while [ ! -e end ]; do sleep 0.02; done";
    device.run(&pod("p", RestartPolicy::Never, shell(script)));
    device.until_running("p").await;
    let mut log = device.verbs().logs(LogsRequest { follow: true, ..request("p") }).await.unwrap();
    let mut line = [0; 6];
    log.output.read_exact(&mut line).await.unwrap();
    assert_eq!(&line, b"first\n");
    std::fs::write(device.work("p").join("go"), "").unwrap();
    let mut line = [0; 7];
    log.output.read_exact(&mut line).await.unwrap();
    assert_eq!(&line, b"second\n");
    std::fs::write(device.work("p").join("end"), "").unwrap();
    assert_eq!(all(log).await, "");
    device.stop().await;
}

#[tokio::test]
async fn the_run_before_is_there_and_what_is_not_says_so_in_a_kubelets_words() {
    let mut device = Device::new();
    device.start();
    let script = "echo run $(cat count 2>/dev/null); echo x >> count; [ $(wc -l < count) -gt 1 ] && sleep 1000; exit 3";
    let again = EdgeDeployment { grace_seconds: 1, ..pod("p", RestartPolicy::Always, shell(script)) };
    device.run(&again);
    device.until("the second run", |device| device.restarts("p") == 1 && device.is_running("p")).await;
    let written = device.place("p").join("logs/main/1.log");
    device.until("its word", |_| std::fs::read(&written).is_ok_and(|log| log.ends_with(b"\n"))).await;
    assert_eq!(read(&device, LogsRequest { follow: true, previous: true, ..request("p") }).await, "run\n");
    let log = device.place("p").join("logs/main/1.log");
    device.until("its words", |_| std::fs::metadata(&log).is_ok_and(|log| log.len() > 0)).await;
    assert_eq!(read(&device, request("p")).await, "run x\n");
    device.run(&pod("q", RestartPolicy::Never, shell("exit 0")));
    device.until("the end", |device| device.report("q").is_some_and(|report| report.phase == Phase::Succeeded)).await;
    let broken = hawser_wire::deployment::Container { image: "nginx".into(), ..shell("") };
    device.run(&pod("r", RestartPolicy::Always, broken));
    device.until("a report", |device| device.report("r").is_some()).await;
    for (request, status, words) in [
        (
            LogsRequest { previous: true, ..request("q") },
            400,
            "previous terminated container \"main\" in pod \"q\" not found",
        ),
        (request("r"), 400, "container \"main\" in pod \"r\" is waiting to start: ContainerCreating"),
        (request("nobody"), 404, "the device has no pod nobody"),
        (LogsRequest { container: "../q".into(), ..request("q") }, 404, "container \"../q\" not found in pod \"q\""),
    ] {
        let refused = device.verbs().logs(request).await.unwrap_err();
        assert_eq!((refused.status, refused.message.as_str()), (status, words));
    }
    device.stop().await;
}

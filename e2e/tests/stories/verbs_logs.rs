//! `kubectl logs`.

use std::time::Duration;

use anyhow::{Context, Result};
use hawser_e2e::kubectl::Kubectl;
use hawser_e2e::recipes;
use hawser_e2e::wait::{SOON, eventually};
use hawser_e2e::world::{Port, World};
use hawser_lab::rope::Faults;
use hawser_lab::table::pod_is_ready;
use k8s_openapi::api::core::v1::Pod;
use serde_json::json;
use tokio::io::{AsyncReadExt, AsyncWriteExt};
use tokio::net::TcpStream;

/// Shell code that waits until a file is there.
fn until(path: &str) -> String {
    format!("while [ ! -e {path} ]; do sleep 0.1; done")
}

fn restarts(pod: &Pod) -> i32 {
    let statuses = pod.status.as_ref().and_then(|status| status.container_statuses.as_ref());
    statuses.and_then(|all| all.first()).map_or(0, |main| main.restart_count)
}

fn has_ended(pod: &Pod) -> bool {
    let phase = pod.status.as_ref().and_then(|status| status.phase.as_deref());
    matches!(phase, Some("Succeeded" | "Failed"))
}

#[tokio::test(flavor = "multi_thread")]
async fn logs_show_what_was_written_and_follow_what_is_written() -> Result<()> {
    let world = World::start("logs", 1).await?;
    let Some(kubectl) = Kubectl::of(&world) else { return world.end().await };
    let (more, enough) = (world.witness("more"), world.witness("enough"));
    let script = format!(
        "echo one; echo two; echo three; {}; echo four >&2; {}; echo five",
        until(&more.path()),
        until(&enough.path())
    );
    let never = json!({ "restartPolicy": "Never" });
    let pod = world.create_pod(&recipes::pod_with("talks", world.device(0), &script, never)).await?;
    world.pod_ready(&pod).await?;
    eventually("three lines are there", SOON, || async {
        match kubectl.says(&["logs", "talks"]).await {
            Ok(text) if text == "one\ntwo\nthree\n" => Ok(()),
            other => Err(other),
        }
    })
    .await?;

    assert_eq!(kubectl.says(&["logs", "talks", "--tail=2"]).await?, "two\nthree\n");
    assert_eq!(kubectl.says(&["logs", "talks", "--tail=0"]).await?, "");
    assert_eq!(kubectl.says(&["logs", "talks", "--limit-bytes=6"]).await?, "one\ntw");
    assert_eq!(kubectl.says(&["logs", "pod/talks", "-c", "main"]).await?, "one\ntwo\nthree\n");
    let timed = kubectl.says(&["logs", "talks", "--timestamps"]).await?;
    for (line, text) in timed.lines().zip(["one", "two", "three"]) {
        let (time, rest) = line.split_once(' ').with_context(|| timed.clone())?;
        assert!(time.parse::<jiff::Timestamp>().is_ok() && rest == text, "{timed}");
    }
    // What was said a while ago is older than a second, soon.
    eventually("the first lines are old", SOON, || async {
        match kubectl.says(&["logs", "talks", "--since=1s"]).await {
            Ok(text) if text.is_empty() => Ok(()),
            other => Err(other),
        }
    })
    .await?;
    assert_eq!(kubectl.says(&["logs", "talks", "--since=1h"]).await?, "one\ntwo\nthree\n");

    let mut follower = kubectl.start(&["logs", "-f", "--tail=1", "talks"])?;
    assert_eq!(follower.line().await?.as_deref(), Some("three"));
    more.write("now")?;
    assert_eq!(follower.line().await?.as_deref(), Some("four"));
    enough.write("now")?;
    // The container ends, and so does its log.
    assert_eq!(follower.end().await?, (Some(0), vec!["five".to_owned()], String::new()));

    // The pod has ended, its log is still there.
    world.pod_until(&pod, "over", has_ended).await?;
    assert_eq!(kubectl.says(&["logs", "talks"]).await?, "one\ntwo\nthree\nfour\nfive\n");
    let (_, told) = kubectl.fails(&["logs", "talks", "--previous"]).await?;
    assert!(told.contains("previous terminated container \"main\" in pod \"talks\" not found"), "{told}");
    kubectl.says(&["delete", "pod", "talks"]).await?;
    let (_, told) = kubectl.fails(&["logs", "talks"]).await?;
    assert!(told.contains("pods \"talks\" not found"), "{told}");
    world.end().await
}

#[tokio::test(flavor = "multi_thread")]
async fn the_log_of_a_life_before_the_last_crash_is_kept() -> Result<()> {
    let world = World::start("logs-previous", 1).await?;
    let Some(kubectl) = Kubectl::of(&world) else { return world.end().await };
    let witness = world.witness("lives");
    // Two lives: the first one crashes.
    let script = format!(
        "{}; echo life $(wc -l < {path}); [ $(wc -l < {path}) -gt 1 ] || exit 3; exec sleep 1000",
        witness.note("x"),
        path = witness.path()
    );
    let pod = world.create_pod(&recipes::pod("twice", world.device(0), &script)).await?;
    world.pod_until(&pod, "restarted and running", |pod| restarts(pod) == 1 && pod_is_ready(pod)).await?;
    assert_eq!(kubectl.says(&["logs", "twice"]).await?, "life 2\n");
    assert_eq!(kubectl.says(&["logs", "twice", "--previous"]).await?, "life 1\n");
    assert_eq!(kubectl.says(&["logs", "twice", "-p", "--tail=1"]).await?, "life 1\n");
    world.end().await
}

#[tokio::test(flavor = "multi_thread")]
async fn every_container_has_its_own_log() -> Result<()> {
    let world = World::start("logs-containers", 1).await?;
    let Some(kubectl) = Kubectl::of(&world) else { return world.end().await };
    let container = |name: &str| {
        let command = ["sh", "-c", &format!("echo I am {name}; exec sleep 1000")].map(str::to_owned);
        json!({ "name": name, "image": "host", "command": command })
    };
    let more = json!({
        "containers": [container("left"), container("right")],
        "initContainers": [{ "name": "before", "image": "host", "command": ["echo", "first of all"] }],
    });
    let pod = world.create_pod(&recipes::pod_with("pair", world.device(0), "", more)).await?;
    world.pod_ready(&pod).await?;
    let both = eventually("both have spoken", SOON, || async {
        match kubectl.says(&["logs", "pair", "--all-containers", "--prefix"]).await {
            Ok(text) if text.lines().count() == 3 => Ok(text),
            other => Err(other),
        }
    })
    .await?;
    let mut lines: Vec<_> = both.lines().collect();
    lines.sort_unstable();
    let expected = ["[pod/pair/before] first of all", "[pod/pair/left] I am left", "[pod/pair/right] I am right"];
    assert_eq!(lines, expected);
    // kubectl counts before it asks.
    let all = ["logs", "-f", "pair", "--all-containers", "--max-log-requests"];
    let (_, told) = kubectl.fails(&[&all[..], &["2"]].concat()).await?;
    assert!(told.contains("attempting to follow 3 log streams, but maximum allowed concurrency is 2"), "{told}");
    let mut follower = kubectl.start(&[&all[..], &["3"]].concat())?;
    let mut lines = [follower.line().await?, follower.line().await?, follower.line().await?];
    lines.sort_unstable();
    assert_eq!(lines.map(Option::unwrap_or_default), ["I am left", "I am right", "first of all"]);
    follower.kill().await?;
    assert_eq!(kubectl.says(&["logs", "pair"]).await?, "I am left\n");
    assert_eq!(kubectl.says(&["logs", "pair", "-c", "before"]).await?, "first of all\n");
    let (_, told) = kubectl.fails(&["logs", "pair", "-c", "middle"]).await?;
    assert!(told.contains("container middle is not valid for pod pair"), "{told}");
    let raw = format!("/api/v1/namespaces/{}/pods/pair/log", world.namespace());
    let (_, told) = kubectl.fails(&["get", "--raw", &raw]).await?;
    let choose = "a container name must be specified for pod pair, choose one of: [before left right]";
    assert!(told.contains(choose), "{told}");
    world.end().await
}

#[tokio::test(flavor = "multi_thread")]
async fn a_log_is_followed_through_its_rotations() -> Result<()> {
    const STEPS: u32 = 6;
    const LINES: u32 = 25_000;
    let world = World::start("logs-rotate", 1).await?;
    let Some(kubectl) = Kubectl::of(&world) else { return world.end().await };
    let steps = world.witness("steps");
    // About 1.6 MB of log in each step, so that there are files of 4 MiB to rotate. It waits until it has been read.
    let script = format!(
        "for step in $(seq 1 {STEPS}); do seq $(((step - 1) * {LINES} + 1)) $((step * {LINES})); \
         while [ $(cat {path} 2>/dev/null || echo 0) -lt $step ]; do sleep 0.1; done; done",
        path = steps.path()
    );
    let never = json!({ "restartPolicy": "Never" });
    let pod = world.create_pod(&recipes::pod_with("much", world.device(0), &script, never)).await?;
    world.pod_ready(&pod).await?;
    let mut follower = kubectl.start(&["logs", "-f", "much"])?;
    for number in 1..=STEPS * LINES {
        let line = follower.line().await?;
        assert_eq!(line, Some(number.to_string()));
        if number % LINES == 0 {
            steps.write(&(number / LINES).to_string())?;
        }
    }
    assert_eq!(follower.end().await?, (Some(0), Vec::new(), String::new()));
    let last = kubectl.says(&["logs", "much", "--tail=2"]).await?;
    assert_eq!(last, format!("{}\n{}\n", STEPS * LINES - 1, STEPS * LINES));
    world.end().await
}

#[tokio::test(flavor = "multi_thread")]
async fn log_times_are_the_clusters_where_the_clock_of_a_device_is_years_behind() -> Result<()> {
    let world = World::start("logs-behind", 1).await?;
    let Some(kubectl) = Kubectl::of(&world) else { return world.end().await };
    world.kill_agent(0).await?;
    let behind = world.start_agent_years_behind(0).await?;
    world.node_ready(0).await?;
    let go = world.witness("go");
    let script = format!("echo one; {}; echo two; exec sleep 1000", until(&go.path()));
    let pod = world.create_pod(&recipes::pod("talks", world.device(0), &script)).await?;
    world.pod_ready(&pod).await?;
    let shows = async |arguments: &[&str], expected: &str| {
        let arguments = [&["logs", "talks"], arguments].concat();
        eventually(&format!("{arguments:?} shows {expected:?}"), SOON, || async {
            match kubectl.says(&arguments).await {
                Ok(text) if text == expected => Ok(()),
                other => Err(other),
            }
        })
        .await
    };
    shows(&[], "one\n").await?;
    // The age of a line is what it is, whatever the clocks say.
    shows(&["--since=1s"], "").await?;
    shows(&["--since=1h"], "one\n").await?;
    // Between the lines, with a distance from both that no offset is wrong by.
    tokio::time::sleep(CLEARLY).await;
    let between = now();
    tokio::time::sleep(CLEARLY).await;
    go.write("now")?;
    shows(&[], "one\ntwo\n").await?;
    let since = |at: jiff::Timestamp| format!("--since-time={at:.0}");
    shows(&[&since(between)], "two\n").await?;
    shows(&[&since(between - jiff::SignedDuration::from_hours(1))], "one\ntwo\n").await?;
    shows(&[&since(now() + jiff::SignedDuration::from_hours(1))], "").await?;
    // Lines are shown as they were written: nobody knows how wrong the clock was then.
    let timed = kubectl.says(&["logs", "talks", "--timestamps"]).await?;
    for (line, text) in timed.lines().zip(["one", "two"]) {
        let (time, rest) = line.split_once(' ').with_context(|| timed.clone())?;
        let years = now().duration_since(time.parse::<jiff::Timestamp>()?).as_hours() / (24 * 365);
        assert_eq!((years, rest), (if behind { 10 } else { 0 }, text), "{timed}");
    }
    // Who follows it meanwhile sees lines as they come.
    let mut follower = kubectl.start(&["logs", "-f", "talks", "--since-time", &format!("{between:.0}")])?;
    assert_eq!(follower.line().await?.as_deref(), Some("two"));
    follower.kill().await?;
    world.end().await
}

/// Longer than the offset of a device's clock is known wrongly on a slow machine.
const CLEARLY: Duration = Duration::from_secs(3);

#[expect(clippy::disallowed_methods, reason = "what an operator reads off the clock on the wall")]
fn now() -> jiff::Timestamp {
    jiff::Timestamp::now()
}

#[tokio::test(flavor = "multi_thread")]
async fn the_log_of_a_device_that_is_away_is_not_there_and_that_is_said() -> Result<()> {
    let world = World::start("logs-away", 1).await?;
    let Some(kubectl) = Kubectl::of(&world) else { return world.end().await };
    let go = world.witness("go");
    let script = format!("echo here; {}; echo there; exec sleep 1000", until(&go.path()));
    let pod = world.create_pod(&recipes::pod("far", world.device(0), &script)).await?;
    world.pod_ready(&pod).await?;
    let mut follower = kubectl.start(&["logs", "-f", "far"])?;
    assert_eq!(follower.line().await?.as_deref(), Some("here"));
    world.cut_rope(0);
    world.node_with_ready(0, "Unknown").await?;
    let (_, told) = kubectl.fails(&["logs", "far"]).await?;
    assert_eq!(told.trim().lines().count(), 1, "one clear line: {told}");
    assert!(told.contains(&format!("device {} is offline since 2", world.device(0))), "{told}");
    // It goes on without us.
    go.write("now")?;
    world.mend_rope(0, Faults::default());
    world.node_ready(0).await?;
    eventually("the log is there again", SOON, || async {
        match kubectl.says(&["logs", "far"]).await {
            Ok(text) if text == "here\nthere\n" => Ok(()),
            other => Err(other),
        }
    })
    .await?;
    // Who followed the log has missed nothing.
    assert_eq!(follower.line().await?.as_deref(), Some("there"));
    follower.kill().await?;
    world.end().await
}

#[tokio::test(flavor = "multi_thread")]
async fn what_was_kept_of_the_log_of_a_device_that_is_away_is_shown() -> Result<()> {
    let world = World::start("logs-kept", 1).await?;
    let Some(kubectl) = Kubectl::of(&world) else { return world.end().await };
    let http = Port::take()?;
    world.kill_bridge().await?;
    world.start_bridge_with(&["--keep-logs", "4Ki", "--http", &http.address().to_string()])?;
    world.node_ready(0).await?;
    let (lives, crash) = (world.witness("lives"), world.witness("crash"));
    // Two lives: the first one crashes when it is told to.
    let script = format!(
        "{}; echo life $(wc -l < {path}); [ $(wc -l < {path}) -gt 1 ] || {{ {}; exit 3; }}; seq 20; exec sleep 1000",
        lives.note("x"),
        until(&crash.path()),
        path = lives.path()
    );
    let pod = world.create_pod(&recipes::pod("far", world.device(0), &script)).await?;
    let lines = ["life 1".to_owned(), "life 2".to_owned()].into_iter().chain((1..=20).map(|number| number.to_string()));
    let sizes: Vec<usize> = lines.map(|line| "2026-01-01T00:00:00.000000000Z ".len() + line.len() + 1).collect();
    is_kept(&http, sizes[0]).await?;
    crash.write("now")?;
    world.pod_until(&pod, "restarted and running", |pod| restarts(pod) == 1 && pod_is_ready(pod)).await?;
    is_kept(&http, sizes.iter().sum()).await?;
    world.cut_rope(0);
    world.node_with_ready(0, "Unknown").await?;

    let text = kubectl.says(&["logs", "far", "--tail=2"]).await?;
    let (lines, note) = text.split_at(text.len().min("19\n20\n".len()));
    assert_eq!(lines, "19\n20\n");
    let since = format!("[hawser: device {} is offline since 2", world.device(0));
    assert!(note.starts_with(&since) && note.lines().count() == 1, "{note}");
    // Who follows it gets the same, and an end.
    let followed = kubectl.says(&["logs", "-f", "far", "--tail=2"]).await?;
    assert!(followed.starts_with("19\n20\n[hawser: "), "{followed}");
    assert_eq!(kubectl.says(&["logs", "far", "--tail=2", "--limit-bytes=5"]).await?, "19\n20");
    assert!(kubectl.says(&["logs", "far", "--since=1s", "--tail=1"]).await?.starts_with("[hawser: "));
    let timed = kubectl.says(&["logs", "far", "--since=1h", "--tail=1", "--timestamps"]).await?;
    let (time, rest) = timed.split_once(' ').with_context(|| timed.clone())?;
    assert!(time.parse::<jiff::Timestamp>().is_ok() && rest.starts_with("20\n["), "{timed}");
    let before = kubectl.says(&["logs", "far", "--previous"]).await?;
    assert!(before.starts_with("life 1\n[hawser: "), "{before}");

    world.mend_rope(0, Faults::default());
    world.node_ready(0).await?;
    eventually("the device itself answers", SOON, || async {
        match kubectl.says(&["logs", "far", "--tail=1"]).await {
            Ok(text) if text == "20\n" => Ok(()),
            other => Err(other),
        }
    })
    .await?;
    world.end().await
}

/// Waits until so many bytes of logs are kept.
async fn is_kept(http: &Port, bytes: usize) -> Result<()> {
    let kept = async || -> Result<usize> {
        let mut stream = TcpStream::connect(http.address()).await?;
        stream.write_all(b"GET /metrics HTTP/1.0\r\n\r\n").await?;
        let mut text = String::new();
        stream.take(1024 * 1024).read_to_string(&mut text).await?;
        let line = text.lines().find_map(|line| line.strip_prefix("hawser_bridge_kept_log_bytes "));
        Ok(line.context("no such metric")?.parse()?)
    };
    eventually("the log to be kept", SOON, || async {
        match kept().await {
            Ok(kept) if kept == bytes => Ok(()),
            other => Err(other),
        }
    })
    .await
}

//! Logs that are kept for when their device is away.

use std::sync::atomic::Ordering;

use anyhow::{Context, Result};
use edge_provider::kept::KeepLogs;
use tokio::io::AsyncReadExt;
use virtual_node::provider::Provider;
use virtual_node::provider::streams::{LogOptions, StreamError};

use crate::service::{line, stamped};
use crate::support::within;
use crate::{Ground, TURN, soon};

const KEEP: KeepLogs = KeepLogs { per_container: 4096, total: 1 << 20 };

/// The log of the device that is away, once it is.
async fn log(ground: &Ground, options: &LogOptions) -> Result<String> {
    let open = async || ground.provider().logs(&ground.node, &ground.pod, "main", options.clone()).await;
    within("the device to be offline", async || {
        Ok(matches!(ground.provider().stats(&ground.node).await, Err(StreamError::Unreachable(why)) if why.contains("is offline")))
    })
    .await?;
    let mut text = String::new();
    soon(soon(open()).await??.read_to_string(&mut text)).await??;
    Ok(text)
}

/// Lines `from..to`, and what follows them.
fn after_lines(text: &str, from: u64, to: u64) -> Result<&str> {
    let lines: String = (from..to).map(line).collect();
    text.strip_prefix(&lines).with_context(|| format!("not lines {from} to {to}: {text}"))
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn the_last_part_of_the_log_of_a_device_that_is_away_is_what_was_kept() -> Result<()> {
    let _turn = TURN.lock().await;
    let mut ground = Ground::start_keeping(Some(KEEP)).await?;
    let came = |ground: &Ground| ground.world.metrics().kept_log_bytes_in();
    let size = |from: u64, to: u64| (from..to).map(|number| stamped(number).len() as u64).sum::<u64>();
    // Far more than is kept was written while nobody looked.
    ground.agent.take().context("it runs")?.crash().await;
    ground.programs.lines.send_replace(10_000);
    ground.start_agent().await?;
    let first = (0..10_000).rev().find(|first| size(*first, 10_000) > 4096).context("there are enough")? + 1;
    within("the end of the log to be kept", async || Ok(came(&ground) >= size(first, 10_000))).await?;

    // It is followed: what was just written is kept too.
    let before = came(&ground);
    ground.programs.lines.send_replace(10_002);
    within("the new lines to be kept", async || Ok(came(&ground) >= before + size(10_000, 10_002))).await?;
    assert!(ground.world.metrics().kept_log_bytes() <= 4096);
    ground.agent.take().context("it runs")?.crash().await;

    let tail = LogOptions { tail: Some(3), follow: true, ..LogOptions::default() };
    let text = log(&ground, &tail).await?;
    let note = after_lines(&text, 9_999, 10_002)?;
    assert!(
        note.starts_with("[hawser: device pi is offline since 20") && note.ends_with(" is on the device]\n"),
        "{note}"
    );
    let timed = log(&ground, &LogOptions { tail: Some(1), timestamps: true, ..LogOptions::default() }).await?;
    assert!(timed.starts_with(&stamped(10_001)), "{timed}");
    let previous = LogOptions { previous: true, ..LogOptions::default() };
    let none = soon(ground.provider().logs(&ground.node, &ground.pod, "main", previous)).await?.err();
    assert!(matches!(&none, Some(StreamError::Unreachable(why)) if why.contains("of the previous run")), "{none:?}");
    let other = soon(ground.provider().logs(&ground.node, &ground.pod, "other", LogOptions::default())).await?.err();
    assert!(matches!(&other, Some(StreamError::Unreachable(why)) if why.contains("is offline since")), "{other:?}");

    // It comes back, and what it has written meanwhile is kept from where it was.
    ground.programs.lines.send_replace(10_010);
    let before = came(&ground);
    ground.start_agent().await?;
    within("the lines in between to be kept", async || Ok(came(&ground) >= before + size(10_002, 10_010))).await?;
    ground.agent.take().context("it runs")?.crash().await;
    let text = log(&ground, &LogOptions { tail: Some(20), ..LogOptions::default() }).await?;
    after_lines(&text, 9_990, 10_010)?;

    // A pod that is no more takes what is kept of it along.
    ground.world.pods().delete("web", &kube::api::DeleteParams::default().grace_period(0)).await?;
    within("nothing to be kept", async || Ok(ground.world.metrics().kept_log_bytes() == 0)).await?;
    ground.end().await
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn a_log_that_is_written_without_end_costs_no_more_than_was_allowed() -> Result<()> {
    let _turn = TURN.lock().await;
    let ground = Ground::start_keeping(Some(KEEP)).await?;
    for lines in 0..400 {
        ground.programs.lines.send_replace(lines * 100);
        // The users of the device do not notice.
        soon(ground.provider().stats(&ground.node)).await??;
    }
    within("as much to be read as may be at once", async || Ok(ground.world.metrics().kept_log_bytes_in() >= 4096))
        .await?;
    let came = ground.world.metrics().kept_log_bytes_in();
    // Twice as much as is kept, and what has come back in some seconds.
    assert!(came <= 3 * 4096, "{came} bytes");
    assert!(ground.programs.logs.load(Ordering::SeqCst) <= 4, "opened again and again");
    ground.end().await
}

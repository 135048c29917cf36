//! A hub that stops leaves no thread behind, although rumqttd's router has no end of its own. Alone in its file, since
//! it counts the threads of the process.

mod support;

use anyhow::{Result, ensure};
use std::time::Duration;
use support::{Pair, eventually, hub};

fn threads_named(name: &str) -> usize {
    let tasks = std::fs::read_dir("/proc/self/task").into_iter().flatten().flatten();
    let names = tasks.filter_map(|task| std::fs::read_to_string(task.path().join("comm")).ok());
    names.filter(|comm| comm.trim() == name).count()
}

#[cfg(target_os = "linux")]
#[tokio::test]
async fn stopping_and_restarting_leave_no_thread_behind() -> Result<()> {
    for _ in 0..3 {
        let hub = hub().await?;
        Pair::connect(hub.local_addr(), "pi").await?.talk().await?;
        ensure!(threads_named("router-0") == 1 && threads_named("hub-router-keep") == 1);
        hub.restart_router().await;
        Pair::connect(hub.local_addr(), "pi").await?.talk().await?;
        eventually("the end of the old router", || threads_named("router-0") == 1).await?;
        let report = hub.stop(Duration::from_secs(5)).await;
        ensure!(report.cut == 0);
        eventually("the end of the routers", || threads_named("router-0") == 0).await?;
        eventually("the end of the keepers", || threads_named("hub-router-keep") == 0).await?;
    }
    // Dropping is stopping without waiting.
    drop(hub().await?);
    eventually("the end of a dropped hub's router", || threads_named("router-0") == 0).await
}

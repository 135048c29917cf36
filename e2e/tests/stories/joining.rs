//! How a device joins, and how it does not.

use anyhow::Result;
use hawser_e2e::world::World;

#[tokio::test(flavor = "multi_thread")]
async fn a_token_is_good_once() -> Result<()> {
    let world = World::start("token-once", 1).await?;
    // The first device joined with its token when the world started.
    let output = world.join_again_as_another_agent(0).await?;
    assert!(!output.status.success());
    let told = String::from_utf8_lossy(&output.stderr).into_owned();
    assert_eq!(told.trim().lines().count(), 1, "one clear line: {told}");
    assert!(told.contains("token") || told.contains("another key"), "{told}");
    world.node_ready(0).await?;
    world.end().await
}

#[tokio::test(flavor = "multi_thread")]
async fn a_wrong_bridge_key_is_said() -> Result<()> {
    let world = World::start("wrong-key", 1).await?;
    let mut join = world.add_device(&format!("{}-stranger", world.name())).await?;
    join.bridge_key = "11".repeat(32);
    let output = world.join(&join).await?;
    assert!(!output.status.success());
    let told = String::from_utf8_lossy(&output.stderr).into_owned();
    assert_eq!(told.trim().lines().count(), 1, "one clear line: {told}");
    assert!(told.contains("key"), "{told}");
    world.end().await
}

#[tokio::test(flavor = "multi_thread")]
async fn a_name_that_is_taken_or_invalid_is_said() -> Result<()> {
    let world = World::start("names", 1).await?;
    for (name, word) in [(world.device(0), "already"), ("Not_A_Name", "Not_A_Name")] {
        let output = world.hawser(&["device", "add", name]).await?;
        assert!(!output.status.success(), "{name}");
        // What is wrong with arguments ends with a hint at --help, as people know it.
        let told = String::from_utf8_lossy(&output.stderr).into_owned();
        let first = told.lines().next().unwrap_or_default();
        assert!(first.starts_with("error: ") && first.contains(word), "{told}");
    }
    world.end().await
}

#[tokio::test(flavor = "multi_thread")]
async fn two_agents_with_one_identity_do_not_share_a_state_directory() -> Result<()> {
    let world = World::start("two-agents", 1).await?;
    let output = world.run_second_agent(0).await?;
    assert!(!output.status.success());
    let told = String::from_utf8_lossy(&output.stderr).into_owned();
    assert!(told.contains("another") || told.contains("already"), "{told}");
    world.node_ready(0).await?;
    world.end().await
}

#[tokio::test(flavor = "multi_thread")]
async fn a_removed_device_leaves_the_cluster() -> Result<()> {
    let world = World::start("removed", 1).await?;
    let output = world.hawser(&["device", "remove", world.device(0), "--yes"]).await?;
    assert!(output.status.success(), "{}", String::from_utf8_lossy(&output.stderr));
    world.node_gone(0).await?;
    world.end().await
}

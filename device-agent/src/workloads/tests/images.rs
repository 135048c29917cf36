//! Fetching images is a step of its own, which an order to end cuts short.

use super::*;
use crate::runtime::ImageProblem;

#[tokio::test(start_paused = true)]
async fn an_image_is_fetched_once_and_the_fetching_is_told() {
    let mut world = World::new();
    world.runtime.set_pull("any", Duration::from_secs(7), Ok(()));
    world.runtime.script("web", vec![Script::ends_after(Duration::from_secs(1), 1), Script::server()]);
    world.run(&pod("a"));
    world.start(64);
    let said = world.said(30).await;
    let mut reasons = reasons(&said);
    reasons.truncate(4);
    assert_eq!(reasons, ["Pulling", "Pulled", "Created", "Started"]);
    assert_eq!(world.runtime.log(), ["prepare a", "pull any", "start a-web-0", "start a-web-1"]);
}

#[tokio::test(start_paused = true)]
async fn a_registry_that_never_answers_does_not_keep_a_pod_from_ending() {
    let mut world = World::new();
    let problem = ImageProblem { reason: "ErrImagePull".into(), message: "timeout".into() };
    world.runtime.set_pull("any", Duration::from_secs(3600), Err(problem));
    world.run(&pod("a"));
    world.start(64);
    world.said(30).await;
    world.pods.clear();
    world.publish();
    let said = world.said(5).await;
    assert!(said.iter().any(|item| matches!(item, ReportItem::Gone(_))), "{said:?}");
    assert_eq!(world.runtime.log(), ["prepare a", "pull any", "remove a"]);
}

//! Fetching images is a step of its own, which an order to end cuts short.

use super::*;
use crate::runtime::{ImageProblem, Pulled};

fn messages(items: &[ReportItem]) -> Vec<&str> {
    items
        .iter()
        .filter_map(|item| if let ReportItem::Event(e) = item { Some(e.message.as_str()) } else { None })
        .collect()
}

#[tokio::test(start_paused = true)]
async fn an_image_is_fetched_once_and_the_fetching_is_told() {
    let mut world = World::new();
    let image = Pulled { bytes: Some(4_242) };
    world.runtime.set_pull("any", Duration::from_millis(7_200), Ok(image));
    world.runtime.script("web", vec![Script::ends_after(Duration::from_secs(1), 1), Script::server()]);
    world.run(&pod("a"));
    world.start(64);
    let said = world.said(30).await;
    let mut reasons = reasons(&said);
    reasons.truncate(4);
    assert_eq!(reasons, ["Pulling", "Pulled", "Created", "Started"]);
    assert_eq!(
        messages(&said)[..2],
        [
            "Pulling image \"any\"",
            "Successfully pulled image \"any\" in 7.2s (7.2s including waiting). Image size: 4242 bytes."
        ]
    );
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

#[tokio::test(start_paused = true)]
async fn an_image_that_takes_long_is_told_a_few_times_and_no_more() {
    let mut world = World::new();
    world.runtime.set_pull("any", Duration::from_secs(50 * 60), Ok(Pulled::default()));
    world.run(&pod("a"));
    world.start(64);
    let said = world.said(60 * 60).await;
    assert_eq!(
        messages(&said)[..6],
        [
            "Pulling image \"any\"",
            "Still pulling image \"any\": 1m0s so far",
            "Still pulling image \"any\": 5m0s so far",
            "Still pulling image \"any\": 15m0s so far",
            "Still pulling image \"any\": 30m0s so far",
            "Successfully pulled image \"any\" in 50m0s (50m0s including waiting).",
        ]
    );
    assert_eq!(reasons(&said).iter().filter(|reason| **reason == "Pulling").count(), 5);
}

//! Fetching images is a step of its own, which an order to end cuts short.

use super::*;
use crate::runtime::{ImageProblem, Pulled};
use hawser_wire::deployment::{ImageVolume, Mount, PullPolicy, Volume, VolumeSource};
use hawser_wire::report::{ContainerReport, ContainerState};

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

fn volume(name: &str, reference: &str) -> Volume {
    let image = ImageVolume { reference: reference.into(), pull_policy: PullPolicy::IfNotPresent };
    Volume { name: name.into(), source: VolumeSource::Image(image) }
}

fn mount(volume: &str) -> Mount {
    Mount {
        volume: volume.into(),
        path: format!("/{volume}"),
        read_only: false,
        sub_path: None,
        sub_path_expr: false,
        propagation: None,
        read_only_below: None,
    }
}

#[tokio::test(start_paused = true)]
async fn images_that_a_container_mounts_are_fetched_before_its_own() {
    let mut world = World::new();
    for image in ["any", "model", "words", "other"] {
        world.runtime.set_pull(image, Duration::from_secs(1), Ok(Pulled::default()));
    }
    let mut spec = pod("a");
    spec.volumes = vec![volume("v", "model"), volume("not-mounted", "other"), volume("w", "words")];
    spec.containers[0].mounts = vec![mount("w"), mount("v"), mount("w")];
    world.run(&spec);
    world.start(64);
    let said = world.said(30).await;
    let told = said.iter().filter_map(|item| match item {
        ReportItem::Event(event) if event.reason == "Pulling" => Some((event.container.as_deref(), &*event.message)),
        _ => None,
    });
    let expected =
        [(None, "Pulling image \"model\""), (None, "Pulling image \"words\""), (Some("web"), "Pulling image \"any\"")];
    assert_eq!(told.collect::<Vec<_>>(), expected);
    assert_eq!(world.runtime.log(), ["prepare a", "pull model", "pull words", "pull any", "start a-web-0"]);
}

#[tokio::test(start_paused = true)]
async fn a_failed_pull_of_a_volume_is_told_of_that_image() {
    let mut world = World::new();
    let problem = ImageProblem { image: "model".into(), reason: "ErrImagePull".into(), message: "no".into() };
    world.runtime.set_pull("model", Duration::ZERO, Err(problem));
    let mut spec = pod("a");
    spec.volumes = vec![volume("v", "model")];
    let mut mounting = spec.containers[0].clone();
    mounting.name = "reader".into();
    mounting.mounts = vec![mount("v")];
    spec.containers.push(mounting);
    world.run(&spec);
    world.start(64);
    let said = world.said(5).await;
    let failed = said.iter().find_map(|item| match item {
        ReportItem::Event(event) if event.message.starts_with("Failed to pull") => Some(event.clone()),
        _ => None,
    });
    assert_eq!(failed.unwrap().message, "Failed to pull image \"model\": no");
    let last = said.iter().rev().find_map(|item| match item {
        ReportItem::Workload(report) => Some(report.clone()),
        _ => None,
    });
    let waits: Vec<_> = last.unwrap().containers.iter().map(waiting).collect();
    let words = "Back-off pulling image \"model\": ErrImagePull: no";
    assert_eq!(waits, [None, Some(("ImagePullBackOff".to_owned(), words.to_owned()))], "the other one runs");
}

fn waiting(container: &ContainerReport) -> Option<(String, String)> {
    match &container.state {
        ContainerState::Waiting(waiting) => Some((waiting.reason.clone(), waiting.message.clone().unwrap_or_default())),
        _ => None,
    }
}

#[tokio::test(start_paused = true)]
async fn a_registry_that_never_answers_does_not_keep_a_pod_from_ending() {
    let mut world = World::new();
    let problem = ImageProblem { image: "any".into(), reason: "ErrImagePull".into(), message: "timeout".into() };
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

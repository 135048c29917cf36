//! Statuses of pods, field by field as a kubelet writes them.
//!
//! `e2e/statuses` holds what a kubelet wrote for each shape of pod, recorded by `e2e/conformance/run --record`, and
//! `known.txt`: where a device differs, and why. A difference that is not listed fails the story, and so does one that
//! is listed and gone.

use std::collections::BTreeSet;
use std::path::{Path, PathBuf};

use anyhow::{Context, Result};
use futures::future::join_all;
use hawser_e2e::shapes::{differences, shapes};
use hawser_e2e::world::World;
use serde_json::Value;

fn folder() -> PathBuf {
    Path::new(env!("CARGO_MANIFEST_DIR")).join("statuses")
}

#[tokio::test(flavor = "multi_thread")]
async fn statuses_are_those_of_a_kubelet() -> Result<()> {
    let Some(world) = World::start_with_containers("statuses", 1).await? else { return Ok(()) };
    let known = std::fs::read_to_string(folder().join("known.txt"))?;
    let known: Vec<_> =
        known.lines().filter(|line| !line.starts_with('#')).filter_map(|l| l.split_once(" = ")).collect();
    let (pods, shapes) = (world.pods(), shapes());
    let watched = join_all(shapes.iter().map(|shape| shape.observe(&pods, world.device(0)))).await;
    let (mut new, mut met) = (Vec::new(), BTreeSet::new());
    for (shape, ours) in shapes.iter().zip(watched) {
        let found = match ours {
            Ok(ours) => differences(&kubelet(shape.name)?, &ours),
            Err(error) => vec![format!(": {error:#}")],
        };
        for difference in found {
            let difference = format!("{}{difference}", shape.name);
            match known.iter().find(|(place, _)| is_at(place, &difference)) {
                Some((place, _)) => drop(met.insert(*place)),
                None => new.push(difference),
            }
        }
    }
    assert!(new.is_empty(), "a device says otherwise than a kubelet, and known.txt does not know:\n{}", new.join("\n"));
    let gone: Vec<_> = known.iter().filter(|(place, _)| !met.contains(place)).collect();
    assert!(gone.is_empty(), "a device says the same as a kubelet by now; strike from known.txt: {gone:#?}");
    world.end().await
}

fn kubelet(shape: &str) -> Result<Value> {
    let path = folder().join(format!("{shape}.json"));
    let text = std::fs::read(&path).with_context(|| format!("{} is not recorded", path.display()))?;
    Ok(serde_json::from_slice(&text)?)
}

/// Whether a difference, `shape.path: …`, is at this place: the shape may be `*`, and a list without a name is any part of it.
fn is_at(place: &str, difference: &str) -> bool {
    let (path, _) = difference.split_once(": ").unwrap_or((difference, ""));
    let (shape, path) = path.split_at(path.find('.').unwrap_or(path.len()));
    let (wanted_shape, wanted) = place.split_at(place.find('.').unwrap_or(place.len()));
    (wanted_shape == "*" || wanted_shape == shape) && (wanted == path || without_names(path) == wanted)
}

/// A path whose lists are `[]`.
fn without_names(path: &str) -> String {
    let mut out = String::new();
    let mut inside = false;
    for letter in path.chars() {
        inside = inside && letter != ']';
        if !inside {
            out.push(letter);
        }
        inside = inside || letter == '[';
    }
    out
}

#[test]
fn places_are_found() {
    let difference = r#"running.conditions[Ready].status: a kubelet says 1, a device 2"#;
    for (place, found) in [
        ("running.conditions[Ready].status", true),
        ("*.conditions[].status", true),
        ("*.conditions[].reason", false),
        ("sidecar.conditions[].status", false),
        ("*", false),
    ] {
        assert_eq!(is_at(place, difference), found, "{place}");
    }
}

//! Where images come from: a registry on loopback, open or not, and what is said when they do not come.

use anyhow::Result;
use hawser_e2e::engine::BOX;
use hawser_e2e::recipes;
use hawser_e2e::registry::{self, Registry, USER};
use hawser_e2e::world::World;
use k8s_openapi::api::core::v1::{Pod, Secret};
use kube::api::PostParams;
use serde_json::{Value, json};

use crate::containers::waiting;

/// A pod of this image.
fn pod_of(name: &str, world: &World, image: &str, more: Value) -> Pod {
    let mut spec = recipes::spec("exec sleep 1000");
    spec["containers"][0]["image"] = json!(image);
    let mut more = more;
    more["containers"] = spec["containers"].take();
    recipes::pod_with(name, world.device(0), "", more)
}

/// A world with containers, where there is also a registry to be had.
async fn world(story: &str) -> Result<Option<World>> {
    if let Some(missing) = registry::missing() {
        println!("NOT TESTED: {story}: {missing}");
        return Ok(None);
    }
    World::start_with_containers(story, 1).await
}

#[tokio::test(flavor = "multi_thread")]
async fn an_image_is_pulled_from_a_registry() -> Result<()> {
    let Some(world) = world("pull").await? else { return Ok(()) };
    let registry = Registry::start(world.folder())?;
    let image = format!("{}/box:1", registry.address());
    world.engine().push(BOX, &image, None)?;
    let pod = world.create_pod(&pod_of("web", &world, &image, json!({}))).await?;
    world.pod_ready(&pod).await?;
    let pulling = world.event("web", "Pulling").await?.message.unwrap_or_default();
    assert_eq!(pulling, format!("Pulling image \"{image}\""));
    let pulled = world.event("web", "Pulled").await?.message.unwrap_or_default();
    assert!(pulled.starts_with(&format!("Successfully pulled image \"{image}\" in ")), "{pulled}");
    let bytes =
        pulled.split_once(" including waiting). Image size: ").and_then(|(_, size)| size.strip_suffix(" bytes."));
    assert!(bytes.and_then(|bytes| bytes.parse::<u64>().ok()).is_some_and(|bytes| bytes > 100_000), "{pulled}");
    world.end().await
}

#[tokio::test(flavor = "multi_thread")]
async fn a_private_image_is_pulled_with_the_pods_secret_and_not_without() -> Result<()> {
    let Some(world) = world("pull-private").await? else { return Ok(()) };
    let registry = Registry::start_with_user(world.folder())?;
    let image = format!("{}/box:1", registry.address());
    world.engine().push(BOX, &image, Some(USER))?;
    let login = json!({ "auths": { registry.address(): { "username": USER.0, "password": USER.1 } } });
    let secret: Secret = serde_json::from_value(json!({
        "metadata": { "name": "login" },
        "type": "kubernetes.io/dockerconfigjson",
        "stringData": { ".dockerconfigjson": login.to_string() },
    }))?;
    world.api::<Secret>().create(&PostParams::default(), &secret).await?;

    let stranger = world.create_pod(&pod_of("stranger", &world, &image, json!({}))).await?;
    let refused = |pod: &Pod| waiting(pod).0 == "ImagePullBackOff";
    let stranger = world.pod_until(&stranger, "refused", refused).await?;
    assert!(waiting(&stranger).1.starts_with(&format!("Back-off pulling image \"{image}\"")), "{stranger:?}");
    let failed = world.event("stranger", "Failed").await?.message.unwrap_or_default();
    assert!(failed.starts_with(&format!("Failed to pull image \"{image}\": ")), "{failed}");
    // What engines say when a registry wants to know who asks.
    let words = ["401 Unauthorized", "authorization failed: no basic auth credentials"];
    assert!(words.iter().any(|words| failed.contains(words)), "{failed}");

    let secrets = json!({ "imagePullSecrets": [{ "name": "login" }] });
    let friend = world.create_pod(&pod_of("friend", &world, &image, secrets)).await?;
    world.pod_ready(&friend).await?;
    world.end().await
}

#[tokio::test(flavor = "multi_thread")]
async fn an_image_that_nobody_has_is_told_with_the_registrys_words() -> Result<()> {
    let Some(world) = world("pull-missing").await? else { return Ok(()) };
    let registry = Registry::start(world.folder())?;
    let image = format!("{}/nothing:1", registry.address());
    let pod = world.create_pod(&pod_of("web", &world, &image, json!({}))).await?;
    let first = world.pod_until(&pod, "refused", |pod| waiting(pod).0 == "ErrImagePull").await?;
    assert!(waiting(&first).1.contains("not found"), "{first:?}");
    world.pod_until(&pod, "backing off", |pod| waiting(pod).0 == "ImagePullBackOff").await?;
    world.event("web", "BackOff").await?;
    world.end().await
}

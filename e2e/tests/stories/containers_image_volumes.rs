//! Images as volumes: read from a registry that wants to know who asks, and refused by an engine that cannot mount them.

use anyhow::Result;
use hawser_e2e::engine::BOX;
use hawser_e2e::kubectl::Kubectl;
use hawser_e2e::registry::{self, Registry, USER};
use hawser_e2e::wait::{SOON, eventually};
use hawser_e2e::world::World;
use serde_json::{Value, json};

use crate::containers::waiting;

/// Since which containerd images can be mounted, and parts of them.
const SINCE: (u32, u32) = (2, 2);

/// A pod with this image as a volume, of which it also mounts a part.
fn reader(world: &World, image: &str, more: Value) -> Value {
    let mut spec = json!({
        "nodeName": world.device(0),
        "containers": [{
            "name": "main", "image": BOX, "command": ["sh", "-c", "exec sleep 1000"],
            "volumeMounts": [
                { "name": "data", "mountPath": "/data" },
                { "name": "data", "mountPath": "/part", "subPath": "etc" },
            ],
        }],
        "volumes": [{ "name": "data", "image": { "reference": image, "pullPolicy": "Always" } }],
        "tolerations": [{ "key": "hawser.dev/device", "operator": "Exists" }],
        "terminationGracePeriodSeconds": 1,
    });
    if let (Value::Object(spec), Value::Object(more)) = (&mut spec, more) {
        spec.extend(more);
    }
    spec
}

async fn create(kubectl: &Kubectl, name: &str, spec: &Value) -> Result<()> {
    let pod = json!({ "apiVersion": "v1", "kind": "Pod", "metadata": { "name": name }, "spec": spec });
    kubectl.answers(&["create", "-f", "-"], pod.to_string()).await.map(drop)
}

#[tokio::test(flavor = "multi_thread")]
async fn a_private_image_is_mounted_with_the_pods_secret_and_not_without() -> Result<()> {
    if let Some(missing) = registry::missing() {
        println!("NOT TESTED: images as volumes: {missing}");
        return Ok(());
    }
    let Some(world) = World::start_with_containers("image-volume", 1).await? else { return Ok(()) };
    let Some(kubectl) = Kubectl::of(&world) else { return world.end().await };
    if !world.engine().is_since(SINCE)? {
        println!(
            "NOT TESTED: images as volumes: this containerd is older than 2.2 (e2e/cluster/build containerd builds a newer one, \
             HAWSER_CONTAINERD=<its folder> takes it)"
        );
        return world.end().await;
    }
    let registry = Registry::start_with_user(world.folder())?;
    let image = format!("{}/data:1", registry.address());
    world.engine().push(BOX, &image, Some(USER))?;
    let address = format!("--docker-server={}", registry.address());
    let (user, password) = (format!("--docker-username={}", USER.0), format!("--docker-password={}", USER.1));
    kubectl.says(&["create", "secret", "docker-registry", "login", &address, &user, &password]).await?;

    create(&kubectl, "stranger", &reader(&world, &image, json!({}))).await?;
    let stranger = world.pods().get("stranger").await?;
    let stranger = world.pod_until(&stranger, "refused", |pod| waiting(pod).0 == "ImagePullBackOff").await?;
    assert!(waiting(&stranger).1.starts_with(&format!("Back-off pulling image \"{image}\"")), "{stranger:?}");
    let failed = world.event("stranger", "Failed").await?.message.unwrap_or_default();
    assert!(failed.starts_with(&format!("Failed to pull image \"{image}\": ")), "{failed}");

    let secrets = json!({ "imagePullSecrets": [{ "name": "login" }] });
    create(&kubectl, "friend", &reader(&world, &image, secrets)).await?;
    kubectl.says(&["wait", "--for=condition=Ready", "--timeout=120s", "pod/friend"]).await?;
    let own = kubectl.says(&["exec", "friend", "--", "cat", "/etc/passwd"]).await?;
    for place in ["/data/etc/passwd", "/part/passwd"] {
        assert_eq!(kubectl.says(&["exec", "friend", "--", "cat", place]).await?, own, "{place}");
    }
    let (_, told) = kubectl.fails(&["exec", "friend", "--", "touch", "/data/new"]).await?;
    assert!(told.contains("Read-only file system"), "{told}");
    let described = kubectl.says(&["describe", "pod", "friend"]).await?;
    assert!(described.contains(&format!("Successfully pulled image \"{image}\" in ")), "{described}");
    world.end().await
}

#[tokio::test(flavor = "multi_thread")]
async fn kubectl_shows_that_an_engine_cannot_mount_images() -> Result<()> {
    let Some(world) = World::start_with_containers("no-image-volume", 1).await? else { return Ok(()) };
    let Some(kubectl) = Kubectl::of(&world) else { return world.end().await };
    if world.engine().is_since(SINCE)? {
        println!("NOT TESTED: an engine that cannot mount images: this containerd can");
        return world.end().await;
    }
    let mut spec = reader(&world, BOX, json!({}));
    spec["volumes"][0]["image"]["pullPolicy"] = json!("Never");
    create(&kubectl, "reader", &spec).await?;
    let why = format!("mount image {BOX} as volume data: containerd ");
    eventually("kubectl says why", SOON, || async {
        let pods = kubectl.says(&["get", "pods"]).await.map_err(|error| error.to_string())?;
        let described = kubectl.says(&["describe", "pod", "reader"]).await.map_err(|error| error.to_string())?;
        let event = described.contains(&format!("Error: {why}"));
        if pods.contains("CreateContainerError") && event { Ok(()) } else { Err(pods + &described) }
    })
    .await?;
    let pod = world.pods().get("reader").await?;
    let (reason, words) = waiting(&pod);
    assert!(reason == "CreateContainerError" && words.starts_with(&why), "{reason}: {words}");
    assert!(words.contains(" cannot mount images (that takes containerd 2.1 or later)"), "{words}");
    world.end().await
}

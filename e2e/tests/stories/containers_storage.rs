//! Claims that are met by a device's own storage.

use std::os::unix::fs::{MetadataExt, PermissionsExt};

use anyhow::Result;
use hawser_e2e::ground::on_cluster;
use hawser_e2e::recipes::{self, contained};
use hawser_e2e::wait::{SOON, eventually};
use hawser_e2e::world::World;
use k8s_openapi::api::core::v1::{PersistentVolume, PersistentVolumeClaim, Pod};
use kube::Api;
use kube::api::{DeleteParams, Patch, PatchParams, PostParams};
use serde_json::{Value, json};

const GROUP: u32 = 4242;

/// A claim of this volume, and the volume, which the cluster binds to each other; the lab has nobody who does it.
async fn claim(world: &World, volume: &str, source: Value) -> Result<Api<PersistentVolume>> {
    let claims = world.api::<PersistentVolumeClaim>();
    let wanted: PersistentVolumeClaim = serde_json::from_value(json!({
        "metadata": { "name": "data" },
        "spec": { "accessModes": ["ReadWriteOnce"], "storageClassName": "", "volumeName": volume,
            "resources": { "requests": { "storage": "1Mi" } } },
    }))?;
    let made = claims.create(&PostParams::default(), &wanted).await?;
    let mut spec = json!({
        "capacity": { "storage": "1Mi" }, "accessModes": ["ReadWriteOnce"], "storageClassName": "",
        "persistentVolumeReclaimPolicy": "Retain",
        "claimRef": { "namespace": world.namespace(), "name": "data", "uid": made.metadata.uid },
    });
    spec.as_object_mut().expect("an object").extend(source.as_object().expect("an object").clone());
    let volumes: Api<PersistentVolume> = Api::all(world.client());
    let made = serde_json::from_value(json!({ "metadata": { "name": volume }, "spec": spec }))?;
    volumes.create(&PostParams::default(), &made).await?;
    if !on_cluster() {
        let bound = Patch::Merge(json!({ "status": { "phase": "Bound" } }));
        claims.patch_status("data", &PatchParams::default(), &bound).await?;
    }
    Ok(volumes)
}

fn claiming(world: &World, script: &str) -> Pod {
    let more = json!({
        "securityContext": { "runAsUser": 1000, "runAsGroup": 1000, "fsGroup": GROUP },
        "containers": [{ "name": "main", "image": "", "command": ["sh", "-c", script],
            "volumeMounts": [{ "name": "data", "mountPath": "/data" }, { "name": "data", "mountPath": "/part", "subPath": "part" }] }],
        "volumes": [{ "name": "data", "persistentVolumeClaim": { "claimName": "data" } }],
    });
    contained(&recipes::pod_with("web", world.device(0), "", more))
}

#[tokio::test(flavor = "multi_thread")]
async fn a_claim_is_met_by_a_local_volume_that_outlives_the_pod() -> Result<()> {
    let Some(world) = World::start_with_containers("claim", 1).await? else { return Ok(()) };
    let disk = world.folder().join("disk");
    std::fs::create_dir(&disk)?;
    std::fs::write(disk.join("old"), "old")?;
    std::fs::set_permissions(disk.join("old"), std::fs::Permissions::from_mode(0o600))?;
    let pod =
        world.create_pod(&claiming(&world, "cat /data/old > /data/new; touch /part/file; exec sleep 1000")).await?;
    let event = world.event("web", "FailedMount").await?;
    let words = event.message.unwrap_or_default();
    assert!(
        words.ends_with("failed to fetch PVC from API server: persistentvolumeclaims \"data\" not found"),
        "{words}"
    );

    let terms = json!([{ "matchExpressions": [
        { "key": "kubernetes.io/hostname", "operator": "In", "values": [world.device(0)] }] }]);
    let source = json!({ "local": { "path": disk }, "nodeAffinity": { "required": { "nodeSelectorTerms": terms } } });
    let name = format!("{}-disk", world.name());
    let volumes = claim(&world, &name, source).await?;
    world.pod_ready(&pod).await?;
    eventually("the container has written", SOON, || async {
        match (std::fs::metadata(disk.join("new")), disk.join("part/file").exists()) {
            (Ok(new), true) if new.len() == 3 => Ok(()),
            other => Err(format!("{other:?}")),
        }
    })
    .await?;
    let new = std::fs::metadata(disk.join("new"))?;
    assert_eq!((new.uid(), new.gid()), (1000, GROUP), "a new file is the group's");
    assert_eq!(std::fs::metadata(&disk)?.mode() & 0o2070, 0o2070);

    world.pods().delete("web", &DeleteParams::default().grace_period(0)).await?;
    world.pod_gone(&pod).await?;
    assert_eq!(std::fs::read_to_string(disk.join("new"))?, "old");
    volumes.delete(&name, &DeleteParams::default()).await?;
    world.end().await
}

#[tokio::test(flavor = "multi_thread")]
async fn a_claim_that_a_device_cannot_meet_refuses_the_pod_by_its_kind() -> Result<()> {
    let world = World::start("claim-nfs", 1).await?;
    let name = format!("{}-share", world.name());
    let volumes = claim(&world, &name, json!({ "nfs": { "server": "192.0.2.1", "path": "/" } })).await?;
    let pod = world.create_pod(&claiming(&world, "exec sleep 1000")).await?;
    let failed = world
        .pod_until(&pod, "is refused", |pod| pod.status.as_ref().and_then(|s| s.phase.as_deref()) == Some("Failed"))
        .await?;
    let message = failed.status.and_then(|status| status.message).unwrap_or_default();
    assert!(message.contains("is of the kind nfs"), "{message}");
    volumes.delete(&name, &DeleteParams::default()).await?;
    world.end().await
}

//! Containers that were added to look at a pod.

use hawser_wire::deployment::{EphemeralContainer, Hindrance, PullPolicy, Resources};

use super::*;

fn looked_at(added: Value) -> Value {
    let mut debug = json!({"name": "debug", "image": "busybox"});
    debug.as_object_mut().unwrap().extend(added.as_object().unwrap().clone());
    let mut spec = with(json!({}));
    spec["ephemeralContainers"] = json!([debug]);
    spec
}

#[track_caller]
fn added(fields: Value) -> EphemeralContainer {
    deployment(looked_at(fields)).ephemeral_containers.remove(0)
}

#[track_caller]
fn hindrance(spec: Value) -> Hindrance {
    deployment(spec).ephemeral_containers.remove(0).hindrance.expect("hindered")
}

#[test]
fn one_is_what_a_container_is() {
    let debug = added(json!({
        "command": ["sh"], "stdin": true, "tty": true, "targetContainerName": "main", "imagePullPolicy": "Always",
        "env": [{"name": "A", "valueFrom": {"configMapKeyRef": {"name": "settings", "key": "COLOR"}}}],
        "securityContext": {"capabilities": {"add": ["SYS_PTRACE"]}},
        "resources": {}, "terminationMessagePath": "/t", "terminationMessagePolicy": "File"}));
    assert_eq!((debug.target.as_deref(), &debug.hindrance), (Some("main"), &None));
    let container = debug.container;
    assert_eq!((container.name.as_str(), container.image.as_str()), ("debug", "busybox"));
    assert_eq!((container.pull_policy, container.command), (PullPolicy::Always, vec!["sh".to_owned()]));
    assert_eq!(container.env.len(), 1);
    assert_eq!(container.interactive, Some(Interactive { stdin: true, once: false, tty: true }));
    assert_eq!(container.confinement.unwrap().add_capabilities, ["SYS_PTRACE"]);
    assert_eq!((container.care, container.resources), (None, Resources::default()));
    assert_eq!(added(json!({"targetContainerName": ""})).target, None);
}

#[test]
fn what_it_has_not_does_not_count() {
    let main = |spec: Value| EdgeDeployment { ephemeral_containers: vec![], ..deployment(spec) };
    let odd = looked_at(json!({
        "ports": [{"hostPort": 80, "containerPort": 80}], "livenessProbe": {"exec": {}}, "restartPolicy": "Always",
        "resources": {"limits": {"cpu": "1"}}, "securityContext": {"runAsUser": 7}}));
    assert_eq!(main(odd), main(with(json!({}))), "the pod is as without it");
}

#[test]
fn what_is_in_the_way_of_one_fails_nothing_else() {
    let config = |message: &str| Hindrance { reason: "CreateContainerConfigError".into(), message: message.into() };
    let field = |message: &str| Hindrance { reason: "UnsupportedField".into(), message: message.into() };
    let mounting = |volume: Value| {
        let mut spec = looked_at(json!({"volumeMounts": [{"name": "v", "mountPath": "/v"}]}));
        spec["volumes"] = json!([volume]);
        spec
    };
    for (spec, expected) in [
        (looked_at(json!({"envFrom": [{"configMapRef": {"name": "gone"}}]})), config("configmap \"gone\" not found")),
        (
            mounting(json!({"name": "v", "configMap": {"name": "gone"}})),
            config("MountVolume.SetUp failed for volume \"v\" : configmap \"gone\" not found"),
        ),
        (
            looked_at(json!({"volumeDevices": [{"name": "d", "devicePath": "/dev/d"}]})),
            field(
                "spec.ephemeralContainers[0].volumeDevices: a device does not hand block devices to workloads by claims: mount the \
                 disk on the device and use a local volume, or a hostPath of type BlockDevice in a privileged container",
            ),
        ),
        (
            looked_at(json!({"volumeMounts": [{"name": "nowhere", "mountPath": "/x"}]})),
            field("spec.ephemeralContainers[0].volumeMounts[0].name: there is no volume `nowhere`"),
        ),
    ] {
        let told = deployment(spec.clone());
        assert_eq!((told.containers.len(), told.volumes.len()), (1, 0));
        assert_eq!(hindrance(spec), expected);
    }
}

#[test]
fn a_volume_that_only_one_mounts_comes_with_it() {
    let mut spec = looked_at(json!({"volumeMounts": [{"name": "v", "mountPath": "/v"}]}));
    spec["volumes"] = json!([{"name": "v", "configMap": {"name": "settings"}}, {"name": "unused", "emptyDir": {}}]);
    let told = deployment(spec);
    assert_eq!(told.volumes.iter().map(|volume| volume.name.as_str()).collect::<Vec<_>>(), ["v"]);
    assert_eq!(told.ephemeral_containers[0].container.mounts.len(), 1);
}

#[test]
fn a_device_is_told_of_so_many() {
    let many = |count: usize| {
        let mut spec = with(json!({}));
        let all = (0..count).map(|n| json!({"name": format!("d{n}"), "image": "x"}));
        spec["ephemeralContainers"] = all.collect();
        let told = run(spec).unwrap();
        (told.deployment.ephemeral_containers.len(), told.notices.into_iter().map(|notice| notice.reason).collect())
    };
    let nothing: Vec<String> = vec![];
    assert_eq!(many(32), (32, nothing));
    assert_eq!(many(33), (32, vec!["TooManyEphemeralContainers".to_owned()]));
}

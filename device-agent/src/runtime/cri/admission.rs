//! What can run here, and what of it holds. Pure.

use hawser_cri::Image;
use hawser_wire::deployment::{Container, EdgeDeployment, Volume, VolumeSource};

use crate::runtime::Refusal;
use crate::runtime::volumes::beneath::is_name;

/// What of a container's description does not hold here.
pub(super) fn not_enforced(pod: &EdgeDeployment, container: &Container) -> Vec<String> {
    let limited = |volume: &&Volume| {
        let mounted = container.mounts.iter().any(|mount| mount.volume == volume.name);
        mounted && matches!(&volume.source, VolumeSource::EmptyDir(empty) if empty.size_limit.is_some())
    };
    let line = |volume: &Volume| {
        format!("emptyDir.sizeLimit of volume {}: the device does not limit the size of directories", volume.name)
    };
    pod.volumes.iter().filter(limited).map(line).collect()
}

/// Whether a container can run here. What the image says is seen later.
pub(super) fn refuse(pod: &EdgeDeployment, container: &Container) -> Result<(), Refusal> {
    let refusal = |message: String| Err(Refusal { reason: "CreateContainerConfigError".to_owned(), message });
    if !is_name(&container.name) {
        return refusal(format!("{:?} is not a container's name", container.name));
    }
    for mount in &container.mounts {
        let volume = pod.volumes.iter().find(|volume| volume.name == mount.volume);
        let writable = volume.is_some_and(|volume| matches!(volume.source, VolumeSource::EmptyDir(_)));
        // What a container writes there could lead the engine, which follows links, out of the volume.
        if writable && mount.sub_path.as_deref().is_some_and(|path| !path.is_empty()) {
            return refusal(format!(
                "volumeMounts of {}: a device with a container engine cannot mount a part of an emptyDir yet: mount the \
                 whole of volume {}",
                container.name, mount.volume
            ));
        }
    }
    Ok(())
}

/// Whether the container would run as root although it says that it must not; a kubelet's words.
pub(super) fn check_non_root(pod: &EdgeDeployment, container: &Container, image: &Image) -> Result<(), String> {
    if !container.user.non_root {
        return Ok(());
    }
    let why = match (container.user.uid, image.uid.map(|uid| uid.value), image.username.as_str()) {
        (Some(0), ..) => "container's runAsUser breaks non-root policy".to_owned(),
        (Some(_), ..) => return Ok(()),
        (None, Some(0), _) | (None, None, "") => "container has runAsNonRoot and image will run as root".to_owned(),
        (None, Some(_), _) => return Ok(()),
        (None, None, name) => {
            format!(
                "container has runAsNonRoot and image has non-numeric user ({name}), cannot verify user is non-root"
            )
        }
    };
    let EdgeDeployment { name, namespace, uid, .. } = pod;
    Err(format!("{why} (pod: \"{name}_{namespace}({uid})\", container: {})", container.name))
}

#[cfg(test)]
mod tests {
    use super::*;
    use hawser_cri::Int64Value;
    use hawser_wire::PodUid;
    use hawser_wire::deployment::{PullPolicy, Resources, RestartPolicy, User};

    fn image(uid: Option<i64>, username: &str) -> Image {
        Image { uid: uid.map(|value| Int64Value { value }), username: username.into(), ..Image::default() }
    }

    fn container(uid: Option<u32>) -> Container {
        Container {
            name: "c".into(),
            image: "i".into(),
            pull_policy: PullPolicy::Never,
            command: vec![],
            args: vec![],
            working_dir: None,
            env: vec![],
            mounts: vec![],
            resources: Resources::default(),
            sidecar: false,
            user: User { uid, gid: None, non_root: true },
            termination_message_path: String::new(),
            termination_message_from_logs: false,
            interactive: None,
            confinement: None,
            care: None,
        }
    }

    fn pod() -> EdgeDeployment {
        EdgeDeployment {
            uid: PodUid::new("u-1").unwrap(),
            namespace: "shop".into(),
            name: "web".into(),
            restart_policy: RestartPolicy::Never,
            grace_seconds: 30,
            active_deadline_seconds: None,
            init_containers: vec![],
            containers: vec![],
            volumes: vec![],
            hostname: None,
            host_network: false,
            fs_group: None,
            supplemental_groups: vec![],
            engine: None,
            priority: None,
        }
    }

    #[test]
    fn who_must_not_be_root_is_checked_against_the_image() {
        for (uid, image, fine) in [
            (Some(7), image(Some(0), ""), true),
            (Some(0), image(Some(7), ""), false),
            (None, image(Some(7), ""), true),
            (None, image(Some(0), ""), false),
            (None, image(None, ""), false),
            (None, image(None, "web"), false),
        ] {
            assert_eq!(check_non_root(&pod(), &container(uid), &image).is_ok(), fine, "{uid:?} {image:?}");
        }
    }

    #[test]
    fn who_must_not_be_root_is_told_in_a_kubelets_words() {
        let told = |image| check_non_root(&pod(), &container(None), &image).unwrap_err();
        assert_eq!(
            told(image(Some(0), "")),
            "container has runAsNonRoot and image will run as root (pod: \"web_shop(u-1)\", container: c)"
        );
        assert_eq!(
            told(image(None, "www")),
            "container has runAsNonRoot and image has non-numeric user (www), cannot verify user is non-root (pod: \
             \"web_shop(u-1)\", container: c)"
        );
    }
}

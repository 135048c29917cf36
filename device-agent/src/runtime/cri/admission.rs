//! What can run here, and what of it holds. Pure.

use hawser_cri::Image;
use hawser_wire::deployment::{
    AppArmor, Ask, ConfinementAsk, Container, ContainerKind, EdgeDeployment, ReadOnlyBelow, Volume, VolumeSource,
};

use super::abilities::Abilities;
use super::security::asks;
use super::users;
use crate::runtime::Refusal;
use crate::runtime::volumes::beneath::{is_name, names};

/// What of a container's description does not hold here. `mounts`: whether the agent can mount for the engine.
pub(super) fn not_enforced(pod: &EdgeDeployment, container: &Container, mounts: bool) -> Vec<String> {
    // What is on the disk is measured, and the pod evicted if it is too much.
    let limited = |volume: &&Volume| {
        let mounted = container.mounts.iter().any(|mount| mount.volume == volume.name);
        mounted && matches!(&volume.source, VolumeSource::EmptyDir(empty) if empty.memory && empty.size_limit.is_some())
    };
    let line = |volume: &Volume| {
        format!("emptyDir.sizeLimit of volume {}: the engine does not see what the agent mounts", volume.name)
    };
    pod.volumes.iter().filter(limited).filter(|_| !mounts).map(line).collect()
}

/// Whether the pod can be taken in here: what a kubelet looks at before it makes anything for a pod, in its order.
pub(super) fn reject(pod: &EdgeDeployment, able: &Abilities) -> Result<(), Refusal> {
    let rejected = |reason: &str, message: String| Err(Refusal { reason: reason.to_owned(), message });
    if let Err(message) = check_sysctls(pod, able) {
        return rejected("SysctlForbidden", message);
    }
    if asks(pod).any(|ask| *ask == Ask::StrictGroups) && !able.strict_groups {
        let message = "SupplementalGroupsPolicy=Strict is not supported in this node";
        return rejected("SupplementalGroupsPolicyNotSupported", message.to_owned());
    }
    // Whoever looks at the pod is none of its own.
    let mut lasting = pod.all_containers().filter(|(_, kind)| *kind != ContainerKind::Ephemeral);
    lasting.try_for_each(|(container, _)| check_apparmor(container, able))
}

fn check_apparmor(container: &Container, able: &Abilities) -> Result<(), Refusal> {
    let has_profile = |ask: &ConfinementAsk| match ask {
        ConfinementAsk::AppArmor(profile) => !matches!(profile, AppArmor::None),
        ConfinementAsk::SeccompFile(_) | ConfinementAsk::SeLinux(_) | ConfinementAsk::UnmaskedProc => false,
    };
    let mut asks = container.confinement.iter().flat_map(|confinement| &confinement.asks);
    if able.apparmor || !asks.any(has_profile) {
        return Ok(());
    }
    let message = "Cannot enforce AppArmor: AppArmor is not enabled on the host".to_owned();
    Err(Refusal { reason: "AppArmor".to_owned(), message })
}

/// Whether a container can run here. What the image says is seen later.
pub(super) fn refuse(pod: &EdgeDeployment, container: &Container, able: &Abilities) -> Result<(), Refusal> {
    let refusal = |reason: &str, message: String| Err(Refusal { reason: reason.to_owned(), message });
    if !is_name(&container.name) {
        return refusal("CreateContainerConfigError", format!("{:?} is not a container's name", container.name));
    }
    // A pod that ran before what it needs was taken away is not rejected, but no container of it starts.
    reject(pod, able)?;
    check_apparmor(container, able)?;
    for ask in container.confinement.iter().flat_map(|confinement| &confinement.asks) {
        match ask {
            ConfinementAsk::SeccompFile(file) if file.starts_with('/') || names(file).is_err() => {
                let message = format!("seccompProfile.localhostProfile {file:?} must be a path below the profiles");
                return refusal("CreateContainerConfigError", message);
            }
            // The API server allows it to nobody else, either.
            ConfinementAsk::UnmaskedProc if !users::wanted(pod) => {
                let message = "securityContext.procMount: `hostUsers` must be false to use `Unmasked`".to_owned();
                return refusal("CreateContainerConfigError", message);
            }
            // An engine on a device without SELinux has no use for labels, and does not mind them.
            ConfinementAsk::AppArmor(_) | ConfinementAsk::SeccompFile(_) => {}
            ConfinementAsk::SeLinux(_) | ConfinementAsk::UnmaskedProc => {}
        }
    }
    let handler = handler(pod);
    for mount in &container.mounts {
        let asked = mount.read_only_below;
        if asked == Some(ReadOnlyBelow::Always) && !able.read_only_below(handler) {
            let message = format!(
                "failed to resolve recursive read-only mode: volume \"{}\" requested recursive read-only mode, but it is not \
                 supported by the runtime",
                mount.volume
            );
            return refusal("CreateContainerConfigError", message);
        }
    }
    Ok(())
}

/// Whether the pod may set the kernel parameters that it sets.
pub(super) fn check_sysctls(pod: &EdgeDeployment, able: &Abilities) -> Result<(), String> {
    let host_ipc = asks(pod).any(|ask| *ask == Ask::HostIpc);
    for ask in asks(pod) {
        if let Ask::Sysctl { name, .. } = ask {
            able.check_sysctl(name, pod.host_network, host_ipc)?;
        }
    }
    Ok(())
}

/// In which of the engine's ways the pod runs; empty: the usual one.
pub(super) fn handler(pod: &EdgeDeployment) -> &str {
    let mut named = asks(pod).filter_map(|ask| match ask {
        Ask::Handler(name) => Some(name.as_str()),
        _ => None,
    });
    named.next().unwrap_or_default()
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
    use hawser_wire::deployment::{Confinement, EphemeralContainer, User};

    use crate::runtime::cri::samples::{self, pod};

    fn image(uid: Option<i64>, username: &str) -> Image {
        Image { uid: uid.map(|value| Int64Value { value }), username: username.into(), ..Image::default() }
    }

    fn container(uid: Option<u32>) -> Container {
        Container { user: User { uid, gid: None, non_root: true }, ..samples::container() }
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

    #[test]
    fn a_profile_of_who_looks_at_a_pod_is_refused_alone() {
        let able = Abilities::of(&hawser_cri::StatusResponse::default(), false, &[], "6.1.0");
        let asks = vec![ConfinementAsk::AppArmor(AppArmor::Engine)];
        let confinement = Some(Confinement { asks, ..Confinement::default() });
        let confined = Container { confinement, ..samples::container() };
        let own = EdgeDeployment { containers: vec![confined.clone()], ..pod() };
        assert!(reject(&own, &able).is_err() && refuse(&own, &samples::container(), &able).is_err());
        let added = EphemeralContainer { container: confined.clone(), target: None, hindrance: None };
        let looked_at = EdgeDeployment { ephemeral_containers: vec![added], ..pod() };
        assert_eq!(reject(&looked_at, &able), Ok(()));
        assert_eq!(refuse(&looked_at, &samples::container(), &able), Ok(()), "its own container goes on");
        assert_eq!(refuse(&looked_at, &confined, &able).unwrap_err().reason, "AppArmor");
    }
}

//! What can run here, and what of it holds. Pure.

use hawser_wire::deployment::{
    AppArmor, Ask, ConfinementAsk, Container, Dns, DnsBase, EdgeDeployment, ReadOnlyBelow, Volume, VolumeSource,
};

use super::HOST_IMAGE;
use crate::runtime::Refusal;
use crate::runtime::volumes::beneath::{is_name, names};

/// Whether a container can run here; `own` is the agent's user.
pub(super) fn refuse(pod: &EdgeDeployment, container: &Container, own: u32) -> Result<(), Refusal> {
    let refusal = |reason: &str, message: String| Err(Refusal { reason: reason.to_owned(), message });
    let image = &container.image;
    if image != HOST_IMAGE {
        let message = format!("the process runtime runs programs of the host: set image: {HOST_IMAGE} (got {image})");
        return refusal("ImageNotSupported", message);
    }
    if container.command.is_empty() && container.args.is_empty() {
        let message = "no command specified: set command, since the process runtime has no image to take one from";
        return refusal("CreateContainerError", message.to_owned());
    }
    if !is_name(&container.name) {
        return refusal("CreateContainerConfigError", format!("{:?} is not a container's name", container.name));
    }
    let user = container.user;
    if user.non_root && user.uid.unwrap_or(own) == 0 {
        let message = "container has runAsNonRoot and would run as root: set runAsUser";
        return refusal("CreateContainerConfigError", message.to_owned());
    }
    let other = user.uid.is_some_and(|uid| uid != own) || user.gid.is_some();
    if own != 0 && (other || pod.fs_group.is_some() || !pod.supplemental_groups.is_empty()) {
        let message = format!(
            "the agent runs as user {own} and cannot change users or groups: run it as root, or leave out runAsUser, \
             runAsGroup, fsGroup and supplementalGroups"
        );
        return refusal("CreateContainerConfigError", message);
    }
    refuse_engine_matters(pod, container)?;
    refuse_mounts(container).map_err(|message| Refusal { reason: "CreateContainerConfigError".to_owned(), message })
}

/// What takes a container engine.
fn refuse_engine_matters(pod: &EdgeDeployment, container: &Container) -> Result<(), Refusal> {
    let asked = container.confinement.clone().unwrap_or_default();
    let ports = pod.engine.as_ref().map_or(&[][..], |engine| &engine.host_ports);
    // On the device's own network a port is the device's port anyway.
    let mapped = ports.iter().any(|port| !pod.host_network || port.host != port.pod);
    let fields = [
        (asked.privileged, "securityContext.privileged"),
        (asked.read_only_root, "securityContext.readOnlyRootFilesystem"),
        (asked.no_new_privileges, "securityContext.allowPrivilegeEscalation: false"),
        (!asked.add_capabilities.is_empty(), "securityContext.capabilities.add"),
        (!asked.drop_capabilities.is_empty(), "securityContext.capabilities.drop"),
        (asked.seccomp, "securityContext.seccompProfile"),
        (mapped, "ports.hostPort without hostNetwork"),
    ];
    let mut asked: Vec<&str> = fields.into_iter().filter(|(asked, _)| *asked).map(|(_, field)| field).collect();
    asked.extend(pod.engine.iter().flat_map(|engine| &engine.asks).filter_map(missing));
    asked.extend(container.confinement.iter().flat_map(|confinement| &confinement.asks).filter_map(not_confined));
    let is_image = |volume: &Volume| matches!(volume.source, VolumeSource::Image(_));
    if container.mounts.iter().any(|mount| pod.volumes.iter().any(|v| v.name == mount.volume && is_image(v))) {
        asked.push("volumes.image");
    }
    let is_huge = |volume: &Volume| matches!(volume.source, VolumeSource::HugePages(_));
    if container.mounts.iter().any(|mount| pod.volumes.iter().any(|v| v.name == mount.volume && is_huge(v))) {
        asked.push("volumes.emptyDir.medium: HugePages");
    }
    if container.mounts.iter().any(|mount| mount.read_only_below == Some(ReadOnlyBelow::Always)) {
        asked.push("volumeMounts.recursiveReadOnly: Enabled");
    }
    asked.dedup();
    if asked.is_empty() {
        return Ok(());
    }
    Err(Refusal {
        reason: "UnsupportedField".to_owned(),
        message: format!(
            "{}: the process runtime runs programs of the host and cannot do this: leave it out, or run the pod on a \
             device with a container engine",
            asked.join(", ")
        ),
    })
}

/// The field of an ask that this runtime cannot do; `None`: programs of the host have it anyway.
fn missing(ask: &Ask) -> Option<&'static str> {
    match ask {
        Ask::HostProcesses | Ask::HostIpc | Ask::Subdomain(_) | Ask::StrictGroups => None,
        // There is nothing besides the programs.
        Ask::Overhead(_) => None,
        Ask::SharedProcesses => Some("shareProcessNamespace"),
        Ask::OwnUsers => Some("hostUsers: false"),
        Ask::Sysctl { .. } => Some("securityContext.sysctls"),
        Ask::Handler(_) => Some("runtimeClassName"),
        Ask::Resources(_) => Some("resources of the pod as a whole"),
        Ask::HugePages(_) => Some("resources.limits.hugepages"),
        Ask::HostAlias { .. } => Some("hostAliases"),
        Ask::HostnameIsWhole => Some("setHostnameAsFQDN"),
        Ask::Dns(Dns { base: DnsBase::Nothing, .. }) => Some("dnsPolicy: None"),
        Ask::Dns(dns) if dns.servers.is_empty() && dns.searches.is_empty() && dns.options.is_empty() => None,
        Ask::Dns(_) => Some("dnsConfig"),
    }
}

fn not_confined(ask: &ConfinementAsk) -> Option<&'static str> {
    match ask {
        ConfinementAsk::SeccompFile(_) => Some("securityContext.seccompProfile"),
        ConfinementAsk::SeLinux(_) => Some("securityContext.seLinuxOptions"),
        // Nothing is hidden from programs of the host.
        ConfinementAsk::AppArmor(AppArmor::None) | ConfinementAsk::UnmaskedProc => None,
        ConfinementAsk::AppArmor(AppArmor::Engine | AppArmor::Loaded(_)) => Some("securityContext.appArmorProfile"),
    }
}

fn refuse_mounts(container: &Container) -> Result<(), String> {
    let mut paths = Vec::with_capacity(container.mounts.len());
    for mount in &container.mounts {
        let path = names(&mount.path).map_err(|error| format!("mountPath {}: {error}", mount.path))?;
        if path.is_empty() {
            return Err("mountPath /: the process runtime cannot mount a volume there".to_owned());
        }
        paths.push((path, &mount.path));
    }
    paths.sort();
    for pair in paths.windows(2) {
        if pair[1].0.starts_with(&pair[0].0) {
            return Err(format!(
                "mountPath {} lies in {}: the process runtime cannot mount one volume below another",
                pair[1].1, pair[0].1
            ));
        }
    }
    Ok(())
}

/// What of a container's description this runtime can never enforce, and of its limits if `no_cgroups` says why there are
/// none.
pub(super) fn not_enforced(pod: &EdgeDeployment, container: &Container, no_cgroups: Option<&str>) -> Vec<String> {
    const NO_MOUNTS: &str = "is not enforced: the process runtime links volumes and does not mount them; leave it out, or \
                             take a device whose runtime has containers";
    let mut told = Vec::new();
    for (field, asked) in limits(container) {
        if let (Some(why), true) = (no_cgroups, asked) {
            told.push(format!("{field} is not enforced: {why}"));
        }
    }
    for mount in &container.mounts {
        let volume = pod.volumes.iter().find(|volume| volume.name == mount.volume);
        let Some(volume) = volume else { continue };
        // Files that the bridge gives belong to the agent's user, and what is changed in them is put right.
        if mount.read_only && !matches!(volume.source, VolumeSource::Files(_)) {
            told.push(format!("readOnly of the mount at {} {NO_MOUNTS}", mount.path));
        }
        // What is on the disk is measured, and the pod evicted if it is too much.
        if matches!(&volume.source, VolumeSource::EmptyDir(empty) if empty.memory && empty.size_limit.is_some()) {
            told.push(format!("sizeLimit of volume {} {NO_MOUNTS}", mount.volume));
        }
    }
    told
}

/// The limits that a container may ask for, and whether it does.
fn limits(container: &Container) -> [(&'static str, bool); 2] {
    let limits = &container.resources;
    [
        ("resources.limits.cpu", limits.cpu_limit_millis.is_some()),
        ("resources.limits.memory", limits.memory_limit_bytes.is_some()),
    ]
}

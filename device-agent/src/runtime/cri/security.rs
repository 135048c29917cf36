//! What a pod and its containers may do, in the words of an engine. Pure.

use std::collections::HashMap;
use std::path::Path;

use hawser_cri::{
    Capability, Image, Int64Value, LinuxContainerSecurityContext, LinuxSandboxSecurityContext, NamespaceMode,
    NamespaceOption, ProfileType, SeLinuxOption, SecurityProfile, SupplementalGroupsPolicy,
};
use hawser_wire::deployment::{
    AppArmor, Ask, Confinement, ConfinementAsk, Container, ContainerKind, EdgeDeployment, SeLinux,
};

use super::users::Users;

/// What an engine hides from containers when it is told so, as it does by itself for nobody.
const MASKED: &[&str] = &[
    "/proc/asound",
    "/proc/acpi",
    "/proc/interrupts",
    "/proc/kcore",
    "/proc/keys",
    "/proc/latency_stats",
    "/proc/timer_list",
    "/proc/timer_stats",
    "/proc/sched_debug",
    "/proc/scsi",
    "/sys/firmware",
    "/sys/devices/virtual/powercap",
];
const READ_ONLY: &[&str] = &["/proc/bus", "/proc/fs", "/proc/irq", "/proc/sys", "/proc/sysrq-trigger"];

/// What a pod as a whole asks of the engine.
pub(super) fn asks(pod: &EdgeDeployment) -> impl Iterator<Item = &Ask> {
    pod.engine.iter().flat_map(|engine| &engine.asks)
}

/// `users`: those that the pod has of its own.
pub(super) fn of_sandbox(pod: &EdgeDeployment, users: Option<Users>) -> LinuxSandboxSecurityContext {
    LinuxSandboxSecurityContext {
        namespace_options: Some(namespaces(pod, users)),
        selinux_options: common_label(pod),
        supplemental_groups: groups(pod),
        supplemental_groups_policy: groups_policy(pod).into(),
        // An engine makes no privileged container in another sandbox.
        privileged: pod.all_containers().any(|(container, _)| confinement(container).privileged),
        seccomp: Some(profile(ProfileType::RuntimeDefault)),
    }
}

/// Kernel parameters of the pod's namespaces.
pub(super) fn sysctls(pod: &EdgeDeployment) -> HashMap<String, String> {
    let sysctl = |ask: &Ask| match ask {
        Ask::Sysctl { name, value } => Some((name.clone(), value.clone())),
        _ => None,
    };
    asks(pod).filter_map(sysctl).collect()
}

/// What the device has to do with profiles of system calls.
#[derive(Debug, Clone, Copy)]
pub(super) struct Profiles<'p> {
    /// Where those are that pods name.
    pub(super) folder: &'p Path,
    /// Whether who says nothing gets the engine's own.
    pub(super) by_default: bool,
}

/// `target`: the container whose processes it sees, if not those
/// that the pod gives it to see.
pub(super) fn of_container(
    pod: &EdgeDeployment,
    container: &Container,
    image: &Image,
    profiles: Profiles<'_>,
    target: Option<String>,
    users: Option<Users>,
) -> LinuxContainerSecurityContext {
    // An engine wants to be told the user whenever it is told a group.
    let user = container.user.uid.map(i64::from).or(image.uid.map(|uid| uid.value));
    let asked = confinement(container);
    let hidden = |paths: &[&str]| match asked.privileged || asked.asks.contains(&ConfinementAsk::UnmaskedProc) {
        true => Vec::new(),
        false => paths.iter().map(|path| (*path).to_owned()).collect(),
    };
    let username = if user.is_none() { image.username.clone() } else { String::new() };
    let (apparmor, apparmor_profile) = apparmor(&asked).unzip();
    LinuxContainerSecurityContext {
        capabilities: Some(Capability {
            add_capabilities: asked.add_capabilities.clone(),
            drop_capabilities: asked.drop_capabilities.clone(),
        }),
        privileged: asked.privileged,
        namespace_options: Some(match target {
            Some(target) => beside(target, namespaces(pod, users)),
            None => namespaces(pod, users),
        }),
        selinux_options: label(&asked),
        run_as_user: user.map(|value| Int64Value { value }),
        run_as_username: username,
        run_as_group: container.user.gid.map(|gid| Int64Value { value: i64::from(gid) }),
        readonly_rootfs: asked.read_only_root,
        supplemental_groups: groups(pod),
        supplemental_groups_policy: groups_policy(pod).into(),
        no_new_privs: asked.no_new_privileges,
        masked_paths: hidden(MASKED),
        readonly_paths: hidden(READ_ONLY),
        seccomp: Some(seccomp(&asked, profiles)),
        apparmor,
        apparmor_profile: apparmor_profile.unwrap_or_default(),
    }
}

fn confinement(container: &Container) -> Confinement {
    container.confinement.clone().unwrap_or_default()
}

/// The label of all containers, if they have the same: what they share has it too. Who only looks at the pod does not count.
fn common_label(pod: &EdgeDeployment) -> Option<SeLinuxOption> {
    let lasting = pod.all_containers().filter(|(_, kind)| *kind != ContainerKind::Ephemeral);
    let mut labels = lasting.map(|(container, _)| label(&confinement(container)));
    let first = labels.next()?;
    labels.all(|label| label == first).then_some(first)?
}

fn label(asked: &Confinement) -> Option<SeLinuxOption> {
    asked.asks.iter().find_map(|ask| match ask {
        ConfinementAsk::SeLinux(SeLinux { user, role, kind, level }) => {
            Some(SeLinuxOption { user: user.clone(), role: role.clone(), kind: kind.clone(), level: level.clone() })
        }
        ConfinementAsk::SeccompFile(_) | ConfinementAsk::AppArmor(_) | ConfinementAsk::UnmaskedProc => None,
    })
}

fn namespaces(pod: &EdgeDeployment, users: Option<Users>) -> NamespaceOption {
    let has = |wanted: Ask| asks(pod).any(|ask| *ask == wanted);
    let network = if pod.host_network { NamespaceMode::Node } else { NamespaceMode::Pod };
    let pid = match (has(Ask::HostProcesses), has(Ask::SharedProcesses)) {
        (true, _) => NamespaceMode::Node,
        (false, true) => NamespaceMode::Pod,
        (false, false) => NamespaceMode::Container,
    };
    let ipc = if has(Ask::HostIpc) { NamespaceMode::Node } else { NamespaceMode::Pod };
    NamespaceOption {
        network: network.into(),
        pid: pid.into(),
        ipc: ipc.into(),
        target_id: String::new(),
        users: users.map(Users::namespace),
    }
}

/// What sees the processes of the container that the engine calls so, and runs beside them.
fn beside(target_id: String, namespaces: NamespaceOption) -> NamespaceOption {
    NamespaceOption { pid: NamespaceMode::Target.into(), target_id, ..namespaces }
}

fn groups(pod: &EdgeDeployment) -> Vec<i64> {
    pod.supplemental_groups.iter().copied().chain(pod.fs_group).map(i64::from).collect()
}

fn groups_policy(pod: &EdgeDeployment) -> SupplementalGroupsPolicy {
    match asks(pod).any(|ask| *ask == Ask::StrictGroups) {
        true => SupplementalGroupsPolicy::Strict,
        false => SupplementalGroupsPolicy::Merge,
    }
}

fn profile(kind: ProfileType) -> SecurityProfile {
    SecurityProfile { profile_type: kind.into(), localhost_ref: String::new() }
}

/// A privileged container may make all system calls, whatever it asks for.
fn seccomp(asked: &Confinement, profiles: Profiles<'_>) -> SecurityProfile {
    let file = asked.asks.iter().find_map(|ask| match ask {
        ConfinementAsk::SeccompFile(file) => Some(file),
        ConfinementAsk::AppArmor(_) | ConfinementAsk::SeLinux(_) | ConfinementAsk::UnmaskedProc => None,
    });
    match (asked.privileged, file) {
        (false, Some(file)) => SecurityProfile {
            profile_type: ProfileType::Localhost.into(),
            localhost_ref: profiles.folder.join(file).display().to_string(),
        },
        (false, None) if asked.seccomp || (profiles.by_default && !asked.all_calls) => {
            profile(ProfileType::RuntimeDefault)
        }
        _ => profile(ProfileType::Unconfined),
    }
}

/// The profile in the words of today's engines and of older ones.
fn apparmor(asked: &Confinement) -> Option<(SecurityProfile, String)> {
    let wanted = asked.asks.iter().find_map(|ask| match ask {
        ConfinementAsk::AppArmor(wanted) => Some(wanted),
        ConfinementAsk::SeccompFile(_) | ConfinementAsk::SeLinux(_) | ConfinementAsk::UnmaskedProc => None,
    })?;
    Some(match wanted {
        AppArmor::Engine => (profile(ProfileType::RuntimeDefault), "runtime/default".to_owned()),
        AppArmor::None => (profile(ProfileType::Unconfined), "unconfined".to_owned()),
        AppArmor::Loaded(name) => (
            SecurityProfile { profile_type: ProfileType::Localhost.into(), localhost_ref: name.clone() },
            format!("localhost/{name}"),
        ),
    })
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::runtime::cri::samples::{container, pod};
    use hawser_wire::deployment::Engine;

    fn asking(asks: Vec<Ask>) -> EdgeDeployment {
        EdgeDeployment { engine: Some(Engine { asks, ..Engine::default() }), ..pod() }
    }

    fn profiles(by_default: bool) -> Profiles<'static> {
        Profiles { folder: Path::new("/profiles"), by_default }
    }

    #[test]
    fn namespaces_are_shared_as_the_pod_asks() {
        let of = |asks| {
            let namespaces = namespaces(&asking(asks), None);
            (namespaces.pid(), namespaces.ipc())
        };
        assert_eq!(of(vec![]), (NamespaceMode::Container, NamespaceMode::Pod));
        assert_eq!(of(vec![Ask::SharedProcesses]), (NamespaceMode::Pod, NamespaceMode::Pod));
        assert_eq!(of(vec![Ask::HostProcesses, Ask::HostIpc]), (NamespaceMode::Node, NamespaceMode::Node));
    }

    #[test]
    fn who_looks_at_a_container_sees_its_processes_and_shares_the_rest_with_the_pod() {
        let of = |asks, target: Option<&str>| {
            let target = target.map(str::to_owned);
            of_container(&asking(asks), &container(), &Image::default(), profiles(false), target, None)
                .namespace_options
                .unwrap()
        };
        for asks in [vec![], vec![Ask::SharedProcesses], vec![Ask::HostProcesses]] {
            let plain = of(asks.clone(), None);
            let beside = of(asks, Some("abc"));
            assert_eq!((beside.pid(), beside.target_id.as_str()), (NamespaceMode::Target, "abc"));
            assert_eq!((beside.network, beside.ipc), (plain.network, plain.ipc));
            assert_eq!(plain.target_id, "");
        }
    }

    #[test]
    fn a_device_may_confine_who_says_nothing_and_nobody_else() {
        let of = |confinement: Confinement, by_default| {
            let container = Container { confinement: Some(confinement), ..container() };
            let context = of_container(&pod(), &container, &Image::default(), profiles(by_default), None, None);
            context.seccomp.unwrap().profile_type()
        };
        let silent = Confinement::default;
        assert_eq!(of(silent(), false), ProfileType::Unconfined);
        assert_eq!(of(silent(), true), ProfileType::RuntimeDefault);
        assert_eq!(of(Confinement { all_calls: true, ..silent() }, true), ProfileType::Unconfined);
        assert_eq!(of(Confinement { privileged: true, ..silent() }, true), ProfileType::Unconfined);
        let file = vec![ConfinementAsk::SeccompFile("audit.json".into())];
        assert_eq!(of(Confinement { asks: file, ..silent() }, true), ProfileType::Localhost);
    }

    #[test]
    fn profiles_are_told_in_the_words_of_old_and_new_engines() {
        let of = |asks: Vec<ConfinementAsk>, privileged| {
            let confinement = Confinement { asks, privileged, seccomp: true, ..Confinement::default() };
            let container = hawser_wire::deployment::Container { confinement: Some(confinement), ..container() };
            of_container(&pod(), &container, &Image::default(), profiles(false), None, None)
        };
        let file = || ConfinementAsk::SeccompFile("deep/audit.json".into());
        let seccomp = |context: &LinuxContainerSecurityContext| context.seccomp.clone().unwrap();
        let told = seccomp(&of(vec![file()], false));
        assert_eq!(
            (told.profile_type(), told.localhost_ref.as_str()),
            (ProfileType::Localhost, "/profiles/deep/audit.json")
        );
        assert_eq!(seccomp(&of(vec![file()], true)).profile_type(), ProfileType::Unconfined);
        assert_eq!(seccomp(&of(vec![], false)).profile_type(), ProfileType::RuntimeDefault);
        assert_eq!(of(vec![], false).apparmor, None);
        for (wanted, old, kind, name) in [
            (AppArmor::Engine, "runtime/default", ProfileType::RuntimeDefault, ""),
            (AppArmor::None, "unconfined", ProfileType::Unconfined, ""),
            (AppArmor::Loaded("strict".into()), "localhost/strict", ProfileType::Localhost, "strict"),
        ] {
            let told = of(vec![ConfinementAsk::AppArmor(wanted)], false);
            assert_eq!(told.apparmor_profile, old);
            let new = told.apparmor.unwrap();
            assert_eq!((new.profile_type(), new.localhost_ref.as_str()), (kind, name));
        }
    }

    #[test]
    fn labels_reach_the_engine_and_what_containers_share_has_theirs() {
        let labelled = |level: &str| {
            let label = SeLinux { level: level.into(), ..SeLinux::default() };
            let confinement = Confinement { asks: vec![ConfinementAsk::SeLinux(label)], ..Confinement::default() };
            Container { confinement: Some(confinement), ..container() }
        };
        let told = of_container(&pod(), &labelled("s0"), &Image::default(), profiles(false), None, None);
        assert_eq!(told.selinux_options.map(|label| label.level).as_deref(), Some("s0"));
        let of = |containers: Vec<Container>| {
            let pod = EdgeDeployment { containers, ..pod() };
            of_sandbox(&pod, None).selinux_options.map(|label| label.level)
        };
        assert_eq!(of(vec![labelled("s0"), labelled("s0")]).as_deref(), Some("s0"));
        assert_eq!(of(vec![labelled("s0"), labelled("s1")]), None);
        assert_eq!(of(vec![labelled("s0"), container()]), None);
        assert_eq!(of(vec![container()]), None);
    }

    #[test]
    fn nothing_of_proc_is_hidden_if_that_is_asked_for() {
        let of = |asks: Vec<ConfinementAsk>| {
            let confinement = Some(Confinement { asks, ..Confinement::default() });
            let container = Container { confinement, ..container() };
            let context = of_container(&pod(), &container, &Image::default(), profiles(false), None, None);
            (context.masked_paths.is_empty(), context.readonly_paths.is_empty())
        };
        assert_eq!(of(vec![]), (false, false));
        assert_eq!(of(vec![ConfinementAsk::UnmaskedProc]), (true, true));
    }

    #[test]
    fn kernel_parameters_and_strict_groups_reach_the_engine() {
        let sysctl = |name: &str, value: &str| Ask::Sysctl { name: name.into(), value: value.into() };
        let pod = asking(vec![sysctl("a.b", "1"), Ask::StrictGroups, sysctl("c", "2 3")]);
        let expected = [("a.b", "1"), ("c", "2 3")].map(|(name, value)| (name.to_owned(), value.to_owned()));
        assert_eq!(sysctls(&pod), HashMap::from(expected));
        assert_eq!(of_sandbox(&pod, None).supplemental_groups_policy(), SupplementalGroupsPolicy::Strict);
        assert_eq!(of_sandbox(&asking(vec![]), None).supplemental_groups_policy(), SupplementalGroupsPolicy::Merge);
    }
}

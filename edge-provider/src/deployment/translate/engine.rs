//! What takes a container engine: confinement, ports of the host, logins to registries. A device whose runtime has none
//! of it refuses the pod itself.

use base64::Engine as _;
use base64::engine::general_purpose::STANDARD;
use hawser_wire::deployment::{
    AppArmor, Confinement, ConfinementAsk, Engine, HostPort, Protocol, RegistryLogin, SeLinux,
};
use k8s_openapi::api::core::v1::{AppArmorProfile, PodSpec, SELinuxOptions, SeccompProfile};
use serde_json::Value;

use super::{Place, Problem, Translated, asks, host_network, places};
use crate::deployment::Notice;
use crate::deployment::references::{Contents, Fetched, Found};

/// How many logins one pod takes along. Credentials of more registries than that are a mistake, and travel is not free.
const MAX_LOGINS: usize = 64;

/// How a container is confined beyond what the runtime does by itself.
pub(super) fn confinement(spec: &PodSpec, place: &Place<'_>) -> Option<Confinement> {
    let own = place.container.security_context.as_ref();
    let shared = spec.security_context.as_ref();
    let profile =
        own.and_then(|own| own.seccomp_profile.as_ref()).or(shared.and_then(|shared| shared.seccomp_profile.as_ref()));
    let is = |kind: &str| profile.is_some_and(|profile: &SeccompProfile| profile.type_ == kind);
    let file = profile.filter(|profile| profile.type_ == "Localhost");
    let file = file.map(|profile| profile.localhost_profile.clone().unwrap_or_default());
    let apparmor = own.and_then(|own| own.app_armor_profile.as_ref());
    let apparmor = apparmor.or(shared.and_then(|shared| shared.app_armor_profile.as_ref())).map(self::apparmor);
    let label = own.and_then(|own| own.se_linux_options.as_ref());
    let label = label.or(shared.and_then(|shared| shared.se_linux_options.as_ref())).map(self::label);
    let unmasked = own.and_then(|own| own.proc_mount.as_deref()) == Some("Unmasked");
    let capabilities = own.and_then(|own| own.capabilities.clone()).unwrap_or_default();
    let confinement = Confinement {
        privileged: own.and_then(|own| own.privileged).unwrap_or(false),
        read_only_root: own.and_then(|own| own.read_only_root_filesystem).unwrap_or(false),
        no_new_privileges: own.and_then(|own| own.allow_privilege_escalation) == Some(false),
        add_capabilities: capabilities.add.unwrap_or_default(),
        drop_capabilities: capabilities.drop.unwrap_or_default(),
        seccomp: is("RuntimeDefault"),
        all_calls: is("Unconfined"),
        asks: file
            .map(ConfinementAsk::SeccompFile)
            .into_iter()
            .chain(apparmor.map(ConfinementAsk::AppArmor))
            .chain(label.map(ConfinementAsk::SeLinux))
            .chain(unmasked.then_some(ConfinementAsk::UnmaskedProc))
            .collect(),
    };
    Some(confinement).filter(|confinement| *confinement != Confinement::default())
}

fn apparmor(profile: &AppArmorProfile) -> AppArmor {
    match profile.type_.as_str() {
        "RuntimeDefault" => AppArmor::Engine,
        "Localhost" => AppArmor::Loaded(profile.localhost_profile.clone().unwrap_or_default()),
        _ => AppArmor::None,
    }
}

fn label(options: &SELinuxOptions) -> SeLinux {
    let text = |text: &Option<String>| text.clone().unwrap_or_default();
    SeLinux {
        user: text(&options.user),
        role: text(&options.role),
        kind: text(&options.type_),
        level: text(&options.level),
    }
}

/// What the pod as a whole asks of an engine.
pub(super) fn engine(spec: &PodSpec, fetched: &Fetched) -> Translated<Option<Engine>> {
    let mut host_ports = Vec::new();
    for place in places(spec) {
        add_ports(spec, &place, &mut host_ports)?;
    }
    let mut logins: Vec<RegistryLogin> = Vec::new();
    for contents in pull_secrets(spec).filter_map(|name| match fetched.secrets.get(name) {
        Some(Found::Here(contents)) => Some(contents),
        Some(Found::Missing | Found::Denied(_)) | None => None,
    }) {
        logins.extend(self::logins(contents));
    }
    logins.truncate(MAX_LOGINS);
    let engine = Engine { logins, host_ports, asks: asks::asks(spec, fetched)? };
    Ok(Some(engine).filter(|engine| *engine != Engine::default()))
}

fn add_ports(spec: &PodSpec, place: &Place<'_>, all: &mut Vec<HostPort>) -> Translated<()> {
    for (at, port) in place.container.ports.iter().flatten().enumerate() {
        let Some(host) = port.host_port.filter(|host| *host != 0) else { continue };
        let path = format!("{}.ports[{at}]", place.path);
        let number = |number: i32, field: &str| {
            let valid = u16::try_from(number).ok().filter(|number| *number != 0);
            valid.ok_or_else(|| Problem::Refused(format!("{path}.{field}: expected 1 to 65535")))
        };
        if host_network(spec) && host != port.container_port {
            return Err(Problem::Refused(format!("{path}.hostPort: with hostNetwork it must match containerPort")));
        }
        let protocol = match port.protocol.as_deref() {
            None | Some("" | "TCP") => Protocol::Tcp,
            Some("UDP") => Protocol::Udp,
            Some("SCTP") => Protocol::Sctp,
            Some(_) => return Err(Problem::Refused(format!("{path}.protocol: expected TCP, UDP or SCTP"))),
        };
        all.push(HostPort {
            host: number(host, "hostPort")?,
            pod: number(port.container_port, "containerPort")?,
            protocol,
            address: port.host_ip.clone().filter(|ip| !ip.is_empty() && ip != "0.0.0.0"),
        });
    }
    Ok(())
}

/// The names of the pod's pull secrets.
pub(crate) fn pull_secrets(spec: &PodSpec) -> impl Iterator<Item = &str> {
    let named = spec.image_pull_secrets.iter().flatten().map(|reference| reference.name.as_str());
    named.filter(|name| !name.is_empty())
}

/// A pull secret that cannot be read keeps nothing from starting: the image may be there, or be free for all.
pub(super) fn missing_pull_secrets(spec: &PodSpec, fetched: &Fetched) -> Option<Notice> {
    let is_here = |name: &&str| matches!(fetched.secrets.get(*name), Some(Found::Here(_)));
    let missing: Vec<&str> = pull_secrets(spec).filter(|name| !is_here(name)).collect();
    (!missing.is_empty()).then(|| Notice {
        reason: "FailedToRetrieveImagePullSecret".to_owned(),
        message: format!(
            "Unable to retrieve some image pull secrets ({}); attempting to pull the image may not succeed.",
            missing.join(", ")
        ),
    })
}

/// The logins of one secret, of the newer type or of the older. What is no login is left out, as by a kubelet.
fn logins(contents: &Contents) -> Vec<RegistryLogin> {
    let read = |key: &str| {
        let object = contents.data.get(key)?;
        serde_json::from_slice::<Value>(&object.bytes).ok()
    };
    let newer = read(".dockerconfigjson").and_then(|mut document| Some(document.get_mut("auths")?.take()));
    let Some(Value::Object(registries)) = newer.or_else(|| read(".dockercfg")) else { return Vec::new() };
    registries.iter().filter_map(|(registry, entry)| login(registry, entry)).collect()
}

fn login(registry: &str, entry: &Value) -> Option<RegistryLogin> {
    let text = |field: &str| entry.get(field).and_then(Value::as_str).filter(|text| !text.is_empty());
    let (username, password) = match (text("auth"), text("username"), text("password")) {
        (Some(auth), ..) => {
            let both = String::from_utf8(STANDARD.decode(auth.trim()).ok()?).ok()?;
            let (username, password) = both.split_once(':')?;
            (username.to_owned(), password.to_owned())
        }
        (None, Some(username), Some(password)) => (username.to_owned(), password.to_owned()),
        _ => return None,
    };
    Some(RegistryLogin { registry: registry.to_owned(), username, password })
}

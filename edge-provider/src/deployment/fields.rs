//! What becomes of every field of a pod: mapped, of no concern to a device, or a reason to refuse the pod.
//!
//! The tables name fields as the API does. A test compares them with the API's own schema, so a field that a later
//! Kubernetes adds fails the test until somebody has decided about it; and a field that stands in no table is refused, so
//! nothing is ever ignored by accident.

use serde_json::{Map, Value};
use virtual_node::provider::NotApplied;

/// What becomes of a field that is set.
#[derive(Debug, Clone, Copy)]
pub(crate) enum Verdict {
    /// Translated, or used by the bridge itself.
    Mapped,
    /// Does not concern a device, for this reason.
    Unconcerned(#[expect(dead_code, reason = "written for the reader of the table")] &'static str),
    /// Refuses the pod, for this reason.
    Refused(&'static str),
    /// Refuses the pod, for this reason, unless the value is one of these.
    Only(&'static [Allowed], &'static str),
    /// Is an object, or a list of objects, with a table of its own.
    Table(&'static [(&'static str, Verdict)]),
    /// Is a map from names to values; every name must be one of these, or begin like one that ends with `*`.
    Names(&'static [&'static str], &'static str),
}

/// A value that says nothing, because it asks for what a device does anyway.
#[derive(Debug, Clone, Copy)]
pub(crate) enum Allowed {
    /// A text.
    Text(&'static str),
    /// A text that begins with this.
    Beginning(&'static str),
    /// An object whose `name` is this.
    Name(&'static str),
}

mod care;
mod volumes;

use self::care::{LIFECYCLE, PROBE, RESTART_RULE};
use self::volumes::{MOUNT, VOLUME};
use Allowed::{Beginning, Name, Text};
use Verdict::{Mapped, Names, Only, Refused, Table, Unconcerned};

/// A field for which a pod is refused.
#[derive(Debug, Clone, PartialEq, Eq)]
pub(crate) struct Offence {
    /// Where it stands, e.g. `spec.containers[0].volumeDevices`.
    pub(crate) path: String,
    /// Why it is refused.
    pub(crate) why: &'static str,
}

const SCHEDULER: Verdict = Unconcerned("the control plane has acted on it before the pod is bound");
const BLOCK: Verdict = Refused(
    "a device does not hand block devices to workloads by claims: mount the disk on the device and use a local volume, or a \
     hostPath of type BlockDevice in a privileged container",
);

pub(crate) const POD_SPEC: &[(&str, Verdict)] = &[
    ("activeDeadlineSeconds", Mapped),
    ("affinity", SCHEDULER),
    ("automountServiceAccountToken", Unconcerned("the API server has added the volume, or has not")),
    ("containers", Table(CONTAINER)),
    ("dnsConfig", Table(DNS_CONFIG)),
    ("dnsPolicy", Mapped),
    ("enableServiceLinks", Mapped),
    // Added to a pod that runs already, so what is wrong with one of them is no reason to refuse the pod: they are looked at one
    // by one.
    ("ephemeralContainers", Mapped),
    ("hostAliases", Table(HOST_ALIAS)),
    ("hostIPC", Mapped),
    ("hostNetwork", Mapped),
    ("hostPID", Mapped),
    ("hostUsers", Mapped),
    ("hostname", Mapped),
    ("hostnameOverride", Mapped),
    ("imagePullSecrets", Mapped),
    ("initContainers", Table(CONTAINER)),
    ("nodeName", Mapped),
    ("nodeSelector", SCHEDULER),
    ("os", Only(&[Name("linux")], "a device runs Linux")),
    ("overhead", Mapped),
    ("preemptionPolicy", SCHEDULER),
    ("priority", Mapped),
    ("priorityClassName", SCHEDULER),
    ("readinessGates", Mapped),
    ("resourceClaims", Refused("a device does not take part in dynamic resource allocation")),
    ("resources", Table(POD_RESOURCES)),
    ("restartPolicy", Mapped),
    ("runtimeClassName", Mapped),
    ("schedulerName", SCHEDULER),
    ("schedulingGates", SCHEDULER),
    ("schedulingGroup", SCHEDULER),
    ("securityContext", Table(POD_SECURITY)),
    ("serviceAccount", Unconcerned("the old name of serviceAccountName")),
    ("serviceAccountName", Mapped),
    ("setHostnameAsFQDN", Mapped),
    ("shareProcessNamespace", Mapped),
    ("subdomain", Mapped),
    ("terminationGracePeriodSeconds", Mapped),
    ("tolerations", SCHEDULER),
    ("topologySpreadConstraints", SCHEDULER),
    ("volumes", Table(VOLUME)),
];

pub(crate) const CONTAINER: &[(&str, Verdict)] = &[
    ("args", Mapped),
    ("command", Mapped),
    ("env", Table(ENV)),
    ("envFrom", Table(ENV_FROM)),
    ("image", Mapped),
    ("imagePullPolicy", Mapped),
    ("lifecycle", Table(LIFECYCLE)),
    ("livenessProbe", Table(PROBE)),
    ("name", Mapped),
    ("ports", Table(PORT)),
    ("readinessProbe", Table(PROBE)),
    ("resizePolicy", Mapped),
    ("resources", Table(RESOURCES)),
    ("restartPolicy", Mapped),
    ("restartPolicyRules", Table(RESTART_RULE)),
    ("securityContext", Table(SECURITY)),
    ("startupProbe", Table(PROBE)),
    ("stdin", Mapped),
    ("stdinOnce", Mapped),
    ("terminationMessagePath", Mapped),
    ("terminationMessagePolicy", Mapped),
    ("tty", Mapped),
    ("volumeDevices", BLOCK),
    ("volumeMounts", Table(MOUNT)),
    ("workingDir", Mapped),
];

const NEVER_SET: Verdict = Unconcerned("the API server allows it in no ephemeral container");

pub(crate) const EPHEMERAL: &[(&str, Verdict)] = &[
    ("args", Mapped),
    ("command", Mapped),
    ("env", Table(ENV)),
    ("envFrom", Table(ENV_FROM)),
    ("image", Mapped),
    ("imagePullPolicy", Mapped),
    ("lifecycle", NEVER_SET),
    ("livenessProbe", NEVER_SET),
    ("name", Mapped),
    ("ports", NEVER_SET),
    ("readinessProbe", NEVER_SET),
    ("resizePolicy", NEVER_SET),
    ("resources", NEVER_SET),
    ("restartPolicy", NEVER_SET),
    ("restartPolicyRules", NEVER_SET),
    ("securityContext", Table(SECURITY)),
    ("startupProbe", NEVER_SET),
    ("stdin", Mapped),
    ("stdinOnce", Mapped),
    ("targetContainerName", Mapped),
    ("terminationMessagePath", Mapped),
    ("terminationMessagePolicy", Mapped),
    ("tty", Mapped),
    ("volumeDevices", BLOCK),
    ("volumeMounts", Table(MOUNT)),
    ("workingDir", Mapped),
];

pub(crate) const ENV: &[(&str, Verdict)] = &[("name", Mapped), ("value", Mapped), ("valueFrom", Table(ENV_SOURCE))];

pub(crate) const ENV_SOURCE: &[(&str, Verdict)] = &[
    ("configMapKeyRef", Table(KEY_SELECTOR)),
    ("fieldRef", Table(FIELD_SELECTOR)),
    ("fileKeyRef", Table(FILE_SELECTOR)),
    ("resourceFieldRef", Table(RESOURCE_SELECTOR)),
    ("secretKeyRef", Table(KEY_SELECTOR)),
];

pub(crate) const ENV_FROM: &[(&str, Verdict)] =
    &[("configMapRef", Table(ENV_FROM_SOURCE)), ("prefix", Mapped), ("secretRef", Table(ENV_FROM_SOURCE))];

pub(crate) const ENV_FROM_SOURCE: &[(&str, Verdict)] = &[("name", Mapped), ("optional", Mapped)];

pub(crate) const KEY_SELECTOR: &[(&str, Verdict)] = &[("key", Mapped), ("name", Mapped), ("optional", Mapped)];

pub(crate) const FILE_SELECTOR: &[(&str, Verdict)] =
    &[("key", Mapped), ("optional", Mapped), ("path", Mapped), ("volumeName", Mapped)];

pub(crate) const FIELD_SELECTOR: &[(&str, Verdict)] =
    &[("apiVersion", Only(&[Text("v1")], "there is only version v1 of pods")), ("fieldPath", Mapped)];

pub(crate) const RESOURCE_SELECTOR: &[(&str, Verdict)] =
    &[("containerName", Mapped), ("divisor", Mapped), ("resource", Mapped)];

pub(crate) const PORT: &[(&str, Verdict)] = &[
    ("containerPort", Mapped),
    ("hostIP", Mapped),
    ("hostPort", Mapped),
    // Probes and hooks may call it by that.
    ("name", Mapped),
    // Only a port of the host makes it more than information.
    ("protocol", Mapped),
];

pub(crate) const RESOURCES: &[(&str, Verdict)] = &[
    ("claims", Refused("a device does not take part in dynamic resource allocation")),
    (
        "limits",
        Names(
            &["cpu", "ephemeral-storage", "hugepages-*", "memory"],
            "a device limits cpu, memory, ephemeral-storage and hugepages only",
        ),
    ),
    // cpu and memory; what else is requested concerned the scheduler.
    ("requests", Mapped),
];

const WHOLE: &[&str] = &["cpu", "hugepages-*", "memory"];

/// Of a pod as a whole.
pub(crate) const POD_RESOURCES: &[(&str, Verdict)] = &[
    ("claims", Refused("a device does not take part in dynamic resource allocation")),
    ("limits", Names(WHOLE, "a device limits cpu, memory and hugepages of pods as a whole only")),
    ("requests", Names(WHOLE, "a device promises cpu, memory and hugepages to pods as a whole only")),
];

/// What depends on the runtime is mapped, and refused by the device if its runtime cannot do it.
pub(crate) const SECURITY: &[(&str, Verdict)] = &[
    ("allowPrivilegeEscalation", Mapped),
    ("appArmorProfile", Table(PROFILE)),
    ("capabilities", Table(CAPABILITIES)),
    ("privileged", Mapped),
    ("procMount", Only(&[Text("Default"), Text("Unmasked")], "a device knows Default and Unmasked only")),
    ("readOnlyRootFilesystem", Mapped),
    ("runAsGroup", Mapped),
    ("runAsNonRoot", Mapped),
    ("runAsUser", Mapped),
    ("seLinuxOptions", Table(SELINUX)),
    ("seccompProfile", Table(PROFILE)),
    ("windowsOptions", Unconcerned("it is for nodes with Windows, and a kubelet on Linux does not read it")),
];

/// Of AppArmor's and of system calls alike.
pub(crate) const PROFILE: &[(&str, Verdict)] = &[("localhostProfile", Mapped), ("type", Mapped)];

pub(crate) const SELINUX: &[(&str, Verdict)] =
    &[("level", Mapped), ("role", Mapped), ("type", Mapped), ("user", Mapped)];

pub(crate) const CAPABILITIES: &[(&str, Verdict)] = &[("add", Mapped), ("drop", Mapped)];

pub(crate) const POD_SECURITY: &[(&str, Verdict)] = &[
    ("appArmorProfile", Table(PROFILE)),
    ("fsGroup", Mapped),
    // Only local volumes have files that are older than the pod.
    ("fsGroupChangePolicy", Mapped),
    ("runAsGroup", Mapped),
    ("runAsNonRoot", Mapped),
    ("runAsUser", Mapped),
    ("seLinuxChangePolicy", Unconcerned("the volumes of a device are labelled by its engine")),
    ("seLinuxOptions", Table(SELINUX)),
    ("seccompProfile", Table(PROFILE)),
    ("supplementalGroups", Mapped),
    ("supplementalGroupsPolicy", Mapped),
    ("sysctls", Table(SYSCTL)),
    ("windowsOptions", Unconcerned("it is for nodes with Windows, and a kubelet on Linux does not read it")),
];

pub(crate) const SYSCTL: &[(&str, Verdict)] = &[("name", Mapped), ("value", Mapped)];

pub(crate) const HOST_ALIAS: &[(&str, Verdict)] = &[("hostnames", Mapped), ("ip", Mapped)];

pub(crate) const DNS_CONFIG: &[(&str, Verdict)] =
    &[("nameservers", Mapped), ("options", Table(DNS_OPTION)), ("searches", Mapped)];

pub(crate) const DNS_OPTION: &[(&str, Verdict)] = &[("name", Mapped), ("value", Mapped)];

/// How many offences are named; the rest is counted. An Event holds 1,024 characters.
const MAX_NAMED: usize = 5;

/// Refuses a pod for fields that a device cannot honour, naming them. `spec` is a PodSpec as JSON.
pub(crate) fn refuse_offences(spec: &Value) -> Result<(), NotApplied> {
    match told(&offences(spec)) {
        None => Ok(()),
        Some(message) => Err(NotApplied::Refused { reason: "UnsupportedField".to_owned(), message }),
    }
}

/// What a device cannot honour of a container that was added to look at a pod: as JSON, at `path`.
pub(crate) fn in_the_way_of_ephemeral(container: &Value, path: &str) -> Option<String> {
    let mut found = Vec::new();
    check(container, path, EPHEMERAL, &mut found);
    told(&found)
}

fn told(found: &[Offence]) -> Option<String> {
    if found.is_empty() {
        return None;
    }
    let mut message: Vec<_> =
        found.iter().take(MAX_NAMED).map(|Offence { path, why }| format!("{path}: {why}")).collect();
    if found.len() > MAX_NAMED {
        message.push(format!("and {} more", found.len() - MAX_NAMED));
    }
    Some(message.join("; "))
}

/// Looks for fields that refuse the pod.
fn offences(spec: &Value) -> Vec<Offence> {
    let mut found = Vec::new();
    check(spec, "spec", POD_SPEC, &mut found);
    found
}

fn check(value: &Value, path: &str, table: &[(&str, Verdict)], found: &mut Vec<Offence>) {
    match value {
        Value::Object(fields) => check_fields(fields, path, table, found),
        Value::Array(items) => {
            for (at, item) in items.iter().enumerate() {
                check(item, &format!("{path}[{at}]"), table, found);
            }
        }
        _ => {}
    }
}

fn check_fields(fields: &Map<String, Value>, path: &str, table: &[(&str, Verdict)], found: &mut Vec<Offence>) {
    for (name, value) in fields.iter().filter(|(_, value)| is_set(value)) {
        let path = format!("{path}.{name}");
        let verdict = table.iter().find(|(field, _)| field == name).map(|(_, verdict)| *verdict);
        match verdict {
            Some(Mapped | Unconcerned(_)) => {}
            Some(Refused(why)) => found.push(Offence { path, why }),
            Some(Only(allowed, why)) => {
                if !allowed.iter().any(|allowed| allows(*allowed, value)) {
                    found.push(Offence { path, why });
                }
            }
            Some(Table(table)) => check(value, &path, table, found),
            Some(Names(names, why)) => {
                let known = |name: &String| {
                    names
                        .iter()
                        .any(|known| known.strip_suffix('*').map_or(known == name, |begin| name.starts_with(begin)))
                };
                let strange = value.as_object().into_iter().flatten().filter(|(name, _)| !known(name));
                found.extend(strange.map(|(name, _)| Offence { path: format!("{path}.{name}"), why }));
            }
            None => found.push(Offence { path, why: "this version does not know the field" }),
        }
    }
}

fn is_set(value: &Value) -> bool {
    match value {
        Value::Null => false,
        Value::Array(items) => !items.is_empty(),
        _ => true,
    }
}

fn allows(allowed: Allowed, value: &Value) -> bool {
    match allowed {
        Text(expected) => value.as_str() == Some(expected),
        Beginning(expected) => value.as_str().is_some_and(|text| text.starts_with(expected)),
        Name(expected) => value.get("name").and_then(Value::as_str) == Some(expected),
    }
}

#[cfg(test)]
mod tests;

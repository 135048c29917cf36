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
    /// Is a map from names to values; every name must be one of these.
    Names(&'static [&'static str], &'static str),
}

/// A value that says nothing, because it asks for what a device does anyway.
#[derive(Debug, Clone, Copy)]
pub(crate) enum Allowed {
    /// `true` or `false`.
    Bool(bool),
    /// A text.
    Text(&'static str),
    /// An object whose `name` is this.
    Name(&'static str),
}

mod care;

use self::care::{LIFECYCLE, PROBE, RESTART_RULE};
use Allowed::{Bool, Name, Text};
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
const STORAGE: Verdict = Refused("a device cannot mount this kind of volume");
const GENERIC: Verdict = Refused(
    "a device provides no volumes by itself: use an emptyDir for what may go with the pod, or a claim bound to a local volume \
     of the device",
);
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
    ("hostUsers", Only(&[Bool(true)], "a device does not make user namespaces for workloads yet")),
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
        Names(&["cpu", "ephemeral-storage", "memory"], "a device limits cpu, memory and ephemeral-storage only"),
    ),
    // cpu and memory; what else is requested concerned the scheduler.
    ("requests", Mapped),
];

/// Of a pod as a whole.
pub(crate) const POD_RESOURCES: &[(&str, Verdict)] = &[
    ("claims", Refused("a device does not take part in dynamic resource allocation")),
    ("limits", Names(&["cpu", "memory"], "a device limits cpu and memory of pods as a whole only")),
    ("requests", Names(&["cpu", "memory"], "a device promises cpu and memory to pods as a whole only")),
];

/// What depends on the runtime is mapped, and refused by the device if its runtime cannot do it.
pub(crate) const SECURITY: &[(&str, Verdict)] = &[
    ("allowPrivilegeEscalation", Mapped),
    ("appArmorProfile", Table(PROFILE)),
    ("capabilities", Table(CAPABILITIES)),
    ("privileged", Mapped),
    ("procMount", Only(&[Text("Default")], "a device does not make the user namespaces yet that it takes")),
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

pub(crate) const MOUNT: &[(&str, Verdict)] = &[
    ("mountPath", Mapped),
    ("mountPropagation", Mapped),
    ("name", Mapped),
    ("readOnly", Mapped),
    ("recursiveReadOnly", Mapped),
    ("subPath", Mapped),
    ("subPathExpr", Mapped),
];

pub(crate) const VOLUME: &[(&str, Verdict)] = &[
    ("awsElasticBlockStore", STORAGE),
    ("azureDisk", STORAGE),
    ("azureFile", STORAGE),
    ("cephfs", STORAGE),
    ("cinder", STORAGE),
    ("configMap", Table(CONFIG_MAP_VOLUME)),
    ("csi", STORAGE),
    ("downwardAPI", Table(DOWNWARD_VOLUME)),
    ("emptyDir", Table(EMPTY_DIR)),
    ("ephemeral", GENERIC),
    ("fc", STORAGE),
    ("flexVolume", STORAGE),
    ("flocker", STORAGE),
    ("gcePersistentDisk", STORAGE),
    ("gitRepo", STORAGE),
    ("glusterfs", STORAGE),
    ("hostPath", Table(HOST_PATH)),
    ("image", Table(IMAGE_VOLUME)),
    ("iscsi", STORAGE),
    ("name", Mapped),
    ("nfs", STORAGE),
    // What meets the claim decides.
    ("persistentVolumeClaim", Table(CLAIM)),
    ("photonPersistentDisk", STORAGE),
    ("portworxVolume", STORAGE),
    ("projected", Table(PROJECTED)),
    ("quobyte", STORAGE),
    ("rbd", STORAGE),
    ("scaleIO", STORAGE),
    ("secret", Table(SECRET_VOLUME)),
    ("storageos", STORAGE),
    ("vsphereVolume", STORAGE),
];

pub(crate) const IMAGE_VOLUME: &[(&str, Verdict)] = &[("pullPolicy", Mapped), ("reference", Mapped)];

pub(crate) const CONFIG_MAP_VOLUME: &[(&str, Verdict)] =
    &[("defaultMode", Mapped), ("items", Table(KEY_TO_PATH)), ("name", Mapped), ("optional", Mapped)];

pub(crate) const SECRET_VOLUME: &[(&str, Verdict)] =
    &[("defaultMode", Mapped), ("items", Table(KEY_TO_PATH)), ("optional", Mapped), ("secretName", Mapped)];

pub(crate) const DOWNWARD_VOLUME: &[(&str, Verdict)] = &[("defaultMode", Mapped), ("items", Table(DOWNWARD_FILE))];

pub(crate) const DOWNWARD_FILE: &[(&str, Verdict)] = &[
    ("fieldRef", Table(FIELD_SELECTOR)),
    ("mode", Mapped),
    ("path", Mapped),
    ("resourceFieldRef", Table(RESOURCE_SELECTOR)),
];

pub(crate) const KEY_TO_PATH: &[(&str, Verdict)] = &[("key", Mapped), ("mode", Mapped), ("path", Mapped)];

pub(crate) const CLAIM: &[(&str, Verdict)] = &[("claimName", Mapped), ("readOnly", Mapped)];

pub(crate) const HOST_PATH: &[(&str, Verdict)] = &[("path", Mapped), ("type", Mapped)];

pub(crate) const EMPTY_DIR: &[(&str, Verdict)] =
    &[("medium", Only(&[Text(""), Text("Memory")], "a device has disk and memory only")), ("sizeLimit", Mapped)];

pub(crate) const PROJECTED: &[(&str, Verdict)] = &[("defaultMode", Mapped), ("sources", Table(PROJECTION))];

pub(crate) const PROJECTION: &[(&str, Verdict)] = &[
    ("clusterTrustBundle", Refused("the bridge does not read trust bundles yet")),
    ("configMap", Table(KEYS_PROJECTION)),
    ("downwardAPI", Table(DOWNWARD_PROJECTION)),
    ("podCertificate", Refused("the bridge does not request pod certificates yet")),
    ("secret", Table(KEYS_PROJECTION)),
    ("serviceAccountToken", Table(TOKEN_PROJECTION)),
];

pub(crate) const KEYS_PROJECTION: &[(&str, Verdict)] =
    &[("items", Table(KEY_TO_PATH)), ("name", Mapped), ("optional", Mapped)];

pub(crate) const DOWNWARD_PROJECTION: &[(&str, Verdict)] = &[("items", Table(DOWNWARD_FILE))];

pub(crate) const TOKEN_PROJECTION: &[(&str, Verdict)] =
    &[("audience", Mapped), ("expirationSeconds", Mapped), ("path", Mapped)];

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
                let strange =
                    value.as_object().into_iter().flatten().filter(|(name, _)| !names.contains(&name.as_str()));
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
        Bool(expected) => value.as_bool() == Some(expected),
        Text(expected) => value.as_str() == Some(expected),
        Name(expected) => value.get("name").and_then(Value::as_str) == Some(expected),
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use k8s_openapi::api::core::v1;
    use schemars::{JsonSchema, SchemaGenerator};
    use serde_json::json;
    use std::collections::BTreeSet;

    /// The fields of a type, from the schema that is generated with the API's types.
    fn fields_of<T: JsonSchema>() -> BTreeSet<String> {
        let schema = T::json_schema(&mut SchemaGenerator::default());
        let properties = schema.as_value().get("properties").and_then(Value::as_object);
        properties.expect("an object").keys().cloned().collect()
    }

    #[track_caller]
    fn covers<T: JsonSchema>(table: &[(&str, Verdict)]) {
        let table_fields: BTreeSet<String> = table.iter().map(|(name, _)| (*name).to_owned()).collect();
        assert_eq!(table_fields.len(), table.len(), "a field stands twice");
        assert_eq!(table_fields, fields_of::<T>());
    }

    #[test]
    fn every_field_of_the_api_stands_in_a_table() {
        covers::<v1::PodSpec>(POD_SPEC);
        covers::<v1::Container>(CONTAINER);
        covers::<v1::EphemeralContainer>(EPHEMERAL);
        covers::<v1::EnvVar>(ENV);
        covers::<v1::EnvVarSource>(ENV_SOURCE);
        covers::<v1::ContainerPort>(PORT);
        covers::<v1::ResourceRequirements>(RESOURCES);
        covers::<v1::ResourceRequirements>(POD_RESOURCES);
        covers::<v1::SecurityContext>(SECURITY);
        covers::<v1::PodSecurityContext>(POD_SECURITY);
        covers::<v1::Capabilities>(CAPABILITIES);
        covers::<v1::Probe>(PROBE);
        covers::<v1::Lifecycle>(LIFECYCLE);
        covers::<v1::LifecycleHandler>(care::HANDLER);
        covers::<v1::ExecAction>(care::EXEC);
        covers::<v1::GRPCAction>(care::GRPC);
        covers::<v1::HTTPGetAction>(care::HTTP_GET);
        covers::<v1::HTTPHeader>(care::HTTP_HEADER);
        covers::<v1::TCPSocketAction>(care::TCP_SOCKET);
        covers::<v1::SleepAction>(care::SLEEP);
        covers::<v1::ContainerRestartRule>(RESTART_RULE);
        covers::<v1::ContainerRestartRuleOnExitCodes>(care::EXIT_CODES);
        covers::<v1::VolumeMount>(MOUNT);
        covers::<v1::Volume>(VOLUME);
        covers::<v1::EmptyDirVolumeSource>(EMPTY_DIR);
        covers::<v1::ProjectedVolumeSource>(PROJECTED);
        covers::<v1::VolumeProjection>(PROJECTION);
        covers::<v1::EnvFromSource>(ENV_FROM);
        covers::<v1::ConfigMapEnvSource>(ENV_FROM_SOURCE);
        covers::<v1::SecretEnvSource>(ENV_FROM_SOURCE);
        covers::<v1::ConfigMapKeySelector>(KEY_SELECTOR);
        covers::<v1::SecretKeySelector>(KEY_SELECTOR);
        covers::<v1::ObjectFieldSelector>(FIELD_SELECTOR);
        covers::<v1::FileKeySelector>(FILE_SELECTOR);
        covers::<v1::ResourceFieldSelector>(RESOURCE_SELECTOR);
        covers::<v1::ConfigMapVolumeSource>(CONFIG_MAP_VOLUME);
        covers::<v1::SecretVolumeSource>(SECRET_VOLUME);
        covers::<v1::DownwardAPIVolumeSource>(DOWNWARD_VOLUME);
        covers::<v1::DownwardAPIVolumeFile>(DOWNWARD_FILE);
        covers::<v1::KeyToPath>(KEY_TO_PATH);
        covers::<v1::ConfigMapProjection>(KEYS_PROJECTION);
        covers::<v1::SecretProjection>(KEYS_PROJECTION);
        covers::<v1::DownwardAPIProjection>(DOWNWARD_PROJECTION);
        covers::<v1::ServiceAccountTokenProjection>(TOKEN_PROJECTION);
        covers::<v1::AppArmorProfile>(PROFILE);
        covers::<v1::SeccompProfile>(PROFILE);
        covers::<v1::Sysctl>(SYSCTL);
        covers::<v1::HostAlias>(HOST_ALIAS);
        covers::<v1::PodDNSConfig>(DNS_CONFIG);
        covers::<v1::PodDNSConfigOption>(DNS_OPTION);
        covers::<v1::HostPathVolumeSource>(HOST_PATH);
        covers::<v1::ImageVolumeSource>(IMAGE_VOLUME);
        covers::<v1::PersistentVolumeClaimVolumeSource>(CLAIM);
    }

    /// Each field that may refuse, with a value that does.
    #[test]
    fn refused_fields_are_named() {
        let pod = |field: &str, value: Value| (json!({ field: value }), format!("spec.{field}"));
        let container = |field: &str, value: Value| {
            (json!({ "containers": [{}, { field: value }] }), format!("spec.containers[1].{field}"))
        };
        let mut cases = vec![
            pod("hostUsers", json!(false)),
            pod("os", json!({"name": "windows"})),
            pod("resourceClaims", json!([{}])),
            (
                json!({"resources": {"limits": {"hugepages-2Mi": "2Mi", "cpu": "1"}, "requests": {"memory": "1"}}}),
                "spec.resources.limits.hugepages-2Mi".to_owned(),
            ),
            (
                json!({"containers": [{"lifecycle": {"stopSignal": "SIGUSR1"}}]}),
                "spec.containers[0].lifecycle.stopSignal".to_owned(),
            ),
            container("volumeDevices", json!([{}])),
            (
                json!({"containers": [{"env": [{"valueFrom": {"fileKeyRef": {"somethingNew": 1}}}]}]}),
                "spec.containers[0].env[0].valueFrom.fileKeyRef.somethingNew".to_owned(),
            ),
            (
                json!({"containers": [{"env": [{"valueFrom": {"fieldRef": {"apiVersion": "v2"}}}]}]}),
                "spec.containers[0].env[0].valueFrom.fieldRef.apiVersion".to_owned(),
            ),
            (
                json!({"volumes": [{"configMap": {"items": [{"somethingNew": 1}]}}]}),
                "spec.volumes[0].configMap.items[0].somethingNew".to_owned(),
            ),
            (
                json!({"containers": [{"resources": {"limits": {"cpu": "1", "example.com/gpu": "1"}}}]}),
                "spec.containers[0].resources.limits.example.com/gpu".to_owned(),
            ),
            (
                json!({"containers": [{"resources": {"claims": [{}]}}]}),
                "spec.containers[0].resources.claims".to_owned(),
            ),
            (json!({"volumes": [{"emptyDir": {"medium": "HugePages"}}]}), "spec.volumes[0].emptyDir.medium".to_owned()),
            (
                json!({"volumes": [{"projected": {"sources": [{"clusterTrustBundle": {}}]}}]}),
                "spec.volumes[0].projected.sources[0].clusterTrustBundle".to_owned(),
            ),
            (
                json!({"volumes": [{"projected": {"sources": [{"podCertificate": {}}]}}]}),
                "spec.volumes[0].projected.sources[0].podCertificate".to_owned(),
            ),
        ];
        cases.push((
            json!({"containers": [{"securityContext": {"procMount": "Unmasked"}}]}),
            "spec.containers[0].securityContext.procMount".to_owned(),
        ));
        cases.push((
            json!({"containers": [{"resources": {"limits": {"hugepages-2Mi": "2Mi"}}}]}),
            "spec.containers[0].resources.limits.hugepages-2Mi".to_owned(),
        ));
        for (field, verdict) in VOLUME {
            if let Refused(_) = verdict {
                cases.push((json!({"volumes": [{*field: {}}]}), format!("spec.volumes[0].{field}")));
            }
        }
        cases.push(pod("somethingNew", json!(1)));
        for (spec, path) in cases {
            let found: Vec<_> = offences(&spec).into_iter().map(|offence| offence.path).collect();
            assert_eq!(found, [path], "{spec}");
        }
    }

    #[test]
    fn many_offences_are_named_up_to_five() {
        let refused = |count: usize| {
            let containers: Vec<_> = (0..count).map(|_| json!({"volumeDevices": [{"name": "d"}]})).collect();
            match refuse_offences(&json!({ "containers": containers })) {
                Err(NotApplied::Refused { reason, message }) => (reason, message),
                other => panic!("{other:?}"),
            }
        };
        let (reason, one) = refused(1);
        assert_eq!(reason, "UnsupportedField");
        assert!(one.starts_with("spec.containers[0].volumeDevices: a device does not hand block devices to "), "{one}");
        assert!(one.contains("mount the disk on the device and use a local volume"), "{one}");
        let template = json!({"volumeClaimTemplate": {"spec": {"accessModes": ["ReadWriteOnce"]}}});
        let generic = refuse_offences(&json!({"containers": [], "volumes": [{"name": "v", "ephemeral": template}]}));
        let Err(NotApplied::Refused { message, .. }) = generic else { panic!("{generic:?}") };
        assert!(
            message.starts_with("spec.volumes[0].ephemeral: a device provides no volumes by itself: "),
            "{message}"
        );
        assert_eq!(refused(5).1.matches("spec.containers").count(), 5);
        assert!(!refused(5).1.contains("more"));
        assert!(refused(7).1.ends_with("; and 2 more"));
        assert_eq!(refuse_offences(&json!({"containers": []})), Ok(()));
        assert_eq!(refuse_offences(&json!({"containers": [], "os": {"name": "linux"}})), Ok(()));
    }

    #[test]
    fn what_an_api_server_fills_in_is_accepted() {
        let spec = json!({
            "containers": [{
                "name": "main", "image": "host", "imagePullPolicy": "IfNotPresent", "resources": {},
                "terminationMessagePath": "/dev/termination-log", "terminationMessagePolicy": "File",
                "ports": [{"containerPort": 80, "protocol": "TCP"}],
                "volumeMounts": [{"name": "kube-api-access-x", "mountPath": "/var/run/secrets", "readOnly": true}],
                "securityContext": {"privileged": false, "allowPrivilegeEscalation": true},
                "livenessProbe": null,
                "volumeDevices": [],
            }],
            "dnsPolicy": "ClusterFirst", "enableServiceLinks": true, "nodeName": "pi",
            "preemptionPolicy": "PreemptLowerPriority", "priority": 0, "restartPolicy": "Always",
            "schedulerName": "default-scheduler", "securityContext": {}, "serviceAccount": "default",
            "serviceAccountName": "default", "terminationGracePeriodSeconds": 30,
            "tolerations": [{"key": "node.kubernetes.io/not-ready", "operator": "Exists"}],
            "hostPID": false, "hostIPC": false, "hostUsers": true,
            "volumes": [{"name": "kube-api-access-x", "projected": {"defaultMode": 420, "sources": [
                {"serviceAccountToken": {"path": "token", "expirationSeconds": 3607}},
                {"configMap": {"name": "kube-root-ca.crt", "items": [{"key": "ca.crt", "path": "ca.crt"}]}},
                {"downwardAPI": {"items": [{"path": "namespace", "fieldRef": {"fieldPath": "metadata.namespace"}}]}},
            ]}}],
        });
        assert_eq!(offences(&spec), []);
    }
}

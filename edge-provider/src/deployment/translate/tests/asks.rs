//! What a pod as a whole asks for.

use hawser_wire::deployment::{
    AppArmor, Ask, ConfinementAsk, Dns, DnsBase, HostPath, HostPathKind, ImageVolume, Propagation, PullPolicy,
    ReadOnlyBelow, Resources, SeLinux,
};

use super::*;

fn asks(fields: Value) -> Vec<Ask> {
    let mut spec = with(json!({}));
    spec.as_object_mut().unwrap().extend(fields.as_object().unwrap().clone());
    deployment(spec).engine.map(|engine| engine.asks).unwrap_or_default()
}

#[test]
fn a_pod_that_asks_for_nothing_costs_nothing() {
    let usual = json!({"dnsPolicy": "ClusterFirst", "hostPID": false, "hostIPC": false, "shareProcessNamespace": false,
        "hostUsers": true, "setHostnameAsFQDN": true, "hostAliases": [], "securityContext": {"supplementalGroupsPolicy": "Merge"}});
    assert_eq!(asks(usual), []);
    assert_eq!(asks(json!({"dnsPolicy": "Default", "hostNetwork": true})), []);
}

#[test]
fn what_a_pod_asks_for_travels() {
    let all = json!({"hostPID": true, "hostIPC": true, "shareProcessNamespace": true, "subdomain": "db",
        "hostUsers": false, "setHostnameAsFQDN": true, "hostAliases": [{"ip": "192.0.2.7", "hostnames": ["a", "b"]}],
        "securityContext": {"supplementalGroupsPolicy": "Strict",
            "sysctls": [{"name": "net/ipv4/conf/eth0.1/x", "value": "1"}, {"name": "kernel.msgmax", "value": "2"}]}});
    let sysctl = |name: &str, value: &str| Ask::Sysctl { name: name.into(), value: value.into() };
    assert_eq!(
        asks(all),
        [
            Ask::HostProcesses,
            Ask::HostIpc,
            Ask::SharedProcesses,
            Ask::OwnUsers,
            sysctl("net.ipv4.conf.eth0/1.x", "1"),
            sysctl("kernel.msgmax", "2"),
            Ask::StrictGroups,
            Ask::Subdomain("db".into()),
            Ask::HostnameIsWhole,
            Ask::HostAlias { address: "192.0.2.7".into(), names: vec!["a".into(), "b".into()] },
        ]
    );
    assert_eq!(asks(json!({"hostNetwork": true, "subdomain": "db", "setHostnameAsFQDN": true})), []);
    let renamed = json!({"hostnameOverride": "other", "subdomain": "db"});
    assert_eq!(asks(renamed.clone()), []);
    let mut spec = with(json!({}));
    spec.as_object_mut().unwrap().extend(renamed.as_object().unwrap().clone());
    assert_eq!(deployment(spec).hostname.as_deref(), Some("other"));
}

#[test]
fn what_a_pod_may_use_as_a_whole_and_what_it_costs_to_have_it_travel() {
    let all = json!({"resources": {"limits": {"cpu": "500m", "memory": "64Mi"}, "requests": {"cpu": "100m"}},
        "overhead": {"cpu": "250m", "memory": "32Mi"}});
    let resources = Resources {
        cpu_request_millis: Some(100),
        cpu_limit_millis: Some(500),
        memory_limit_bytes: Some(64 << 20),
        ..Resources::default()
    };
    let overhead =
        Resources { cpu_request_millis: Some(250), memory_request_bytes: Some(32 << 20), ..Resources::default() };
    assert_eq!(asks(all), [Ask::Resources(resources), Ask::Overhead(overhead)]);
    assert_eq!(asks(json!({"resources": {}, "overhead": {}})), []);
    let mut spec = with(json!({}));
    spec["resources"] = json!({"limits": {"memory": "lots"}});
    let message = refusal(spec);
    assert!(message.starts_with("spec.resources.limits.memory: `lots` is not a quantity"), "{message}");
}

#[test]
fn names_are_resolved_as_the_pod_says() {
    let dns = |base| Dns { base, servers: vec![], searches: vec![], options: vec![] };
    for (policy, host_network, base) in [
        ("Default", false, DnsBase::Device),
        ("None", false, DnsBase::Nothing),
        ("ClusterFirstWithHostNet", true, DnsBase::Cluster),
    ] {
        assert_eq!(asks(json!({"dnsPolicy": policy, "hostNetwork": host_network})), [Ask::Dns(dns(base))]);
    }
    let config = json!({"nameservers": ["192.0.2.53"], "searches": ["lan"],
        "options": [{"name": "ndots", "value": "2"}, {"name": "edns0"}, {"value": "x"}]});
    let expected = Dns {
        servers: vec!["192.0.2.53".into()],
        searches: vec!["lan".into()],
        options: vec!["ndots:2".into(), "edns0".into()],
        ..dns(DnsBase::Cluster)
    };
    assert_eq!(asks(json!({"dnsConfig": config})), [Ask::Dns(expected)]);
    let mut spec = with(json!({}));
    spec["dnsPolicy"] = json!("Sometimes");
    assert!(refusal(spec).starts_with("spec.dnsPolicy: expected"));
}

#[test]
fn profiles_of_a_container_or_its_pod_travel() {
    let of = |own: Value, shared: Value| {
        let mut spec = with(json!({ "securityContext": own }));
        spec["securityContext"] = shared;
        deployment(spec).containers[0].confinement.clone().unwrap_or_default().asks
    };
    let local = |field: &str| json!({ field: {"type": "Localhost", "localhostProfile": "mine"} });
    assert_eq!(of(local("seccompProfile"), json!({})), [ConfinementAsk::SeccompFile("mine".into())]);
    let loaded = ConfinementAsk::AppArmor(AppArmor::Loaded("mine".into()));
    assert_eq!(of(json!({}), local("appArmorProfile")), [loaded]);
    let own = json!({"appArmorProfile": {"type": "Unconfined"}});
    assert_eq!(of(own, local("appArmorProfile")), [ConfinementAsk::AppArmor(AppArmor::None)]);
    let engine = json!({"appArmorProfile": {"type": "RuntimeDefault"}});
    assert_eq!(of(engine, json!({})), [ConfinementAsk::AppArmor(AppArmor::Engine)]);
    let label = |level: &str| json!({"seLinuxOptions": {"level": level}});
    let of_level = |level: &str| ConfinementAsk::SeLinux(SeLinux { level: level.into(), ..SeLinux::default() });
    assert_eq!(of(label("s0"), json!({})), [of_level("s0")]);
    assert_eq!(of(label("s1"), label("s0")), [of_level("s1")], "the container's own counts");
    assert_eq!(of(json!({"procMount": "Unmasked"}), json!({})), [ConfinementAsk::UnmaskedProc]);
    assert_eq!(of(json!({"procMount": "Default"}), json!({})), []);
}

#[test]
fn paths_of_the_device_are_mounted_as_the_pod_says() {
    let of = |source: Value| match deployment(mounting(json!({ "hostPath": source }))).volumes.remove(0).source {
        VolumeSource::HostPath(path) => path,
        other => panic!("{other:?}"),
    };
    let path =
        |kind| HostPath { path: "/dev/i2c-1".into(), kind, of_group: false, only_if_differs: false, local: false };
    assert_eq!(of(json!({"path": "/dev/i2c-1"})), path(HostPathKind::Any));
    for (word, kind) in [
        ("", HostPathKind::Any),
        ("Directory", HostPathKind::Directory),
        ("DirectoryOrCreate", HostPathKind::DirectoryOrCreate),
        ("File", HostPathKind::File),
        ("FileOrCreate", HostPathKind::FileOrCreate),
        ("Socket", HostPathKind::Socket),
        ("CharDevice", HostPathKind::CharDevice),
        ("BlockDevice", HostPathKind::BlockDevice),
    ] {
        assert_eq!(of(json!({"path": "/dev/i2c-1", "type": word})), path(kind));
    }
    let words = refusal(mounting(json!({"hostPath": {"path": "/", "type": "Hole"}})));
    assert_eq!(words, "spec.volumes[name=v].hostPath.type: Hole is an invalid volume type");
}

#[test]
fn images_are_mounted_as_the_pod_says() {
    let of = |source: Value| deployment(mounting(json!({ "image": source }))).volumes.remove(0).source;
    for (word, pull_policy) in
        [("Always", PullPolicy::Always), ("IfNotPresent", PullPolicy::IfNotPresent), ("Never", PullPolicy::Never)]
    {
        let image = ImageVolume { reference: "r.example/model:1".into(), pull_policy };
        let told = of(json!({"reference": "r.example/model:1", "pullPolicy": word}));
        assert_eq!(told, VolumeSource::Image(image), "{word}");
    }
}

#[test]
fn mounts_below_mounts_are_as_the_pod_says() {
    let of = |fields: Value| {
        let mut spec = mounting(json!({"emptyDir": {}}));
        spec["containers"][0]["volumeMounts"][0].as_object_mut().unwrap().extend(fields.as_object().unwrap().clone());
        let mount = deployment(spec).containers.remove(0).mounts.remove(0);
        (mount.propagation, mount.read_only_below)
    };
    assert_eq!(of(json!({"mountPropagation": "None", "recursiveReadOnly": "Disabled"})), (None, None));
    assert_eq!(of(json!({"mountPropagation": "HostToContainer"})), (Some(Propagation::FromDevice), None));
    assert_eq!(of(json!({"mountPropagation": "Bidirectional"})), (Some(Propagation::BothWays), None));
    assert_eq!(of(json!({"recursiveReadOnly": "IfPossible"})), (None, Some(ReadOnlyBelow::IfPossible)));
    assert_eq!(of(json!({"recursiveReadOnly": "Enabled"})), (None, Some(ReadOnlyBelow::Always)));
}

#[test]
fn a_class_is_what_it_stands_for_or_waited_for() {
    let spec = || {
        let mut spec = with(json!({}));
        spec["runtimeClassName"] = json!("sandboxed");
        pod(spec)
    };
    let told = |handler| {
        let pod = spec();
        translate(&Subject::of(&pod).unwrap(), &Fetched { handler, ..shop() })
    };
    let engine = told(Some(Found::Here("kata".to_owned()))).unwrap().deployment.engine.unwrap();
    assert_eq!(engine.asks, [Ask::Handler("kata".to_owned())]);
    for (found, words) in [
        (Found::Missing, "Failed to create pod sandbox: runtimeclass.node.k8s.io \"sandboxed\" not found"),
        (Found::Denied("no".to_owned()), "Failed to create pod sandbox: failed to lookup RuntimeClass sandboxed: no"),
    ] {
        let Err(NotApplied::Waiting(waiting)) = told(Some(found)) else { panic!() };
        assert_eq!((waiting.event_reason.as_str(), waiting.event_message.as_str()), ("FailedCreatePodSandBox", words));
    }
}

#[test]
fn a_claim_that_nothing_meets_is_said_as_by_a_kubelet() {
    let waiting = waits(mounting(json!({"persistentVolumeClaim": {"claimName": "data"}})));
    assert_eq!(waiting.event_reason, "FailedMount");
    assert_eq!(
        waiting.event_message,
        "Unable to attach or mount volumes: unmounted volumes=[v], unattached volumes=[], failed to process volumes=[v]: \
         error processing PVC shop/data: failed to fetch PVC from API server: persistentvolumeclaims \"data\" not found"
    );
}

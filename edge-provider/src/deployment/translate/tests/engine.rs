//! What takes a container engine.

use hawser_wire::deployment::{Confinement, HostPort, Protocol, RegistryLogin};

use super::*;

#[test]
fn confinement_travels_only_when_it_is_asked_for() {
    let of = |security: Value| main_container(json!({ "securityContext": security })).confinement;
    assert_eq!(of(json!({})), None);
    let usual = json!({"allowPrivilegeEscalation": true, "privileged": false, "readOnlyRootFilesystem": false});
    assert_eq!(of(usual), None, "what a runtime does anyway");
    let asked = json!({"allowPrivilegeEscalation": false, "privileged": true, "readOnlyRootFilesystem": true,
        "capabilities": {"add": ["NET_ADMIN"], "drop": ["ALL"]}, "seccompProfile": {"type": "RuntimeDefault"}});
    let expected = Confinement {
        privileged: true,
        read_only_root: true,
        no_new_privileges: true,
        add_capabilities: vec!["NET_ADMIN".into()],
        drop_capabilities: vec!["ALL".into()],
        seccomp: true,
        asks: vec![],
        all_calls: false,
    };
    assert_eq!(of(asked), Some(expected));
}

#[test]
fn a_container_overrides_the_pod_in_how_it_is_confined() {
    let restricted_and_open = |own: Value| {
        let mut spec = with(json!({ "securityContext": own }));
        spec["securityContext"] = json!({"seccompProfile": {"type": "RuntimeDefault"}});
        let confinement = deployment(spec).containers[0].confinement.clone().unwrap();
        (confinement.seccomp, confinement.all_calls)
    };
    assert_eq!(restricted_and_open(json!({})), (true, false));
    assert_eq!(restricted_and_open(json!({"seccompProfile": {"type": "Unconfined"}})), (false, true));
}

#[test]
fn ports_of_the_host_lead_to_the_pod() {
    let port = |port: Value, host_network: bool| {
        let mut spec = with(json!({"ports": [{"containerPort": 1}, port]}));
        spec["hostNetwork"] = json!(host_network);
        spec
    };
    let ports = |spec: Value| deployment(spec).engine.map(|engine| engine.host_ports).unwrap_or_default();
    assert_eq!(ports(port(json!({"containerPort": 80, "hostPort": 0}), false)), []);
    assert_eq!(
        ports(port(json!({"containerPort": 80, "hostPort": 8080, "protocol": "UDP", "hostIP": "192.0.2.1"}), false)),
        [HostPort { host: 8080, pod: 80, protocol: Protocol::Udp, address: Some("192.0.2.1".into()) }]
    );
    assert_eq!(ports(port(json!({"containerPort": 80, "hostPort": 80, "hostIP": "0.0.0.0"}), true))[0].address, None);
    for (value, host_network, field) in [
        (json!({"containerPort": 80, "hostPort": 81}), true, "hostPort"),
        (json!({"containerPort": 80, "hostPort": 70_000}), false, "hostPort"),
        (json!({"containerPort": 0, "hostPort": 80}), false, "containerPort"),
        (json!({"containerPort": 80, "hostPort": 80, "protocol": "ICMP"}), false, "protocol"),
    ] {
        let words = refusal(port(value, host_network));
        assert!(words.starts_with(&format!("spec.containers[0].ports[1].{field}: ")), "{words}");
    }
}

#[test]
fn logins_come_from_pull_secrets_of_both_types_and_what_is_missing_is_noted() {
    let newer = json!({"auths": {
        "r.example": {"auth": "dXNlcjpwYTpzcw=="},
        "s.example": {"username": "u", "password": "p"},
        "broken.example": {"auth": "not base64"},
        "empty.example": {},
    }});
    let older = json!({"old.example": {"username": "o", "password": "q"}});
    let mut fetched = shop();
    for (name, key, document) in [("newer", ".dockerconfigjson", newer), ("older", ".dockercfg", older)] {
        fetched.secrets.insert(name.into(), contents(&[(key, document.to_string().as_bytes())], &[]));
    }
    let mut spec = with(json!({}));
    spec["imagePullSecrets"] = json!([{"name": "newer"}, {"name": "older"}, {"name": "gone"}, {"name": "keys"}]);
    let translation = translate(&Subject::of(&pod(spec)).unwrap(), &fetched).unwrap();
    let login = |registry: &str, username: &str, password: &str| RegistryLogin {
        registry: registry.into(),
        username: username.into(),
        password: password.into(),
    };
    assert_eq!(
        translation.deployment.engine.unwrap().logins,
        [login("r.example", "user", "pa:ss"), login("s.example", "u", "p"), login("old.example", "o", "q")]
    );
    assert_eq!(translation.notices.len(), 1);
    assert_eq!(
        translation.notices[0].message,
        "Unable to retrieve some image pull secrets (gone); attempting to pull the image may not succeed."
    );
}

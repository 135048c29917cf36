//! Probes, hooks and restart rules.

use hawser_wire::deployment::{
    Action, Care, GrpcHealth, Header, HttpGet, Probe, RestartAction, RestartRule, TcpSocket,
};

use super::*;

#[track_caller]
fn care(container: Value) -> Care {
    main_container(container).care.unwrap()
}

fn ports() -> Value {
    json!([{"name": "web", "containerPort": 8080}, {"name": "grpc", "containerPort": 9000}])
}

#[test]
fn a_container_that_asks_for_nothing_costs_nothing() {
    assert_eq!(main_container(json!({})).care, None);
}

#[test]
fn a_probe_gets_the_defaults_of_the_api() {
    let given = care(json!({"livenessProbe": {"exec": {"command": ["true"]}}}));
    let expected = Probe {
        action: Action::Exec(vec!["true".into()]),
        initial_delay_seconds: 0,
        period_seconds: 10,
        timeout_seconds: 1,
        success_threshold: 1,
        failure_threshold: 3,
        grace_seconds: None,
    };
    assert_eq!(given, Care { liveness: Some(expected), ..Care::default() });
}

#[test]
fn probes_keep_all_that_they_say() {
    let given = care(json!({
        "ports": ports(),
        "livenessProbe": {"tcpSocket": {"port": "web"}, "terminationGracePeriodSeconds": 7},
        "readinessProbe": {
            "httpGet": {"scheme": "HTTPS", "host": "192.0.2.1", "port": "web", "path": "healthz?full",
                "httpHeaders": [{"name": "X-A", "value": "1"}, {"name": "X-A", "value": "2"}]},
            "initialDelaySeconds": 1, "periodSeconds": 2, "timeoutSeconds": 3, "successThreshold": 4, "failureThreshold": 5,
        },
        "startupProbe": {"grpc": {"port": 9000, "service": "store"}},
    }));
    assert_eq!(given.liveness.as_ref().unwrap().action, Action::Tcp(TcpSocket { host: None, port: 8080 }));
    assert_eq!(given.liveness.unwrap().grace_seconds, Some(7));
    let header = |value: &str| Header { name: "X-A".into(), value: value.into() };
    assert_eq!(
        given.readiness.unwrap(),
        Probe {
            action: Action::Http(HttpGet {
                https: true,
                host: Some("192.0.2.1".into()),
                port: 8080,
                path: "healthz?full".into(),
                headers: vec![header("1"), header("2")],
            }),
            initial_delay_seconds: 1,
            period_seconds: 2,
            timeout_seconds: 3,
            success_threshold: 4,
            failure_threshold: 5,
            grace_seconds: None,
        }
    );
    let health = GrpcHealth { port: 9000, service: "store".into() };
    assert_eq!(given.startup.unwrap().action, Action::Grpc(health));
}

#[test]
fn hooks_are_taken_over() {
    for (handler, expected) in [
        (
            json!({"exec": {"command": ["sh", "-c", "$(A)"]}}),
            Action::Exec(vec!["sh".into(), "-c".into(), "$(A)".into()]),
        ),
        (json!({"sleep": {"seconds": 5}}), Action::Sleep(5)),
        (json!({"tcpSocket": {"port": 1, "host": "h"}}), Action::Tcp(TcpSocket { host: Some("h".into()), port: 1 })),
    ] {
        let lifecycle =
            json!({"lifecycle": {"postStart": handler, "preStop": handler}, "env": [{"name": "A", "value": "a"}]});
        let given = care(lifecycle);
        assert_eq!((given.post_start, given.pre_stop), (Some(expected.clone()), Some(expected)));
    }
}

#[test]
fn a_probes_command_knows_the_values_that_stand_in_the_pod() {
    let given = care(json!({
        "env": [
            {"name": "A", "value": "a"},
            {"name": "B", "value": "$(A)"},
            {"name": "C", "valueFrom": {"configMapKeyRef": {"name": "settings", "key": "COLOR"}}},
        ],
        "livenessProbe": {"exec": {"command": ["$(A)", "$(B)", "x$(C)", "$(D)", "$$(A)", "$(A", "$"]}},
    }));
    let words = ["a", "$(A)", "x", "$(D)", "$(A)", "$(A", "$"].map(str::to_owned).to_vec();
    assert_eq!(given.liveness.unwrap().action, Action::Exec(words));
}

#[test]
fn restart_rules_are_taken_over() {
    let given = care(json!({
        "restartPolicy": "Never",
        "restartPolicyRules": [
            {"action": "Restart", "exitCodes": {"operator": "In", "values": [42]}},
            {"action": "RestartAllContainers", "exitCodes": {"operator": "NotIn", "values": [0, 1]}},
        ],
    }));
    assert_eq!(given.restart, Some(RestartPolicy::Never));
    assert_eq!(
        given.restart_rules,
        [
            RestartRule { codes: vec![42], not_in: false, action: RestartAction::Container },
            RestartRule { codes: vec![0, 1], not_in: true, action: RestartAction::Pod },
        ]
    );
    let sidecar = json!({"containers": [{"name": "main", "image": "host"}],
        "initContainers": [{"name": "side", "image": "host", "restartPolicy": "Always"}]});
    assert_eq!(deployment(sidecar).init_containers[0].care, None, "it is a sidecar by that, and no more");
}

#[test]
fn what_cannot_be_meant_is_refused_by_name() {
    for (container, expected) in [
        (
            json!({"livenessProbe": {"tcpSocket": {"port": "web"}}}),
            "spec.containers[0].livenessProbe.tcpSocket.port: container `main` has no port named `web`",
        ),
        (
            json!({"readinessProbe": {"httpGet": {"port": 70000}}}),
            "spec.containers[0].readinessProbe.httpGet.port: 70000 is not a port, which is 1 to 65535",
        ),
        (json!({"startupProbe": {}}), "spec.containers[0].startupProbe: it names nothing to ask"),
        (json!({"lifecycle": {"preStop": {}}}), "spec.containers[0].lifecycle.preStop: it names nothing to do"),
        (
            json!({"restartPolicyRules": [{"action": "Explode", "exitCodes": {"operator": "In"}}]}),
            "spec.containers[0].restartPolicyRules[0].action: a device does not know `Explode`",
        ),
    ] {
        assert_eq!(refusal(with(container)), expected);
    }
}

use std::collections::BTreeSet;

use k8s_openapi::api::core::v1;
use schemars::{JsonSchema, SchemaGenerator};
use serde_json::json;

use super::volumes::*;
use super::*;

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
        pod("os", json!({"name": "windows"})),
        pod("resourceClaims", json!([{}])),
        (
            json!({"resources": {"limits": {"example.com/gpu": "1", "cpu": "1"}, "requests": {"memory": "1"}}}),
            "spec.resources.limits.example.com/gpu".to_owned(),
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
        (json!({"containers": [{"resources": {"claims": [{}]}}]}), "spec.containers[0].resources.claims".to_owned()),
        (json!({"volumes": [{"emptyDir": {"medium": "Huge"}}]}), "spec.volumes[0].emptyDir.medium".to_owned()),
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
        json!({"containers": [{"securityContext": {"procMount": "Half"}}]}),
        "spec.containers[0].securityContext.procMount".to_owned(),
    ));
    cases.push((
        json!({"containers": [{"resources": {"limits": {"hugepages-2Mi": "2Mi", "hugepages": "2Mi"}}}]}),
        "spec.containers[0].resources.limits.hugepages".to_owned(),
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
    assert!(message.starts_with("spec.volumes[0].ephemeral: a device provides no volumes by itself: "), "{message}");
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

use k8s_openapi::DeepMerge;
use serde_json::json;

use super::*;
use crate::deployment::node::tests::node;

fn claim(change: Value) -> Claim {
    let mut claim: PersistentVolumeClaim = serde_json::from_value(json!({
        "metadata": {"name": "data", "uid": "claim-1"},
        "spec": {"volumeName": "disk"}, "status": {"phase": "Bound"},
    }))
    .unwrap();
    claim.merge_from(serde_json::from_value(change).unwrap());
    claim.into()
}

fn volume(spec: Value) -> Volume {
    let mut all = json!({"claimRef": {"uid": "claim-1"}, "capacity": {"storage": "1Gi"}, "accessModes": ["ReadWriteOnce"],
        "persistentVolumeReclaimPolicy": "Retain", "storageClassName": "local"});
    all.as_object_mut().unwrap().extend(spec.as_object().unwrap().clone());
    let volume: PersistentVolume = serde_json::from_value(json!({"metadata": {"name": "disk"}, "spec": all})).unwrap();
    volume.into()
}

fn local() -> Value {
    json!({"local": {"path": "/mnt/data"}})
}

fn storage(claim: Claim, volume: Volume) -> Storage {
    Storage { claim: Found::Here(claim), volume: Some(Found::Here(volume)), node: None }
}

fn used(found: &Storage, read_only: bool) -> Result<HostPath, NoStorage> {
    on_device(found, ("shop", "data"), "v", read_only)
}

#[test]
fn a_claim_is_met_by_a_path_of_the_device() {
    let path = |path: &str, kind, of_group, local| {
        Ok(HostPath { path: path.to_owned(), kind, of_group, only_if_differs: false, local })
    };
    for (spec, read_only, expected) in [
        (local(), false, path("/mnt/data", HostPathKind::Directory, true, true)),
        (local(), true, path("/mnt/data", HostPathKind::Directory, false, true)),
        (json!({"hostPath": {"path": "/srv"}}), false, path("/srv", HostPathKind::Any, false, false)),
        (
            json!({"hostPath": {"path": "/srv", "type": "DirectoryOrCreate"}}),
            false,
            path("/srv", HostPathKind::DirectoryOrCreate, false, false),
        ),
    ] {
        assert_eq!(used(&storage(claim(json!({})), volume(spec.clone())), read_only), expected, "{spec}");
    }
}

#[test]
fn a_claim_that_is_not_ready_is_waited_for_in_a_kubelets_words() {
    let words = |found: &Storage| match used(found, false) {
        Err(NoStorage::NotYet(words)) => words,
        other => panic!("{other:?}"),
    };
    let found = |change| storage(claim(change), volume(local()));
    let only = |claim| Storage { claim, volume: None, node: None };
    let of = |spec| storage(claim(json!({})), volume(spec));
    let gone = "2026-11-21T12:00:00Z";
    for (found, expected) in [
        (only(Found::Missing), "failed to fetch PVC from API server: persistentvolumeclaims \"data\" not found"),
        (only(Found::Denied("forbidden".into())), "failed to fetch PVC from API server: forbidden"),
        (found(json!({"status": {"phase": "Pending"}})), "PVC is not bound"),
        (found(json!({"spec": {"volumeName": ""}})), "PVC has empty pvc.Spec.VolumeName"),
        (found(json!({"metadata": {"deletionTimestamp": gone}})), "PVC is being deleted"),
        (
            only(Found::Here(claim(json!({})))),
            "failed to fetch PV disk from API server: persistentvolumes \"disk\" not found",
        ),
        (
            of(json!({"local": {"path": "/x"}, "claimRef": null})),
            "found PV object disk but it has a nil pv.Spec.ClaimRef indicating it is not yet bound to the claim",
        ),
        (
            of(json!({"local": {"path": "/x"}, "claimRef": {"uid": "other"}})),
            "found PV object disk but its pv.Spec.ClaimRef.UID other does not point to claim.UID claim-1",
        ),
    ] {
        assert_eq!(words(&found), format!("error processing PVC shop/data: {expected}"));
    }
    let protected = json!({"metadata": {"deletionTimestamp": gone, "finalizers": ["kubernetes.io/pvc-protection"]}});
    assert!(used(&found(protected), false).is_ok(), "it goes when its pods have gone");
    let block = of(json!({"local": {"path": "/dev/sda"}, "volumeMode": "Block"}));
    assert_eq!(words(&block), "volume v has volumeMode Block, but is specified in volumeMounts");
}

#[test]
fn storage_that_a_device_does_not_have_is_refused_by_its_kind() {
    for (spec, words) in [
        (
            json!({"nfs": {"server": "s", "path": "/"}}),
            "its volume disk is of the kind nfs, and a device has local volumes and hostPath only",
        ),
        (
            json!({"csi": {"driver": "d", "volumeHandle": "h"}}),
            "its volume disk is of the kind csi, and a device has local volumes and hostPath only",
        ),
        (
            json!({"hostPath": {"path": "/x", "type": "Odd"}}),
            "its volume disk is of type Odd, which is an invalid volume type",
        ),
        (
            json!({"local": {"path": "/x"}, "mountOptions": ["noatime"]}),
            "its volume disk has mountOptions, which a device does not apply",
        ),
    ] {
        assert_eq!(used(&storage(claim(json!({})), volume(spec)), false), Err(NoStorage::Never(words.to_owned())));
    }
}

#[test]
fn a_volume_of_another_node_is_not_here() {
    let term = |key: &str, operator: &str, values: Value| json!({"key": key, "operator": operator, "values": values});
    let on = |terms: Value| {
        volume(json!({"local": {"path": "/x"}, "nodeAffinity": {"required": {"nodeSelectorTerms": terms}}}))
    };
    let name = "kubernetes.io/hostname";
    let here = node("gw-1", json!({name: "gw-1", "disk": "ssd", "slots": "4"}), json!([]));
    let fits = |terms: Value| {
        let node = Some(Found::Here(Arc::new(here.clone())));
        used(&Storage { node, ..storage(claim(json!({})), on(terms)) }, false)
    };
    let all = |list: Value| json!([{ "matchExpressions": list }]);
    for (terms, expected) in [
        (all(json!([term(name, "In", json!(["gw-1", "gw-2"]))])), true),
        (all(json!([term(name, "In", json!(["gw-2"]))])), false),
        (all(json!([term(name, "In", json!(["gw-1"])), term("disk", "NotIn", json!(["ssd"]))])), false),
        (
            json!([{"matchExpressions": [term(name, "In", json!(["gw-2"]))]},
            {"matchExpressions": [term("disk", "Exists", Value::Null)]}]),
            true,
        ),
        (all(json!([term("none", "DoesNotExist", Value::Null)])), true),
        (all(json!([term("slots", "Gt", json!(["3"]))])), true),
        (all(json!([term("slots", "Lt", json!(["4"]))])), false),
        (all(json!([term("disk", "Gt", json!(["3"]))])), false),
        (json!([{}]), false),
        (json!([]), false),
    ] {
        assert_eq!(fits(terms.clone()).is_ok(), expected, "{terms}");
    }
    let elsewhere = fits(all(json!([term(name, "In", json!(["gw-2"]))])));
    let why = "no matching NodeSelectorTerms".to_owned();
    assert_eq!(elsewhere, Err(NoStorage::NotHere { volume: "disk".to_owned(), why }));
}

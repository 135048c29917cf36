//! Huge pages of containers, of pods as a whole, and volumes in them.

use hawser_wire::deployment::{Ask, EmptyDir, HugePages, HugePagesDir};

use super::*;

const TWO: u64 = 2 << 20;
const GIB: u64 = 1 << 30;

/// A pod with these resources that mounts an emptyDir.
fn of(resources: Value, medium: &str, limit: Option<&str>) -> Value {
    let mut spec = mounting(json!({"emptyDir": {"medium": medium, "sizeLimit": limit}}));
    spec["containers"][0]["resources"] = resources;
    spec
}

#[test]
fn what_may_be_used_travels_for_each_container_and_for_the_pod() {
    let pages = |container: Option<&str>, page_bytes, bytes| {
        Ask::HugePages(HugePages { container: container.map(str::to_owned), page_bytes, bytes })
    };
    let mut spec = with(json!({"resources": {"limits": {"cpu": "1", "hugepages-2Mi": "6Mi", "hugepages-1Gi": "1Gi",
        "hugepages-64Ki": "0"}}}));
    spec["initContainers"] =
        json!([{"name": "first", "image": "host", "resources": {"limits": {"hugepages-2048Ki": "2Mi"}}}]);
    spec["resources"] = json!({"limits": {"hugepages-2Mi": "8Mi"}, "requests": {"hugepages-2Mi": "8Mi"}});
    let asks = deployment(spec).engine.unwrap().asks;
    let expected = [
        pages(Some("first"), TWO, TWO),
        pages(Some("main"), GIB, GIB),
        pages(Some("main"), TWO, 6 << 20),
        pages(None, TWO, 8 << 20),
    ];
    assert_eq!(asks, expected);
    let wrong = with(json!({"resources": {"limits": {"hugepages-big": "2Mi"}}}));
    assert!(refusal(wrong).starts_with("spec.containers[0].resources.limits.hugepages-big: `big` is not a quantity"));
}

#[test]
fn a_volume_is_in_the_pages_that_the_pod_asks_for() {
    let two = json!({"limits": {"hugepages-2Mi": "8Mi"}});
    let both = json!({"requests": {"hugepages-2Mi": "8Mi", "hugepages-1Gi": "1Gi"}});
    let volume = |spec: Value| deployment(spec).volumes.remove(0).source;
    let dir = |page_bytes, size_limit| VolumeSource::HugePages(HugePagesDir { page_bytes, size_limit });
    for (resources, medium, limit, expected) in [
        (&two, "HugePages", None, dir(TWO, None)),
        (&two, "HugePages-2Mi", Some("4Mi"), dir(TWO, Some(4 << 20))),
        (&both, "HugePages-1Gi", Some("0"), dir(GIB, None)),
        (&two, "", None, VolumeSource::EmptyDir(EmptyDir { memory: false, size_limit: None })),
    ] {
        assert_eq!(volume(of(resources.clone(), medium, limit)), expected, "{medium}");
    }
    for (resources, medium, words) in [
        (
            json!({}),
            "HugePages",
            "medium HugePages: hugePages storage requested, but there is no resource request for huge pages",
        ),
        (
            two,
            "HugePages-1Gi",
            "medium HugePages-1Gi: hugePages storage requested, but there is no resource request for huge pages",
        ),
        (both, "HugePages", "medium: HugePages can't be used if container requests multiple huge page sizes"),
    ] {
        let waiting = waits(of(resources, medium, None));
        assert_eq!(waiting.event_reason, "FailedMount");
        assert_eq!(waiting.event_message, format!("MountVolume.SetUp failed for volume \"v\" : {words}"));
    }
    assert!(
        waits(of(json!({}), "HugePages-big", None))
            .event_message
            .contains("medium HugePages-big: `big` is not a quantity")
    );
}

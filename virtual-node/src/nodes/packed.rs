//! A value that is kept for long and looked at rarely: as its JSON instead of as maps and strings.

use std::marker::PhantomData;
use std::sync::Arc;

use serde::Serialize;
use serde::de::DeserializeOwned;

/// The bytes of a `T`. A node's template and report cost a quarter of what they cost unpacked, and there is one of each
/// per node for as long as the node lives. Cheap to clone; equal values have equal bytes, since maps are sorted.
#[derive(Debug)]
pub(crate) struct Packed<T> {
    bytes: Arc<[u8]>,
    of: PhantomData<fn() -> T>,
}

impl<T: Serialize + DeserializeOwned> Packed<T> {
    /// Packs a value that has nothing but strings, numbers, lists and maps with strings for keys.
    pub(crate) fn new(value: &T) -> Self {
        let bytes = serde_json::to_vec(value).expect("strings, numbers, lists and maps of strings can be encoded");
        Self { bytes: bytes.into(), of: PhantomData }
    }

    /// The value again.
    pub(crate) fn get(&self) -> T {
        serde_json::from_slice(&self.bytes).expect("what was packed can be unpacked")
    }
}

impl<T> Clone for Packed<T> {
    fn clone(&self) -> Self {
        Self { bytes: Arc::clone(&self.bytes), of: PhantomData }
    }
}

impl<T> PartialEq for Packed<T> {
    fn eq(&self, other: &Self) -> bool {
        self.bytes == other.bytes
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::provider::{ConditionReport, NodeReport, NodeTemplate};
    use k8s_openapi::api::core::v1::{ContainerImage, NodeAddress, NodeSystemInfo, Taint};
    use k8s_openapi::apimachinery::pkg::api::resource::Quantity;
    use k8s_openapi::apimachinery::pkg::apis::meta::v1::OwnerReference;

    #[test]
    fn what_is_packed_comes_out_as_it_was() {
        let text = str::to_owned;
        let template = NodeTemplate {
            labels: [(text("a"), text("1")), (text("b"), String::new())].into(),
            annotations: [(text("x"), text("\u{1f40b} \"quoted\""))].into(),
            taints: vec![Taint { key: text("k"), effect: text("NoSchedule"), value: None, time_added: None }],
            owner: Some(OwnerReference { name: text("pi"), uid: text("u"), ..OwnerReference::default() }),
            provider_id: Some(text("hawser://pi")),
        };
        for template in [template, NodeTemplate::default()] {
            let packed = Packed::new(&template);
            assert_eq!(packed.get(), template);
            assert!(packed == Packed::new(&template.clone()));
        }
        let report = NodeReport {
            capacity: [(text("cpu"), Quantity(text("4")))].into(),
            allocatable: [(text("memory"), Quantity(text("1Gi")))].into(),
            node_info: NodeSystemInfo { kernel_version: text("6.12"), ..NodeSystemInfo::default() },
            addresses: vec![NodeAddress { type_: text("InternalIP"), address: text("192.0.2.1") }],
            images: vec![ContainerImage { names: Some(vec![text("busybox")]), size_bytes: Some(7) }],
            conditions: [Some(true), Some(false), None]
                .map(|status| ConditionReport { kind: text("C"), status, reason: text("R"), message: text("m") })
                .to_vec(),
            declared_features: vec![text("F")],
        };
        for report in [report, NodeReport::default()] {
            assert_eq!(Packed::new(&report).get(), report);
        }
        assert!(
            Packed::new(&NodeTemplate::default())
                != Packed::new(&NodeTemplate { provider_id: Some(text("x")), ..NodeTemplate::default() })
        );
    }
}

//! What the Node of a device looks like. Pure.

use std::collections::BTreeMap;

use k8s_openapi::api::core::v1::Taint;
use k8s_openapi::apimachinery::pkg::apis::meta::v1::OwnerReference;
use virtual_node::provider::NodeTemplate;

use super::record::DeviceRecord;
use crate::device::DEVICE_TAINT;

/// What only the device knows.
#[derive(Debug, Clone, Default, PartialEq, Eq)]
pub struct Platform {
    /// In Go's spelling.
    pub arch: String,
    /// In Go's spelling.
    pub os: String,
}

/// The template of a device's Node.
///
/// `kubernetes.io/hostname` is the Node's name rather than the device's own host name: boards cloned from one image share
/// a host name, and spreading pods over "hosts" needs the label to be unique. A device that was known to an earlier
/// bridge keeps its platform labels while it has not been heard yet: losing them would make a DaemonSet that selects by
/// them delete its pods.
pub fn template(record: &DeviceRecord, platform: Option<&Platform>) -> NodeTemplate {
    let name = record.id.as_str();
    let mut labels = record.labels.clone();
    let mut set = |key: &str, value: &str| drop(labels.insert(key.to_owned(), value.to_owned()));
    set("kubernetes.io/hostname", name);
    set("hawser.dev/device", name);
    set("type", "virtual-kubelet");
    set("node-role.kubernetes.io/edge", "");
    match (platform, &record.architecture) {
        (Some(platform), _) if is_label_value(&platform.arch) && is_label_value(&platform.os) => {
            set("kubernetes.io/arch", &platform.arch);
            set("kubernetes.io/os", &platform.os);
        }
        (_, Some(arch)) if is_label_value(arch) => {
            set("kubernetes.io/arch", arch);
            set("kubernetes.io/os", "linux");
        }
        _ => {}
    }
    NodeTemplate {
        labels,
        annotations: BTreeMap::new(),
        taints: record.taints.clone().unwrap_or_else(default_taints),
        owner: Some(OwnerReference {
            api_version: "hawser.dev/v1alpha1".to_owned(),
            kind: "Device".to_owned(),
            name: name.to_owned(),
            uid: record.uid.clone(),
            ..OwnerReference::default()
        }),
        provider_id: Some(format!("hawser://{name}")),
    }
}

fn default_taints() -> Vec<Taint> {
    vec![Taint { key: DEVICE_TAINT.to_owned(), effect: "NoSchedule".to_owned(), ..Taint::default() }]
}

/// A device's words become labels, and the API server would refuse the whole Node over one bad label.
fn is_label_value(text: &str) -> bool {
    (1..=63).contains(&text.len()) && text.bytes().all(|b| b.is_ascii_alphanumeric())
}

#[cfg(test)]
mod tests {
    use super::*;

    fn labels(record: &DeviceRecord, platform: Option<&Platform>) -> BTreeMap<String, String> {
        template(record, platform).labels
    }

    #[test]
    fn our_labels_cannot_be_overridden_by_the_operators() {
        let mut record = DeviceRecord::for_test("pi");
        record.labels.insert("kubernetes.io/hostname".to_owned(), "x".to_owned());
        record.labels.insert("site".to_owned(), "7".to_owned());
        let labels = labels(&record, None);
        assert_eq!(labels["kubernetes.io/hostname"], "pi");
        assert_eq!(labels["site"], "7");
        assert!(!labels.contains_key("kubernetes.io/arch"));
    }

    #[test]
    fn platform_labels_survive_a_restart_of_the_bridge() {
        let mut record = DeviceRecord::for_test("pi");
        let platform = Platform { arch: "arm64".to_owned(), os: "linux".to_owned() };
        let known = labels(&record, Some(&platform));
        record.architecture = Some("arm64".to_owned());
        assert_eq!(labels(&record, None), known);
    }

    #[test]
    fn a_device_cannot_break_its_node_with_an_odd_word() {
        let record = DeviceRecord::for_test("pi");
        let platform = Platform { arch: "arm 64\n".to_owned(), os: "linux".to_owned() };
        assert_eq!(labels(&record, Some(&platform)), labels(&record, None));
    }

    #[test]
    fn taints_are_the_default_unless_given() {
        let mut record = DeviceRecord::for_test("pi");
        assert_eq!(template(&record, None).taints, default_taints());
        record.taints = Some(Vec::new());
        assert!(template(&record, None).taints.is_empty());
    }
}

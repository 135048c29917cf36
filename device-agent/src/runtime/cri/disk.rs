//! What a pod takes of the device's disk: its places, and what the engine says that its containers write into files of their
//! own.

use std::sync::Arc;

use hawser_cri::{CallError, ContainerStats, ErrorKind};
use hawser_wire::deployment::EdgeDeployment;

use super::{Cri, labels};
use crate::runtime::{DiskUse, RuntimeError, Space};

/// How often the engine is asked. One that meets a container which is just ending gives up on all of them.
const TRIES: u32 = 3;

impl Cri {
    pub(super) async fn look_at_disk(&self, pod: Arc<EdgeDeployment>) -> Result<DiskUse, RuntimeError> {
        let (places, of) = (self.0.places.clone(), pod.clone());
        let mut used = self.blocking(move || places.disk_use(&of)).await?;
        match self.layers(&pod).await {
            Ok(stats) => add_layers(&mut used, &stats),
            // The limits of volumes hold all the same.
            Err(error) => {
                tracing::warn!(pod = %pod.uid, %error, "what containers write into their own files is not known")
            }
        }
        Ok(used)
    }

    async fn layers(&self, pod: &EdgeDeployment) -> Result<Vec<ContainerStats>, CallError> {
        let mut tries = 1;
        loop {
            match self.0.client.list_container_stats(labels::of_pod(self.device(), &pod.uid)).await {
                Err(CallError { kind: ErrorKind::Refused, .. }) if tries < TRIES => tries += 1,
                told => return told,
            }
        }
    }
}

fn add_layers(used: &mut DiskUse, stats: &[ContainerStats]) {
    for told in stats {
        let Some(name) = told.attributes.as_ref().and_then(labels::name) else { continue };
        let Some(layer) = &told.writable_layer else { continue };
        let number = |value: Option<hawser_cri::UInt64Value>| value.map_or(0, |value| value.value);
        let space = Space { bytes: number(layer.used_bytes), inodes: number(layer.inodes_used) };
        *used.containers.entry(name.to_owned()).or_default() += space;
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use hawser_cri::{ContainerAttributes, FilesystemUsage, UInt64Value};

    #[test]
    fn layers_are_added_to_what_is_known_of_a_container() {
        let layer = |name: &str, bytes| {
            let all = crate::runtime::cri::samples::container();
            let of = hawser_wire::deployment::Container { name: name.into(), ..all };
            let labels = labels::container("boat", &crate::runtime::cri::samples::pod(), &of);
            let written = FilesystemUsage {
                used_bytes: Some(UInt64Value { value: bytes }),
                inodes_used: Some(UInt64Value { value: 2 }),
                ..FilesystemUsage::default()
            };
            ContainerStats {
                attributes: Some(ContainerAttributes { labels, ..ContainerAttributes::default() }),
                writable_layer: Some(written),
                ..ContainerStats::default()
            }
        };
        let mut used = DiskUse::default();
        used.containers.insert("web".into(), Space { bytes: 5, inodes: 1 });
        let silent = ContainerStats { writable_layer: None, ..layer("web", 1_000) };
        add_layers(&mut used, &[layer("web", 10), layer("db", u64::MAX), layer("db", 1), silent]);
        assert_eq!(used.containers["web"], Space { bytes: 15, inodes: 3 });
        assert_eq!(used.containers["db"], Space { bytes: u64::MAX, inodes: 4 });
    }
}

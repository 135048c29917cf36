//! What a pod takes of the device's disk: its places, and what the engine says that its containers write into files of their
//! own.

use std::path::Path;
use std::sync::Arc;

use hawser_cri::{CallError, ContainerStats, ErrorKind, UInt64Value};
use hawser_wire::deployment::EdgeDeployment;
use hawser_wire::stream::FileSystem;

use super::{Cri, labels};
use crate::runtime::volumes::space;
use crate::runtime::{DiskUse, FileSystems, RuntimeError, Space};

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

    pub(super) async fn look_at_file_systems(&self) -> Option<FileSystems> {
        let places = self.0.places.clone();
        let node = self.blocking(move || places.file_system()).await?;
        let images = match self.0.client.image_fs_info().await {
            // Of several, the first: a kubelet reads no other.
            Ok(told) => told.image_filesystems.into_iter().next(),
            Err(error) => {
                tracing::debug!(%error, "what images take of the disk is not known");
                None
            }
        };
        let images = images.and_then(|told| {
            let place = told.fs_id?.mountpoint;
            let used = space_of(told.used_bytes, told.inodes_used);
            Some((place, hawser_wire::stream::Space { bytes: used.bytes, inodes: used.inodes }))
        });
        let of_images = |(place, used)| Some(FileSystem { used, ..space::file_system(Path::new(&place))? });
        Some(FileSystems { node, images: self.blocking(move || images.and_then(of_images)).await })
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
        *used.containers.entry(name.to_owned()).or_default() += space_of(layer.used_bytes, layer.inodes_used);
    }
}

fn space_of(bytes: Option<UInt64Value>, inodes: Option<UInt64Value>) -> Space {
    let number = |value: Option<UInt64Value>| value.map_or(0, |value| value.value);
    Space { bytes: number(bytes), inodes: number(inodes) }
}

#[cfg(test)]
mod tests {
    use super::*;
    use hawser_cri::{ContainerAttributes, FilesystemUsage};

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

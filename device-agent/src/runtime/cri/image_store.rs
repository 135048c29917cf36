//! The engine's images and the disk that holds them.

use std::collections::BTreeSet;
use std::path::PathBuf;

use hawser_cri::{CallError, ErrorKind, Image, ImageFsInfoResponse, Labels};

use super::{Cri, failure};
use crate::runtime::{ImageStore, RuntimeError, StoredImage};

impl Cri {
    pub(super) async fn look_at_images(&self, wanted: &BTreeSet<String>) -> Result<ImageStore, RuntimeError> {
        self.images_and_room(wanted).await.map_err(|error| failure("look at the engine's images", error))
    }

    /// A directory on the disk that holds images and what containers write.
    pub(super) async fn image_place(&self) -> Option<PathBuf> {
        self.0.client.image_fs_info().await.ok().and_then(place)
    }

    async fn images_and_room(&self, wanted: &BTreeSet<String>) -> Result<ImageStore, CallError> {
        let client = &self.0.client;
        let place = place(client.image_fs_info().await?);
        let disk = place.and_then(|place| rustix::fs::statvfs(place).ok());
        let (total, available) =
            disk.map_or((0, 0), |disk| (disk.f_blocks * disk.f_frsize, disk.f_bavail * disk.f_frsize));
        let images = client.list_images().await?;
        // Those of everybody on this engine: an image in use is in use.
        let mut used: BTreeSet<String> = BTreeSet::new();
        for container in client.list_containers(Labels::new()).await? {
            // What it mounts is told of it alone. One that has gone meanwhile uses nothing.
            let status = match client.container_status(&container.id, false).await {
                Err(error) if error.kind == ErrorKind::NotFound => None,
                told => told?.status,
            };
            let mounts = status.into_iter().flat_map(|status| status.mounts);
            used.extend(mounts.filter_map(|mount| mount.image).map(|image| image.image));
            used.insert(container.image_ref);
        }
        // The engine knows best which image a name means.
        for name in wanted {
            used.extend(client.image_status(name).await?.map(|image| image.id));
        }
        let kept = match sandbox_image(&client.status(true).await?.info) {
            Some(name) => client.image_status(&name).await?.map(|image| image.id),
            None => None,
        };
        Ok(ImageStore { total, available, images: describe(images, &used, kept.as_deref()) })
    }
}

fn place(told: ImageFsInfoResponse) -> Option<PathBuf> {
    told.image_filesystems.into_iter().find_map(|usage| usage.fs_id).map(|id| id.mountpoint.into())
}

/// The image of sandboxes, of which an engine before 2023 does not say that it needs it. A device without its registry
/// could make no pod any more.
fn sandbox_image(info: &Labels) -> Option<String> {
    let config: serde_json::Value = serde_json::from_str(info.get("config")?).ok()?;
    Some(config.get("sandboxImage")?.as_str()?.to_owned())
}

fn describe(images: Vec<Image>, used: &BTreeSet<String>, kept: Option<&str>) -> Vec<StoredImage> {
    let stored = |image: Image| {
        let mut names = image.repo_tags.iter().chain(&image.repo_digests);
        let in_use = used.contains(&image.id) || names.clone().any(|name| used.contains(name));
        StoredImage {
            name: names.next().unwrap_or(&image.id).clone(),
            bytes: image.size,
            in_use,
            kept: image.pinned || kept == Some(image.id.as_str()),
            id: image.id,
        }
    };
    images.into_iter().map(stored).collect()
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn an_image_is_in_use_by_its_identity_or_by_any_of_its_names() {
        let image = |id: &str, tag: &str, digest: &str| Image {
            id: id.into(),
            repo_tags: vec![tag.into()],
            repo_digests: vec![digest.into()],
            ..Image::default()
        };
        let images = vec![
            image("sha256:1", "r.example/a:1", "r.example/a@sha256:a"),
            image("sha256:2", "r.example/b:1", "r.example/b@sha256:b"),
            image("sha256:3", "r.example/c:1", "r.example/c@sha256:c"),
            Image { pinned: true, ..image("sha256:4", "r.example/d:1", "r.example/d@sha256:d") },
            image("sha256:5", "r.example/pause:1", "r.example/pause@sha256:e"),
        ];
        let used = ["sha256:1".to_owned(), "r.example/b@sha256:b".to_owned(), String::new()].into();
        let told = describe(images, &used, Some("sha256:5"));
        let marks: Vec<_> = told.iter().map(|image| (image.name.as_str(), image.in_use, image.kept)).collect();
        assert_eq!(
            marks,
            [
                ("r.example/a:1", true, false),
                ("r.example/b:1", true, false),
                ("r.example/c:1", false, false),
                ("r.example/d:1", false, true),
                ("r.example/pause:1", false, true),
            ]
        );
    }

    #[test]
    fn the_image_of_sandboxes_is_read_from_what_the_engine_says() {
        let told = Labels::from([("config".to_owned(), r#"{"sandboxImage":"r.example/pause:3","x":1}"#.to_owned())]);
        assert_eq!(sandbox_image(&told).as_deref(), Some("r.example/pause:3"));
        for other in ["", "{}", r#"{"sandboxImage":7}"#] {
            assert_eq!(sandbox_image(&Labels::from([("config".to_owned(), other.to_owned())])), None);
        }
        assert_eq!(sandbox_image(&Labels::new()), None);
    }
}

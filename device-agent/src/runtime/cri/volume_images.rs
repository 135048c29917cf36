//! Images as volumes: the engine mounts them, if it can.

use std::collections::BTreeMap;
use std::io;

use hawser_cri::{Image, ImageSpec, VersionResponse};
use hawser_wire::deployment::{Container, EdgeDeployment, VolumeSource};

use super::{Cri, failure};
use crate::runtime::{RuntimeError, StartError};

/// Since which version an engine mounts images, and since which one only parts of them. An engine does not tell, and one
/// that is too old mounts all of an image where a part was asked for.
const SINCE: &[(&str, Version, Version)] = &[("containerd", (2, 1), (2, 2)), ("cri-o", (1, 31), (1, 33))];

type Version = (u32, u32);

impl Cri {
    /// The images that a container mounts, by volume. They have been fetched.
    pub(super) async fn mounted_images(
        &self,
        pod: &EdgeDeployment,
        container: &Container,
    ) -> Result<BTreeMap<String, ImageSpec>, StartError> {
        let mut images = BTreeMap::new();
        for mount in &container.mounts {
            let volume = pod.volumes.iter().find(|volume| volume.name == mount.volume);
            let Some(VolumeSource::Image(wanted)) = volume.map(|volume| &volume.source) else { continue };
            // Asked each time: the engine may have become another since the agent was started.
            let engine = self.0.client.version().await;
            let engine =
                engine.map_err(|error| StartError::NotCreated(failure("ask for the engine's version", error)))?;
            check(&engine, mount.sub_path.is_some()).map_err(|why| {
                let operation = format!("mount image {} as volume {}", wanted.reference, mount.volume);
                StartError::NotCreated(RuntimeError {
                    operation,
                    source: io::Error::new(io::ErrorKind::Unsupported, why),
                })
            })?;
            let image = self.present(&wanted.reference).await?;
            let spec = ImageSpec { image: image.id, user_specified_image: wanted.reference.clone() };
            images.insert(mount.volume.clone(), spec);
        }
        Ok(images)
    }

    /// An image that has to be on the device by now.
    pub(super) async fn present(&self, name: &str) -> Result<Image, StartError> {
        let found = self.0.client.image_status(name).await;
        let found = found.map_err(|error| StartError::NotCreated(failure("look at the image", error)))?;
        found.ok_or_else(|| {
            let error = io::Error::new(io::ErrorKind::NotFound, "it is not on the device any more");
            StartError::NotCreated(RuntimeError { operation: format!("use image {name}"), source: error })
        })
    }
}

/// Whether an engine mounts images, or a part of one; why not, and what would. One that nobody knows is let try.
fn check(engine: &VersionResponse, part: bool) -> Result<(), String> {
    let VersionResponse { runtime_name: name, runtime_version: told, .. } = engine;
    let (Some((_, whole, parts)), Some(version)) = (SINCE.iter().find(|(known, ..)| known == name), version(told))
    else {
        return Ok(());
    };
    let (what, since) = if part { ("parts of images", *parts) } else { ("images", *whole) };
    if version >= since {
        return Ok(());
    }
    Err(format!("{name} {told} cannot mount {what} (that takes {name} {}.{} or later)", since.0, since.1))
}

/// `1.6.20~ds1` and `v2.4.2` are what engines call themselves.
fn version(told: &str) -> Option<Version> {
    let mut parts = told.trim_start_matches('v').split('.');
    Some((parts.next()?.parse().ok()?, parts.next()?.parse().ok()?))
}

#[cfg(test)]
mod tests {
    use super::*;

    fn engine(name: &str, version: &str) -> VersionResponse {
        VersionResponse { runtime_name: name.into(), runtime_version: version.into(), ..VersionResponse::default() }
    }

    #[test]
    fn an_engine_that_cannot_mount_images_is_told_apart_by_its_version() {
        for (name, version, whole, part) in [
            ("containerd", "1.6.20~ds1", false, false),
            ("containerd", "1.7.29", false, false),
            ("containerd", "v2.0.14", false, false),
            ("containerd", "v2.1.9", true, false),
            ("containerd", "2.2.1", true, true),
            ("containerd", "v10.0.0", true, true),
            ("cri-o", "1.30.4", false, false),
            ("cri-o", "1.31.0", true, false),
            ("cri-o", "1.37.0", true, true),
            // Nobody knows; the engine will say.
            ("containerd", "dev", true, true),
            ("other", "0.1.0", true, true),
        ] {
            let engine = engine(name, version);
            assert_eq!(
                (check(&engine, false).is_ok(), check(&engine, true).is_ok()),
                (whole, part),
                "{name} {version}"
            );
        }
        let words = check(&engine("containerd", "v2.1.9"), true).unwrap_err();
        assert_eq!(words, "containerd v2.1.9 cannot mount parts of images (that takes containerd 2.2 or later)");
    }
}

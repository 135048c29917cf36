//! Images.

use super::{Int64Value, PodSandboxConfig, UInt64Value};
use prost::Message;

/// An image.
#[derive(Clone, PartialEq, Message)]
pub struct ImageSpec {
    /// Its name or identity.
    #[prost(string, tag = "1")]
    pub image: String,
    /// Its name as written in the pod.
    #[prost(string, tag = "18")]
    pub user_specified_image: String,
}

/// The images.
#[derive(Clone, PartialEq, Message)]
pub struct ListImagesResponse {
    /// One each.
    #[prost(message, repeated, tag = "1")]
    pub images: Vec<Image>,
}

/// An image on the device.
#[derive(Clone, PartialEq, Message)]
pub struct Image {
    /// The identity of its configuration.
    #[prost(string, tag = "1")]
    pub id: String,
    /// Its names with tags.
    #[prost(string, repeated, tag = "2")]
    pub repo_tags: Vec<String>,
    /// Its names with digests.
    #[prost(string, repeated, tag = "3")]
    pub repo_digests: Vec<String>,
    /// Its size in bytes.
    #[prost(uint64, tag = "4")]
    pub size: u64,
    /// The user that it runs as, if that is a number.
    #[prost(message, optional, tag = "5")]
    pub uid: Option<Int64Value>,
    /// The user that it runs as, if that is a name.
    #[prost(string, tag = "6")]
    pub username: String,
    /// Whether the engine itself needs it; engines before 2023 do not say.
    #[prost(bool, tag = "8")]
    pub pinned: bool,
}

/// Remove an image.
#[derive(Clone, PartialEq, Message)]
pub struct RemoveImageRequest {
    /// Which one.
    #[prost(message, optional, tag = "1")]
    pub image: Option<ImageSpec>,
}

/// Where images are.
#[derive(Clone, PartialEq, Message)]
pub struct ImageFsInfoResponse {
    /// The file systems with images.
    #[prost(message, repeated, tag = "1")]
    pub image_filesystems: Vec<FilesystemUsage>,
    /// Those with what containers write, where the engine tells them apart.
    #[prost(message, repeated, tag = "2")]
    pub container_filesystems: Vec<FilesystemUsage>,
}

/// What is used of a file system.
#[derive(Clone, PartialEq, Message)]
pub struct FilesystemUsage {
    /// When that was, in nanoseconds of the wall clock.
    #[prost(int64, tag = "1")]
    pub timestamp: i64,
    /// Which one.
    #[prost(message, optional, tag = "2")]
    pub fs_id: Option<FilesystemIdentifier>,
    /// How many bytes.
    #[prost(message, optional, tag = "3")]
    pub used_bytes: Option<UInt64Value>,
    /// How many inodes.
    #[prost(message, optional, tag = "4")]
    pub inodes_used: Option<UInt64Value>,
}

/// A file system.
#[derive(Clone, PartialEq, Message)]
pub struct FilesystemIdentifier {
    /// A directory in it.
    #[prost(string, tag = "1")]
    pub mountpoint: String,
}

/// Is an image on the device?
#[derive(Clone, PartialEq, Message)]
pub struct ImageStatusRequest {
    /// Which one.
    #[prost(message, optional, tag = "1")]
    pub image: Option<ImageSpec>,
}

/// An image on the device.
#[derive(Clone, PartialEq, Message)]
pub struct ImageStatusResponse {
    /// The image; none: it is not.
    #[prost(message, optional, tag = "1")]
    pub image: Option<Image>,
}

/// Fetch an image.
#[derive(Clone, PartialEq, Message)]
pub struct PullImageRequest {
    /// Which one.
    #[prost(message, optional, tag = "1")]
    pub image: Option<ImageSpec>,
    /// Who asks the registry.
    #[prost(message, optional, tag = "2")]
    pub auth: Option<AuthConfig>,
    /// For which pod.
    #[prost(message, optional, tag = "3")]
    pub sandbox_config: Option<PodSandboxConfig>,
}

/// A fetched image.
#[derive(Clone, PartialEq, Message)]
pub struct PullImageResponse {
    /// Its identity.
    #[prost(string, tag = "1")]
    pub image_ref: String,
}

/// Who asks the registry.
#[derive(Clone, PartialEq, Message)]
#[prost(skip_debug)]
pub struct AuthConfig {
    /// The user.
    #[prost(string, tag = "1")]
    pub username: String,
    /// The password.
    #[prost(string, tag = "2")]
    pub password: String,
    /// A token that says who asks.
    #[prost(string, tag = "5")]
    pub identity_token: String,
    /// A token for the registry itself.
    #[prost(string, tag = "6")]
    pub registry_token: String,
}

impl std::fmt::Debug for AuthConfig {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        f.debug_struct("AuthConfig").field("username", &self.username).finish_non_exhaustive()
    }
}

impl ImageSpec {
    /// The image of this name.
    pub fn named(image: &str) -> Self {
        Self { image: image.to_owned(), user_specified_image: String::new() }
    }
}

//! Images.

use super::{Int64Value, PodSandboxConfig};
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

//! Images: whether one is there, whether it has to be fetched, and what stands in the way.

use std::time::Duration;

use hawser_cri::{AuthConfig, ImageSpec, PullImageRequest};
use hawser_wire::deployment::{PullPolicy, RegistryLogin};

use super::Cri;
use crate::runtime::{ImageProblem, ImageState, ImageWanted, Pulled};

/// How long a pull may take: a big image over a thin line.
const PULL: Duration = Duration::from_secs(3600);

/// Whether `name` can be the name of an image: `[registry[:port]/]path[:tag][@digest]`.
pub(super) fn is_reference(name: &str) -> bool {
    let (name, digest) = name.split_once('@').map_or((name, None), |(name, digest)| (name, Some(digest)));
    if let Some(digest) = digest {
        let hex = |text: &str| text.len() >= 32 && text.bytes().all(|b| b.is_ascii_hexdigit());
        if !digest.split_once(':').is_some_and(|(algorithm, value)| !algorithm.is_empty() && hex(value)) {
            return false;
        }
    }
    // A colon after the last slash begins the tag; before it, a port.
    let (name, tag) = match name.rsplit_once(':') {
        Some((name, tag)) if !tag.contains('/') => (name, Some(tag)),
        _ => (name, None),
    };
    let word = |b: u8| b.is_ascii_alphanumeric() || matches!(b, b'_' | b'.' | b'-');
    if tag.is_some_and(|tag| tag.is_empty() || tag.len() > 128 || tag.starts_with(['.', '-']) || !tag.bytes().all(word))
    {
        return false;
    }
    let mut parts: Vec<&str> = name.split('/').collect();
    let is_registry = |part: &str| part.contains(['.', ':']) || part == "localhost" || part.starts_with('[');
    if parts.len() > 1 && is_registry(parts[0]) {
        let host = |b: u8| b.is_ascii_alphanumeric() || matches!(b, b'.' | b'-' | b':' | b'[' | b']' | b'_');
        if !parts.remove(0).bytes().all(host) {
            return false;
        }
    }
    let lower = |b: u8| b.is_ascii_lowercase() || b.is_ascii_digit();
    let component = |part: &&str| {
        let ends = part.bytes().next().is_some_and(lower) && part.bytes().last().is_some_and(lower);
        ends && part.bytes().all(|b| lower(b) || matches!(b, b'.' | b'_' | b'-'))
    };
    name.len() <= 255 && parts.iter().all(component)
}

/// What is to be done about an image. A container that is started again uses what is there: its registry may be out of
/// reach, and a restart must not wait for it.
fn decide(policy: PullPolicy, is_there: bool, attempt: u32) -> Result<ImageState, ()> {
    match (policy, is_there) {
        (PullPolicy::Never, false) => Err(()),
        (PullPolicy::Never | PullPolicy::IfNotPresent, true) => Ok(ImageState::Present),
        (PullPolicy::Always, true) if attempt > 0 => Ok(ImageState::Present),
        (PullPolicy::Always | PullPolicy::IfNotPresent, _) => Ok(ImageState::Pull),
    }
}

impl Cri {
    pub(super) async fn look_for_image(&self, want: &ImageWanted) -> Result<ImageState, ImageProblem> {
        let Some((image, policy)) = want.image() else { return Ok(ImageState::Ready) };
        if !is_reference(image) {
            let message = format!(
                "Failed to apply default image tag \"{image}\": couldn't parse image name \"{image}\": invalid reference format"
            );
            return Err(problem(image, "InvalidImageName", message));
        }
        let found = self.0.client.image_status(image).await;
        let found = found.map_err(|error| problem(image, "ImageInspectError", error.message))?;
        decide(policy, found.is_some(), want.id.attempt).map_err(|()| {
            let message = format!("Container image \"{image}\" is not present with pull policy of Never");
            problem(image, "ErrImageNeverPull", message)
        })
    }

    pub(super) async fn pull_image(&self, want: &ImageWanted) -> Result<Pulled, ImageProblem> {
        let Some((name, _)) = want.image() else { return Ok(Pulled::default()) };
        let logins = want.spec.engine.iter().flat_map(|engine| &engine.logins);
        let mut auths: Vec<Option<AuthConfig>> =
            logins.filter(|login| is_for(&login.registry, name)).map(|login| Some(auth(login))).collect();
        if auths.is_empty() {
            auths.push(None);
        }
        let mut words = Vec::new();
        for auth in auths {
            let image = Some(ImageSpec::named(name));
            let request = PullImageRequest { image, auth, sandbox_config: None };
            match self.0.client.pull_image(request, PULL).await {
                Ok(image) => return Ok(self.pulled(&image).await),
                Err(error) => words.push(error.message),
            }
        }
        // Several logins often meet the same answer.
        words.dedup();
        Err(pull_problem(name, &words.join("; ")))
    }

    async fn pulled(&self, image: &str) -> Pulled {
        // Nothing depends on it but what is told.
        Pulled { bytes: self.0.client.image_status(image).await.ok().flatten().map(|image| image.size) }
    }
}

fn auth(login: &RegistryLogin) -> AuthConfig {
    AuthConfig { username: login.username.clone(), password: login.password.clone(), ..AuthConfig::default() }
}

/// The registry from which an image comes, and its path there.
fn origin(image: &str) -> (&str, &str) {
    match image.split_once('/') {
        Some((registry, path)) if registry.contains(['.', ':']) || registry == "localhost" => (registry, path),
        _ => ("docker.io", image),
    }
}

/// Whether a login is for the registry of an image, as a kubelet matches them: scheme and version paths are ignored, `*`
/// stands for a part of the host between dots, and a path is a beginning.
fn is_for(registry: &str, image: &str) -> bool {
    let (host, path) = origin(image);
    let wanted = registry.trim_start_matches("https://").trim_start_matches("http://").trim_end_matches('/');
    let (wanted_host, wanted_path) = wanted.split_once('/').unwrap_or((wanted, ""));
    let wanted_path = if matches!(wanted_path, "v1" | "v2") { "" } else { wanted_path };
    let docker = |host: &str| matches!(host, "docker.io" | "index.docker.io" | "registry-1.docker.io");
    let (port, wanted_port) =
        (host.split_once(':').map(|(_, port)| port), wanted_host.split_once(':').map(|(_, port)| port));
    let name = |host: &'_ str| host.split(':').next().unwrap_or_default().to_owned();
    let (name, wanted_name) = (name(host), name(wanted_host));
    let parts_fit = name.split('.').count() == wanted_name.split('.').count()
        && name.split('.').zip(wanted_name.split('.')).all(|(part, wanted)| wanted == "*" || part == wanted);
    let hosts_fit = (docker(host) && docker(wanted_host)) || (parts_fit && port == wanted_port);
    let inside = path
        .strip_prefix(wanted_path)
        .is_some_and(|rest| wanted_path.is_empty() || rest.is_empty() || rest.starts_with(['/', ':', '@']));
    hosts_fit && inside
}

/// An engine may begin its words with the name of what is wrong, as CRI-O does; the rest is as a kubelet puts it.
fn pull_problem(image: &str, words: &str) -> ImageProblem {
    let known = [
        ("RegistryUnavailable", "the registry is unavailable"),
        ("SignatureValidationFailed", "the signature validation failed"),
    ];
    let named = known.iter().find_map(|(name, cause)| Some((name, cause, words.strip_prefix(name)?)));
    match named {
        Some((name, cause, rest)) => {
            problem(image, name, format!("image pull failed for {image} because {cause}{rest}"))
        }
        None => problem(image, "ErrImagePull", words.to_owned()),
    }
}

fn problem(image: &str, reason: &str, message: String) -> ImageProblem {
    ImageProblem { image: image.to_owned(), reason: reason.to_owned(), message }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn what_an_engine_names_is_the_reason() {
        for (words, reason, message) in [
            (
                "RegistryUnavailable: unable to pull",
                "RegistryUnavailable",
                "image pull failed for box:1 because the registry is unavailable: unable to pull",
            ),
            (
                "SignatureValidationFailed: unknown key",
                "SignatureValidationFailed",
                "image pull failed for box:1 because the signature validation failed: unknown key",
            ),
            ("not found", "ErrImagePull", "not found"),
        ] {
            assert_eq!(pull_problem("box:1", words), problem("box:1", reason, message.to_owned()));
        }
    }

    #[test]
    fn names_of_images_are_told_from_other_words() {
        for good in [
            "busybox",
            "busybox:1.36",
            "library/busybox",
            "registry.example/team/app:v1.2_3-x",
            "registry.example:5000/app",
            "localhost/app",
            "localhost:5000/a/b/c:latest",
            "[::1]:5000/app",
            "a__b/c-d.e",
            "app@sha256:0123456789abcdef0123456789abcdef0123456789abcdef0123456789abcdef",
            "r.example/app:v1@sha256:0123456789abcdef0123456789abcdef0123456789abcdef0123456789abcdef",
        ] {
            assert!(is_reference(good), "{good}");
        }
        for bad in [
            "",
            ":",
            "/",
            "Busybox",
            "app:",
            "app:-x",
            "app:a b",
            "a//b",
            "/app",
            "app/",
            "-app",
            "app@",
            "app@sha256:xyz",
            "http://x/app",
            "a b",
            "app;rm",
            "app\n",
            "ä",
            "r.example/App",
        ] {
            assert!(!is_reference(bad), "{bad:?}");
        }
        assert!(!is_reference(&"a".repeat(256)));
    }

    #[test]
    fn a_login_goes_to_its_own_registry_alone() {
        for (registry, image) in [
            ("r.example", "r.example/app"),
            ("https://r.example/v2/", "r.example/team/app:1"),
            ("r.example/team", "r.example/team/app"),
            ("r.example:5000", "r.example:5000/app"),
            ("*.example", "r.example/app"),
            ("https://index.docker.io/v1/", "busybox"),
            ("docker.io", "library/busybox:1"),
        ] {
            assert!(is_for(registry, image), "{registry} {image}");
        }
        for (registry, image) in [
            ("r.example", "evil.example/app"),
            ("r.example", "r.example.evil/app"),
            ("r.example", "r.example:5000/app"),
            ("r.example/team", "r.example/teams/app"),
            ("*.example", "a.b.example/app"),
            ("*", "r.example/app"),
            ("docker.io", "r.example/app"),
            ("", "busybox"),
        ] {
            assert!(!is_for(registry, image), "{registry} {image}");
        }
    }

    #[test]
    fn policies_decide_and_a_restart_waits_for_no_registry() {
        use ImageState::{Present, Pull};
        use PullPolicy::{Always, IfNotPresent, Never};
        for (policy, is_there, attempt, expected) in [
            (Always, true, 0, Ok(Pull)),
            (Always, true, 1, Ok(Present)),
            (Always, false, 1, Ok(Pull)),
            (IfNotPresent, true, 0, Ok(Present)),
            (IfNotPresent, false, 0, Ok(Pull)),
            (Never, true, 0, Ok(Present)),
            (Never, false, 7, Err(())),
        ] {
            assert_eq!(decide(policy, is_there, attempt), expected, "{policy:?} {is_there} {attempt}");
        }
    }
}

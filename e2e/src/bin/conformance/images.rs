//! The images that the suite asks for, under the names it asks for: made of the suite's own programs and of static ones of
//! this machine, so that no registry on the internet is needed.

use std::path::Path;
use std::process::Command;

use anyhow::{Context, Result, ensure};
use hawser_e2e::engine::{Busybox, Engine, Image, Layer, archive, go_arch, program, sha256};
use serde_json::json;

/// The versions are those of test/utils/image/manifest.go of the release in e2e/cluster/go.mod. A name that is missing here
/// shows as a spec that cannot pull its image.
const AGNHOST: [&str; 2] =
    ["registry.k8s.io/e2e-test-images/agnhost:2.63.0", "registry.k8s.io/e2e-test-images/agnhost:2.55"];
const BUSYBOX: &str = "registry.k8s.io/e2e-test-images/busybox:1.37.0-1";
const NGINX: [&str; 2] =
    ["registry.k8s.io/e2e-test-images/nginx:1.15-4", "registry.k8s.io/e2e-test-images/nginx:1.27-0"];
const NONEWPRIVS: &str = "registry.k8s.io/e2e-test-images/nonewprivs:1.4";
const NONROOT: &str = "registry.k8s.io/e2e-test-images/nonroot:1.5";
const DNS: &str = "registry.k8s.io/e2e-test-images/glibc-dns-testing:2.0.0";
const KITTEN: &str = "registry.k8s.io/e2e-test-images/kitten:1.8";
/// The image of sandboxes, and of containers that do nothing.
pub(crate) const PAUSE: &str = "registry.k8s.io/pause:3.10.2";

/// As much of `curl` as the specs ask for: the last word is an address, and what is there goes to the output. The `wget` of
/// Debian's static busybox crashes when it is told how long to wait.
const CURL: &str = r#"#!/bin/bash
for url; do :; done
url=${url#http://} authority=${url%%/*} path=/${url#*/}
[[ $authority == *:* ]] || authority+=:80
exec 3<>"/dev/tcp/${authority%:*}/${authority##*:}" || exit 7
printf 'GET %s HTTP/1.0\r\nHost: %s\r\n\r\n' "$path" "$authority" >&3
while read -r line <&3 && [[ $line != $'\r' ]]; do :; done
exec cat <&3
"#;
/// Likewise `nc -w SECONDS -u HOST PORT`, which busybox does not have. That the shell speaks of the end of `cat` is nobody's
/// answer.
const NC: &str = r#"#!/bin/bash
exec 2>/dev/null 3<>"/dev/udp/$4/$5" && cat >&3
timeout "$2" cat <&3
exit 0
"#;

/// The registry whose names are above.
const REGISTRY: &str = "registry.k8s.io";

/// Makes all images and gives them to the engine. `programs` is the folder that `e2e/cluster/build conformance` fills.
pub(crate) fn import(engine: &Engine, programs: &Path) -> Result<()> {
    let folder = engine.folder().join("images");
    let busybox = Busybox::find().map_err(anyhow::Error::msg)?;
    let base = Layer::of(&folder, "base", |root| busybox.unpack(root))?;
    let pause = Layer::of(&folder, "pause", |root| program(&programs.join("pause"), &root.join("pause"), 0o755))?;
    let pause_image = || Image::new(PAUSE, &[&pause]).entrypoint(&["/pause"]).user("65535:65535");
    let agnhost = Layer::of(&folder, "agnhost", |root| {
        program(&programs.join("agnhost"), &root.join("agnhost"), 0o755)?;
        std::os::unix::fs::symlink("agnhost", root.join("agnhost-2"))?;
        for file in ["localhost.crt", "localhost.key"] {
            program(&programs.join(file), &root.join(file), 0o644)?;
        }
        std::fs::create_dir_all(root.join("usr/bin"))?;
        for (name, script) in [("curl", CURL), ("nc", NC)] {
            let place = root.join("usr/bin").join(name);
            std::fs::write(&place, script)?;
            std::fs::set_permissions(place, std::os::unix::fs::PermissionsExt::from_mode(0o755))?;
        }
        std::fs::create_dir(root.join("uploads"))?;
        users(root)?;
        registry(&root.join("var/registry"), &pause_image(), &pause)
    })?;
    let setuid = Layer::of(&folder, "nonewprivs", |root| {
        std::fs::create_dir_all(root.join("usr/local/bin"))?;
        program(&programs.join("nonewprivs"), &root.join("usr/local/bin/nnp"), 0o6755)
    })?;
    let mut images = vec![
        Image::new(BUSYBOX, &[&base]).command(&["sh"]),
        Image::new(NONROOT, &[&base]).user("1234").command(&["sh"]),
        Image::new(NONEWPRIVS, &[&base, &setuid]).command(&["nnp"]),
        // They are asked for a shell, for files in a volume, and for a resolver.
        Image::new(DNS, &[&base, &agnhost]).command(&["sh"]),
        Image::new(KITTEN, &[&base, &agnhost]).command(&["sh"]),
        pause_image(),
    ];
    for name in AGNHOST {
        images.push(Image::new(name, &[&base, &agnhost]).entrypoint(&["/agnhost"]).command(&["pause"]));
    }
    // A web server on port 80 is all that is asked of them.
    for name in NGINX {
        images.push(Image::new(name, &[&base, &agnhost]).command(&["/agnhost", "test-webserver"]));
    }
    engine.import(&archive(&folder, &images)?)
}

/// A registry that is asked when an image must be pulled although it is there.
pub(crate) fn publish(engine: &Engine, registry: &str) -> Result<()> {
    let image = AGNHOST[0];
    let path = image.strip_prefix(REGISTRY).context("an image of another registry")?;
    engine.push(image, &format!("{registry}{path}"), None)?;
    engine.mirror(REGISTRY, &format!("http://{registry}"))
}

/// A user whom only the image knows, and a group that has it as a member.
fn users(root: &Path) -> Result<()> {
    std::fs::create_dir_all(root.join("etc"))?;
    let passwd = "root:x:0:0:root:/root:/bin/sh\nnobody:x:65534:65534::/:/bin/false\n\
        user-defined-in-image:x:1000:1000::/home/user-defined-in-image:/bin/sh\n";
    std::fs::write(root.join("etc/passwd"), passwd)?;
    let group = "root:x:0:\nnobody:x:65534:\nuser-defined-in-image:x:1000:\n\
        group-defined-in-image:x:50000:user-defined-in-image\n";
    Ok(std::fs::write(root.join("etc/group"), group)?)
}

/// What agnhost's own registry serves: the image `pause` with the tag `testing`, each document in a folder named by its
/// digest.
fn registry(root: &Path, image: &Image<'_>, layer: &Layer) -> Result<()> {
    let put = |kind: &str, content: &[u8]| -> Result<String> {
        std::fs::create_dir_all(root)?;
        let fresh = root.join("fresh");
        std::fs::write(&fresh, content)?;
        let digest = sha256(&fresh)?;
        let hash = digest.trim_start_matches("sha256:");
        ensure!(hash.len() == 64, "sha256sum printed no digest");
        let place = root.join("pause").join(kind).join("sha256").join(&hash[..2]).join(hash);
        std::fs::create_dir_all(&place)?;
        std::fs::rename(fresh, place.join("data"))?;
        Ok(digest)
    };
    let config = image.document().to_string();
    let config_digest = put("blobs", config.as_bytes())?;
    let content = std::fs::read(layer.file())?;
    let layer_digest = put("blobs", &content)?;
    let manifest = json!({
        "schemaVersion": 2,
        "mediaType": "application/vnd.oci.image.manifest.v1+json",
        "config": {
            "mediaType": "application/vnd.oci.image.config.v1+json", "digest": config_digest, "size": config.len(),
        },
        "layers": [{
            "mediaType": "application/vnd.oci.image.layer.v1.tar", "digest": layer_digest, "size": content.len(),
        }],
    })
    .to_string();
    let digest = put("manifests", manifest.as_bytes())?;
    let index = json!({
        "schemaVersion": 2,
        "mediaType": "application/vnd.oci.image.index.v1+json",
        "manifests": [{
            "mediaType": "application/vnd.oci.image.manifest.v1+json", "digest": digest, "size": manifest.len(),
            "platform": { "architecture": go_arch(), "os": "linux" },
        }],
    });
    let digest = put("manifests", index.to_string().as_bytes())?;
    std::fs::write(root.join("pause/manifests/testing"), digest)?;
    // The server runs as a user of the suite's choice.
    run_chmod(root)
}

fn run_chmod(root: &Path) -> Result<()> {
    let status = Command::new("chmod").args(["-R", "a+rX"]).arg(root).status()?;
    ensure!(status.success(), "chmod: {status}");
    Ok(())
}

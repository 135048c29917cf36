//! Images made here, from programs that need no libraries: no registry is asked for one.

use std::os::unix::fs::{PermissionsExt, symlink};
use std::path::{Path, PathBuf};
use std::process::Command;

use anyhow::{Context, Result};
use serde_json::{Value, json};

use super::{find, run};

/// Busybox and a shell, both static.
#[derive(Debug)]
pub struct Busybox {
    busybox: PathBuf,
    /// Debian's busybox, as a shell, loses variables whose names are no identifiers and prefers its own commands to
    /// PATH. Bash does neither.
    bash: Option<PathBuf>,
}

impl Busybox {
    /// Those of this machine, or what is missing.
    pub fn find() -> Result<Self, String> {
        let busybox = find("busybox").ok_or("there is no busybox (install busybox-static)")?;
        let bytes = std::fs::read(&busybox).map_err(|error| error.to_string())?;
        if wants_interpreter(&bytes) {
            return Err("busybox is not static (install busybox-static)".to_owned());
        }
        Ok(Self { busybox, bash: find("bash-static") })
    }

    /// Lays out the folders of a small system and all commands of busybox.
    pub fn unpack(&self, root: &Path) -> Result<()> {
        for folder in ["bin", "dev", "etc", "home", "proc", "root", "sys", "usr/bin", "usr/local/bin", "var"] {
            std::fs::create_dir_all(root.join(folder))?;
        }
        for folder in ["tmp", "srv", "var/tmp"] {
            std::fs::create_dir_all(root.join(folder))?;
            std::fs::set_permissions(root.join(folder), std::fs::Permissions::from_mode(0o1777))?;
        }
        std::fs::write(root.join("etc/passwd"), "root:x:0:0:root:/root:/bin/sh\nnobody:x:65534:65534::/:/bin/false\n")?;
        std::fs::write(root.join("etc/group"), "root:x:0:\nnobody:x:65534:\n")?;
        let bin = root.join("bin");
        program(&self.busybox, &bin.join("busybox"), 0o755)?;
        for command in run(Command::new(&self.busybox).arg("--list"))?.lines() {
            if command != "busybox" {
                symlink("busybox", bin.join(command))?;
            }
        }
        if let Some(bash) = &self.bash {
            program(bash, &bin.join("bash"), 0o755)?;
            let _ = std::fs::remove_file(bin.join("sh"));
            symlink("bash", bin.join("sh"))?;
        }
        Ok(())
    }
}

/// Copies a program into an image.
pub fn program(from: &Path, to: &Path, mode: u32) -> Result<()> {
    std::fs::copy(from, to).with_context(|| format!("{} cannot be copied", from.display()))?;
    Ok(std::fs::set_permissions(to, std::fs::Permissions::from_mode(mode))?)
}

/// One layer: a tar file.
#[derive(Debug)]
pub struct Layer {
    file: PathBuf,
    digest: String,
}

impl Layer {
    /// A layer of this name with what `fill` puts into an empty folder.
    pub fn of(folder: &Path, name: &str, fill: impl FnOnce(&Path) -> Result<()>) -> Result<Self> {
        let root = folder.join(name);
        std::fs::create_dir_all(&root)?;
        fill(&root)?;
        let file = folder.join(format!("{name}.tar"));
        let mut tar = Command::new("tar");
        // The same bytes whoever makes them and when, so that equal layers have equal digests.
        tar.args(["--owner=0", "--group=0", "--numeric-owner", "--mtime=@0", "--sort=name", "-C"]);
        run(tar.arg(&root).arg("-cf").arg(&file).arg("."))?;
        std::fs::remove_dir_all(&root)?;
        Ok(Self { digest: sha256(&file)?, file })
    }

    /// The file.
    pub fn file(&self) -> &Path {
        &self.file
    }

    /// `sha256:` and so on, of the file.
    pub fn digest(&self) -> &str {
        &self.digest
    }
}

/// `sha256:` and so on, of a file.
pub fn sha256(file: &Path) -> Result<String> {
    let line = run(Command::new("sha256sum").arg(file))?;
    Ok(format!("sha256:{}", line.split(' ').next().unwrap_or_default()))
}

/// An image under one name.
#[derive(Debug)]
pub struct Image<'a> {
    name: &'a str,
    layers: Vec<&'a Layer>,
    config: Value,
}

impl<'a> Image<'a> {
    /// An image of these layers, which runs nothing by itself.
    pub fn new(name: &'a str, layers: &[&'a Layer]) -> Self {
        let path = "PATH=/usr/local/bin:/usr/bin:/bin";
        Self { name, layers: layers.to_vec(), config: json!({ "Env": [path] }) }
    }

    /// What it runs with what a pod has as arguments.
    pub fn entrypoint(self, words: &[&str]) -> Self {
        self.with("Entrypoint", json!(words))
    }

    /// What it runs, or the arguments of what it runs, when a pod has none.
    pub fn command(self, words: &[&str]) -> Self {
        self.with("Cmd", json!(words))
    }

    /// As whom it runs.
    pub fn user(self, user: &str) -> Self {
        self.with("User", json!(user))
    }

    fn with(mut self, key: &str, value: Value) -> Self {
        self.config[key] = value;
        self
    }

    /// The document of which the digest is the image's identity.
    pub fn document(&self) -> Value {
        let digests: Vec<_> = self.layers.iter().map(|layer| layer.digest()).collect();
        json!({
            "architecture": go_arch(), "os": "linux", "config": self.config,
            "rootfs": { "type": "layers", "diff_ids": digests },
        })
    }
}

/// One archive of these images, as `docker save` would write it.
pub fn archive(folder: &Path, images: &[Image<'_>]) -> Result<PathBuf> {
    let file = folder.join("images.tar");
    let mut tar = Command::new("tar");
    tar.arg("-C").arg(folder).arg("-cf").arg(&file);
    let mut manifest = Vec::new();
    let mut packed = Vec::new();
    for (number, image) in images.iter().enumerate() {
        let config = format!("config-{number}.json");
        std::fs::write(folder.join(&config), image.document().to_string())?;
        tar.arg(&config);
        let names: Vec<_> = image.layers.iter().map(|layer| file_name(layer.file())).collect();
        for name in &names {
            if !packed.contains(name) {
                packed.push(name.clone());
                tar.arg(name);
            }
        }
        manifest.push(json!({ "Config": config, "RepoTags": [image.name], "Layers": names }));
    }
    std::fs::write(folder.join("manifest.json"), Value::from(manifest).to_string())?;
    run(tar.arg("manifest.json"))?;
    Ok(file)
}

fn file_name(path: &Path) -> String {
    path.file_name().unwrap_or_default().to_string_lossy().into_owned()
}

/// The processor of this machine, as images name it.
pub fn go_arch() -> &'static str {
    match std::env::consts::ARCH {
        "x86_64" => "amd64",
        "aarch64" => "arm64",
        other => other,
    }
}

/// Whether a program needs libraries, which an image with nothing else in it has not.
fn wants_interpreter(elf: &[u8]) -> bool {
    const PT_INTERP: usize = 3;
    let number = |at: usize, length: usize| {
        let bytes = elf.get(at..at + length).unwrap_or_default();
        bytes.iter().rev().fold(0_usize, |number, byte| (number << 8) | usize::from(*byte))
    };
    let (table, size, count) = if elf.get(4) == Some(&2) {
        (number(32, 8), number(54, 2), number(56, 2))
    } else {
        (number(28, 4), number(42, 2), number(44, 2))
    };
    (0..count).any(|at| number(table + at * size, 4) == PT_INTERP)
}

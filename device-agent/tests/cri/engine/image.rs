//! The images of the tests.

use std::os::unix::fs::PermissionsExt;
use std::path::Path;
use std::process::Command;

/// The image of all tests: a static busybox.
pub(crate) const IMAGE: &str = "hawser.test/box:1";
/// The same for a processor that no machine has.
pub(crate) const FOREIGN_IMAGE: &str = "hawser.test/foreign:1";
pub(super) const FOREIGN: &str = "s390x";
/// A user of the images, who belongs to a group 50000 besides.
pub(crate) const RICK: u32 = 4321;
/// Another one, whose `/srv/name` says so.
pub(crate) const DATA_IMAGE: &str = "hawser.test/data:1";

/// Whether a program needs libraries, which an image with nothing else in it has not.
pub(super) fn wants_interpreter(elf: &[u8]) -> bool {
    let number = |at: usize, length: usize| {
        elf[at..at + length].iter().rev().fold(0_usize, |number, byte| (number << 8) | usize::from(*byte))
    };
    let (table, size, count) = if elf[4] == 2 {
        (number(32, 8), number(54, 2), number(56, 2))
    } else {
        (number(28, 4), number(42, 2), number(44, 2))
    };
    const PT_INTERP: usize = 3;
    (0..count).any(|at| number(table + at * size, 4) == PT_INTERP)
}

pub(super) fn go_arch() -> &'static str {
    match std::env::consts::ARCH {
        "x86_64" => "amd64",
        "aarch64" => "arm64",
        other => other,
    }
}

/// An image as `docker save` would write it: one layer with busybox and its names.
pub(super) fn pack(dir: &Path, busybox: &Path, name: &str, arch: &str) {
    let root = dir.join("root");
    for part in ["bin", "etc", "tmp", "proc", "sys", "dev", "srv"] {
        std::fs::create_dir_all(root.join(part)).unwrap();
    }
    let mut program = std::fs::read(busybox).unwrap();
    if arch == FOREIGN {
        // The field of the header that says for which processor it is.
        program[18] = 22;
    }
    std::fs::write(root.join("bin/busybox"), program).unwrap();
    std::fs::set_permissions(root.join("bin/busybox"), std::fs::Permissions::from_mode(0o755)).unwrap();
    for applet in ["sh", "sleep", "cat", "echo", "ls", "id", "true", "hostname", "ip", "head", "touch", "test", "dd"] {
        std::os::unix::fs::symlink("busybox", root.join("bin").join(applet)).unwrap();
    }
    std::fs::write(root.join("srv/name"), name).unwrap();
    std::fs::write(root.join("etc/passwd"), format!("rick:x:{RICK}:{RICK}::/:/bin/sh\n")).unwrap();
    std::fs::write(root.join("etc/group"), "crew:x:50000:rick\n").unwrap();
    let run = |command: &mut Command| {
        let output = command.output().unwrap();
        assert!(output.status.success(), "{command:?}: {}", String::from_utf8_lossy(&output.stderr));
        String::from_utf8(output.stdout).unwrap()
    };
    let layer = dir.join("layer.tar");
    run(Command::new("tar").arg("-C").arg(&root).arg("-cf").arg(&layer).arg("."));
    let sum = |path: &Path| run(Command::new("sha256sum").arg(path)).split(' ').next().unwrap().to_owned();
    let config = format!(
        r#"{{"architecture":"{arch}","os":"linux","config":{{"Env":["PATH=/bin"],"Cmd":["sleep","2147483647"]}},
        "rootfs":{{"type":"layers","diff_ids":["sha256:{}"]}}}}"#,
        sum(&layer)
    );
    std::fs::write(dir.join("config.json"), config).unwrap();
    let manifest = format!(r#"[{{"Config":"config.json","RepoTags":["{name}"],"Layers":["layer.tar"]}}]"#);
    std::fs::write(dir.join("manifest.json"), manifest).unwrap();
    let archive = dir.join("image.tar");
    let files = ["config.json", "manifest.json", "layer.tar"];
    run(Command::new("tar").arg("-C").arg(dir).arg("-cf").arg(&archive).args(files));
}

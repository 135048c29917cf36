//! What an engine leaves behind when it is killed: shims with their containers, network namespaces, mounts.

use std::path::Path;
use std::process::{Command, Stdio};
use std::time::Duration;

use crate::process::processes_of;

/// Whether layers can be laid over each other in this folder.
pub(super) fn overlay_works(folder: &Path) -> bool {
    let probe = folder.join("overlay");
    let part = |name: &str| probe.join(name);
    if ["lower", "upper", "work", "merged"].iter().any(|name| std::fs::create_dir_all(part(name)).is_err()) {
        return false;
    }
    let options = ["lower", "upper", "work"].map(|name| format!("{name}dir={}", part(name).display())).join(",");
    let mut mount = Command::new("mount");
    mount.args(["-t", "overlay", "overlay", "-o", &options]).arg(part("merged")).stderr(Stdio::null());
    let works = mount.status().is_ok_and(|status| status.success());
    if works {
        let _ = Command::new("umount").arg(part("merged")).status();
    }
    let _ = std::fs::remove_dir_all(&probe);
    works
}

/// Ends every process that an engine with this folder started, and takes away its mounts.
pub(super) fn remove(folder: &Path) {
    // A shim that was only just being started when the engine was killed comes up later.
    for _ in 0..50 {
        let shims = processes_of(folder);
        if shims.is_empty() {
            break;
        }
        for shim in shims {
            for pid in children(shim).into_iter().chain([shim]) {
                let _ = Command::new("kill").args(["-KILL", &pid.to_string()]).stderr(Stdio::null()).status();
            }
        }
        std::thread::sleep(Duration::from_millis(20));
    }
    let mounts = std::fs::read_to_string("/proc/self/mounts").unwrap_or_default();
    let folder = folder.display().to_string();
    // The last mounted first.
    for place in mounts.lines().rev().filter_map(|line| line.split(' ').nth(1)).filter(|at| at.starts_with(&folder)) {
        let _ = Command::new("umount").args(["-l", place]).stderr(Stdio::null()).status();
    }
}

fn children(pid: u32) -> Vec<u32> {
    let listed = std::fs::read_to_string(format!("/proc/{pid}/task/{pid}/children")).unwrap_or_default();
    listed.split_whitespace().filter_map(|pid| pid.parse().ok()).collect()
}

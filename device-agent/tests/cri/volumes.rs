//! Volumes as only an engine shows them: mounted.

use std::os::unix::fs::symlink;
use std::path::{Path, PathBuf};
use std::sync::Arc;
use std::time::{Duration, Instant};

use device_agent::runtime::Runtime;
use device_agent::runtime::cri::Cri;
use hawser_wire::deployment::{
    Container, Content, EmptyDir, EnvValue, EnvVar, File, Files, HostPath, HostPathKind, Mount, Propagation,
    ReadOnlyBelow, RestartPolicy, User, Volume, VolumeSource,
};

use rustix::mount::{MountPropagationFlags, UnmountFlags};

use crate::world::*;

fn empty(name: &str, memory: bool, size_limit: Option<u64>) -> Volume {
    Volume { name: name.into(), source: VolumeSource::EmptyDir(EmptyDir { memory, size_limit }) }
}

fn host(name: &str, path: &std::path::Path, kind: HostPathKind) -> Volume {
    let path = path.display().to_string();
    Volume {
        name: name.into(),
        source: VolumeSource::HostPath(HostPath { path, kind, of_group: false, only_if_differs: false, local: false }),
    }
}

fn part(volume: &str, path: &str, part: &str) -> Mount {
    Mount { sub_path: Some(part.into()), ..mount(volume, path) }
}

/// A directory whose mounts pass on, as those of most systems do.
struct Shared(PathBuf);

impl Shared {
    fn new(path: &Path) -> Self {
        std::fs::create_dir(path).unwrap();
        rustix::mount::mount_bind(path, path).unwrap();
        rustix::mount::mount_change(path, MountPropagationFlags::SHARED).unwrap();
        Self(path.to_owned())
    }
}

impl Drop for Shared {
    fn drop(&mut self) {
        let _ = rustix::mount::unmount(&self.0, UnmountFlags::DETACH);
    }
}

#[tokio::test]
async fn parts_of_volumes_are_mounted_and_nothing_outside_of_them() {
    let Some(mut device) = Device::new() else { return };
    let own = tempfile::tempdir().unwrap();
    std::fs::create_dir(own.path().join("inside")).unwrap();
    std::fs::write(own.path().join("inside/file"), "of the device\n").unwrap();
    symlink("inside", own.path().join("link")).unwrap();
    device.start().await;
    let script = "cat /one; echo more > /two/new; cat /three/new; stat -c %a /three; echo $(cat /two/../two/new)";
    let mut spec = pod(
        "parts",
        RestartPolicy::Never,
        Container {
            env: vec![EnvVar { name: "WHERE".into(), value: EnvValue::Literal("deep".into()) }],
            mounts: vec![
                part("host", "/one", "link/file"),
                part("empty", "/two", "new/deep"),
                Mount { sub_path_expr: true, ..part("empty", "/three", "new/$(WHERE)") },
            ],
            ..shell(script)
        },
    );
    spec.volumes = vec![empty("empty", false, None), host("host", own.path(), HostPathKind::Directory)];
    let end = device.run_to_end(&spec).await;
    assert_eq!((end.exit_code, device.output("parts").as_str()), (0, "of the device\nmore\n777\nmore\n"));
    device.sweep("parts").await;
    assert_eq!(std::fs::read_to_string(own.path().join("inside/file")).unwrap(), "of the device\n");
    let mounts = std::fs::read_to_string("/proc/self/mountinfo").unwrap();
    let root = device.config.root.display().to_string();
    assert!(!mounts.contains(&root), "{mounts}");
}

#[tokio::test]
async fn a_workload_that_leads_a_part_out_of_its_volume_gets_nothing() {
    let Some(mut device) = Device::new() else { return };
    device.start().await;
    for (name, target, wanted) in [
        ("out", "/etc", "trap"),
        ("up", "../../../..", "trap"),
        ("file", "/etc/passwd", "trap"),
        ("deep", "/", "trap/etc"),
    ] {
        let init = Container {
            name: "first".into(),
            mounts: vec![mount("v", "/v")],
            ..shell(&format!("ln -s {target} /v/trap"))
        };
        let main = Container { mounts: vec![part("v", "/v", wanted)], ..shell("ls /v") };
        let mut spec = pod(name, RestartPolicy::Never, main);
        spec.init_containers = vec![init];
        spec.volumes = vec![empty("v", false, None)];
        device.run(&spec);
        let words = device.until_waiting(name, "CreateContainerConfigError").await;
        assert_eq!(words, "failed to prepare subPath for volumeMount \"v\" of container \"main\"");
        device.sweep(name).await;
    }
    for (name, wanted, words) in [
        ("dots", "a/../..", "unable to provision SubPath `a/../..`: must not contain '..'"),
        ("absolute", "/etc", "error SubPath `/etc` must not be an absolute path"),
        ("nothing", "$(NONE)", "missing value for NONE"),
    ] {
        let asked = Mount { sub_path_expr: true, ..part("v", "/v", wanted) };
        let mut spec = pod(name, RestartPolicy::Never, Container { mounts: vec![asked], ..shell("ls /v") });
        spec.volumes = vec![empty("v", false, None)];
        device.run(&spec);
        assert_eq!(device.until_waiting(name, "CreateContainerConfigError").await, words);
        device.sweep(name).await;
    }
}

#[tokio::test]
async fn paths_of_the_device_are_checked_and_mounted() {
    let Some(mut device) = Device::new() else { return };
    let own = tempfile::tempdir().unwrap();
    std::fs::write(own.path().join("file"), "of the device\n").unwrap();
    let _shared = Shared::new(&own.path().join("shared"));
    device.start().await;
    let mut spec = pod(
        "host",
        RestartPolicy::Never,
        Container {
            mounts: vec![
                mount("file", "/file"),
                Mount { propagation: Some(Propagation::FromDevice), ..mount("made", "/made") },
                Mount { read_only: true, read_only_below: Some(ReadOnlyBelow::IfPossible), ..mount("made", "/shut") },
            ],
            ..shell(
                "cat /file; echo new > /made/file; touch /shut/x 2>/dev/null || echo read only; grep ' /made ' /proc/self/mountinfo",
            )
        },
    );
    spec.volumes = vec![
        host("file", &own.path().join("file"), HostPathKind::File),
        host("made", &own.path().join("shared/made"), HostPathKind::DirectoryOrCreate),
    ];
    let end = device.run_to_end(&spec).await;
    let output = device.output("host");
    assert!(output.starts_with("of the device\nread only\n") && end.exit_code == 0, "{output}");
    assert!(output.contains("master:"), "what the device mounts there later is seen: {output}");
    assert_eq!(std::fs::read_to_string(own.path().join("shared/made/file")).unwrap(), "new\n");
    device.sweep("host").await;
    assert!(own.path().join("shared/made/file").exists(), "the device's own stays");

    let mut wrong = pod("wrong", RestartPolicy::Never, Container { mounts: vec![mount("v", "/v")], ..shell("true") });
    wrong.volumes = vec![host("v", &own.path().join("file"), HostPathKind::Directory)];
    device.run(&wrong);
    device.until("the kubelet's words", |device| device.reasons().contains(&"FailedMount")).await;
    let event = device.events.iter().find(|event| event.reason == "FailedMount").unwrap();
    let path = own.path().join("file").display().to_string();
    assert_eq!(
        event.message,
        format!("MountVolume.SetUp failed for volume \"v\" : hostPath type check failed: {path} is not a directory")
    );
    device.sweep("wrong").await;

    let asked = Mount { read_only: true, read_only_below: Some(ReadOnlyBelow::Always), ..mount("v", "/v") };
    let mut deep = pod("deep", RestartPolicy::Never, Container { mounts: vec![asked], ..shell("true") });
    deep.volumes = vec![empty("v", false, None)];
    // Engines from 2024 on say whether they and the kernel can.
    let told = hawser_cri::Client::new(&device.engine.socket()).unwrap().status(false).await.unwrap();
    let mut usual = told.runtime_handlers.iter().filter(|handler| handler.name.is_empty());
    if usual.any(|handler| handler.features.is_some_and(|features| features.recursive_read_only_mounts)) {
        assert_eq!(device.run_to_end(&deep).await.exit_code, 0);
    } else {
        device.run(&deep);
        let words = device.until_waiting("deep", "CreateContainerConfigError").await;
        assert!(words.ends_with("it is not supported by the runtime"), "{words}");
    }
    device.sweep("deep").await;
}

#[tokio::test]
async fn a_token_is_for_the_user_of_the_pod_alone() {
    let Some(mut device) = Device::new() else { return };
    device.start().await;
    let main = Container {
        mounts: vec![mount("v", "/v")],
        user: User { uid: Some(1234), gid: Some(77), non_root: true },
        ..shell("cat /v/token; stat -Lc '%a %u' /v/token")
    };
    let mut spec = pod("token", RestartPolicy::Never, main);
    let entries = vec![File {
        path: "token".into(),
        mode: 0o600,
        content: Content::Inline(b"t0ken\n".to_vec()),
        owner: Some(1234),
    }];
    spec.volumes = vec![Volume { name: "v".into(), source: VolumeSource::Files(Files { secret: true, entries }) }];
    device.run_to_end(&spec).await;
    assert_eq!(device.output("token"), "t0ken\n600 1234\n");
    device.sweep("token").await;
}

#[tokio::test]
async fn a_volume_in_memory_has_its_size_and_keeps_it() {
    let Some(mut device) = Device::new() else { return };
    device.start().await;
    let script = "stat -f -c %T /v; stat -c %a /v; dd if=/dev/zero of=/v/big bs=64k count=32 2>/dev/null || echo full; \
                  test $(stat -c %s /v/big) -le 1048576 && echo small";
    let main = Container { mounts: vec![mount("v", "/v")], ..shell(script) };
    let mut spec = pod("memory", RestartPolicy::Never, main);
    spec.volumes = vec![empty("v", true, Some(1 << 20))];
    device.run_to_end(&spec).await;
    assert_eq!(device.output("memory"), "tmpfs\n1777\nfull\nsmall\n");
    device.sweep("memory").await;
}

#[tokio::test]
async fn what_a_container_writes_into_its_own_files_counts_as_what_it_takes_of_the_disk() {
    const WRITTEN: u64 = 16 << 20;
    let Some(mut device) = Device::new() else { return };
    device.start().await;
    let script = "dd if=/dev/zero of=/srv/file bs=1048576 count=16; echo written; exec sleep 1000";
    let spec = hasty(pod("writer", RestartPolicy::Never, shell(script)));
    device.run(&spec);
    device.until("the file to be written", |device| device.output("writer").contains("written")).await;
    let (runtime, spec) = (Cri::connect(device.config.clone()).await.unwrap(), Arc::new(spec));
    let deadline = Instant::now() + PATIENCE;
    // The engine looks now and then.
    while runtime.disk_use(spec.clone()).await.unwrap().containers["main"].bytes < WRITTEN {
        assert!(Instant::now() < deadline, "the engine never says what was written");
        tokio::time::sleep(Duration::from_millis(100)).await;
    }
    device.sweep("writer").await;
}

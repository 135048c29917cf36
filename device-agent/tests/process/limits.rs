//! Full disks, read-only directories, memory limits, many pods.

use std::path::Path;
use std::process::Command;
use std::time::Instant;

use hawser_wire::deployment::{Container, EmptyDir, Mount, Resources, RestartPolicy, Volume, VolumeSource};
use hawser_wire::report::{ContainerState, Phase};

use crate::world::*;

/// A file system of our own, as small as we like; `None`, said aloud, where we may not mount.
struct Small(std::path::PathBuf);

impl Small {
    fn mount(at: &Path, options: &str) -> Option<Self> {
        std::fs::create_dir_all(at).unwrap();
        let mounted = is_root()
            && Command::new("mount")
                .args(["-t", "tmpfs", "-o", options, "hawser-test"])
                .arg(at)
                .status()
                .is_ok_and(|s| s.success());
        if !mounted {
            eprintln!("SKIPPED: this test mounts a file system, which takes root");
        }
        mounted.then(|| Self(at.to_owned()))
    }

    /// From now on it is read-only for everybody who comes by its path. What is open already stays so, as after an
    /// error of the disk.
    fn set_read_only(&self) {
        let mount = |options: &str| {
            let mut command = Command::new("mount");
            command.args(["-o", options]).arg(&self.0).arg(&self.0);
            assert!(command.status().unwrap().success(), "{options}");
        };
        mount("bind");
        mount("remount,bind,ro");
    }

    fn set_writable(&self) {
        assert!(Command::new("umount").arg(&self.0).status().unwrap().success());
    }
}

impl Drop for Small {
    fn drop(&mut self) {
        let _ = Command::new("umount").arg("-l").arg(&self.0).status();
    }
}

#[tokio::test]
async fn a_full_disk_stops_nothing_and_hides_no_exit_code() {
    let mut device = Device::new();
    let Some(_small) = Small::mount(&device.config.root, "size=1m") else { return };
    device.start();
    let script = "until test -e go; do sleep 0.05; done; echo to a full disk; exit 9";
    device.run(&pod("running", RestartPolicy::Never, shell(script)));
    device.until_running("running").await;
    let go = device.work("running").join("go");
    // An empty file takes no block; everything else does.
    std::fs::write(device.config.root.join("fill"), vec![0; 2 << 20]).unwrap_err();
    device.run(&pod("late", RestartPolicy::Never, shell("exit 0")));
    device
        .until("the late one to wait", |device| {
            device.events.iter().any(|event| event.pod == Some(uid("late")) && event.message.contains("No space left"))
        })
        .await;
    assert!(device.is_running("running"));
    std::fs::write(go, "").unwrap();
    device
        .until("the end", |device| matches!(&device.report("running").unwrap().containers[0].state, ContainerState::Terminated(end) if end.exit_code == 9))
        .await;
    std::fs::remove_file(device.config.root.join("fill")).unwrap();
    assert_eq!(device.run_to_end(&pod("late", RestartPolicy::Never, shell("exit 0"))).await.exit_code, 0);
    device.stop().await;
}

#[tokio::test]
async fn a_read_only_directory_stops_nothing_and_is_named() {
    let mut device = Device::new();
    let Some(small) = Small::mount(device.dir.path(), "size=4m") else { return };
    std::fs::create_dir(device.dir.path().join("records")).unwrap();
    device.start();
    device.run(&pod("running", RestartPolicy::Always, shell("exec sleep 1000 >/dev/null 2>&1")));
    device.until_running("running").await;
    device.stop().await;
    small.set_read_only();
    device.start();
    device.until_running("running").await;
    device.run(&pod("late", RestartPolicy::Never, shell("exit 0")));
    device
        .until("the late one to wait", |device| {
            device
                .events
                .iter()
                .any(|event| event.pod == Some(uid("late")) && event.message.contains("Read-only file system"))
        })
        .await;
    device.until("one word about the record", |device| device.event("WorkloadNotSaved").is_some()).await;
    assert!(device.is_running("running") && device.restarts("running") == 0);
    small.set_writable();
    assert_eq!(device.run_to_end(&pod("late", RestartPolicy::Never, shell("exit 0"))).await.exit_code, 0);
    device.stop().await;
}

/// No container has left a cgroup. Removes the group itself, for which the kernel takes a moment after the last one went.
pub(crate) fn assert_group_is_empty(group: &str) {
    let deadline = Instant::now() + std::time::Duration::from_secs(10);
    for hierarchy in ["memory", "cpu", "pids", "", "unified"] {
        let dir = Path::new("/sys/fs/cgroup").join(hierarchy).join(group);
        while let Err(error) = std::fs::remove_dir(&dir) {
            if error.kind() == std::io::ErrorKind::NotFound {
                break;
            }
            assert!(Instant::now() < deadline, "{}: {error}", dir.display());
            std::thread::sleep(std::time::Duration::from_millis(20));
        }
    }
}

#[tokio::test]
async fn a_memory_limit_is_told_as_such() {
    let mut device = Device::new();
    let group = format!("hawser-test-{}", std::process::id());
    device.config.cgroup = Some(group.clone());
    let resources =
        Resources { memory_limit_bytes: Some(16 << 20), cpu_limit_millis: Some(500), ..Resources::default() };
    let container =
        Container { resources, ..shell("cat /proc/self/cgroup; exec dd if=/dev/zero of=/dev/null bs=200M count=1") };
    if !is_root() || !Path::new("/sys/fs/cgroup").exists() {
        eprintln!("SKIPPED: limits take root and cgroups");
        return;
    }
    device.start();
    let end = device.run_to_end(&pod("greedy", RestartPolicy::Never, container)).await;
    if !device.log("greedy").contains(&group) {
        eprintln!("SKIPPED: no cgroup could be made here");
        return;
    }
    assert_eq!((end.exit_code, end.signal, end.reason.as_str()), (137, Some(9), "OOMKilled"));
    assert_group_is_empty(&group);
    device.stop().await;
}

/// What the kernel says of the memory of the only container in this group; `None`: it has no cgroup for that.
fn memory_limit(group: &str) -> Option<String> {
    let roots = [("memory", "memory.limit_in_bytes"), ("", "memory.max")];
    roots.into_iter().find_map(|(hierarchy, file)| {
        let group = Path::new("/sys/fs/cgroup").join(hierarchy).join(group);
        let mut entries = std::fs::read_dir(group).ok()?.flatten().map(|entry| entry.path());
        let container = entries.find(|path| path.is_dir())?;
        Some(std::fs::read_to_string(container.join(file)).ok()?.trim().to_owned())
    })
}

#[tokio::test]
async fn limits_change_while_the_program_runs() {
    let mut device = Device::new();
    let group = format!("hawser-test-resize-{}", std::process::id());
    device.config.cgroup = Some(group.clone());
    if !is_root() || !Path::new("/sys/fs/cgroup").exists() {
        eprintln!("SKIPPED: limits take root and cgroups");
        return;
    }
    device.start();
    let of_size = |memory: u64| {
        let resources = Resources { memory_limit_bytes: Some(memory << 20), ..Resources::default() };
        pod("elastic", RestartPolicy::Always, Container { resources, ..shell("exec sleep 1000") })
    };
    device.run(&of_size(64));
    device.until("it runs", |device| device.is_running("elastic")).await;
    if memory_limit(&group).is_none() {
        eprintln!("SKIPPED: no cgroup could be made here");
        return;
    }
    let told = |device: &Device| device.events.iter().filter(|event| event.reason == "ResizeCompleted").count();
    for (times, memory) in [(1, 128), (2, 96)] {
        device.run(&of_size(memory));
        device.until("it is resized", |device| told(device) == times).await;
        assert_eq!(memory_limit(&group), Some((memory << 20).to_string()));
    }
    assert_eq!(device.restarts("elastic"), 0);
    device.unwant("elastic");
    device.until("it is gone", |device| device.is_gone("elastic").is_some()).await;
    assert_group_is_empty(&group);
    device.stop().await;
}

#[tokio::test]
async fn what_is_not_enforced_is_told_once_by_its_name() {
    let mut device = Device::new();
    device.config.cgroup = None;
    device.start();
    let resources =
        Resources { memory_limit_bytes: Some(16 << 20), cpu_limit_millis: Some(500), ..Resources::default() };
    let mount = |read_only| Mount {
        volume: "v".into(),
        path: "/v".into(),
        read_only,
        sub_path: None,
        sub_path_expr: false,
        propagation: None,
        read_only_below: None,
    };
    let volume =
        |size_limit| Volume { name: "v".into(), source: VolumeSource::EmptyDir(EmptyDir { memory: true, size_limit }) };
    let mut asks =
        pod("asks", RestartPolicy::OnFailure, Container { resources, ..shell("test -e x || { >x; exit 1; }") });
    asks.containers[0].mounts = vec![mount(true)];
    asks.volumes = vec![volume(Some(1 << 20))];
    assert_eq!(device.run_to_end(&asks).await.exit_code, 0);
    assert_eq!(device.restarts("asks"), 1);
    let mut modest = pod("modest", RestartPolicy::Never, shell("exit 0"));
    modest.containers[0].mounts = vec![mount(false)];
    modest.volumes = vec![volume(None)];
    device.run_to_end(&modest).await;
    let told: Vec<_> = device.events.iter().filter(|event| event.reason == "NotEnforced").collect();
    let [event] = told[..] else { panic!("{told:?}") };
    assert!(event.warning && event.pod == Some(uid("asks")) && event.container.as_deref() == Some("main"));
    for words in [
        "resources.limits.cpu is not enforced: the agent is set up without cgroups",
        "resources.limits.memory is not enforced",
        "readOnly of the mount at /v is not enforced",
        "sizeLimit of volume v is not enforced",
    ] {
        assert!(event.message.contains(words), "{}", event.message);
    }
    device.stop().await;
}

#[tokio::test]
async fn a_killed_shim_leaves_nobody_in_its_cgroups_nor_these() {
    let mut device = Device::new();
    let group = format!("hawser-test-shim-{}", std::process::id());
    device.config.cgroup = Some(group.clone());
    if !is_root() {
        eprintln!("SKIPPED: cgroups take root");
        return;
    }
    device.start();
    // Neither by its session nor by its environment could it be found.
    let script = "env -i setsid sleep 1000 & echo $! > child; echo $PPID > shim; cat /proc/self/cgroup; wait";
    device.run(&pod("web", RestartPolicy::Never, shell(script)));
    let child: i32 = device.written("web", "child").await.parse().unwrap();
    let shim: i32 = device.written("web", "shim").await.parse().unwrap();
    device.until_running("web").await;
    kill(shim, rustix::process::Signal::KILL);
    device.until("the end", |device| device.report("web").unwrap().phase == Phase::Failed).await;
    if device.log("web").contains(&group) {
        assert!(!is_alive(child));
        assert_group_is_empty(&group);
    } else {
        kill(child, rustix::process::Signal::KILL);
        eprintln!("SKIPPED: no cgroup could be made here");
    }
    device.stop().await;
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn many_pods_at_once() {
    const PODS: usize = 200;
    let mut device = Device::new();
    device.start();
    let begun = Instant::now();
    for number in 0..PODS {
        device.run(&pod(&format!("p{number}"), RestartPolicy::Always, shell("exec sleep 1000")));
    }
    device.until("all to run", |device| (0..PODS).all(|number| device.is_running(&format!("p{number}")))).await;
    eprintln!("{PODS} pods run after {:?}", begun.elapsed());
    eprintln!("a shim takes {} KiB (PSS)", pss_of_shims(&device) / PODS as u64);
    let begun = Instant::now();
    for number in 0..PODS {
        device.unwant(&format!("p{number}"));
    }
    device.until("all to go", |device| (0..PODS).all(|number| !device.place(&format!("p{number}")).exists())).await;
    eprintln!("{PODS} pods are gone after {:?}", begun.elapsed());
    assert_eq!(device.shims(), [0; 0], "no shim is left");
    device.stop().await;
}

fn pss_of_shims(device: &Device) -> u64 {
    let pss = |pid: i32| -> Option<u64> {
        let text = std::fs::read_to_string(format!("/proc/{pid}/smaps_rollup")).ok()?;
        let line = text.lines().find_map(|line| line.strip_prefix("Pss:"))?;
        line.trim().split(' ').next()?.parse().ok()
    };
    device.shims().into_iter().filter_map(pss).sum()
}

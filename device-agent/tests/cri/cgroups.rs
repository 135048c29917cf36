//! Pods have cgroups of their own, and what one does to itself its neighbours do not notice.

use std::fs;
use std::os::unix::process::ExitStatusExt;
use std::path::{Path, PathBuf};
use std::process::Command;
use std::time::Duration;

use device_agent::reserved::Reserved;
use hawser_wire::deployment::{Ask, Container, EdgeDeployment, Engine, Resources, RestartPolicy};

use crate::world::*;

/// A tree of cgroups of a test's own, which goes with the test.
pub(crate) struct Cgroups(pub(crate) String);

impl Drop for Cgroups {
    fn drop(&mut self) {
        // What the engine's end has killed may take a moment to be gone.
        for _ in 0..100 {
            if everywhere(&self.0).iter().filter(|dir| !remove(dir)).count() == 0 {
                return;
            }
            std::thread::sleep(Duration::from_millis(50));
        }
    }
}

fn remove(dir: &Path) -> bool {
    let entries = fs::read_dir(dir).into_iter().flatten().flatten().map(|entry| entry.path());
    let left = entries.filter(|path| path.is_dir()).filter(|path| !remove(path)).count();
    left == 0 && fs::remove_dir(dir).is_ok()
}

/// The hierarchies: where they are, and of which controllers; none: of version 2.
fn hierarchies() -> Vec<(PathBuf, Option<String>)> {
    let mounts = fs::read_to_string("/proc/self/mounts").unwrap();
    let fields = mounts.lines().map(|line| line.split(' ').collect::<Vec<_>>());
    let found = fields.filter_map(|fields| match fields[2] {
        "cgroup2" => Some((fields[1].into(), None)),
        "cgroup" => Some((fields[1].into(), Some(fields[3].to_owned()))),
        _ => None,
    });
    found.collect()
}

/// All cgroups at this path.
fn everywhere(path: &str) -> Vec<PathBuf> {
    let all = hierarchies().into_iter().map(|(root, _)| root.join(path.trim_start_matches('/')));
    all.filter(|dir| dir.is_dir()).collect()
}

/// The cgroup at this path in the hierarchy that has the controller, and whether that is of version 2.
pub(crate) fn with(controller: &str, path: &str) -> Option<(PathBuf, bool)> {
    let at = |root: &Path| root.join(path.trim_start_matches('/'));
    hierarchies().iter().find_map(|(root, options)| match options {
        Some(options) => options.split(',').any(|own| own == controller).then(|| (at(root), false)),
        None => {
            let all = fs::read_to_string(root.join("cgroup.controllers")).unwrap_or_default();
            all.split_whitespace().any(|own| own == controller).then(|| (at(root), true))
        }
    })
}

/// What a file of a cgroup says, by its name in either version; `None`: the kernel has no such controller.
pub(crate) fn says(controller: &str, path: &str, names: [&str; 2]) -> Option<String> {
    let (dir, unified) = with(controller, path)?;
    Some(fs::read_to_string(dir.join(names[usize::from(unified)])).unwrap().trim().to_owned())
}

fn limited(cpu: u64, memory: u64, request: u64) -> Container {
    let resources = Resources {
        cpu_request_millis: Some(cpu),
        cpu_limit_millis: Some(cpu),
        memory_request_bytes: Some(request),
        memory_limit_bytes: Some(memory),
        ..Resources::default()
    };
    Container { resources, ..shell(&format!("exec sleep {}", 1_000 + cpu)) }
}

const MIB: u64 = 1 << 20;

#[tokio::test]
async fn a_pod_stands_below_its_class_with_the_limits_of_all_its_containers() {
    let Some(mut device) = Device::new() else { return };
    // Of an earlier life, and of another device.
    let top = device.config.cgroup_root.clone();
    let ghosts = ["boat/burstable/podghost", "other/podghost"].map(|path| format!("{top}/{path}"));
    for (root, options) in hierarchies() {
        if options.is_none_or(|options| !options.contains("cpuset")) {
            ghosts.iter().for_each(|ghost| fs::create_dir_all(root.join(ghost)).unwrap());
        }
    }
    device.start().await;
    let mut two = pod("two", RestartPolicy::Always, limited(200, 64 * MIB, 32 * MIB));
    two.containers.push(Container { name: "second".into(), ..limited(300, 32 * MIB, 32 * MIB) });
    device.run(&hasty(two));
    device.run(&hasty(pod("full", RestartPolicy::Always, limited(400, 32 * MIB, 32 * MIB))));
    device.run(&hasty(pod("rest", RestartPolicy::Always, shell("exec sleep 1000"))));
    for name in ["two", "full", "rest"] {
        device.until_running(name).await;
    }
    assert_eq!((everywhere(&ghosts[0]).len(), everywhere(&ghosts[1]).is_empty()), (0, false), "only what is ours goes");

    let place = |path: &str| format!("{top}/boat/{path}");
    let most = device.config.pod_max_processes.unwrap().to_string();
    for (path, memory, quota) in [
        ("burstable/podtwo", Some(96 * MIB), Some(50_000)),
        ("podfull", Some(32 * MIB), Some(40_000)),
        ("besteffort/podrest", None, None),
    ] {
        let path = &place(path);
        if let (Some(told), Some(expected)) = (says("memory", path, ["memory.limit_in_bytes", "memory.max"]), memory) {
            assert_eq!(told, expected.to_string(), "{path}");
        }
        if let (Some(told), Some(expected)) = (says("cpu", path, ["cpu.cfs_quota_us", "cpu.max"]), quota) {
            assert_eq!(told.split(' ').next(), Some(expected.to_string().as_str()), "{path}");
        }
        if let Some(told) = says("pids", path, ["pids.max", "pids.max"]) {
            assert_eq!(told, most, "{path}");
        }
    }
    if let Some(weight) = says("cpu", &place("burstable"), ["cpu.shares", "cpu.weight"]) {
        let expected = says("cpu", &place("burstable/podtwo"), ["cpu.shares", "cpu.weight"]).unwrap();
        assert_eq!(weight, expected, "a class weighs as much as its pods");
    }
    // The kernel knows best where something runs, and when its turn comes.
    for (words, path, adjustment) in
        [("sleep 1200", "/boat/burstable/podtwo/", 2..1_000), ("sleep 1000", "/boat/besteffort/podrest/", 1_000..1_001)]
    {
        let pid = device.engine.pid_of(words);
        let cgroups = fs::read_to_string(format!("/proc/{pid}/cgroup")).unwrap();
        assert!(cgroups.contains(&format!("/{top}{path}")), "{cgroups}");
        let told: i32 = fs::read_to_string(format!("/proc/{pid}/oom_score_adj")).unwrap().trim().parse().unwrap();
        assert!(adjustment.contains(&told), "{words}: {told}");
    }
    for name in ["two", "full", "rest"] {
        device.sweep(name).await;
    }
    for path in ["burstable/podtwo", "podfull", "besteffort/podrest"] {
        assert_eq!(everywhere(&place(path)), [""; 0].map(PathBuf::from), "nothing is left of a pod");
    }
}

#[tokio::test]
async fn all_pods_together_leave_what_the_device_keeps() {
    const KEPT: u64 = 512 * MIB;
    let Some(mut device) = Device::new() else { return };
    device.config.reserved = Reserved { memory_bytes: KEPT, processes: 1_000, ..Reserved::default() };
    device.start().await;
    let meminfo = fs::read_to_string("/proc/meminfo").unwrap();
    let total = meminfo.lines().find_map(|line| line.strip_prefix("MemTotal:")?.trim().strip_suffix(" kB"));
    let total = total.unwrap().parse::<u64>().unwrap() * 1024;
    let number = |path: &str| fs::read_to_string(path).unwrap().trim().parse::<u64>().unwrap();
    let most = number("/proc/sys/kernel/pid_max").min(number("/proc/sys/kernel/threads-max"));
    let place = format!("{}/boat", device.config.cgroup_root);
    if let Some(told) = says("memory", &place, ["memory.limit_in_bytes", "memory.max"]) {
        assert_eq!(told, (total - KEPT).to_string());
    }
    if let Some(told) = says("pids", &place, ["pids.max", "pids.max"]) {
        assert_eq!(told, (most - 1_000).to_string());
    }
    if let Some(told) = says("cpu", &place, ["cpu.shares", "cpu.weight"]) {
        let above = says("cpu", &device.config.cgroup_root, ["cpu.shares", "cpu.weight"]).unwrap();
        assert_eq!(told, above, "pods weigh beside the rest of the device what they weigh below their root");
    }
    let end = device.run_to_end(&pod("web", RestartPolicy::Never, shell("exit 7"))).await;
    assert_eq!(end.exit_code, 7);
    device.sweep("web").await;
}

#[tokio::test]
async fn a_fork_bomb_ends_in_its_own_pod() {
    const MOST: u64 = 64;
    let Some(mut device) = Device::new() else { return };
    device.config.pod_max_processes = Some(MOST);
    device.start().await;
    let place = format!("{}/boat/besteffort/podbomb", device.config.cgroup_root);
    if with("pids", &place).is_none() {
        eprintln!("NOT TESTED: the kernel offers no cgroup controller pids");
        return;
    }
    let ticks = "i=0; while true; do echo tick; /bin/sleep 0.05; done";
    device.run(&hasty(pod("neighbour", RestartPolicy::Never, shell(ticks))));
    device.until_running("neighbour").await;
    // It ends by itself where nothing stops it, so that the machine survives a failing test.
    let bomb = "sh -c 'i=0; while [ $i -lt 500 ]; do sleep 1000 & i=$((i+1)); done; echo all started'; echo over; \
                exec sleep 1000";
    device.run(&hasty(pod("bomb", RestartPolicy::Never, shell(bomb))));
    device.until("the bomb to have gone off", |device| device.output("bomb").contains("over\n")).await;
    let said = device.output("bomb");
    assert!(said.contains("can't fork") && !said.contains("all started"), "{said}");
    let current: u64 = says("pids", &place, ["pids.current", "pids.current"]).unwrap().parse().unwrap();
    assert!((MOST / 2..=MOST).contains(&current), "{current} processes");

    let ticks = |device: &Device| device.output("neighbour").lines().count();
    let before = ticks(&device);
    device.until("the neighbour to go on", |device| ticks(device) > before + 3).await;
    let end = device.run_to_end(&pod("later", RestartPolicy::Never, shell("/bin/sleep 0.01; exit 7"))).await;
    assert_eq!(end.exit_code, 7, "the engine and the agent go on");
    for name in ["bomb", "neighbour", "later"] {
        device.sweep(name).await;
    }
    assert_eq!(everywhere(&place), [""; 0].map(PathBuf::from));
}

#[tokio::test]
async fn a_limit_of_the_pod_as_a_whole_holds_for_containers_that_have_none() {
    let Some(mut device) = Device::new() else { return };
    device.start().await;
    let whole = |bytes| {
        let resources = Resources { memory_limit_bytes: Some(bytes), ..Resources::default() };
        let overhead = Resources { memory_request_bytes: Some(8 * MIB), ..Resources::default() };
        Some(Engine { asks: vec![Ask::Resources(resources), Ask::Overhead(overhead)], ..Engine::default() })
    };
    let waits = pod("web", RestartPolicy::Never, shell("exec sleep 1000"));
    device.run(&hasty(EdgeDeployment { engine: whole(64 * MIB), ..waits }));
    device.until_running("web").await;
    let place = format!("{}/boat/burstable/podweb", device.config.cgroup_root);
    if let Some(told) = says("memory", &place, ["memory.limit_in_bytes", "memory.max"]) {
        assert_eq!(told, (72 * MIB).to_string());
    }
    let hungry = pod("hungry", RestartPolicy::Never, shell("dd if=/dev/zero of=/dev/null bs=256M count=1"));
    let end = device.run_to_end(&EdgeDeployment { engine: whole(16 * MIB), ..hungry }).await;
    assert_eq!((end.exit_code, end.reason.as_str()), (137, "OOMKilled"));
    device.sweep("web").await;
    device.sweep("hungry").await;
}

#[tokio::test]
async fn what_is_left_in_the_cgroup_of_a_pod_ends_with_it() {
    let Some(mut device) = Device::new() else { return };
    device.start().await;
    device.run(&hasty(pod("web", RestartPolicy::Always, shell("exec sleep 1000"))));
    device.until_running("web").await;
    let mut stray = Command::new("sleep").arg("1000").spawn().unwrap();
    for dir in everywhere(&format!("{}/boat/besteffort/podweb", device.config.cgroup_root)) {
        // Some take none: those of version 1 that were never set up, and in version 2 those with cgroups below.
        let _ = fs::write(dir.join("cgroup.procs"), stray.id().to_string());
    }
    let cgroups = fs::read_to_string(format!("/proc/{}/cgroup", stray.id())).unwrap();
    if !cgroups.contains("podweb") {
        stray.kill().unwrap();
        stray.wait().unwrap();
        eprintln!("NOT TESTED: nothing can be put beside the containers of a pod");
        return;
    }
    device.sweep("web").await;
    assert_eq!(stray.wait().unwrap().signal(), Some(9));
}

#[tokio::test]
async fn pods_from_before_run_on_where_they_are() {
    let Some(mut device) = Device::new() else { return };
    let now = device.config.cgroup_root.clone();
    let _before = Cgroups(format!("{now}-before"));
    device.config.cgroup_root = format!("{now}-before");
    device.start().await;
    device.run(&hasty(pod("server", RestartPolicy::Always, shell("exec sleep 1000"))));
    device.until_running("server").await;
    let before = device.container("server").unwrap().clone();
    device.kill_agent().await;
    device.config.cgroup_root = now;
    device.start().await;
    device.until_running("server").await;
    assert_eq!(device.container("server").unwrap(), &before);
    device.sweep("server").await;
}

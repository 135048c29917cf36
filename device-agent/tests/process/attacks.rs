//! Workloads that mean harm: what they put where the agent and the shim work for them.

use std::os::unix::fs::MetadataExt;
use std::path::Path;

use device_agent::runtime::process::Process;
use device_agent::runtime::{PodSetup, Runtime, VolumeFile};
use hawser_wire::deployment::{Container, EmptyDir, EnvValue, EnvVar, Mount, RestartPolicy, Volume, VolumeSource};
use hawser_wire::report::Phase;

use crate::limits::assert_group_is_empty;
use crate::places::{files, mount};
use crate::world::*;

fn empty(name: &str) -> Volume {
    Volume { name: name.into(), source: VolumeSource::EmptyDir(EmptyDir { memory: false, size_limit: None }) }
}

/// A file that is none of the workload's business, and that the agent could change.
fn victim(device: &Device) -> std::path::PathBuf {
    let path = device.dir.path().join("victim");
    std::fs::write(&path, "not yours").unwrap();
    path
}

fn is_untouched(victim: &Path) -> bool {
    std::fs::read_to_string(victim).unwrap() == "not yours"
        && std::fs::metadata(victim).unwrap().mode() & 0o777 == 0o644
}

#[tokio::test]
async fn a_termination_message_is_a_short_text_of_its_own_or_nothing() {
    let mut device = Device::new();
    let victim = victim(&device);
    device.start();
    let file = "dev/termination-log";
    for (name, script) in [
        ("link", format!("ln -sf {} {file}", victim.display())),
        ("hard-link", format!("ln -f {} {file}", victim.display())),
        ("fifo", format!("rm {file}; mkfifo {file}")),
        ("directory", format!("rm {file}; mkdir {file}")),
        ("device", format!("ln -sf /dev/zero {file}")),
        ("gone", "rm -r dev".to_owned()),
    ] {
        // The second attempt finds what the first one has left.
        let script = format!("test -e again && exit 3; touch again; {script}; exit 1");
        let end =
            device.run_to_end(&pod(name, RestartPolicy::OnFailure, shell(&script.replace("exit 3", "exit 0")))).await;
        assert_eq!((end.exit_code, end.message), (0, None), "{name}");
        let last = device.report(name).unwrap().containers[0].last.clone().unwrap();
        assert_eq!((last.exit_code, last.message), (1, None), "{name}");
        assert!(is_untouched(&victim), "{name}");
    }
    for (name, script) in [
        ("long", format!("head -c 10000000 /dev/zero | tr '\\0' x > {file}; exit 1")),
        ("no-text", format!("head -c 10000000 /dev/zero | tr '\\0' '\\377' > {file}; exit 1")),
        ("controls", format!("head -c 10000000 /dev/zero > {file}; exit 1")),
    ] {
        let end = device.run_to_end(&pod(name, RestartPolicy::Never, shell(&script))).await;
        let length = end.message.unwrap().chars().count();
        assert!(end.exit_code == 1 && (1..=4096).contains(&length), "{name}: {length}");
    }
    device.stop().await;
}

#[tokio::test]
async fn a_line_without_end_costs_neither_memory_nor_disk() {
    let mut device = Device::new();
    device.config.log_max_bytes = 100_000;
    device.config.log_max_files = 3;
    device.start();
    let script = "echo $PPID > shim; head -c 20000000 /dev/zero | tr '\\0' x; echo > done; exec sleep 1000";
    device.run(&pod("endless", RestartPolicy::Always, shell(script)));
    let shim = device.written("endless", "shim").await;
    device.written("endless", "done").await;
    let status = std::fs::read_to_string(format!("/proc/{shim}/status")).unwrap();
    let peak: u64 = status
        .lines()
        .find_map(|line| line.strip_prefix("VmHWM:"))
        .and_then(|line| line.trim().strip_suffix(" kB"))
        .unwrap()
        .parse()
        .unwrap();
    assert!(peak < 32 * 1024, "the shim took {peak} KiB");
    let logs = std::fs::read_dir(device.place("endless").join("logs/main")).unwrap();
    let sizes: Vec<u64> = logs.map(|entry| entry.unwrap().metadata().unwrap().len()).collect();
    assert!(sizes.len() == 3 && sizes.iter().all(|size| *size <= 100_000), "{sizes:?}");
    device.stop().await;
}

#[tokio::test]
async fn a_sub_path_leads_nowhere_else() {
    let mut device = Device::new();
    let outside = device.dir.path().join("outside");
    std::fs::create_dir(&outside).unwrap();
    device.start();
    let sub = |path: &str| Mount { sub_path: Some(path.into()), ..mount("v", "/part") };
    for (name, plant, path, words) in [
        ("parent", "ln -s OUTSIDE v/a", sub("a/b"), "mount volume v at /part"),
        ("itself", "ln -s OUTSIDE v/a", sub("a"), "mount volume v at /part"),
        ("dots", "true", sub("a/../../b"), "leaves its directory"),
        ("told", "true", Mount { sub_path_expr: true, ..sub("$(WHERE)/b") }, "leaves its directory"),
    ] {
        let mut planter = shell(&plant.replace("OUTSIDE", outside.to_str().unwrap()));
        planter.name = "planter".into();
        planter.mounts = vec![mount("v", "/v")];
        let mut container = shell("exit 0");
        container.mounts = vec![path];
        container.env = vec![EnvVar { name: "WHERE".into(), value: EnvValue::Literal("../..".into()) }];
        let mut spec = pod(name, RestartPolicy::Never, container);
        spec.init_containers = vec![planter];
        spec.volumes = vec![empty("v")];
        device.run(&spec);
        device
            .until("a failure", |device| {
                device.events.iter().any(|event| event.pod == Some(uid(name)) && event.message.contains(words))
            })
            .await;
        assert_eq!(device.report(name).unwrap().phase, Phase::Pending, "{name}");
        assert!(std::fs::read_dir(&outside).unwrap().next().is_none(), "{name}");
    }
    device.stop().await;
}

#[tokio::test]
async fn whatever_is_left_is_removed_and_nothing_else() {
    let mut device = Device::new();
    let victim = victim(&device);
    device.start();
    let script = format!(
        "mkdir v/kept; echo x > v/kept/file; ln -s {} v/dir; ln -s {} v/file; ln {} v/hard; mkfifo v/fifo; cd v; i=0; \
         while [ $i -lt 1500 ]; do mkdir d; cd -P d; i=$((i+1)); done; chmod 0 \"$HAWSER_WORKLOAD_DIR/v/kept\"",
        device.dir.path().display(),
        victim.display(),
        victim.display()
    );
    let mut container = shell(&script);
    container.mounts = vec![mount("v", "/v")];
    let mut spec = pod("mess", RestartPolicy::Never, container);
    spec.volumes = vec![empty("v")];
    let end = device.run_to_end(&spec).await;
    assert_eq!(end.exit_code, 0, "{}", device.log("mess"));
    device.unwant("mess");
    device.until("it to go", |device| !device.place("mess").exists()).await;
    assert!(is_untouched(&victim) && device.dir.path().join("records").is_dir());
    device.stop().await;
}

#[tokio::test]
async fn a_process_that_forks_away_for_ever_is_caught() {
    let mut device = Device::new();
    device.start();
    // Each one starts the next in a session of its own, and ends.
    let script = "echo 'setsid sh \"$0\" & exit' > hop; for i in 1 2 3 4; do setsid sh hop & done; sleep 0.3; exit 6";
    assert_eq!(device.run_to_end(&pod("hopper", RestartPolicy::Never, shell(script))).await.exit_code, 6);
    let marker = b"HAWSER_CONTAINER_ID=hopper-main-0";
    let left = || -> Vec<i32> {
        let has = |pid: &i32| {
            let environment = std::fs::read(format!("/proc/{pid}/environ")).unwrap_or_default();
            environment.split(|byte| *byte == 0).any(|variable| variable == marker)
        };
        pids().into_iter().filter(has).collect()
    };
    let first = left();
    for pid in &first {
        // A failed test leaves nothing running.
        let _ =
            rustix::process::kill_process(rustix::process::Pid::from_raw(*pid).unwrap(), rustix::process::Signal::KILL);
    }
    assert_eq!(first, [0; 0]);
    device.stop().await;
}

#[tokio::test]
async fn a_container_has_only_so_many_processes() {
    let mut device = Device::new();
    let group = format!("hawser-test-pids-{}", std::process::id());
    device.config.cgroup = Some(group.clone());
    device.config.max_processes = 20;
    device.start();
    let script = "cat /proc/self/cgroup; grep 'Max processes' /proc/self/limits; for i in 1 2 3 4 5 6 7 8 9 10 11 12 13 \
                  14 15 16 17 18 19 20 21 22 23 24 25; do sleep 1000 & done; echo all";
    let own = std::fs::read_to_string("/proc/self/limits").unwrap();
    let limit = |text: &str| -> Option<u64> {
        text.lines().find_map(|line| line.split_once("Max processes")?.1.split_whitespace().next()?.parse().ok())
    };
    device.run_to_end(&pod("bomb", RestartPolicy::Never, shell(script))).await;
    let log = device.log("bomb");
    if let Some(own) = limit(&own) {
        assert_eq!(limit(&log), Some(own / 4 * 3), "others have some left");
    }
    if log.contains(&group) {
        assert!(!log.contains("F all"), "{log}");
        assert_group_is_empty(&group);
    } else {
        eprintln!("SKIPPED: no cgroup could be made here");
    }
    device.stop().await;
}

#[tokio::test]
async fn a_program_gets_no_descriptor_of_ours() {
    let mut device = Device::new();
    device.start();
    let script =
        "for fd in /proc/$$/fd/*; do readlink \"$fd\"; done | grep -v '^pipe:' | grep -v '^/dev/null$'; exit 0";
    device.run_to_end(&pod("fds", RestartPolicy::Never, shell(script))).await;
    assert_eq!(device.log("fds"), "");
    device.stop().await;
}

#[tokio::test]
async fn secrets_of_a_pod_that_nobody_remembers_do_not_stay() {
    let mut device = Device::new();
    device.start();
    let mut spec =
        pod("runs", RestartPolicy::Always, Container { mounts: vec![mount("s", "/s")], ..shell("exec sleep 1000") });
    spec.volumes = vec![files("s", true, &[("key", "KEY")])];
    device.run(&spec);
    device.until_running("runs").await;
    device.stop().await;
    // An agent dies between making the place and the first start, and the pod is deleted meanwhile.
    let spec = std::sync::Arc::new(hawser_wire::deployment::EdgeDeployment { uid: uid("never-ran"), ..spec });
    let file = VolumeFile { path: "key".into(), mode: 0o600, content: b"KEY"[..].into(), owner: None };
    let setup = PodSetup { uid: uid("never-ran"), spec, files: [("s".to_owned(), vec![file])].into() };
    Process::new(device.config.clone()).prepare(setup.clone()).await.unwrap();
    let place = |name: &str| [device.config.root.join(name), device.config.secrets.join(name)];
    assert!(place("never-ran").iter().all(|place| place.exists()));
    let foreign = device.config.secrets.join("foreign");
    std::fs::create_dir(&foreign).unwrap();
    let next = Process::new(device.config.clone());
    assert_eq!(next.inventory().await.unwrap().len(), 1);
    assert!(!place("never-ran").iter().any(|place| place.exists()));
    assert!(place("runs").iter().all(|place| place.exists()));
    assert!(foreign.exists(), "the directory may have been given to others as well");
    // Later, what is not started yet is being prepared.
    next.prepare(setup).await.unwrap();
    next.inventory().await.unwrap();
    assert!(place("never-ran").iter().all(|place| place.exists()));
    device.start();
    device.until_running("runs").await;
    assert_eq!(device.restarts("runs"), 0);
    device.stop().await;
}

//! Directories, volumes, environment and logs.

use device_agent::runtime::process::Process;
use device_agent::runtime::{Runtime, Space};
use hawser_wire::deployment::{
    Container, Content, DeviceField, EmptyDir, EnvValue, EnvVar, File, Files, Mount, RestartPolicy, Volume,
    VolumeSource,
};
use hawser_wire::report::Phase;

use crate::world::*;

pub(crate) fn files(name: &str, secret: bool, files: &[(&str, &str)]) -> Volume {
    let entries = files
        .iter()
        .map(|(path, text)| File {
            path: (*path).into(),
            mode: 0o644,
            content: Content::Inline((*text).into()),
            owner: None,
        })
        .collect();
    Volume { name: name.into(), source: VolumeSource::Files(Files { secret, entries }) }
}

pub(crate) fn mount(volume: &str, path: &str) -> Mount {
    Mount {
        volume: volume.into(),
        path: path.into(),
        read_only: false,
        sub_path: None,
        sub_path_expr: false,
        propagation: None,
        read_only_below: None,
    }
}

#[tokio::test]
async fn changed_files_reach_a_running_container() {
    let mut device = Device::new();
    device.start();
    let script = "cat etc/app/key; until grep -q new \"$CONFIG\"; do sleep 0.05; done; cat etc/app/key";
    let mut container = shell(script);
    container.mounts = vec![mount("config", "/etc/app")];
    let path = EnvValue::Template("$(HAWSER_WORKLOAD_DIR)/etc/app/key".into());
    container.env = vec![EnvVar { name: "CONFIG".into(), value: path }];
    let mut spec = pod("config", RestartPolicy::Never, container);
    spec.volumes = vec![files("config", false, &[("key", "old\n")])];
    device.run(&spec);
    device.until("the old file to be read", |device| device.log("config").contains("F old")).await;
    spec.volumes = vec![files("config", false, &[("key", "new\n")])];
    let end = device.run_to_end(&spec).await;
    assert_eq!(end.exit_code, 0);
    assert!(device.log("config").contains("stdout F new"), "{}", device.log("config"));
    device.stop().await;
}

#[tokio::test]
async fn secrets_are_only_in_memory() {
    const SECRET: &str = "correct horse battery staple";
    let mut device = Device::new();
    device.start();
    let mut container = shell("test \"$(cat s/key)\" = \"$SECRET\" && exit 4");
    container.mounts = vec![mount("s", "/s")];
    container.env = vec![EnvVar { name: "SECRET".into(), value: EnvValue::Literal(SECRET.into()) }];
    let mut spec = pod("secret", RestartPolicy::Never, container);
    spec.volumes = vec![files("s", true, &[("key", SECRET)])];
    assert_eq!(device.run_to_end(&spec).await.exit_code, 4);
    device.stop().await;
    let mut stack = vec![device.dir.path().to_owned()];
    while let Some(path) = stack.pop() {
        let meta = std::fs::symlink_metadata(&path).unwrap();
        if meta.is_dir() {
            stack.extend(std::fs::read_dir(&path).unwrap().map(|entry| entry.unwrap().path()));
        } else if meta.is_file() {
            let bytes = std::fs::read(&path).unwrap();
            assert!(!bytes.windows(SECRET.len()).any(|part| part == SECRET.as_bytes()), "{}", path.display());
        }
    }
}

#[tokio::test]
async fn a_secret_is_not_written_where_it_would_be_on_a_disk() {
    let mut device = Device::new();
    // The checkout is on a disk wherever tests run.
    let on_disk = tempfile::tempdir_in(env!("CARGO_TARGET_TMPDIR")).unwrap();
    device.config.secrets = on_disk.path().join("secrets");
    device.start();
    let mut spec = pod("secret", RestartPolicy::Never, shell("exit 0"));
    spec.volumes = vec![files("s", true, &[("key", "x")])];
    device.run(&spec);
    device.until("an event", |device| device.event("FailedMount").is_some() && device.report("secret").is_some()).await;
    assert!(device.event("FailedMount").unwrap().message.contains("choose a directory on a tmpfs"));
    assert_eq!(device.report("secret").unwrap().phase, Phase::Pending);
    device.stop().await;
}

#[tokio::test]
async fn volumes_are_shared_and_paths_stay_inside() {
    let mut device = Device::new();
    device.start();
    let empty = |name: &str, memory| Volume {
        name: name.into(),
        source: VolumeSource::EmptyDir(EmptyDir { memory, size_limit: None }),
    };
    let mut first = shell("echo shared > data/x && echo part > part/y && echo ram > ram/z");
    first.name = "first".into();
    first.mounts = vec![
        mount("disk", "/data"),
        Mount { sub_path: Some("$(WHERE)/b".into()), sub_path_expr: true, ..mount("disk", "/part") },
        mount("ram", "/ram"),
    ];
    first.env = vec![EnvVar { name: "WHERE".into(), value: EnvValue::Template("a".into()) }];
    let mut second = shell("cat deep/er/x deep/er/a/b/y ram/z");
    second.mounts = vec![mount("disk", "deep/er"), mount("ram", "/ram")];
    let mut spec = pod("share", RestartPolicy::Never, second);
    spec.init_containers = vec![first];
    spec.volumes = vec![empty("disk", false), empty("ram", true)];
    assert_eq!(device.run_to_end(&spec).await.exit_code, 0);
    let log = device.log("share");
    assert!(log.contains("F shared") && log.contains("F part") && log.contains("F ram"), "{log}");

    for (name, path) in [("up", "../x"), ("nested", "/data/below"), ("root", "/")] {
        let mut container = shell("exit 0");
        container.mounts = vec![mount("disk", "/data"), mount("disk", path)];
        let mut spec = pod(name, RestartPolicy::Never, container);
        spec.volumes = vec![empty("disk", false)];
        device.run(&spec);
        device
            .until("a refusal", |device| {
                device.events.iter().any(|event| event.pod == Some(uid(name)) && event.message.contains("mountPath"))
            })
            .await;
    }
    // The program puts a link where the agent is to make a directory.
    let mut container = shell("test -e planted || { rm -rf etc; ln -s \"$HOME/..\" etc; touch planted; exit 1; }");
    container.mounts = vec![mount("disk", "/etc/app")];
    let mut spec = pod("link", RestartPolicy::OnFailure, container);
    spec.volumes = vec![empty("disk", false)];
    device.run(&spec);
    device
        .until("a failure", |device| {
            device.events.iter().any(|event| event.message.contains("mount volume disk at /etc/app"))
        })
        .await;
    assert!(!device.place("link").join("containers/main/app").exists());
    device.stop().await;
}

#[tokio::test]
async fn the_environment_is_the_pods_own() {
    let mut device = Device::new();
    device.start();
    let mut container = shell("pwd; echo \"$HOME $PATH $IP $HOSTNAME\"; env | wc -l; cat /proc/self/oom_score_adj");
    container.env = vec![EnvVar { name: "IP".into(), value: EnvValue::Device(DeviceField::HostIp) }];
    let mut spec = pod("env", RestartPolicy::Never, container);
    spec.hostname = Some("me".into());
    device.run_to_end(&spec).await;
    let log = device.log("env");
    let work = device.work("env").display().to_string();
    assert!(log.contains(&format!("F {work}\n")), "{log}");
    assert!(log.contains(&format!("F {work} /usr/local/sbin:")) && log.contains(" 192.0.2.7 me\n"), "{log}");
    assert!(log.ends_with("F 0\n"), "{log}");
    assert_eq!(device.report("env").unwrap().pod_ips, ["192.0.2.7"]);
    device.stop().await;
}

#[tokio::test]
async fn logs_rotate() {
    let mut device = Device::new();
    device.config.log_max_bytes = 10_000;
    device.config.log_max_files = 3;
    device.start();
    let script = "i=0; while [ $i -lt 2000 ]; do echo line $i; i=$((i+1)); done; printf unfinished; echo error >&2";
    device.run_to_end(&pod("chatty", RestartPolicy::Never, shell(script))).await;
    let dir = device.place("chatty").join("logs/main");
    let mut names: Vec<String> =
        std::fs::read_dir(&dir).unwrap().map(|entry| entry.unwrap().file_name().into_string().unwrap()).collect();
    names.sort();
    assert_eq!(names, ["0.log", "0.log.1", "0.log.2"]);
    for name in &names {
        assert!(std::fs::metadata(dir.join(name)).unwrap().len() <= 10_000, "{name}");
    }
    let log = std::fs::read_to_string(dir.join("0.log.1")).unwrap() + &device.log("chatty");
    assert!(log.contains("stdout F line 1999\n") && !log.contains("stdout F line 0\n"), "{log}");
    assert!(log.contains("stdout F unfinished\n") && log.contains("stderr F error\n"));
    let line = log.lines().last().unwrap();
    assert!(line.len() > 31 && line[..30].starts_with("20") && &line[29..31] == "Z ", "{line}");
    device.stop().await;
}

#[tokio::test]
async fn what_a_pod_takes_of_the_disk_is_measured() {
    let mut device = Device::new();
    device.start();
    let script = "dd if=/dev/zero of=v/big bs=1024 count=2048 2>/dev/null; \
                  dd if=/dev/zero of=mine bs=1024 count=1024 2>/dev/null; \
                  dd if=/dev/zero of=m/memory bs=1024 count=512 2>/dev/null; echo written; exec sleep 1000";
    let volume = |name: &str, memory| Volume {
        name: name.into(),
        source: VolumeSource::EmptyDir(EmptyDir { memory, size_limit: None }),
    };
    let mut spec = pod(
        "big",
        RestartPolicy::Always,
        Container { mounts: vec![mount("v", "/v"), mount("m", "/m")], ..shell(script) },
    );
    spec.volumes = vec![volume("v", false), volume("m", true)];
    device.run(&spec);
    device.until("everything to be written", |device| device.log("big").contains("written")).await;
    let used = Process::new(device.config.clone()).disk_use(std::sync::Arc::new(spec)).await.unwrap();
    const MIB: u64 = 1 << 20;
    let near = |space: Space, bytes: u64| (bytes..bytes + MIB / 2).contains(&space.bytes);
    assert!(near(used.volumes["v"], 2 * MIB) && used.volumes["v"].inodes == 2, "{used:?}");
    assert!(near(used.containers["main"], MIB), "{used:?}");
    assert!(near(used.in_memory["m"], MIB / 2) && !used.volumes.contains_key("m"), "memory is no disk: {used:?}");
    device.stop().await;
}

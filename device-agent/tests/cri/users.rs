//! Users and groups of a pod's own.

use std::collections::BTreeSet;

use hawser_wire::deployment::{
    Ask, Confinement, ConfinementAsk, Container, Content, EdgeDeployment, EmptyDir, Engine, File, Files, Mount,
    RestartPolicy, User, Volume, VolumeSource,
};

use crate::world::*;

fn apart(name: &str, container: Container) -> EdgeDeployment {
    let engine = Some(Engine { asks: vec![Ask::OwnUsers], ..Engine::default() });
    EdgeDeployment { engine, ..pod(name, RestartPolicy::Never, container) }
}

/// Whether the engine says that it, the kernel and the program that starts containers can do it.
async fn can(device: &Device) -> bool {
    let told = hawser_cri::Client::new(&device.engine.socket()).unwrap().status(false).await.unwrap();
    let mut usual = told.runtime_handlers.iter().filter(|handler| handler.name.is_empty());
    let can = usual.any(|handler| handler.features.is_some_and(|features| features.user_namespaces));
    assert!(can || !device.engine.has_own_runc(), "a runc of today can do it: {:?}", told.runtime_handlers);
    if !can {
        eprintln!("NOT TESTED: the engine gives no pod users of its own");
    }
    can
}

/// The first user of the device's that is a pod's, which tells its map.
fn first(map: &str) -> u32 {
    let words: Vec<u32> = map.split_whitespace().map(|word| word.parse().unwrap()).collect();
    let [0, first, 65_536] = words[..] else { panic!("{map:?}") };
    assert!(first >= 65_536 && first % 65_536 == 0, "{map:?}");
    first
}

#[tokio::test]
async fn an_engine_that_cannot_give_a_pod_users_is_told_of_as_by_a_kubelet() {
    let Some(mut device) = Device::new() else { return };
    device.start().await;
    if can(&device).await {
        return;
    }
    device.run(&apart("apart", shell("true")));
    device.until("the kubelet's words", |device| device.reasons().contains(&"FailedCreatePodSandBox")).await;
    let event = device.events.iter().find(|event| event.reason == "FailedCreatePodSandBox").unwrap();
    assert_eq!(
        event.message,
        "Failed to create pod sandbox: can't set `spec.hostUsers: false`, runtime does not support user namespaces"
    );
    device.until_waiting("apart", "ContainerCreating").await;
    device.sweep("apart").await;
}

#[tokio::test]
async fn a_pod_with_users_of_its_own_reads_and_writes_what_it_is_given() {
    let Some(mut device) = Device::new() else { return };
    device.start().await;
    if !can(&device).await {
        return;
    }
    let file = |path: &str, mode, owner| File {
        path: path.into(),
        mode,
        content: Content::Inline(format!("{path}\n").into_bytes()),
        owner,
    };
    let files = |name: &str, secret, entries| Volume {
        name: name.into(),
        source: VolumeSource::Files(Files { secret, entries }),
    };
    let memory = |name: &str, size_limit| Volume {
        name: name.into(),
        source: VolumeSource::EmptyDir(EmptyDir { memory: true, size_limit }),
    };
    let own = tempfile::tempdir().unwrap();
    let script = "cat /proc/self/uid_map; cat /proc/self/gid_map; id -u; id -G; \
                  for dir in /empty /memory /small /host /part; do echo more > $dir/new && stat -c '%u %g' $dir/new; done; \
                  cat /config/plain /secret/shut /token/token; stat -Lc '%a %u %g' /secret/shut /token/token; \
                  stat -c '%u' /etc/hosts /etc/resolv.conf /bin/busybox; head -n 1 /etc/hosts; \
                  echo bye > /dev/termination-log";
    let mounts = ["empty", "memory", "small", "host", "config", "secret", "token"];
    let part = Mount { sub_path: Some("deep/er".into()), ..mount("empty", "/part") };
    let of = |name: &str, user: User, group| {
        let mounts = mounts.map(|name| mount(name, &format!("/{name}"))).into_iter().chain([part.clone()]).collect();
        let mut spec = apart(name, Container { mounts, user, ..shell(script) });
        spec.fs_group = group;
        spec.volumes = vec![
            scratch("empty"),
            memory("memory", None),
            memory("small", Some(1 << 20)),
            Volume {
                name: "host".into(),
                source: VolumeSource::HostPath(hawser_wire::deployment::HostPath {
                    path: own.path().display().to_string(),
                    kind: hawser_wire::deployment::HostPathKind::Directory,
                    of_group: false,
                    only_if_differs: false,
                    local: false,
                }),
            },
            files("config", false, vec![file("plain", 0o644, None)]),
            files("secret", true, vec![file("shut", 0o400, None)]),
            files("token", true, vec![file("token", 0o600, user.uid)]),
        ];
        spec
    };
    let of_root = User { uid: None, gid: None, non_root: false };
    std::fs::set_permissions(own.path(), std::os::unix::fs::PermissionsExt::from_mode(0o777)).unwrap();
    let end = device.run_to_end(&of("root", of_root, None)).await;
    let output = device.output("root");
    assert_eq!((end.exit_code, end.message.as_deref()), (0, Some("bye\n")), "{output}");
    let lines: Vec<&str> = output.lines().collect();
    assert_eq!(lines[0], lines[1]);
    let range = first(lines[0]);
    let expected = "0\n0\n0 0\n0 0\n0 0\n0 0\n0 0\nplain\nshut\ntoken\n400 0 0\n600 0 0\n0\n0\n0\n# Kubernetes-managed hosts file.";
    assert_eq!(lines[2..].join("\n"), expected);
    use std::os::unix::fs::MetadataExt;
    let there = std::fs::metadata(own.path().join("new")).unwrap();
    assert_eq!((there.uid(), there.gid()), (0, 0), "the disk keeps the numbers that the container sees");
    std::fs::remove_file(own.path().join("new")).unwrap();

    let somebody = User { uid: Some(1234), gid: Some(77), non_root: true };
    let end = device.run_to_end(&of("somebody", somebody, Some(4242))).await;
    let output = device.output("somebody");
    assert_eq!((end.exit_code, end.message.as_deref()), (0, Some("bye\n")), "{output}");
    let lines: Vec<&str> = output.lines().collect();
    assert_ne!(first(lines[0]), range, "the first pod is still there");
    let expected = "1234\n77 4242\n1234 4242\n1234 4242\n1234 4242\n1234 77\n1234 4242\nplain\nshut\ntoken\n440 0 4242\n\
                    640 1234 4242\n0\n0\n0\n# Kubernetes-managed hosts file.";
    assert_eq!(lines[2..].join("\n"), expected);
    for name in ["root", "somebody"] {
        device.sweep(name).await;
    }
}

#[tokio::test]
async fn users_of_a_pod_outlive_the_agent_and_are_nobody_elses() {
    let Some(mut device) = Device::new() else { return };
    device.start().await;
    if !can(&device).await {
        return;
    }
    let names = ["a", "b", "c"];
    let of = |name: &str| {
        let again = RestartPolicy::Always;
        let script = format!("cat /proc/self/uid_map; exec sleep {}", 1000 + u32::from(name.as_bytes()[0] - b'a'));
        hasty(EdgeDeployment { restart_policy: again, ..apart(name, shell(&script)) })
    };
    for name in names {
        device.run(&of(name));
    }
    let mut ranges = Vec::new();
    for name in names {
        device.until("the pod to tell its users", |device| device.output(name).ends_with('\n')).await;
        ranges.push(first(&device.output(name)));
    }
    assert_eq!(ranges.iter().collect::<BTreeSet<_>>().len(), names.len(), "{ranges:?}");

    device.kill_agent().await;
    device.start().await;
    for name in names {
        device.until_running(name).await;
        assert_eq!(device.container(name).unwrap().restart_count, 0, "it was taken over");
    }
    // Who is started again after that has the users that it had.
    let pid = rustix::process::Pid::from_raw(device.engine.pid_of("sleep 1000")).unwrap();
    rustix::process::kill_process(pid, rustix::process::Signal::KILL).unwrap();
    let second = device.config.root.join("a/logs/main/1.log");
    let told = || std::fs::read_to_string(&second).ok().filter(|text| text.ends_with('\n'));
    device.until("the container to run again and tell its users", |_| told().is_some()).await;
    assert_eq!(told().map(|text| first(text.splitn(4, ' ').nth(3).unwrap())), Some(ranges[0]));
    device.run(&of("d"));
    device.until("the fourth pod to tell its users", |device| device.output("d").ends_with('\n')).await;
    assert!(!ranges.contains(&first(&device.output("d"))));
    for name in ["a", "b", "c", "d"] {
        device.sweep(name).await;
    }
}

#[tokio::test]
async fn a_pod_with_users_of_its_own_may_see_all_of_proc() {
    let Some(mut device) = Device::new() else { return };
    device.start().await;
    let confined = |asks| Container {
        confinement: Some(Confinement { asks, ..Confinement::default() }),
        ..shell("grep -c ' /proc/' /proc/self/mountinfo")
    };
    device.run(&pod("shared", RestartPolicy::Never, confined(vec![ConfinementAsk::UnmaskedProc])));
    let words = device.until_waiting("shared", "CreateContainerConfigError").await;
    assert_eq!(words, "securityContext.procMount: `hostUsers` must be false to use `Unmasked`");
    device.sweep("shared").await;
    if !can(&device).await {
        return;
    }
    device.run_to_end(&apart("masked", confined(vec![]))).await;
    assert_ne!(device.output("masked"), "0\n");
    device.run_to_end(&apart("unmasked", confined(vec![ConfinementAsk::UnmaskedProc]))).await;
    assert_eq!(device.output("unmasked"), "0\n");
    for name in ["masked", "unmasked"] {
        device.sweep(name).await;
    }
}

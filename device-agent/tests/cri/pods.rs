//! What a pod gets, and how it ends.

use hawser_wire::deployment::{
    Confinement, Container, Content, EmptyDir, EnvValue, EnvVar, File, Files, Resources, RestartPolicy, User, Volume,
    VolumeSource,
};

use crate::engine::IMAGE;
use crate::world::*;

fn files(name: &str, secret: bool, path: &str, content: &str) -> Volume {
    let file = File { path: path.into(), mode: 0o644, content: Content::Inline(content.into()), owner: None };
    Volume { name: name.into(), source: VolumeSource::Files(Files { secret, entries: vec![file] }) }
}

#[tokio::test]
async fn a_pod_has_a_network_volumes_and_an_environment_of_its_own() {
    let Some(mut device) = Device::new() else { return };
    device.start().await;
    let script = "cat /etc/app/key /etc/secret/password; echo \"$WORD $POD_IP $(hostname) $(id -u):$(id -g) $(id -G)\"; \
                  echo kept > /scratch/file; cat /scratch/file; ip -4 addr show eth0 | cat; cat /etc/hosts; \
                  echo it went well > /dev/termination-log";
    let mut spec = pod(
        "web",
        RestartPolicy::Never,
        Container {
            env: vec![
                EnvVar { name: "WORD".into(), value: EnvValue::Literal("hello".into()) },
                EnvVar { name: "POD_IP".into(), value: EnvValue::Device(hawser_wire::deployment::DeviceField::PodIp) },
            ],
            mounts: vec![mount("config", "/etc/app"), mount("secret", "/etc/secret"), mount("scratch", "/scratch")],
            user: User { uid: Some(1234), gid: Some(77), non_root: true },
            ..shell(script)
        },
    );
    spec.volumes = vec![
        files("config", false, "key", "value\n"),
        files("secret", true, "password", "hunter2\n"),
        Volume { name: "scratch".into(), source: VolumeSource::EmptyDir(EmptyDir { memory: false, size_limit: None }) },
    ];
    spec.fs_group = Some(555);
    spec.supplemental_groups = vec![444];
    let end = device.run_to_end(&spec).await;
    let output = device.output("web");
    assert_eq!((end.exit_code, end.reason.as_str()), (0, "Completed"), "{output}");
    assert_eq!(end.message.as_deref(), Some("it went well\n"));
    let ip = device.report("web").unwrap().pod_ips[0].clone();
    assert!(ip.starts_with("10."), "{ip}");
    assert!(output.starts_with("value\nhunter2\n"), "{output}");
    assert!(output.contains(&format!("hello {ip} web 1234:77 77 444 555")), "{output}");
    assert!(output.contains("\nkept\n") && output.contains(&format!("inet {ip}/")), "{output}");
    assert!(output.contains(&format!("{ip}\tweb")), "{output}");
    let container = device.container("web").unwrap();
    assert_eq!(container.image, IMAGE);
    assert!(container.image_id.starts_with("sha256:") || container.image_id.contains("@sha256:"), "{container:?}");
    let id = container.container_id.clone().unwrap();
    let (scheme, own) = id.split_once("://").unwrap();
    assert_eq!((scheme, own.len()), (if device.engine.is_crio() { "cri-o" } else { "containerd" }, 64));
    assert_eq!(end.container_id, Some(id));
    assert_eq!(device.reasons(), ["Pulled", "Created", "Started"]);
    device.sweep("web").await;
}

#[tokio::test]
async fn ends_are_told_as_they_were() {
    let Some(mut device) = Device::new() else { return };
    device.start().await;
    let end = device.run_to_end(&pod("bad", RestartPolicy::Never, shell("exit 42"))).await;
    assert_eq!((end.exit_code, end.reason.as_str(), end.message), (42, "Error", None));
    let (started, finished) = (end.started.unwrap(), end.finished.unwrap());
    assert!(started <= finished && finished.millis_since(started) < 30_000, "{started:?} {finished:?}");

    let talkative = Container { termination_message_from_logs: true, ..shell("echo last words >&2; exit 3") };
    let end = device.run_to_end(&pod("talk", RestartPolicy::Never, talkative)).await;
    assert_eq!(end.message.as_deref(), Some("last words\n"));

    let hungry = Container {
        resources: Resources { memory_limit_bytes: Some(16 << 20), ..Resources::default() },
        ..shell("dd if=/dev/zero of=/dev/null bs=256M count=1")
    };
    let end = device.run_to_end(&pod("hungry", RestartPolicy::Never, hungry)).await;
    assert_eq!((end.exit_code, end.reason.as_str()), (137, "OOMKilled"));

    let missing = Container { command: vec!["/no/such/program".into()], ..shell("") };
    let missing = pod("missing", RestartPolicy::Never, missing);
    let message = if device.engine.is_crio() {
        // It looks for the program when it makes the container, which is tried again.
        device.run(&missing);
        device.until_waiting("missing", "CreateContainerError").await
    } else {
        let end = device.run_to_end(&missing).await;
        assert_eq!(end.reason, "StartError");
        end.message.unwrap_or_default()
    };
    assert!(message.contains("/no/such/program"), "{message}");

    for name in ["bad", "talk", "hungry", "missing"] {
        device.sweep(name).await;
    }
}

#[tokio::test]
async fn a_pod_that_is_told_to_end_has_its_grace_and_no_more() {
    let Some(mut device) = Device::new() else { return };
    device.start().await;
    let polite = "trap 'echo bye; exit 7' TERM; echo up; while :; do sleep 0.05; done";
    device.run(&pod("polite", RestartPolicy::Always, shell(polite)));
    let mut deaf = pod("deaf", RestartPolicy::Always, shell("trap '' TERM; echo up; while :; do sleep 0.05; done"));
    deaf.grace_seconds = 1;
    device.run(&deaf);
    for name in ["polite", "deaf"] {
        device.until_running(name).await;
        device.until("it to be up", |device| device.output(name).contains("up")).await;
    }
    let begun = std::time::Instant::now();
    device.sweep("polite").await;
    assert!(begun.elapsed().as_secs() < 20, "it ended by itself, long before its grace was over");
    device.sweep("deaf").await;
}

#[tokio::test]
async fn a_changed_configuration_reaches_a_container_that_runs_and_a_long_log_is_cut() {
    let Some(mut device) = Device::new() else { return };
    device.config.log_max_bytes = 2_000;
    device.start().await;
    let script = "until test \"$(cat /etc/app/key)\" = new; do sleep 0.05; done; echo saw it; exec sleep 1000";
    let mut spec = pod(
        "web",
        RestartPolicy::Always,
        Container {
            mounts: vec![mount("config", "/etc/app")],
            ..shell(&format!("for i in 1 2 3 4 5 6 7 8 9 10; do echo {}; done; {script}", "x".repeat(300)))
        },
    );
    spec.volumes = vec![files("config", false, "key", "old")];
    device.run(&spec);
    device.until_running("web").await;
    let log = device.log_file("web");
    let older = log.with_extension("log.1");
    device.until("the log to be cut", |_| older.exists() && log.exists()).await;
    spec.volumes = vec![files("config", false, "key", "new")];
    device.run(&spec);
    device.until("the change to arrive", |device| device.output("web").contains("saw it")).await;
    assert_eq!(device.container("web").unwrap().restart_count, 0);
    assert!(std::fs::read_to_string(older).unwrap().len() > 2_000);
    device.sweep("web").await;
}

#[tokio::test]
async fn a_container_is_confined_as_its_pod_says() {
    let Some(mut device) = Device::new() else { return };
    device.start().await;
    let script = "cat /proc/self/status; touch /file || echo read only; ls /proc/kcore -l";
    let confined = Container {
        confinement: Some(Confinement {
            read_only_root: true,
            no_new_privileges: true,
            drop_capabilities: vec!["ALL".into()],
            add_capabilities: vec!["CHOWN".into()],
            seccomp: true,
            ..Confinement::default()
        }),
        ..shell(script)
    };
    device.run_to_end(&pod("confined", RestartPolicy::Never, confined)).await;
    let output = device.output("confined").replace('\t', " ");
    for line in ["CapEff: 0000000000000001", "NoNewPrivs: 1", "Seccomp: 2", "read only"] {
        assert!(output.contains(line), "{line}: {output}");
    }
    let privileged =
        Container { confinement: Some(Confinement { privileged: true, ..Confinement::default() }), ..shell(script) };
    device.run_to_end(&pod("free", RestartPolicy::Never, privileged)).await;
    let output = device.output("free").replace('\t', " ");
    let capabilities = output.lines().find_map(|line| line.strip_prefix("CapEff: ")).unwrap();
    // CAP_SYS_ADMIN.
    assert_ne!(u64::from_str_radix(capabilities, 16).unwrap() & (1 << 21), 0, "{output}");
    assert!(output.contains("Seccomp: 0") && !output.contains("read only"), "{output}");
    for name in ["confined", "free"] {
        device.sweep(name).await;
    }
}

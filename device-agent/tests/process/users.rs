//! Several users on one board: what each may enter, and what it may not.

use std::os::unix::fs::{MetadataExt, PermissionsExt};
use std::path::Path;

use device_agent::state_dir::StateDir;
use hawser_wire::deployment::{Container, EdgeDeployment, EmptyDir, Mount, RestartPolicy, User, Volume, VolumeSource};

use crate::places::{files, mount};
use crate::world::*;

/// A device as a default install has it: the agent makes the state directory and that of the secrets, in places that
/// everybody may enter. `None`, said aloud, where tests do not run as root.
fn install() -> Option<(Device, StateDir)> {
    if !is_root() {
        eprintln!("SKIPPED: other users take root");
        return None;
    }
    let mut device = Device::new();
    for dir in [device.dir.path(), device.secrets.path()] {
        std::fs::set_permissions(dir, std::fs::Permissions::from_mode(0o755)).unwrap();
    }
    let state = StateDir::lock(&device.dir.path().join("state")).unwrap();
    device.config.root = state.path().join("pods");
    device.config.secrets = device.secrets.path().join("hawser-agent-pi");
    Some((device, state))
}

fn runs_as(uid: u32, container: Container) -> Container {
    Container { user: User { uid: Some(uid), gid: None, non_root: true }, ..container }
}

fn with_secret(spec: EdgeDeployment, text: &str) -> EdgeDeployment {
    let mut spec = EdgeDeployment { volumes: vec![files("s", true, &[("key", text)])], ..spec };
    for container in spec.init_containers.iter_mut().chain(&mut spec.containers) {
        container.mounts.push(mount("s", "/s"));
    }
    spec
}

#[tokio::test]
async fn what_cannot_be_changed_is_refused() {
    let mut device = Device::new();
    device.start();
    let user = |uid, non_root| User { uid, gid: None, non_root };
    let root = Container { user: user(Some(0), true), ..shell("exit 0") };
    device.run(&pod("root", RestartPolicy::Never, root));
    device.until("a refusal", |device| device.events.iter().any(|event| event.message.contains("runAsNonRoot"))).await;
    if !is_root() {
        let other = Container { user: user(Some(12_345), false), ..shell("exit 0") };
        device.run(&pod("other", RestartPolicy::Never, other));
        device
            .until("a refusal", |device| device.events.iter().any(|event| event.message.contains("run it as root")))
            .await;
    }
    device.stop().await;
}

#[tokio::test]
async fn another_user_works_on_a_default_install() {
    let Some((mut device, _state)) = install() else { return };
    device.start();
    let container =
        runs_as(12_345, shell("id -u; id -g; id -G; echo mine > file; cat s/key; pwd; ls -a part; echo x > part/x"));
    let mut spec = with_secret(pod("other", RestartPolicy::Never, container), "for you\n");
    spec.volumes.push(Volume {
        name: "v".into(),
        source: VolumeSource::EmptyDir(EmptyDir { memory: false, size_limit: None }),
    });
    spec.containers[0].mounts.push(Mount { sub_path: Some("a/b".into()), ..mount("v", "/part") });
    spec.supplemental_groups = vec![777];
    spec.fs_group = Some(888);
    let end = device.run_to_end(&spec).await;
    let log = device.log("other");
    assert_eq!(end.exit_code, 0, "{end:?} {log}");
    assert!(log.contains("F 12345\n") && log.contains("12345 777 888 ") && log.contains("F for you\n"), "{log}");
    device.stop().await;
}

#[tokio::test]
async fn a_pods_place_and_secrets_are_its_own_whoever_runs_as_whom() {
    let Some((mut device, state)) = install() else { return };
    std::fs::write(state.path().join("agent.json"), "who we are").unwrap();
    std::fs::set_permissions(state.path().join("agent.json"), std::fs::Permissions::from_mode(0o600)).unwrap();
    device.start();
    // Two users in one pod share what is theirs.
    let script = "cat s/key && ls .. >/dev/null; echo up > up; exec sleep 1000";
    let mut first = runs_as(1001, shell(script));
    first.name = "first".into();
    let mut owner = with_secret(pod("owner", RestartPolicy::Always, runs_as(1002, shell(script))), "KEY-OF-OWNER\n");
    owner.containers.insert(0, Container { mounts: owner.containers[0].mounts.clone(), ..first });
    device.run(&owner);
    device.written("owner", "up").await;
    device.until_running("owner").await;
    for log in ["main", "first"] {
        let log = device.place("owner").join(format!("logs/{log}/0.log"));
        let has_key = |_: &Device| std::fs::read_to_string(&log).is_ok_and(|text| text.contains("F KEY-OF-OWNER\n"));
        device.until("the key to be read by both", has_key).await;
    }
    let (place, secrets) = (device.place("owner"), device.config.secrets.join("owner"));
    assert!(secrets.join("s/key").exists());

    // Everybody else knows all the paths and gets nowhere: a stranger, and one who runs as the same user.
    let targets = [
        secrets.join("s/key"),
        secrets.clone(),
        device.config.secrets.clone(),
        place.join("containers/main/work/up"),
        place.join("containers/main/0/state.json"),
        place.join("logs/main/0.log"),
        place.clone(),
        device.config.root.clone(),
        state.path().to_owned(),
        state.path().join("agent.json"),
    ];
    for (name, user) in [("stranger", 1003), ("same-user", 1002)] {
        let mut script = String::from("cat s/key; ");
        for target in &targets {
            let target = target.display();
            script += &format!("cat {target} && echo READ {target}; ls {target}/ && echo LISTED {target}; ");
            script += &format!("echo x > {target}/planted && echo WROTE {target}; ");
        }
        let spec = with_secret(pod(name, RestartPolicy::Never, runs_as(user, shell(&script))), "KEY-OF-MINE\n");
        device.run_to_end(&spec).await;
        let log = device.log(name);
        assert!(log.contains("F KEY-OF-MINE\n"), "{log}");
        assert!(log.contains("Permission denied"), "{log}");
        for word in ["READ", "LISTED", "WROTE", "KEY-OF-OWNER", "who we are"] {
            assert!(!log.contains(word), "{log}");
        }
    }

    let groups = ["owner", "stranger", "same-user"].map(|name| std::fs::metadata(device.place(name)).unwrap().gid());
    assert!(groups[0] != groups[1] && groups[1] != groups[2] && groups[0] != groups[2], "{groups:?}");
    // The group stays, or what runs would be locked out.
    device.stop().await;
    device.start();
    device.until_running("owner").await;
    owner.volumes[0] = files("s", true, &[("key", "KEY-OF-OWNER-2\n")]);
    device.run(&owner);
    let key = secrets.join("s/key");
    device.until("the new key", |_| std::fs::read_to_string(&key).is_ok_and(|text| text == "KEY-OF-OWNER-2\n")).await;
    assert_eq!(std::fs::metadata(&place).unwrap().gid(), groups[0]);
    assert_eq!(std::fs::metadata(&secrets).unwrap().gid(), groups[0]);
    assert_eq!(device.restarts("owner"), 0);
    device.stop().await;
}

#[tokio::test]
async fn a_way_that_is_closed_is_named() {
    let Some((mut device, _state)) = install() else { return };
    let closed = device.dir.path().join("closed");
    std::fs::create_dir(&closed).unwrap();
    std::fs::set_permissions(&closed, std::fs::Permissions::from_mode(0o700)).unwrap();
    device.config.root = closed.join("state/pods");
    device.start();
    let end = device.run_to_end(&pod("other", RestartPolicy::Never, runs_as(1001, shell("exit 0")))).await;
    assert_eq!((end.exit_code, end.reason.as_str()), (128, "StartError"));
    let message = end.message.unwrap();
    assert!(
        message.starts_with(&format!("user 1001 may not enter {}: let others pass", closed.display())),
        "{message}"
    );
    // The agent's own user is not concerned.
    assert_eq!(device.run_to_end(&pod("own", RestartPolicy::Never, shell("exit 0"))).await.exit_code, 0);
    device.stop().await;
}

#[tokio::test]
async fn places_of_an_earlier_version_are_closed_and_their_containers_go_on() {
    let Some((mut device, _state)) = install() else { return };
    device.start();
    let spec = pod("web", RestartPolicy::Always, shell("echo $$ > pid; exec sleep 1000"));
    device.run(&spec);
    let pid = device.written("web", "pid").await;
    device.until_running("web").await;
    device.stop().await;
    let place = device.place("web");
    std::os::unix::fs::chown(&place, None, Some(0)).unwrap();
    std::fs::set_permissions(&place, std::fs::Permissions::from_mode(0o755)).unwrap();
    device.start();
    let mode = |path: &Path| std::fs::metadata(path).unwrap().mode() & 0o777;
    device.until("it to be closed", |device| device.is_running("web") && mode(&place) == 0o710).await;
    assert_eq!((device.restarts("web"), is_alive(pid.parse().unwrap())), (0, true));
    device.stop().await;
}

#[tokio::test]
async fn secrets_are_not_kept_where_somebody_else_rules() {
    let Some((mut device, _state)) = install() else { return };
    // Whoever may write to the memory file system may have made our directory first.
    std::fs::create_dir(&device.config.secrets).unwrap();
    std::os::unix::fs::chown(&device.config.secrets, Some(1003), None).unwrap();
    device.start();
    device.run(&with_secret(pod("secret", RestartPolicy::Never, shell("exit 0")), "KEY"));
    device.until("an event", |device| device.event("FailedMount").is_some()).await;
    let message = &device.event("FailedMount").unwrap().message;
    assert!(message.contains("it is not a directory that belongs to user 0"), "{message}");
    assert!(std::fs::read_dir(&device.config.secrets).unwrap().next().is_none());
    device.stop().await;
}

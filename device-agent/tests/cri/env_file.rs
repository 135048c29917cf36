//! Variables from a file that an init container has written into a volume.

use hawser_wire::deployment::{Container, EmptyDir, EnvValue, EnvVar, FileKey, RestartPolicy, Volume, VolumeSource};

use crate::world::*;

fn from_file(name: &str, key: &str, optional: bool) -> EnvVar {
    let (volume, path, key) = ("out".into(), "made/env".into(), key.into());
    EnvVar { name: name.into(), value: EnvValue::File(FileKey { volume, path, key, optional }) }
}

#[tokio::test]
async fn what_an_init_container_writes_becomes_a_variable_and_what_it_does_not_is_told() {
    let Some(mut device) = Device::new() else { return };
    device.start().await;
    for memory in [false, true] {
        let name = if memory { "memory" } else { "disk" };
        let write = "busybox mkdir /out/made && echo \"TOKEN='a \\$(B) c'\" > /out/made/env";
        let init = Container { name: "init".into(), mounts: vec![mount("out", "/out")], ..shell(write) };
        let template = EnvVar { name: "AGAIN".into(), value: EnvValue::Template("<$(FROM_FILE)>".into()) };
        let env = vec![from_file("FROM_FILE", "TOKEN", false), from_file("NOT_THERE", "OTHER", true), template];
        let main = Container { env, ..shell("echo \"$FROM_FILE ${NOT_THERE-unset} $AGAIN\"") };
        let mut spec = pod(name, RestartPolicy::Never, main);
        spec.init_containers = vec![init];
        let empty = EmptyDir { memory, size_limit: None };
        spec.volumes = vec![Volume { name: "out".into(), source: VolumeSource::EmptyDir(empty) }];
        assert_eq!(device.run_to_end(&spec).await.exit_code, 0);
        assert_eq!(device.output(name), "a $(B) c unset <a $(B) c>\n");
        device.sweep(name).await;

        let missing = format!("{name}-missing");
        let mut lacking = pod(&missing, RestartPolicy::Never, spec.containers[0].clone());
        lacking.containers[0].env = vec![from_file("FROM_FILE", "NO_SUCH_KEY", false)];
        (lacking.init_containers, lacking.volumes) = (spec.init_containers.clone(), spec.volumes.clone());
        device.run(&lacking);
        let message = device.until_waiting(&missing, "CreateContainerConfigError").await;
        assert_eq!(message, "environment variable key \"NO_SUCH_KEY\" not found in file \"made/env\" of volume out");
        device.sweep(&missing).await;
    }
}

#[tokio::test]
async fn a_file_of_variables_that_leads_elsewhere_is_not_read() {
    let Some(mut device) = Device::new() else { return };
    device.start().await;
    let write = "busybox ln -s / /out/made";
    let init = Container { name: "init".into(), mounts: vec![mount("out", "/out")], ..shell(write) };
    let env = vec![EnvVar {
        name: "STOLEN".into(),
        value: EnvValue::File(FileKey {
            volume: "out".into(),
            path: "made/etc/os-release".into(),
            key: "NAME".into(),
            optional: true,
        }),
    }];
    let mut spec = pod("thief", RestartPolicy::Never, Container { env, ..shell("exit 0") });
    spec.init_containers = vec![init];
    let empty = EmptyDir { memory: false, size_limit: None };
    spec.volumes = vec![Volume { name: "out".into(), source: VolumeSource::EmptyDir(empty) }];
    device.run(&spec);
    let message = device.until_waiting("thief", "CreateContainerConfigError").await;
    assert!(message.starts_with("couldn't parse env file: made/etc/os-release of volume out: "), "{message}");
    device.sweep("thief").await;
}

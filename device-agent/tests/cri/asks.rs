//! What pods ask for as a whole: names, namespaces, kernel parameters.

use device_agent::runtime::cri::ClusterNames;
use hawser_wire::deployment::{
    AppArmor, Ask, Confinement, ConfinementAsk, Container, Dns, DnsBase, EdgeDeployment, Engine, RestartPolicy, User,
};

use crate::engine::RICK;
use crate::world::*;

fn asking(name: &str, script: &str, asks: Vec<Ask>) -> EdgeDeployment {
    let engine = Some(Engine { asks, ..Engine::default() });
    EdgeDeployment { engine, ..pod(name, RestartPolicy::Never, shell(script)) }
}

#[tokio::test]
async fn names_are_what_the_pod_and_its_cluster_say() {
    let Some(mut device) = Device::new() else { return };
    device.config.resolver = device.engine.dir.path().join("resolv.conf");
    std::fs::write(&device.config.resolver, "nameserver 192.0.2.1\nsearch lan\n").unwrap();
    device.start().await;
    let names = "hostname; cat /etc/resolv.conf; cat /etc/hosts";
    let alias = Ask::HostAlias { address: "192.0.2.7".into(), names: vec!["a".into(), "b".into()] };
    device.run_to_end(&asking("named", names, vec![Ask::Subdomain("db".into()), Ask::HostnameIsWhole, alias])).await;
    let output = device.output("named");
    let ip = device.report("named").unwrap().pod_ips[0].clone();
    let start = "named.db.test.svc.cluster.local\nsearch test.svc.cluster.local svc.cluster.local cluster.local lan\n\
                 nameserver 192.0.2.10\noptions ndots:5\n# Kubernetes-managed hosts file.\n";
    assert!(output.starts_with(start), "{output}");
    let end =
        format!("\n{ip}\tnamed.db.test.svc.cluster.local\tnamed\n\n# Entries added by HostAliases.\n192.0.2.7\ta\tb\n");
    assert!(output.ends_with(&end), "{output}");

    let nothing = Dns {
        base: DnsBase::Nothing,
        servers: vec!["192.0.2.3".into()],
        searches: vec![],
        options: vec!["edns0".into()],
    };
    device.run_to_end(&asking("alone", "cat /etc/resolv.conf", vec![Ask::Dns(nothing)])).await;
    assert_eq!(device.output("alone"), "nameserver 192.0.2.3\noptions edns0\n");

    let mut on_the_device = asking("device", "cat /etc/resolv.conf; head -n 1 /etc/hosts", vec![]);
    (on_the_device.host_network, on_the_device.hostname) = (true, None);
    device.run_to_end(&on_the_device).await;
    assert_eq!(
        device.output("device"),
        "search lan\nnameserver 192.0.2.1\n# Kubernetes-managed hosts file (host network).\n"
    );
    assert!(!device.reasons().contains(&"MissingClusterDNS"));
    for name in ["named", "alone", "device"] {
        device.sweep(name).await;
    }
}

#[tokio::test]
async fn namespaces_are_shared_as_asked_and_no_more() {
    let Some(mut device) = Device::new() else { return };
    device.config.cluster = ClusterNames::default();
    device.start().await;
    let who = "readlink /proc/self/ns/pid; readlink /proc/self/ns/ipc; tr '\\0' ' ' < /proc/1/cmdline; echo";
    let own = |kind: &str| std::fs::read_link(format!("/proc/self/ns/{kind}")).unwrap().display().to_string();
    let lines = |output: String| output.lines().map(str::to_owned).collect::<Vec<_>>();

    device.run_to_end(&asking("apart", who, vec![])).await;
    let apart = lines(device.output("apart"));
    assert!(apart[0] != own("pid") && apart[1] != own("ipc") && apart[2].starts_with("/bin/sh"), "{apart:?}");

    device.run_to_end(&asking("host", who, vec![Ask::HostProcesses, Ask::HostIpc])).await;
    assert_eq!(lines(device.output("host"))[..2], [own("pid"), own("ipc")]);

    device.run_to_end(&asking("shared", who, vec![Ask::SharedProcesses])).await;
    let shared = lines(device.output("shared"));
    assert!(shared[0] != own("pid") && !shared[2].starts_with("/bin/sh"), "the sandbox is the first: {shared:?}");
    assert!(device.reasons().contains(&"MissingClusterDNS"));
    for name in ["apart", "host", "shared"] {
        device.sweep(name).await;
    }
}

#[tokio::test]
async fn kernel_parameters_are_set_when_they_are_allowed() {
    let Some(mut device) = Device::new() else { return };
    device.config.sysctls = vec!["kernel.msg*".into()];
    device.start().await;
    let sysctl = |name: &str, value: &str| Ask::Sysctl { name: name.into(), value: value.into() };
    let read = "cat /proc/sys/kernel/shm_rmid_forced /proc/sys/kernel/msgmax";
    let good = vec![sysctl("kernel.shm_rmid_forced", "1"), sysctl("kernel.msgmax", "4242")];
    device.run_to_end(&asking("good", read, good)).await;
    assert_eq!(device.output("good"), "1\n4242\n");
    device.run(&asking("bad", read, vec![sysctl("kernel.shmmax", "1"), sysctl("kernel.msgmax", "1")]));
    let words = device.until_rejected("bad", "SysctlForbidden").await;
    assert_eq!(words, "Pod was rejected: forbidden sysctl: \"kernel.shmmax\" not allowlisted");
    assert!(device.reasons().contains(&"SysctlForbidden"));
    for name in ["good", "bad"] {
        device.sweep(name).await;
    }
}

#[tokio::test]
async fn groups_that_the_image_gives_are_left_out_if_asked_and_the_engine_can() {
    let Some(mut device) = Device::new() else { return };
    device.start().await;
    let of = |name: &str, asks| {
        let mut spec = asking(name, "id -G", asks);
        spec.containers[0].user = User { uid: Some(RICK), gid: Some(77), non_root: true };
        spec
    };
    device.run_to_end(&of("merged", vec![])).await;
    assert_eq!(device.output("merged"), "77 50000\n");
    device.sweep("merged").await;
    if device.engine.is_since((2, 0)) {
        device.run_to_end(&of("strict", vec![Ask::StrictGroups])).await;
        assert_eq!(device.output("strict"), "77\n");
        device.sweep("strict").await;
    }
}

#[tokio::test]
async fn what_this_engine_or_kernel_cannot_do_is_refused_by_name() {
    let Some(mut device) = Device::new() else { return };
    device.start().await;
    if !device.engine.is_since((2, 0)) {
        // It is older than the policy.
        device.run(&asking("strict", "true", vec![Ask::StrictGroups]));
        let words = device.until_rejected("strict", "SupplementalGroupsPolicyNotSupported").await;
        assert_eq!(words, "Pod was rejected: SupplementalGroupsPolicy=Strict is not supported in this node");
        device.sweep("strict").await;
    }

    device.run(&asking("handler", "true", vec![Ask::Handler("none".into())]));
    device.until("the engine's words", |device| device.reasons().contains(&"FailedCreatePodSandBox")).await;

    let confined = |asks| Container {
        confinement: Some(Confinement { asks, ..Confinement::default() }),
        ..shell("grep Seccomp: /proc/self/status")
    };
    let file = |name: &str| vec![ConfinementAsk::SeccompFile(name.into())];
    std::fs::create_dir_all(&device.config.profiles).unwrap();
    std::fs::write(
        device.config.profiles.join("all.json"),
        r#"{"defaultAction": "SCMP_ACT_ALLOW", "syscalls": [
        {"names": ["swapoff"], "action": "SCMP_ACT_ERRNO"}]}"#,
    )
    .unwrap();
    device.run_to_end(&pod("filtered", RestartPolicy::Never, confined(file("all.json")))).await;
    assert!(device.output("filtered").contains("Seccomp:\t2"), "{}", device.output("filtered"));
    device.run(&pod("missing", RestartPolicy::Never, confined(file("none.json"))));
    device.until_waiting("missing", "CreateContainerError").await;
    device.run(&pod("outside", RestartPolicy::Never, confined(file("../all.json"))));
    device.until_waiting("outside", "CreateContainerConfigError").await;

    if !std::path::Path::new("/sys/module/apparmor").exists() {
        let loaded = vec![ConfinementAsk::AppArmor(AppArmor::Loaded("mine".into()))];
        device.run(&pod("armored", RestartPolicy::Never, confined(loaded)));
        let words = device.until_rejected("armored", "AppArmor").await;
        assert_eq!(words, "Pod was rejected: Cannot enforce AppArmor: AppArmor is not enabled on the host");
        device.sweep("armored").await;
    }
    for name in ["handler", "filtered", "missing", "outside"] {
        device.sweep(name).await;
    }
}

//! Huge pages: limits and volumes.

use std::fs;
use std::path::Path;

use hawser_wire::deployment::{
    Ask, Container, EdgeDeployment, Engine, HugePages, HugePagesDir, RestartPolicy, Volume, VolumeSource,
};

use crate::cgroups::says;
use crate::world::*;

const PAGE: u64 = 2 << 20;
const POOL: &str = "/sys/kernel/mm/hugepages/hugepages-2048kB/nr_hugepages";

/// Pages that the machine has while this lives; then it has what it had.
struct SetAside(String);

impl SetAside {
    /// `None`: the kernel has no such pages, or no memory in one piece.
    fn more(many: u64) -> Option<Self> {
        let before = fs::read_to_string(POOL).ok()?;
        let number = |text: String| text.trim().parse::<u64>().ok();
        let wanted = number(before.clone())? + many;
        let set_aside = Self(before);
        fs::write(POOL, wanted.to_string()).ok()?;
        (number(fs::read_to_string(POOL).ok()?)? >= wanted).then_some(set_aside)
    }
}

impl Drop for SetAside {
    fn drop(&mut self) {
        let _ = fs::write(POOL, self.0.trim());
    }
}

fn in_pages(name: &str, size_limit: Option<u64>, script: &str) -> EdgeDeployment {
    let pages = HugePages { container: Some("main".into()), page_bytes: PAGE, bytes: 2 * PAGE };
    let source = VolumeSource::HugePages(HugePagesDir { page_bytes: PAGE, size_limit });
    let container = Container { mounts: vec![mount("pages", "/pages")], ..shell(script) };
    EdgeDeployment {
        volumes: vec![Volume { name: "pages".into(), source }],
        engine: Some(Engine { asks: vec![Ask::HugePages(pages)], ..Engine::default() }),
        ..pod(name, RestartPolicy::Never, container)
    }
}

#[tokio::test]
async fn a_volume_in_huge_pages_is_mounted_with_their_size_and_holds_pages() {
    let Some(mut device) = Device::new() else { return };
    let Some(_set_aside) = SetAside::more(4) else {
        eprintln!("NOT TESTED: the kernel sets no huge pages of 2 MiB aside");
        return;
    };
    device.start().await;
    // The kernel takes pages for a file of this size, or says that there are none.
    let script = "grep ' /pages ' /proc/mounts; stat -c '%a %g' /pages; \
                  fallocate -l 2097152 /pages/one && stat -c '%s %o' /pages/one; \
                  fallocate -l 4194304 /pages/two 2>/dev/null || echo full";
    let spec = in_pages("pages", Some(2 * PAGE), script);
    let end = device.run_to_end(&EdgeDeployment { fs_group: Some(77), ..spec }).await;
    let output = device.output("pages");
    assert_eq!(end.exit_code, 0, "{output}");
    let lines: Vec<_> = output.lines().collect();
    assert!(lines[0].contains(" hugetlbfs ") && lines[0].contains("pagesize=2M"), "{output}");
    assert_eq!(lines[1..], ["2775 77", "2097152 2097152", "full"], "{output}");
    device.sweep("pages").await;
    let left = fs::read_to_string("/proc/self/mountinfo").unwrap();
    assert!(!left.contains(device.config.root.to_str().unwrap()), "{left}");
}

#[tokio::test]
async fn who_asks_for_pages_gets_no_more_and_who_does_not_gets_none() {
    let Some(mut device) = Device::new() else { return };
    device.start().await;
    // One that mounts nothing needs no page to be there. The engine is told a limit for each size, and takes it.
    let asks = EdgeDeployment { volumes: vec![], ..in_pages("pages", None, "") };
    device.run(&hasty(EdgeDeployment { containers: vec![shell("exec sleep 1000")], ..asks }));
    device.run(&hasty(pod("none", RestartPolicy::Never, shell("exec sleep 1001"))));
    for (name, expected) in [("pages", 2 * PAGE), ("none", 0)] {
        device.until_running(name).await;
        let place = format!("{}/boat/besteffort/pod{name}", device.config.cgroup_root);
        let told = ["hugetlb.2MB.limit_in_bytes", "hugetlb.2MB.max"];
        match Path::new(POOL).exists().then(|| says("hugetlb", &place, told)).flatten() {
            Some(told) => assert_eq!(told, expected.to_string(), "{name}"),
            None => eprintln!("NOT TESTED: the kernel limits no huge pages of 2 MiB in cgroups"),
        }
    }
    device.sweep("pages").await;
    device.sweep("none").await;
}

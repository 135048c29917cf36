//! How the device is: measured, judged, and told when it changed.
//!
//! `parse` reads what the kernel's files say, `judge` turns measurements into conditions; both are pure. What moves all the
//! time (free memory, free space) is not told: only what follows from it.

mod judge;
mod parse;

use std::path::{Path, PathBuf};
use std::sync::Arc;
use std::time::Duration;

use hawser_wire::amounts::{Bytes, Millicpus};
use hawser_wire::report::{NodeFacts, Resource};
use hawser_wire::{AddressRange, quantity};
use tokio::sync::watch;
use tokio_util::sync::CancellationToken;

use crate::clock::DeviceClock;
use crate::desired::DesiredSet;
use crate::huge_pages;
use crate::ledger::Durability;
use crate::reserved::{Capacity, Reserved};
use crate::runtime::{Runtime, RuntimeFacts};
use crate::upkeep::Shortage;
use crate::workloads::HostFacts;
use judge::{Disk, Judge, Measured, memory_threshold};

/// How often the device is measured.
const EVERY: Duration = Duration::from_secs(10);

/// The device's memory, in bytes.
pub(crate) fn memory_total() -> Option<u64> {
    parse::meminfo(&read("/proc/meminfo"), "MemTotal")
}

/// What the device has for pods and itself, but for its disk.
pub(crate) fn capacity() -> Capacity {
    let number = |path: &str| read(path).trim().parse::<u64>().ok();
    // Both bound processes and threads of the whole device.
    let most = ["/proc/sys/kernel/pid_max", "/proc/sys/kernel/threads-max"].into_iter().filter_map(number).min();
    Capacity { cpu_millis: cpus() * 1_000, memory_bytes: memory_total(), storage_bytes: None, processes: most }
}

/// Why the device cannot keep so much for itself.
pub(crate) fn cannot_keep(reserved: &Reserved) -> Option<String> {
    let has = capacity();
    reserved.is_too_much(&has, has.memory_bytes.map_or(0, memory_threshold))
}

/// What the agent knows of itself and adds to the facts.
#[derive(Debug, Clone)]
pub(crate) struct Own {
    pub(crate) state_dir: PathBuf,
    pub(crate) agent_version: String,
    /// The runtime, `<name>://<version>`.
    pub(crate) runtime: String,
    /// How many pods fit.
    pub(crate) pods: u32,
    /// What they are not promised.
    pub(crate) reserved: Reserved,
}

/// Measures the device.
pub(crate) struct Measurer {
    own: Own,
    judge: Judge,
    fixed: Fixed,
    /// Where the kernel tells of huge pages.
    pools: PathBuf,
}

/// What does not change while the agent runs.
struct Fixed {
    kernel: String,
    hostname: String,
    os_image: String,
    machine_id: String,
    system_uuid: String,
    boot_id: String,
    cpus: u64,
}

impl Measurer {
    pub(crate) fn new(own: Own) -> Self {
        Self { own, judge: Judge::default(), fixed: Fixed::read(), pools: PathBuf::from(huge_pages::POOLS) }
    }

    /// How the device is now, and what it is short of. A few small files are read.
    pub(crate) fn measure(
        &mut self,
        now_millis: u64,
        ledger: &Durability,
        runtime: RuntimeFacts,
    ) -> (NodeFacts, Vec<Shortage>) {
        let measured = self.measured(ledger, runtime.disk.as_deref());
        let shortages = judge::shortages(&measured);
        (self.tell(now_millis, &measured, runtime), shortages)
    }

    fn tell(&mut self, now_millis: u64, measured: &Measured, runtime: RuntimeFacts) -> NodeFacts {
        let memory = measured.memory_total.unwrap_or(0);
        let storage = measured.disk.map_or(0, |disk| disk.total);
        let pages = huge_pages::set_aside(&self.pools);
        let resources = |of: &Capacity| {
            let mut all = vec![
                resource("cpu", Millicpus(of.cpu_millis).to_string()),
                resource("memory", format!("{}Ki", of.memory_bytes.unwrap_or(0) / 1024)),
                resource("ephemeral-storage", format!("{}Ki", of.storage_bytes.unwrap_or(0) / 1024)),
                resource("pods", self.own.pods.to_string()),
            ];
            // Those of which there are none are told as well: a size that is there can be asked for.
            all.extend(
                pages.iter().map(|(page, bytes)| resource(&huge_pages::resource(*page), Bytes(*bytes).to_string())),
            );
            all
        };
        let capacity = Capacity {
            cpu_millis: self.fixed.cpus * 1_000,
            memory_bytes: Some(memory),
            storage_bytes: Some(storage),
            processes: None,
        };
        // What is left when the pressures begin.
        let usable = Capacity {
            memory_bytes: Some(memory - memory_threshold(memory)),
            storage_bytes: Some(storage / 10 * 9),
            ..capacity
        };
        let mut allocatable = self.own.reserved.left_of(&usable);
        // Who does not ask for huge pages does not get that memory.
        let in_pages = pages.values().fold(0_u64, |sum, bytes| sum.saturating_add(*bytes));
        allocatable.memory_bytes = allocatable.memory_bytes.map(|bytes| bytes.saturating_sub(in_pages));
        NodeFacts {
            capacity: resources(&capacity),
            allocatable: resources(&allocatable),
            arch: parse::go_arch(std::env::consts::ARCH, cfg!(target_endian = "little")).to_owned(),
            os: std::env::consts::OS.to_owned(),
            kernel: self.fixed.kernel.clone(),
            os_image: self.fixed.os_image.clone(),
            machine_id: self.fixed.machine_id.clone(),
            system_uuid: self.fixed.system_uuid.clone(),
            boot_id: self.fixed.boot_id.clone(),
            agent_version: self.own.agent_version.clone(),
            runtime: self.own.runtime.clone(),
            hostname: self.fixed.hostname.clone(),
            addresses: addresses(),
            images: runtime.images,
            conditions: [self.judge.conditions(now_millis, measured), runtime.conditions].concat(),
        }
    }

    fn measured(&self, ledger: &Durability, images: Option<&Path>) -> Measured {
        let meminfo = read("/proc/meminfo");
        Measured {
            memory_total: parse::meminfo(&meminfo, "MemTotal"),
            memory_available: parse::meminfo(&meminfo, "MemAvailable"),
            disk: disk(&self.own.state_dir),
            image_disk: images.filter(|images| are_apart(images, &self.own.state_dir)).and_then(disk),
            ledger_trouble: match ledger {
                Durability::Durable => None,
                Durability::InMemory { reason } => Some(reason.to_string()),
            },
            processes: Some(u64::from(rustix::system::sysinfo().procs)),
            processes_max: read("/proc/sys/kernel/pid_max").trim().parse().ok(),
            throttled: throttled(),
        }
    }
}

impl Fixed {
    fn read() -> Self {
        let uname = rustix::system::uname();
        let uuid = first_line("/sys/class/dmi/id/product_uuid")
            .or_else(|| first_line("/proc/device-tree/serial-number"))
            .or_else(|| parse::cpu_serial(&read("/proc/cpuinfo")));
        let machine_id = first_line("/etc/machine-id").unwrap_or_default();
        Self {
            kernel: uname.release().to_string_lossy().into_owned(),
            hostname: uname.nodename().to_string_lossy().into_owned(),
            os_image: parse::pretty_name(&read("/etc/os-release")).unwrap_or_else(|| "Linux".to_owned()),
            // A board without either still needs to be told apart; what it cannot say stays what it has.
            system_uuid: uuid.unwrap_or_else(|| machine_id.clone()),
            machine_id,
            boot_id: first_line("/proc/sys/kernel/random/boot_id").unwrap_or_default(),
            cpus: cpus(),
        }
    }
}

/// Who is told.
pub(crate) struct Listeners {
    /// The bridge.
    pub(crate) facts: watch::Sender<Option<Arc<NodeFacts>>>,
    /// Pods.
    pub(crate) host: watch::Sender<Arc<HostFacts>>,
    /// Who makes room: told with every measurement.
    pub(crate) shortages: watch::Sender<Vec<Shortage>>,
}

/// Measures until stopped and tells what changed.
pub(crate) async fn run(
    mut measurer: Measurer,
    clock: DeviceClock,
    mut ledger: watch::Receiver<Durability>,
    mut runtime: watch::Receiver<RuntimeFacts>,
    listeners: Listeners,
    stop: CancellationToken,
) {
    let Listeners { facts, host, shortages } = listeners;
    let (mut ledger_live, mut runtime_live) = (true, true);
    loop {
        let durability = ledger.borrow_and_update().clone();
        let told = runtime.borrow_and_update().clone();
        let (measured, short) = measurer.measure(clock.now().0, &durability, told);
        let measured = Arc::new(measured);
        // Every time, so that whoever acts on it acts once for each measurement.
        shortages.send_replace(short);
        host.send_if_modified(|told| {
            let now = host_facts(&measured);
            let changed = **told != now;
            if changed {
                *told = Arc::new(now);
            }
            changed
        });
        facts.send_if_modified(|told| {
            let changed = told.as_ref() != Some(&measured);
            if changed {
                *told = Some(measured);
            }
            changed
        });
        // All arms are cancel-safe: a token, a watch and a timer have nothing to lose.
        tokio::select! {
            () = stop.cancelled() => return,
            changed = ledger.changed(), if ledger_live => ledger_live = changed.is_ok(),
            changed = runtime.changed(), if runtime_live => runtime_live = changed.is_ok(),
            () = tokio::time::sleep(EVERY) => {}
        }
    }
}

/// How often the runtime is asked how it is.
const RUNTIME_EVERY: Duration = Duration::from_secs(20);

/// Asks the runtime how it is until stopped, and gives it the addresses that pods are to have.
pub(crate) async fn watch_runtime<R: Runtime>(
    runtime: Arc<R>,
    mut desired: watch::Receiver<Arc<DesiredSet>>,
    told: watch::Sender<RuntimeFacts>,
    stop: CancellationToken,
) {
    let asking = async {
        loop {
            let pod_ranges = desired.borrow_and_update().pod_ranges.clone();
            let facts = runtime.facts(&pod_ranges).await;
            told.send_if_modified(|told| {
                let changed = *told != facts;
                *told = facts;
                changed
            });
            // Both arms are cancel-safe: a watch and a timer have nothing to lose.
            tokio::select! {
                () = other_ranges(&mut desired, &pod_ranges) => {}
                () = tokio::time::sleep(RUNTIME_EVERY) => {}
            }
        }
    };
    let _: Option<()> = stop.run_until_cancelled(asking).await;
}

/// Waits until pods are to have other addresses than these.
async fn other_ranges(desired: &mut watch::Receiver<Arc<DesiredSet>>, known: &[AddressRange]) {
    if desired.wait_for(|desired| desired.pod_ranges != known).await.is_err() {
        // Nobody says so any more.
        std::future::pending().await
    }
}

/// What pods are told about the device.
pub(crate) fn host_facts(facts: &NodeFacts) -> HostFacts {
    let amount = |resource: &Resource| {
        // Pods ask for processors in thousandths.
        let parse = if resource.name == "cpu" { quantity::millis } else { quantity::units };
        Some((resource.name.clone(), parse(&resource.quantity).ok()?))
    };
    HostFacts { addresses: facts.addresses.clone(), allocatable: facts.allocatable.iter().filter_map(amount).collect() }
}

fn resource(name: &str, quantity: String) -> Resource {
    Resource { name: name.to_owned(), quantity }
}

fn cpus() -> u64 {
    std::thread::available_parallelism().map_or(1, |many| many.get() as u64)
}

fn read(path: &str) -> String {
    std::fs::read(path).map(|bytes| String::from_utf8_lossy(&bytes).into_owned()).unwrap_or_default()
}

fn first_line(path: &str) -> Option<String> {
    let text = read(path);
    let line = text.lines().next()?.trim_matches(|c: char| c.is_whitespace() || c == '\0');
    (!line.is_empty()).then(|| line.to_owned())
}

fn disk(path: &Path) -> Option<Disk> {
    let found = rustix::fs::statvfs(path).ok()?;
    Some(Disk {
        total: found.f_blocks * found.f_frsize,
        available: found.f_bavail * found.f_frsize,
        inodes: found.f_files,
        inodes_available: found.f_favail,
    })
}

/// Whether these are on different disks.
fn are_apart(one: &Path, other: &Path) -> bool {
    let device = |path: &Path| rustix::fs::stat(path).ok().map(|found| found.st_dev);
    device(one).zip(device(other)).is_some_and(|(one, other)| one != other)
}

fn addresses() -> Vec<String> {
    let v4 = parse::local_v4(&read("/proc/net/fib_trie"));
    let routes = parse::routes(&read("/proc/net/route"));
    let v6 = parse::global_v6(&read("/proc/net/if_inet6"));
    // Hardware has a device behind its interface; bridges, tunnels and container ends have not.
    let is_real = |name: &str| Path::new("/sys/class/net").join(name).join("device").exists();
    parse::addresses(&v4, &routes, &v6, is_real)
}

fn throttled() -> Option<Vec<String>> {
    let firmware = parse::throttled(&read("/sys/devices/platform/soc/soc:firmware/get_throttled"));
    if let Some(words) = firmware {
        return Some(words.into_iter().map(str::to_owned).collect());
    }
    let mut known = false;
    let mut why = Vec::new();
    for entry in std::fs::read_dir("/sys/class/thermal").ok()?.flatten() {
        let path = entry.path();
        let kind = std::fs::read_to_string(path.join("type")).unwrap_or_default();
        let state =
            std::fs::read_to_string(path.join("cur_state")).ok().and_then(|text| text.trim().parse::<u32>().ok());
        // A cooling device that slows the processor down, and how much it does.
        if let (true, Some(state)) = (kind.contains("cpufreq") || kind.trim() == "Processor", state) {
            known = true;
            if state > 0 && why.is_empty() {
                why.push("slowed down because of its temperature".to_owned());
            }
        }
    }
    known.then_some(why)
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn this_machine_can_be_measured() {
        let none = tempfile::tempdir().unwrap();
        let mut measurer = measurer(Reserved::default(), none.path());
        let (facts, _) = measurer.measure(0, &Durability::Durable, RuntimeFacts::default());
        let names: Vec<&str> = facts.capacity.iter().map(|resource| resource.name.as_str()).collect();
        assert_eq!(names, ["cpu", "memory", "ephemeral-storage", "pods"]);
        assert!(facts.capacity.iter().all(|resource| !resource.quantity.starts_with('0')), "{:?}", facts.capacity);
        assert!(!facts.kernel.is_empty() && !facts.boot_id.is_empty());
        let host = host_facts(&facts);
        assert_eq!(host.allocatable.len(), 4);
        assert_eq!(host.allocatable["cpu"] % 1000, 0);
        assert_eq!(
            measurer.measure(10_000, &Durability::Durable, RuntimeFacts::default()).0,
            facts,
            "nothing moves by itself"
        );
    }

    /// What the machine has set aside may change at any time, so tests have pools of their own.
    fn measurer(reserved: Reserved, pools: &Path) -> Measurer {
        let own = Own {
            state_dir: std::env::temp_dir(),
            agent_version: "1".to_owned(),
            runtime: "process://1".to_owned(),
            pods: 110,
            reserved,
        };
        Measurer { pools: pools.to_owned(), ..Measurer::new(own) }
    }

    #[test]
    fn huge_pages_are_told_by_size_and_are_no_memory_for_others() {
        let pools = tempfile::tempdir().unwrap();
        for (name, many) in [("hugepages-2048kB", "3"), ("hugepages-1048576kB", "0")] {
            std::fs::create_dir(pools.path().join(name)).unwrap();
            std::fs::write(pools.path().join(name).join("nr_hugepages"), many).unwrap();
        }
        let none = tempfile::tempdir().unwrap();
        let told = |pools: &Path| {
            measurer(Reserved::default(), pools).measure(0, &Durability::Durable, RuntimeFacts::default()).0
        };
        let (with, without) = (told(pools.path()), told(none.path()));
        for list in [&with.capacity, &with.allocatable] {
            let told: Vec<_> = list[4..].iter().map(|one| (one.name.as_str(), one.quantity.as_str())).collect();
            assert_eq!(told, [("hugepages-2Mi", "6Mi"), ("hugepages-1Gi", "0")]);
        }
        let memory = |facts: &NodeFacts| host_facts(facts).allocatable["memory"];
        assert_eq!(memory(&without) - memory(&with), 6 << 20);
        assert_eq!(host_facts(&with).allocatable["hugepages-2Mi"], 6 << 20);
    }

    #[test]
    fn what_the_device_keeps_is_not_promised() {
        let none = tempfile::tempdir().unwrap();
        let told = |reserved| {
            let mut measurer = measurer(reserved, none.path());
            host_facts(&measurer.measure(0, &Durability::Durable, RuntimeFacts::default()).0).allocatable
        };
        let kept = Reserved { cpu_millis: 250, memory_bytes: 64 << 20, storage_bytes: 1 << 20, processes: 7 };
        let (all, left) = (told(Reserved::default()), told(kept));
        for (name, less) in [("cpu", 250), ("memory", 64 << 20), ("ephemeral-storage", 1 << 20), ("pods", 0)] {
            assert_eq!(all[name] - left[name], less, "{name}");
        }
        assert_eq!(cannot_keep(&kept), None);
        assert!(cannot_keep(&Reserved { memory_bytes: u64::MAX, ..kept }).is_some());
    }
}

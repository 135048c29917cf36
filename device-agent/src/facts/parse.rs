//! What the kernel's files say. Pure: text in, values out; what is missing or odd is `None`, never a guess.

use std::net::{Ipv4Addr, Ipv6Addr};

/// A value of `/proc/meminfo`, in bytes.
pub(super) fn meminfo(text: &str, name: &str) -> Option<u64> {
    let line = text.lines().find_map(|line| line.strip_prefix(name)?.strip_prefix(':'))?;
    let kibibytes: u64 = line.trim().strip_suffix("kB")?.trim().parse().ok()?;
    kibibytes.checked_mul(1024)
}

/// `PRETTY_NAME` of `/etc/os-release`.
pub(super) fn pretty_name(os_release: &str) -> Option<String> {
    let value = os_release.lines().find_map(|line| line.trim().strip_prefix("PRETTY_NAME="))?;
    let value = value.trim().trim_matches(|c| c == '"' || c == '\'');
    (!value.is_empty()).then(|| value.to_owned())
}

/// `Serial` of `/proc/cpuinfo`, which boards without DMI have.
pub(super) fn cpu_serial(cpuinfo: &str) -> Option<String> {
    let line = cpuinfo.lines().find(|line| line.starts_with("Serial"))?;
    let serial = line.split_once(':')?.1.trim();
    (!serial.is_empty()).then(|| serial.to_owned())
}

/// The architecture in Go's spelling, from Rust's.
pub(super) fn go_arch(rust: &str, little_endian: bool) -> &str {
    match (rust, little_endian) {
        ("x86_64", _) => "amd64",
        ("x86", _) => "386",
        ("aarch64", _) => "arm64",
        ("powerpc64", true) => "ppc64le",
        ("powerpc64", false) => "ppc64",
        ("mips", true) => "mipsle",
        ("mips64", true) => "mips64le",
        ("loongarch64", _) => "loong64",
        // "arm" stands for all of armv5 to armv7, as on every Kubernetes node; the rest is spelled alike.
        (same, _) => same,
    }
}

/// The local IPv4 addresses in `/proc/net/fib_trie`, in order and without repetition.
pub(super) fn local_v4(fib_trie: &str) -> Vec<Ipv4Addr> {
    let mut found = Vec::new();
    let mut leaf = None;
    for line in fib_trie.lines() {
        let line = line.trim();
        if let Some(address) = line.strip_prefix("|-- ") {
            leaf = address.parse::<Ipv4Addr>().ok();
        } else if line == "/32 host LOCAL"
            && let Some(address) = leaf
            && !address.is_loopback()
            && !found.contains(&address)
        {
            found.push(address);
        }
    }
    found
}

/// One line of `/proc/net/route`.
#[derive(Debug, Clone, PartialEq, Eq)]
pub(super) struct Route {
    pub(super) interface: String,
    pub(super) destination: u32,
    pub(super) mask: u32,
    pub(super) metric: u32,
}

/// The routes in `/proc/net/route`.
pub(super) fn routes(text: &str) -> Vec<Route> {
    text.lines().skip(1).filter_map(route).collect()
}

fn route(line: &str) -> Option<Route> {
    let fields: Vec<&str> = line.split_whitespace().collect();
    // The kernel prints the number as it lies in memory, which is network order.
    let address = |text: &str| u32::from_str_radix(text, 16).ok().map(|raw| u32::from_be_bytes(raw.to_ne_bytes()));
    Some(Route {
        interface: (*fields.first()?).to_owned(),
        destination: address(fields.get(1)?)?,
        mask: address(fields.get(7)?)?,
        metric: fields.get(6)?.parse().ok()?,
    })
}

/// The global IPv6 addresses in `/proc/net/if_inet6`, with their interfaces.
pub(super) fn global_v6(if_inet6: &str) -> Vec<(Ipv6Addr, String)> {
    let line = |line: &str| {
        let fields: Vec<&str> = line.split_whitespace().collect();
        let address = u128::from_str_radix(fields.first()?, 16).ok()?;
        let global = *fields.get(3)? == "00";
        // Deprecated (0x20), tentative (0x40) and temporary (0x01) addresses are not where to find the device.
        let flags = u32::from_str_radix(fields.get(4)?, 16).ok()?;
        (global && flags & 0x61 == 0).then(|| (Ipv6Addr::from(address), fields.get(5).map(|name| (*name).to_owned())))
    };
    if_inet6.lines().filter_map(line).filter_map(|(address, name)| Some((address, name?))).collect()
}

/// The device's addresses: those on the interfaces that `is_real`, the one with the default route first.
pub(super) fn addresses(
    v4: &[Ipv4Addr],
    routes: &[Route],
    v6: &[(Ipv6Addr, String)],
    is_real: impl Fn(&str) -> bool,
) -> Vec<String> {
    let mut default: Vec<&Route> = routes.iter().filter(|route| route.mask == 0).collect();
    default.sort_by_key(|route| route.metric);
    let rank = |interface: &str| default.iter().position(|route| route.interface == interface).unwrap_or(usize::MAX);
    let interface_of = |address: Ipv4Addr| {
        let bits = u32::from(address);
        let connected = routes.iter().filter(|route| route.mask != 0 && bits & route.mask == route.destination);
        connected.max_by_key(|route| route.mask).map(|route| route.interface.as_str())
    };
    let mut ranked: Vec<(usize, String)> = Vec::new();
    for address in v4 {
        if let Some(interface) = interface_of(*address)
            && (is_real(interface) || rank(interface) != usize::MAX)
        {
            ranked.push((rank(interface), address.to_string()));
        }
    }
    for (address, interface) in v6 {
        if is_real(interface) || rank(interface) != usize::MAX {
            ranked.push((rank(interface), address.to_string()));
        }
    }
    // Stable: IPv4 stays before IPv6 on the same interface.
    ranked.sort_by_key(|(rank, _)| *rank);
    ranked.into_iter().map(|(_, address)| address).collect()
}

/// What the Raspberry Pi's firmware says about its power and temperature, in words; empty: all is well.
pub(super) fn throttled(text: &str) -> Option<Vec<&'static str>> {
    let bits = u32::from_str_radix(text.trim().trim_start_matches("0x"), 16).ok()?;
    let now = [(1, "under-voltage"), (2, "frequency capped"), (4, "throttled"), (8, "soft temperature limit")];
    Some(now.into_iter().filter(|(bit, _)| bits & bit != 0).map(|(_, word)| word).collect())
}

#[cfg(test)]
mod tests {
    use super::*;

    const FIB_TRIE: &str = "\
Main:
  +-- 0.0.0.0/0 3 0 5
     |-- 0.0.0.0
        /0 universe UNICAST
     +-- 127.0.0.0/8 2 0 2
           |-- 127.0.0.1
              /32 host LOCAL
     +-- 192.0.2.0/24 2 0 2
           |-- 192.0.2.0
              /24 link UNICAST
           |-- 192.0.2.2
              /32 host LOCAL
        |-- 192.0.2.255
           /32 link BROADCAST
     |-- 172.17.0.1
        /32 host LOCAL
Local:
           |-- 192.0.2.2
              /32 host LOCAL
     |-- 10.9.0.5
        /32 host LOCAL
";
    const ROUTE: &str = "\
Iface\tDestination\tGateway \tFlags\tRefCnt\tUse\tMetric\tMask\t\tMTU\tWindow\tIRTT
eth0\t00000000\t010200C0\t0003\t0\t0\t100\t00000000\t0\t0\t0
eth0\t000200C0\t00000000\t0001\t0\t0\t100\t00FFFFFF\t0\t0\t0
docker0\t000011AC\t00000000\t0001\t0\t0\t0\t0000FFFF\t0\t0\t0
wlan0\t0000090A\t00000000\t0001\t0\t0\t600\t0000FFFF\t0\t0\t0
";
    const IF_INET6: &str = "\
20010db8000000000000000000000001 02 40 00 80     eth0
fe800000000000000000000000000001 02 40 20 80     eth0
00000000000000000000000000000001 01 80 10 80       lo
20010db8000000000000000000000002 02 40 00 01     eth0
fd000000000000000000000000000009 05 40 00 80  docker0
";

    #[test]
    fn addresses_are_those_of_real_interfaces_the_default_route_first() {
        let v4 = local_v4(FIB_TRIE);
        assert_eq!(v4, [Ipv4Addr::new(192, 0, 2, 2), Ipv4Addr::new(172, 17, 0, 1), Ipv4Addr::new(10, 9, 0, 5)]);
        let v6 = global_v6(IF_INET6);
        let real = |name: &str| matches!(name, "eth0" | "wlan0");
        let expected = ["192.0.2.2", "2001:db8::1", "10.9.0.5"];
        assert_eq!(addresses(&v4, &routes(ROUTE), &v6, real), expected);
        // Without hardware behind it (a container), the interface with the default route is real enough.
        assert_eq!(addresses(&v4, &routes(ROUTE), &v6, |_| false), ["192.0.2.2", "2001:db8::1"]);
    }

    #[test]
    fn files_of_boards_and_servers_are_read() {
        let text = "MemTotal:         948304 kB\nMemFree:  1 kB\nMemAvailable:     612340 kB\n";
        assert_eq!(meminfo(text, "MemTotal"), Some(948_304 * 1024));
        assert_eq!(meminfo(text, "MemAvailable"), Some(612_340 * 1024));
        assert_eq!(meminfo(text, "Mem"), None);
        let os = "NAME=\"Debian\"\nPRETTY_NAME=\"Debian GNU/Linux 12 (bookworm)\"\n";
        assert_eq!(pretty_name(os).unwrap(), "Debian GNU/Linux 12 (bookworm)");
        assert_eq!(pretty_name("PRETTY_NAME=Alpine\n").unwrap(), "Alpine");
        let cpuinfo = "processor\t: 0\nSerial\t\t: 10000000abcdef01\nModel\t\t: Raspberry Pi 4\n";
        assert_eq!(cpu_serial(cpuinfo).unwrap(), "10000000abcdef01");
        assert_eq!(throttled("0\n").unwrap(), Vec::<&str>::new());
        assert_eq!(throttled("50005\n").unwrap(), ["under-voltage", "throttled"]);
        for (rust, little, go) in [
            ("x86_64", true, "amd64"),
            ("aarch64", true, "arm64"),
            ("arm", true, "arm"),
            ("riscv64", true, "riscv64"),
            ("powerpc64", true, "ppc64le"),
        ] {
            assert_eq!(go_arch(rust, little), go);
        }
    }

    #[test]
    fn garbage_says_nothing() {
        for text in ["", "\n", "x", "MemTotal: kB", "\0\0", "|-- ", "Serial", "0xzz"] {
            assert_eq!(meminfo(text, "MemTotal"), None);
            assert_eq!(pretty_name(text), None);
            assert_eq!(cpu_serial(text), None);
            assert_eq!(local_v4(text), Vec::<Ipv4Addr>::new());
            assert_eq!(routes(text), []);
            assert_eq!(global_v6(text), []);
            assert_eq!(throttled(text), None);
        }
    }
}

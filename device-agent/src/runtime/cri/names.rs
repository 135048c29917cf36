//! What a pod is called, and how it finds others: host name, hosts file, resolver. Pure; the words are a kubelet's.

use std::net::IpAddr;

use hawser_cri::DnsConfig;
use hawser_wire::deployment::{Ask, Dns, DnsBase, EdgeDeployment};

use super::security::asks;

/// How many servers, domains and characters of domains resolvers take.
const MAX_SERVERS: usize = 3;
const MAX_SEARCHES: usize = 32;
const MAX_SEARCH_CHARS: usize = 2048;
const MAX_NAME: usize = 253;
/// The longest host name that Linux takes.
const MAX_HOSTNAME: usize = 64;

/// What a device knows about the cluster's names.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct ClusterNames {
    /// The servers of the cluster's DNS; none: it cannot be reached from here.
    pub servers: Vec<IpAddr>,
    /// The domain of the cluster.
    pub domain: String,
}

impl Default for ClusterNames {
    fn default() -> Self {
        Self { servers: Vec::new(), domain: "cluster.local".to_owned() }
    }
}

/// The domain of a pod that has a name in the cluster's DNS.
fn domain(pod: &EdgeDeployment, cluster: &ClusterNames) -> Option<String> {
    let subdomain = asks(pod).find_map(|ask| match ask {
        Ask::Subdomain(name) => Some(name),
        _ => None,
    })?;
    Some(format!("{subdomain}.{}.svc.{}", pod.namespace, cluster.domain))
}

fn name(pod: &EdgeDeployment) -> &str {
    pod.hostname.as_deref().unwrap_or(&pod.name)
}

/// The host name of the pod's sandbox; empty: the device's own.
pub(super) fn hostname(pod: &EdgeDeployment, cluster: &ClusterNames) -> Result<String, String> {
    if pod.host_network {
        return Ok(String::new());
    }
    let own = pod.hostname.clone().unwrap_or_default();
    let Some(domain) = domain(pod, cluster).filter(|_| asks(pod).any(|ask| *ask == Ask::HostnameIsWhole)) else {
        return Ok(own);
    };
    let whole = format!("{own}.{domain}");
    if whole.len() > MAX_HOSTNAME {
        let asked = whole.len();
        return Err(format!(
            "failed to construct FQDN from pod hostname and cluster domain, FQDN {whole} is too long ({MAX_HOSTNAME} \
             characters is the max, {asked} characters requested)"
        ));
    }
    Ok(whole)
}

/// `/etc/hosts` of a container. `addresses`: the pod's own, or the device's file if it shares the device's network.
pub(super) fn hosts(pod: &EdgeDeployment, addresses: Result<&[String], &str>, cluster: &ClusterNames) -> String {
    let mut text = String::new();
    match addresses {
        Err(of_the_device) => {
            text.push_str("# Kubernetes-managed hosts file (host network).\n");
            text.push_str(of_the_device);
        }
        Ok(addresses) => {
            text.push_str(
                "# Kubernetes-managed hosts file.\n127.0.0.1\tlocalhost\n::1\tlocalhost ip6-localhost ip6-loopback\n\
                 fe00::0\tip6-localnet\nfe00::0\tip6-mcastprefix\nfe00::1\tip6-allnodes\nfe00::2\tip6-allrouters\n",
            );
            let name = name(pod);
            for address in addresses {
                match domain(pod, cluster) {
                    Some(domain) => text.push_str(&format!("{address}\t{name}.{domain}\t{name}\n")),
                    None => text.push_str(&format!("{address}\t{name}\n")),
                }
            }
        }
    }
    let mut header = Some("\n# Entries added by HostAliases.\n");
    for ask in asks(pod) {
        if let Ask::HostAlias { address, names } = ask {
            text.push_str(header.take().unwrap_or_default());
            text.push_str(&format!("{address}\t{}\n", names.join("\t")));
        }
    }
    text
}

/// How a pod resolves names, and what is worth telling about it: a CamelCase word and a sentence each.
pub(super) fn resolver(
    pod: &EdgeDeployment,
    cluster: &ClusterNames,
    of_the_device: &DnsConfig,
) -> (DnsConfig, Vec<(&'static str, String)>) {
    let mut told = Vec::new();
    let asked = asks(pod).find_map(|ask| match ask {
        Ask::Dns(dns) => Some(dns),
        _ => None,
    });
    let usual = if pod.host_network { DnsBase::Device } else { DnsBase::Cluster };
    let mut dns = match asked.map_or(usual, |asked| asked.base) {
        DnsBase::Nothing => DnsConfig::default(),
        DnsBase::Device => of_the_device.clone(),
        DnsBase::Cluster if cluster.servers.is_empty() => {
            let EdgeDeployment { name, namespace, uid, .. } = pod;
            told.push((
                "MissingClusterDNS",
                format!(
                    "pod: \"{name}_{namespace}({uid})\". kubelet does not have ClusterDNS IP configured and cannot create \
                     Pod using \"ClusterFirst\" policy. Falling back to \"Default\" policy."
                ),
            ));
            of_the_device.clone()
        }
        DnsBase::Cluster => in_cluster(pod, cluster, of_the_device),
    };
    if let Some(asked) = asked {
        add(&mut dns, asked);
    }
    fit(&mut dns, &mut told);
    (dns, told)
}

fn in_cluster(pod: &EdgeDeployment, cluster: &ClusterNames, of_the_device: &DnsConfig) -> DnsConfig {
    let mut searches = Vec::new();
    if !cluster.domain.is_empty() {
        let domain = &cluster.domain;
        searches = vec![format!("{}.svc.{domain}", pod.namespace), format!("svc.{domain}"), domain.clone()];
    }
    searches.extend(of_the_device.searches.iter().cloned());
    DnsConfig {
        servers: cluster.servers.iter().map(IpAddr::to_string).collect(),
        searches: each_once(searches),
        options: vec!["ndots:5".to_owned()],
    }
}

fn add(dns: &mut DnsConfig, asked: &Dns) {
    dns.servers.extend(asked.servers.iter().cloned());
    dns.servers = each_once(std::mem::take(&mut dns.servers));
    dns.searches.extend(asked.searches.iter().cloned());
    dns.searches = each_once(std::mem::take(&mut dns.searches));
    add_options(&mut dns.options, asked.options.iter().map(String::as_str));
}

/// Options go by their names: a later one replaces an earlier one.
fn add_options<'o>(options: &mut Vec<String>, more: impl Iterator<Item = &'o str>) {
    let name_of = |option: &str| option.split_once(':').map_or(option, |(name, _)| name).to_owned();
    for option in more {
        let name = name_of(option);
        match options.iter_mut().find(|there| name_of(there) == name) {
            Some(there) => *there = option.to_owned(),
            None => options.push(option.to_owned()),
        }
    }
}

fn each_once(all: Vec<String>) -> Vec<String> {
    let mut once: Vec<String> = Vec::with_capacity(all.len());
    for text in all {
        if !once.contains(&text) {
            once.push(text);
        }
    }
    once
}

/// What resolvers do not take is left out, and told.
fn fit(dns: &mut DnsConfig, told: &mut Vec<(&'static str, String)>) {
    const REASON: &str = "DNSConfigForming";
    if dns.servers.len() > MAX_SERVERS {
        dns.servers.truncate(MAX_SERVERS);
        let applied = dns.servers.join(" ");
        told.push((REASON, format!("Nameserver limits were exceeded, some nameservers have been omitted, the applied nameserver line is: {applied}")));
    }
    let asked = dns.searches.len();
    dns.searches.truncate(MAX_SEARCHES);
    dns.searches.retain(|search| search.len() <= MAX_NAME);
    while dns.searches.iter().map(|search| search.len() + 1).sum::<usize>() > MAX_SEARCH_CHARS + 1 {
        dns.searches.pop();
    }
    if dns.searches.len() < asked {
        let applied = dns.searches.join(" ");
        told.push((REASON, format!("Search Line limits were exceeded, some search paths have been omitted, the applied search line is: {applied}")));
    }
}

/// Reads a `resolv.conf`.
pub(super) fn parse_resolver(text: &str) -> DnsConfig {
    let mut dns = DnsConfig::default();
    for line in text.lines().map(str::trim).filter(|line| !line.starts_with('#')) {
        let mut words = line.split_whitespace();
        match words.next() {
            Some("nameserver") => dns.servers.extend(words.next().map(str::to_owned)),
            Some("search") => {
                let whole = words.filter(|word| *word != ".");
                dns.searches = whole.map(|word| word.strip_suffix('.').unwrap_or(word).to_owned()).collect();
            }
            Some("options") => add_options(&mut dns.options, words),
            _ => {}
        }
    }
    dns
}

/// Whether all servers listen on the device alone, where no pod with a network of its own reaches them.
pub(super) fn is_only_local(dns: &DnsConfig) -> bool {
    let local = |server: &String| server.parse().is_ok_and(|address: IpAddr| address.is_loopback());
    !dns.servers.is_empty() && dns.servers.iter().all(local)
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::runtime::cri::samples::pod;
    use hawser_wire::deployment::Engine;

    fn asking(asks: Vec<Ask>) -> EdgeDeployment {
        EdgeDeployment { engine: Some(Engine { asks, ..Engine::default() }), ..pod() }
    }

    fn cluster() -> ClusterNames {
        ClusterNames { servers: vec!["10.96.0.10".parse().unwrap()], ..ClusterNames::default() }
    }

    fn texts(texts: &[&str]) -> Vec<String> {
        texts.iter().map(|text| (*text).to_owned()).collect()
    }

    fn device() -> DnsConfig {
        parse_resolver(
            "# comment\n nameserver 192.0.2.1\nnameserver\nsearch old\nsearch lan. . home\noptions ndots:1 rotate\n\
             options ndots:2\n",
        )
    }

    #[test]
    fn the_devices_resolver_is_read_as_a_kubelet_reads_it() {
        let expected = DnsConfig {
            servers: texts(&["192.0.2.1"]),
            searches: texts(&["lan", "home"]),
            options: texts(&["ndots:2", "rotate"]),
        };
        assert_eq!(device(), expected);
        assert!(is_only_local(&parse_resolver("nameserver 127.0.0.53\n")));
        assert!(!is_only_local(&parse_resolver("")) && !is_only_local(&device()));
    }

    #[test]
    fn names_are_resolved_by_policy() {
        let dns = |base| Ask::Dns(Dns { base, servers: vec![], searches: vec![], options: vec![] });
        let of = |pod: &EdgeDeployment| resolver(pod, &cluster(), &device());
        let in_cluster = DnsConfig {
            servers: texts(&["10.96.0.10"]),
            searches: texts(&["shop.svc.cluster.local", "svc.cluster.local", "cluster.local", "lan", "home"]),
            options: texts(&["ndots:5"]),
        };
        assert_eq!(of(&pod()), (in_cluster.clone(), vec![]));
        assert_eq!(of(&asking(vec![dns(DnsBase::Device)])).0, device());
        assert_eq!(of(&asking(vec![dns(DnsBase::Nothing)])).0, DnsConfig::default());
        let on_the_device = EdgeDeployment { host_network: true, ..pod() };
        assert_eq!(of(&on_the_device).0, device());
        let both = EdgeDeployment { host_network: true, ..asking(vec![dns(DnsBase::Cluster)]) };
        assert_eq!(of(&both).0, in_cluster);
        let (fallen_back, told) = resolver(&pod(), &ClusterNames::default(), &device());
        assert_eq!((fallen_back, told[0].0), (device(), "MissingClusterDNS"));
        assert!(told[0].1.starts_with("pod: \"web_shop(u-1)\". kubelet does not have ClusterDNS IP"), "{told:?}");
    }

    #[test]
    fn what_a_pod_adds_counts_once_and_wins() {
        let asked = Dns {
            base: DnsBase::Device,
            servers: texts(&["192.0.2.1", "192.0.2.2"]),
            searches: texts(&["home", "more"]),
            options: texts(&["ndots:9", "edns0"]),
        };
        let (dns, told) = resolver(&asking(vec![Ask::Dns(asked)]), &cluster(), &device());
        assert_eq!(dns.servers, ["192.0.2.1", "192.0.2.2"]);
        assert_eq!(dns.searches, ["lan", "home", "more"]);
        assert_eq!((dns.options, told), (texts(&["ndots:9", "rotate", "edns0"]), vec![]));
    }

    #[test]
    fn what_resolvers_do_not_take_is_left_out_and_told() {
        let asked = Dns {
            base: DnsBase::Nothing,
            servers: (1..=4).map(|n| format!("192.0.2.{n}")).collect(),
            searches: (0..40).map(|n| format!("{n:0>100}")).chain([format!("{:0>254}", 0)]).collect(),
            options: vec![],
        };
        let (dns, told) = resolver(&asking(vec![Ask::Dns(asked)]), &cluster(), &device());
        assert_eq!((dns.servers.len(), dns.searches.len()), (3, 20));
        assert!(dns.searches.join(" ").len() <= MAX_SEARCH_CHARS);
        assert_eq!(told.iter().map(|(reason, _)| *reason).collect::<Vec<_>>(), ["DNSConfigForming"; 2]);
    }

    #[test]
    fn the_hosts_file_is_a_kubelets() {
        let alias = |address: &str, names: &[&str]| Ask::HostAlias { address: address.into(), names: texts(names) };
        let plain = hosts(&pod(), Ok(&texts(&["10.0.0.7"])), &cluster());
        assert!(plain.starts_with("# Kubernetes-managed hosts file.\n127.0.0.1\tlocalhost\n"), "{plain}");
        assert!(plain.ends_with("\n10.0.0.7\tweb\n"), "{plain}");
        let named =
            asking(vec![Ask::Subdomain("db".into()), alias("192.0.2.7", &["a", "b"]), alias("192.0.2.8", &["c"])]);
        let named = hosts(&named, Ok(&texts(&["10.0.0.7", "fd00::7"])), &cluster());
        let end = "\n10.0.0.7\tweb.db.shop.svc.cluster.local\tweb\nfd00::7\tweb.db.shop.svc.cluster.local\tweb\n\n\
                   # Entries added by HostAliases.\n192.0.2.7\ta\tb\n192.0.2.8\tc\n";
        assert!(named.ends_with(end), "{named}");
        assert_eq!(
            hosts(&asking(vec![alias("192.0.2.7", &["a"])]), Err("127.0.0.1\tboat\n"), &cluster()),
            "# Kubernetes-managed hosts file (host network).\n127.0.0.1\tboat\n\n# Entries added by HostAliases.\n\
             192.0.2.7\ta\n"
        );
    }

    #[test]
    fn a_host_name_is_whole_when_asked_and_when_it_fits() {
        let of = |pod: &EdgeDeployment| hostname(pod, &cluster());
        let named = EdgeDeployment { hostname: Some("web".into()), ..asking(vec![Ask::Subdomain("db".into())]) };
        assert_eq!(of(&named), Ok("web".to_owned()));
        let whole = |subdomain: &str| EdgeDeployment {
            hostname: Some("web".into()),
            ..asking(vec![Ask::Subdomain(subdomain.into()), Ask::HostnameIsWhole])
        };
        assert_eq!(of(&whole("db")), Ok("web.db.shop.svc.cluster.local".to_owned()));
        assert_eq!(of(&EdgeDeployment { host_network: true, ..whole("db") }), Ok(String::new()));
        let words = of(&whole(&"d".repeat(60))).unwrap_err();
        assert!(words.contains("is too long (64 characters is the max, 87 characters requested)"), "{words}");
        assert_eq!(
            of(&EdgeDeployment { hostname: Some("web".into()), ..asking(vec![Ask::HostnameIsWhole]) }),
            Ok("web".into())
        );
    }
}

//! The arguments of `hawser bridge` about the kubelet API.

use std::net::{IpAddr, Ipv4Addr, SocketAddr, UdpSocket};
use std::ops::RangeInclusive;
use std::path::PathBuf;

use anyhow::{Context, anyhow};
use clap::Args;
use virtual_node::KubeletConfig;
use virtual_node::kubelet::CertificateFiles;

use super::Failure;

/// How the kubelet API is served.
#[derive(Debug, Args)]
#[command(next_help_heading = "Kubelet API (kubectl logs, exec, attach, port-forward, cp, top)")]
pub struct KubeletArgs {
    /// Where the kubelet API of all devices is served, or `off`
    #[arg(long, value_name = "ADDR:PORT", env = "HAWSER_KUBELET_LISTEN", default_value = "0.0.0.0:10250")]
    kubelet_listen: String,
    /// The address at which API servers reach it [default: where it listens, $POD_IP, or this machine's address]
    #[arg(long, value_name = "ADDRESS", env = "HAWSER_KUBELET_ADVERTISE")]
    kubelet_advertise: Option<IpAddr>,
    /// Ports of which each device gets one, for clients that tell nodes apart by address, like metrics-server
    #[arg(long, value_name = "FIRST-LAST", env = "HAWSER_KUBELET_PORTS", value_parser = parse_ports)]
    kubelet_ports: Option<RangeInclusive<u16>>,
    /// Its certificate, read again when it changes [default: one made at every start, which API servers accept unless
    /// they have --kubelet-certificate-authority]
    #[arg(long, value_name = "FILE", env = "HAWSER_KUBELET_CERT", requires = "kubelet_key")]
    kubelet_cert: Option<PathBuf>,
    /// The key of its certificate
    #[arg(long, value_name = "FILE", env = "HAWSER_KUBELET_KEY", requires = "kubelet_cert")]
    kubelet_key: Option<PathBuf>,
    /// Certificates of the authorities that its clients' certificates may come from [default: what the API server
    /// publishes in the ConfigMap kube-system/extension-apiserver-authentication]
    #[arg(long, value_name = "FILE", env = "HAWSER_KUBELET_CLIENT_CA")]
    kubelet_client_ca: Option<PathBuf>,
}

impl KubeletArgs {
    /// `None`: it is off.
    pub(super) fn config(self) -> Result<Option<KubeletConfig>, Failure> {
        if self.kubelet_listen == "off" {
            return Ok(None);
        }
        let listen: SocketAddr = self
            .kubelet_listen
            .parse()
            .with_context(|| {
                format!("--kubelet-listen `{}`: expected an address like 0.0.0.0:10250, or `off`", self.kubelet_listen)
            })
            .map_err(Failure::usage)?;
        let pod_ip = std::env::var("POD_IP").ok();
        let advertise = advertised(self.kubelet_advertise, listen.ip(), pod_ip.as_deref(), outward).ok_or_else(|| {
            Failure::usage(anyhow!(
                "cannot tell at which address API servers reach this machine: say so with --kubelet-advertise, or `--kubelet-listen off`"
            ))
        })?;
        let certificate = self.kubelet_cert.zip(self.kubelet_key).map(|(chain, key)| CertificateFiles { chain, key });
        Ok(Some(KubeletConfig {
            certificate,
            node_ports: self.kubelet_ports,
            client_ca: self.kubelet_client_ca,
            ..KubeletConfig::new(listen, advertise)
        }))
    }
}

/// What was said, or the only address at which it listens, or the pod's, or the one that this machine shows to others.
fn advertised(
    said: Option<IpAddr>,
    listen: IpAddr,
    pod_ip: Option<&str>,
    outward: impl Fn() -> Option<IpAddr>,
) -> Option<IpAddr> {
    said.or_else(|| Some(listen).filter(|listen| !listen.is_unspecified()))
        .or_else(|| pod_ip.and_then(|ip| ip.parse().ok()))
        .or_else(outward)
}

/// The address from which this machine would speak to a distant one. Nothing is sent: the address is for documentation.
fn outward() -> Option<IpAddr> {
    let socket = UdpSocket::bind((Ipv4Addr::UNSPECIFIED, 0)).ok()?;
    socket.connect((Ipv4Addr::new(192, 0, 2, 1), 9)).ok()?;
    socket.local_addr().ok().map(|address| address.ip()).filter(|ip| !ip.is_unspecified() && !ip.is_loopback())
}

fn parse_ports(text: &str) -> Result<RangeInclusive<u16>, String> {
    let range = text.split_once('-').and_then(|(first, last)| {
        let (first, last): (u16, u16) = (first.trim().parse().ok()?, last.trim().parse().ok()?);
        (first > 0 && first <= last).then_some(first..=last)
    });
    range.ok_or_else(|| "expected two ports, e.g. 20000-29999".to_owned())
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn the_advertised_address_is_the_first_that_is_known() {
        let ip = |text: &str| text.parse::<IpAddr>().unwrap();
        let (any, own, seen) = (ip("0.0.0.0"), ip("192.168.1.5"), || Some("198.51.100.7".parse().unwrap()));
        assert_eq!(advertised(Some(ip("10.0.0.1")), own, Some("10.1.2.3"), seen), Some(ip("10.0.0.1")));
        assert_eq!(advertised(None, own, Some("10.1.2.3"), seen), Some(own));
        assert_eq!(advertised(None, any, Some("10.1.2.3"), seen), Some(ip("10.1.2.3")));
        assert_eq!(advertised(None, any, Some(""), seen), seen());
        assert_eq!(advertised(None, any, None, || None), None);
    }

    #[test]
    fn ranges_of_ports_are_checked() {
        assert_eq!(parse_ports("20000-20009"), Ok(20000..=20009));
        for bad in ["", "1", "5-4", "0-9", "1-70000", "a-b"] {
            assert!(parse_ports(bad).is_err(), "{bad}");
        }
    }
}

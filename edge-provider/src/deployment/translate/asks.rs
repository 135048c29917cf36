//! What a pod as a whole asks of a device beyond containers: names, namespaces, kernel parameters.

use hawser_wire::deployment::{Ask, Dns, DnsBase, Resources, sysctl_with_dots};
use hawser_wire::quantity;
use k8s_openapi::api::core::v1::{PodDNSConfigOption, PodSpec};

use super::{Problem, Translated, amount, amounts, host_network, huge_pages};
use crate::deployment::references::{Fetched, Found};

/// In a fixed order, so that the same pod is always the same bytes.
pub(super) fn asks(spec: &PodSpec, fetched: &Fetched) -> Translated<Vec<Ask>> {
    let mut asks = Vec::new();
    for (asked, ask) in [
        (spec.host_pid, Ask::HostProcesses),
        (spec.host_ipc, Ask::HostIpc),
        (spec.share_process_namespace, Ask::SharedProcesses),
    ] {
        asks.extend(Some(ask).filter(|_| asked == Some(true)));
    }
    asks.extend(Some(Ask::OwnUsers).filter(|_| spec.host_users == Some(false)));
    let context = spec.security_context.as_ref();
    for sysctl in context.and_then(|context| context.sysctls.as_ref()).into_iter().flatten() {
        asks.push(Ask::Sysctl { name: sysctl_with_dots(&sysctl.name), value: sysctl.value.clone() });
    }
    if context.and_then(|context| context.supplemental_groups_policy.as_deref()) == Some("Strict") {
        asks.push(Ask::StrictGroups);
    }
    names(spec, &mut asks);
    asks.extend(dns(spec)?);
    asks.extend(handler(spec, fetched)?.map(Ask::Handler));
    whole(spec, &mut asks)?;
    huge_pages::asks(spec, &mut asks)?;
    Ok(asks)
}

/// The engine's way to run the pod that its class stands for. Whether the engine has it, the engine says.
fn handler(spec: &PodSpec, fetched: &Fetched) -> Translated<Option<String>> {
    let class = spec.runtime_class_name.as_deref().unwrap_or_default();
    match &fetched.handler {
        _ if class.is_empty() => Ok(None),
        Some(Found::Here(handler)) => Ok(Some(handler.clone()).filter(|handler| !handler.is_empty())),
        Some(Found::Denied(words)) => Err(Problem::Sandbox(format!("failed to lookup RuntimeClass {class}: {words}"))),
        Some(Found::Missing) | None => Err(Problem::Sandbox(format!("runtimeclass.node.k8s.io \"{class}\" not found"))),
    }
}

/// What the pod as a whole may use, and what it costs to have it.
fn whole(spec: &PodSpec, asks: &mut Vec<Ask>) -> Translated<()> {
    let some = |read: &Resources| *read != Resources::default();
    if let Some(resources) = &spec.resources {
        asks.extend(Some(amounts(resources, "spec.resources")?).filter(some).map(Ask::Resources));
    }
    let list = (&spec.overhead, "spec.overhead");
    let overhead = Resources {
        cpu_request_millis: amount(list, "cpu", quantity::millis)?,
        memory_request_bytes: amount(list, "memory", quantity::units)?,
        ..Resources::default()
    };
    asks.extend(Some(overhead).filter(some).map(Ask::Overhead));
    Ok(())
}

/// A pod on the device's network has the device's names, but its own aliases.
fn names(spec: &PodSpec, asks: &mut Vec<Ask>) {
    let subdomain = spec.subdomain.as_ref().filter(|name| !name.is_empty());
    // Who overrides the host name has no other.
    if let Some(name) = subdomain.filter(|_| spec.hostname_override.is_none() && !host_network(spec)) {
        asks.push(Ask::Subdomain(name.clone()));
        asks.extend(Some(Ask::HostnameIsWhole).filter(|_| spec.set_hostname_as_fqdn == Some(true)));
    }
    for alias in spec.host_aliases.iter().flatten() {
        asks.push(Ask::HostAlias { address: alias.ip.clone(), names: alias.hostnames.clone().unwrap_or_default() });
    }
}

/// Nothing for a pod that resolves names as most do.
fn dns(spec: &PodSpec) -> Translated<Option<Ask>> {
    let usual = if host_network(spec) { DnsBase::Device } else { DnsBase::Cluster };
    let base = match spec.dns_policy.as_deref() {
        None | Some("" | "ClusterFirst") => usual,
        Some("ClusterFirstWithHostNet") => DnsBase::Cluster,
        Some("Default") => DnsBase::Device,
        Some("None") => DnsBase::Nothing,
        Some(other) => {
            let words = format!(
                "spec.dnsPolicy: expected ClusterFirst, ClusterFirstWithHostNet, Default or None (got {other})"
            );
            return Err(Problem::Refused(words));
        }
    };
    let config = spec.dns_config.clone().unwrap_or_default();
    let options = config.options.iter().flatten().filter_map(option).collect();
    let dns = Dns {
        base,
        servers: config.nameservers.unwrap_or_default(),
        searches: config.searches.unwrap_or_default(),
        options,
    };
    let adds = !(dns.servers.is_empty() && dns.searches.is_empty() && dns.options.is_empty());
    Ok((base != usual || adds).then_some(Ask::Dns(dns)))
}

fn option(option: &PodDNSConfigOption) -> Option<String> {
    let name = option.name.as_deref().filter(|name| !name.is_empty())?;
    Some(match option.value.as_deref().filter(|value| !value.is_empty()) {
        Some(value) => format!("{name}:{value}"),
        None => name.to_owned(),
    })
}

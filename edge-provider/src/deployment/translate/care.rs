//! How a container is looked after: probes, hooks, and its own restart policy.

use std::collections::BTreeMap;

use hawser_wire::deployment::{
    Action, Care, GrpcHealth, Header, HttpGet, Probe, RestartAction, RestartPolicy, RestartRule, TcpSocket,
};
use k8s_openapi::api::core::v1::{self, HTTPGetAction, LifecycleHandler, TCPSocketAction};
use k8s_openapi::apimachinery::pkg::util::intstr::IntOrString;

use super::{Place, Problem, Translated};

/// `None` if nothing of it is asked for.
pub(super) fn care(place: &Place<'_>) -> Translated<Option<Care>> {
    let container = place.container;
    let lifecycle = container.lifecycle.as_ref();
    let hook = |handler: Option<&LifecycleHandler>, name: &str| {
        handler.map(|handler| self::hook(place, handler, &format!("{}.lifecycle.{name}", place.path))).transpose()
    };
    let care = Care {
        liveness: probe(place, container.liveness_probe.as_ref(), "livenessProbe")?,
        readiness: probe(place, container.readiness_probe.as_ref(), "readinessProbe")?,
        startup: probe(place, container.startup_probe.as_ref(), "startupProbe")?,
        post_start: hook(lifecycle.and_then(|lifecycle| lifecycle.post_start.as_ref()), "postStart")?,
        pre_stop: hook(lifecycle.and_then(|lifecycle| lifecycle.pre_stop.as_ref()), "preStop")?,
        restart: restart(place),
        restart_rules: rules(place)?,
    };
    Ok(Some(care).filter(|care| *care != Care::default()))
}

fn probe(place: &Place<'_>, probe: Option<&v1::Probe>, name: &str) -> Translated<Option<Probe>> {
    let Some(probe) = probe else { return Ok(None) };
    let path = format!("{}.{name}", place.path);
    let action = if let Some(exec) = &probe.exec {
        Action::Exec(expanded(place.container, exec.command.as_deref().unwrap_or_default()))
    } else if let Some(get) = &probe.http_get {
        Action::Http(http(place, get, &path)?)
    } else if let Some(socket) = &probe.tcp_socket {
        Action::Tcp(tcp(place, socket, &path)?)
    } else if let Some(grpc) = &probe.grpc {
        let port = number(grpc.port, &format!("{path}.grpc.port"))?;
        Action::Grpc(GrpcHealth { port, service: grpc.service.clone().unwrap_or_default() })
    } else {
        return Err(Problem::Refused(format!("{path}: it names nothing to ask")));
    };
    let seconds =
        |given: Option<i32>, default: u32| given.and_then(|given| u32::try_from(given).ok()).unwrap_or(default);
    Ok(Some(Probe {
        action,
        initial_delay_seconds: seconds(probe.initial_delay_seconds, 0),
        period_seconds: seconds(probe.period_seconds, 10).max(1),
        timeout_seconds: seconds(probe.timeout_seconds, 1).max(1),
        success_threshold: seconds(probe.success_threshold, 1).max(1),
        failure_threshold: seconds(probe.failure_threshold, 3).max(1),
        grace_seconds: probe.termination_grace_period_seconds.map(super::clamp),
    }))
}

fn hook(place: &Place<'_>, handler: &LifecycleHandler, path: &str) -> Translated<Action> {
    if let Some(exec) = &handler.exec {
        // Other than a probe's, a hook's command is not expanded.
        Ok(Action::Exec(exec.command.clone().unwrap_or_default()))
    } else if let Some(get) = &handler.http_get {
        Ok(Action::Http(http(place, get, path)?))
    } else if let Some(sleep) = &handler.sleep {
        Ok(Action::Sleep(super::clamp(sleep.seconds)))
    } else if let Some(socket) = &handler.tcp_socket {
        Ok(Action::Tcp(tcp(place, socket, path)?))
    } else {
        Err(Problem::Refused(format!("{path}: it names nothing to do")))
    }
}

fn http(place: &Place<'_>, get: &HTTPGetAction, path: &str) -> Translated<HttpGet> {
    let header = |header: &v1::HTTPHeader| Header { name: header.name.clone(), value: header.value.clone() };
    Ok(HttpGet {
        https: get.scheme.as_deref().is_some_and(|scheme| scheme.eq_ignore_ascii_case("https")),
        host: get.host.clone().filter(|host| !host.is_empty()),
        port: port(place, &get.port, &format!("{path}.httpGet.port"))?,
        path: get.path.clone().unwrap_or_default(),
        headers: get.http_headers.iter().flatten().map(header).collect(),
    })
}

fn tcp(place: &Place<'_>, socket: &TCPSocketAction, path: &str) -> Translated<TcpSocket> {
    let host = socket.host.clone().filter(|host| !host.is_empty());
    Ok(TcpSocket { host, port: port(place, &socket.port, &format!("{path}.tcpSocket.port"))? })
}

fn port(place: &Place<'_>, given: &IntOrString, path: &str) -> Translated<u16> {
    match given {
        IntOrString::Int(port) => number(*port, path),
        IntOrString::String(name) => {
            let named = place.container.ports.iter().flatten().find(|port| port.name.as_deref() == Some(name));
            match (named, name.parse()) {
                (Some(named), _) => number(named.container_port, path),
                (None, Ok(port)) => number(port, path),
                (None, Err(_)) => {
                    let container = &place.container.name;
                    Err(Problem::Refused(format!("{path}: container `{container}` has no port named `{name}`")))
                }
            }
        }
    }
}

fn number(port: i32, path: &str) -> Translated<u16> {
    let number = u16::try_from(port).ok().filter(|port| *port > 0);
    number.ok_or_else(|| Problem::Refused(format!("{path}: {port} is not a port, which is 1 to 65535")))
}

/// A sidecar's `Always` is what makes it one.
fn restart(place: &Place<'_>) -> Option<RestartPolicy> {
    match place.container.restart_policy.as_deref()? {
        "Never" => Some(RestartPolicy::Never),
        "OnFailure" => Some(RestartPolicy::OnFailure),
        "Always" if !place.init => Some(RestartPolicy::Always),
        _ => None,
    }
}

fn rules(place: &Place<'_>) -> Translated<Vec<RestartRule>> {
    let rules = place.container.restart_policy_rules.iter().flatten().enumerate();
    rules
        .map(|(at, rule)| {
            let path = format!("{}.restartPolicyRules[{at}]", place.path);
            let action = match rule.action.as_str() {
                "Restart" => RestartAction::Container,
                "RestartAllContainers" => RestartAction::Pod,
                other => return Err(Problem::Refused(format!("{path}.action: a device does not know `{other}`"))),
            };
            let Some(codes) = &rule.exit_codes else {
                return Err(Problem::Refused(format!("{path}.exitCodes: expected exit codes")));
            };
            let not_in = match codes.operator.as_str() {
                "In" => false,
                "NotIn" => true,
                other => {
                    return Err(Problem::Refused(format!(
                        "{path}.exitCodes.operator: a device does not know `{other}`"
                    )));
                }
            };
            Ok(RestartRule { codes: codes.values.clone().unwrap_or_default(), not_in, action })
        })
        .collect()
}

/// A probe's command knows the variables that the pod itself gives values, as they are written there, and no others.
fn expanded(container: &v1::Container, command: &[String]) -> Vec<String> {
    let given: BTreeMap<&str, &str> = container
        .env
        .iter()
        .flatten()
        .map(|variable| (variable.name.as_str(), variable.value.as_deref().unwrap_or_default()))
        .collect();
    command.iter().map(|word| expand(word, &given)).collect()
}

/// Replaces `$(NAME)`; `$$` is one `$`, and what is not known stays as it is.
fn expand(text: &str, given: &BTreeMap<&str, &str>) -> String {
    let mut result = String::with_capacity(text.len());
    let mut rest = text;
    while let Some((before, after)) = rest.split_once('$') {
        result.push_str(before);
        if let Some(after) = after.strip_prefix('$') {
            result.push('$');
            rest = after;
        } else if let Some((name, after)) = after.strip_prefix('(').and_then(|after| after.split_once(')')) {
            match given.get(name) {
                Some(value) => result.push_str(value),
                None => result.extend(["$(", name, ")"]),
            }
            rest = after;
        } else {
            result.push('$');
            rest = after;
        }
    }
    result.push_str(rest);
    result
}

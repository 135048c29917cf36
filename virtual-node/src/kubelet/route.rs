//! What a request asks for, and which right it needs. Pure.

use http::Method;

use crate::ids::PodUid;

/// What is asked for.
#[derive(Debug, Clone, PartialEq, Eq)]
pub(crate) enum Route {
    Healthz,
    Pods,
    RunningPods,
    Summary,
    ResourceMetrics,
    CadvisorMetrics,
    Logs(Target),
    Exec(Target),
    Attach(Target),
    Run(Target),
    PortForward(Target),
    Checkpoint(Target),
}

/// A pod and, for most verbs, a container of it.
#[derive(Debug, Clone, PartialEq, Eq)]
pub(crate) struct Target {
    pub(crate) namespace: String,
    pub(crate) pod: String,
    pub(crate) uid: Option<PodUid>,
    pub(crate) container: String,
}

/// Why there is no route.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(crate) enum NoRoute {
    NotFound,
    /// These would do.
    Method(&'static str),
}

impl Route {
    pub(crate) fn of(method: &Method, path: &str) -> Result<Self, NoRoute> {
        let parts: Vec<&str> = path.trim_matches('/').split('/').collect();
        let (route, methods) = match parts.as_slice() {
            ["healthz"] | ["healthz", "ping" | "log" | "syncloop"] => (Self::Healthz, "GET"),
            ["pods"] => (Self::Pods, "GET"),
            ["runningpods"] => (Self::RunningPods, "GET"),
            ["stats", "summary"] => (Self::Summary, "GET"),
            ["metrics", "resource"] => (Self::ResourceMetrics, "GET"),
            ["metrics", "cadvisor"] => (Self::CadvisorMetrics, "GET"),
            ["containerLogs", namespace, pod, container] => {
                (Self::Logs(Target::new(namespace, pod, None, container)), "GET")
            }
            ["exec", rest @ ..] => (Self::Exec(Target::of_container(rest)?), "GET, POST"),
            ["attach", rest @ ..] => (Self::Attach(Target::of_container(rest)?), "GET, POST"),
            ["run", rest @ ..] => (Self::Run(Target::of_container(rest)?), "POST"),
            ["checkpoint", rest @ ..] => (Self::Checkpoint(Target::of_container(rest)?), "POST"),
            ["portForward", namespace, pod] => (Self::PortForward(Target::new(namespace, pod, None, "")), "GET, POST"),
            ["portForward", namespace, pod, uid] => {
                (Self::PortForward(Target::new(namespace, pod, Some(uid), "")), "GET, POST")
            }
            _ => return Err(NoRoute::NotFound),
        };
        if methods.split(", ").any(|good| good == method.as_str()) { Ok(route) } else { Err(NoRoute::Method(methods)) }
    }

    /// The pod in question, if there is one.
    pub(crate) fn target(&self) -> Option<&Target> {
        match self {
            Self::Logs(target)
            | Self::Exec(target)
            | Self::Attach(target)
            | Self::Run(target)
            | Self::PortForward(target)
            | Self::Checkpoint(target) => Some(target),
            _ => None,
        }
    }

    /// For counting.
    pub(crate) fn verb(&self) -> &'static str {
        match self {
            Self::Healthz => "healthz",
            Self::Pods => "pods",
            Self::RunningPods => "runningpods",
            Self::Summary => "stats",
            Self::ResourceMetrics | Self::CadvisorMetrics => "metrics",
            Self::Logs(_) => "logs",
            Self::Exec(_) => "exec",
            Self::Attach(_) => "attach",
            Self::Run(_) => "run",
            Self::PortForward(_) => "port-forward",
            Self::Checkpoint(_) => "checkpoint",
        }
    }
}

impl Target {
    fn new(namespace: &str, pod: &str, uid: Option<&str>, container: &str) -> Self {
        let uid = uid.map(PodUid::new);
        Self { namespace: namespace.to_owned(), pod: pod.to_owned(), uid, container: container.to_owned() }
    }

    fn of_container(parts: &[&str]) -> Result<Self, NoRoute> {
        match parts {
            [namespace, pod, container] => Ok(Self::new(namespace, pod, None, container)),
            [namespace, pod, uid, container] => Ok(Self::new(namespace, pod, Some(uid), container)),
            _ => Err(NoRoute::NotFound),
        }
    }
}

/// The verb of an authorisation: what the API server would call it.
pub(crate) fn api_verb(method: &Method) -> &'static str {
    match *method {
        Method::POST => "create",
        Method::GET => "get",
        Method::PUT => "update",
        Method::PATCH => "patch",
        Method::DELETE => "delete",
        _ => "",
    }
}

/// The subresources of `nodes` any of which gives the right, in the order in which they are asked for. Fine ones come
/// first and fall back to `proxy`, as in a kubelet.
pub(crate) fn subresources(path: &str) -> &'static [&'static str] {
    let within = |root: &str| path.strip_prefix(root).is_some_and(|rest| rest.is_empty() || rest.starts_with('/'));
    match () {
        () if within("/pods") || within("/runningpods") => &["pods", "proxy"],
        () if within("/healthz") => &["healthz", "proxy"],
        () if within("/configz") => &["configz", "proxy"],
        () if within("/stats") => &["stats"],
        () if within("/metrics") => &["metrics"],
        () if within("/logs") => &["log"],
        () if within("/checkpoint") => &["checkpoint"],
        () if within("/statusz") => &["statusz"],
        () if within("/flagz") => &["configz"],
        () => &["proxy"],
    }
}

/// Decoded pairs of a query.
pub(crate) fn query(text: Option<&str>) -> Vec<(String, String)> {
    form_urlencoded::parse(text.unwrap_or_default().as_bytes()).into_owned().collect()
}

/// The first value of that name.
pub(crate) fn value<'a>(query: &'a [(String, String)], name: &str) -> Option<&'a str> {
    query.iter().find(|(key, _)| key == name).map(|(_, value)| value.as_str())
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn requests_are_understood_as_a_kubelet_does() {
        let target = |uid: Option<&str>, container| Target::new("shop", "web", uid, container);
        for (method, path, route) in [
            (Method::GET, "/healthz", Ok(Route::Healthz)),
            (Method::GET, "/pods/", Ok(Route::Pods)),
            (Method::GET, "/runningpods/", Ok(Route::RunningPods)),
            (Method::GET, "/stats/summary", Ok(Route::Summary)),
            (Method::GET, "/metrics/resource", Ok(Route::ResourceMetrics)),
            (Method::GET, "/containerLogs/shop/web/c", Ok(Route::Logs(target(None, "c")))),
            (Method::POST, "/containerLogs/shop/web/c", Err(NoRoute::Method("GET"))),
            (Method::POST, "/exec/shop/web/c", Ok(Route::Exec(target(None, "c")))),
            (Method::GET, "/exec/shop/web/u1/c", Ok(Route::Exec(target(Some("u1"), "c")))),
            (Method::GET, "/attach/shop/web/c", Ok(Route::Attach(target(None, "c")))),
            (Method::GET, "/run/shop/web/c", Err(NoRoute::Method("POST"))),
            (Method::POST, "/portForward/shop/web/u1", Ok(Route::PortForward(target(Some("u1"), "")))),
            (Method::POST, "/checkpoint/shop/web/c", Ok(Route::Checkpoint(target(None, "c")))),
            (Method::DELETE, "/exec/shop/web/c", Err(NoRoute::Method("GET, POST"))),
            (Method::GET, "/exec/shop", Err(NoRoute::NotFound)),
            (Method::GET, "/logs/messages", Err(NoRoute::NotFound)),
            (Method::GET, "/", Err(NoRoute::NotFound)),
        ] {
            assert_eq!(Route::of(&method, path), route, "{method} {path}");
        }
    }

    #[test]
    fn rights_are_those_that_a_kubelet_asks_for() {
        for (path, rights) in [
            ("/pods", &["pods", "proxy"][..]),
            ("/runningpods/", &["pods", "proxy"]),
            ("/healthz/ping", &["healthz", "proxy"]),
            ("/healthzx", &["proxy"]),
            ("/stats/summary", &["stats"]),
            ("/metrics/resource", &["metrics"]),
            ("/logs/x", &["log"]),
            ("/checkpoint/a/b/c", &["checkpoint"]),
            ("/containerLogs/a/b/c", &["proxy"]),
            ("/exec/a/b/c", &["proxy"]),
            ("/unknown", &["proxy"]),
        ] {
            assert_eq!(subresources(path), rights, "{path}");
        }
        assert_eq!((api_verb(&Method::POST), api_verb(&Method::HEAD)), ("create", ""));
    }
}

//! What a URL names.

/// What a path asks for.
#[derive(Debug, Clone, PartialEq, Eq)]
pub(crate) enum Route {
    /// `/api`
    CoreVersions,
    /// `/apis`
    Groups,
    /// `/apis/<group>`
    Group(String),
    /// `/api/v1`, `/apis/<group>/<version>`
    Resources {
        group: String,
        version: String,
    },
    Version,
    Health,
    OpenApi2,
    OpenApi3Index,
    OpenApi3 {
        group: String,
        version: String,
    },
    Root,
    Object(Target),
}

/// A resource, an object of it, or a part of that.
#[derive(Debug, Clone, PartialEq, Eq)]
pub(crate) struct Target {
    pub(crate) group: String,
    pub(crate) version: String,
    pub(crate) namespace: Option<String>,
    pub(crate) plural: String,
    pub(crate) name: Option<String>,
    pub(crate) subresource: Option<String>,
}

/// Reads a path; none when it names nothing that could be served.
pub(crate) fn route(path: &str) -> Option<Route> {
    let parts: Vec<String> = path.split('/').filter(|part| !part.is_empty()).map(decode).collect::<Option<_>>()?;
    let parts: Vec<&str> = parts.iter().map(String::as_str).collect();
    Some(match parts.as_slice() {
        [] => Route::Root,
        ["api"] => Route::CoreVersions,
        ["apis"] => Route::Groups,
        ["apis", group] => Route::Group((*group).to_owned()),
        ["version"] => Route::Version,
        ["healthz" | "readyz" | "livez", ..] => Route::Health,
        ["openapi", "v2"] => Route::OpenApi2,
        ["openapi", "v3"] => Route::OpenApi3Index,
        ["openapi", "v3", "api", version] => Route::OpenApi3 { group: String::new(), version: (*version).to_owned() },
        ["openapi", "v3", "apis", group, version] => {
            Route::OpenApi3 { group: (*group).to_owned(), version: (*version).to_owned() }
        }
        ["api", version] => Route::Resources { group: String::new(), version: (*version).to_owned() },
        ["apis", group, version] => Route::Resources { group: (*group).to_owned(), version: (*version).to_owned() },
        ["api", version, rest @ ..] => Route::Object(target("", version, rest)?),
        ["apis", group, version, rest @ ..] => Route::Object(target(group, version, rest)?),
        _ => return None,
    })
}

fn target(group: &str, version: &str, rest: &[&str]) -> Option<Target> {
    let (namespace, rest) = match rest {
        // A namespace's own parts, not a resource in it.
        ["namespaces", _, "status" | "finalize"] => (None, rest),
        ["namespaces", namespace, rest @ ..] if !rest.is_empty() => (Some((*namespace).to_owned()), rest),
        rest => (None, rest),
    };
    let (plural, name, subresource) = match rest {
        [plural] => (plural, None, None),
        [plural, name] => (plural, Some(name), None),
        [plural, name, subresource] => (plural, Some(name), Some(subresource)),
        [plural, name, "proxy", ..] => (plural, Some(name), Some(&"proxy")),
        _ => return None,
    };
    Some(Target {
        group: group.to_owned(),
        version: version.to_owned(),
        namespace,
        plural: (*plural).to_owned(),
        name: name.map(|name| (*name).to_owned()),
        subresource: subresource.map(|part| (*part).to_owned()),
    })
}

/// Undoes percent encoding; none when it is not UTF-8 or cut short.
pub(crate) fn decode(text: &str) -> Option<String> {
    let mut bytes = Vec::with_capacity(text.len());
    let mut rest = text.as_bytes();
    while let Some((&byte, after)) = rest.split_first() {
        rest = after;
        if byte == b'%' {
            let code = std::str::from_utf8(rest.get(..2)?).ok()?;
            bytes.push(u8::from_str_radix(code, 16).ok()?);
            rest = &rest[2..];
        } else {
            bytes.push(byte);
        }
    }
    String::from_utf8(bytes).ok()
}

#[cfg(test)]
mod tests {
    use super::*;

    fn object(path: &str) -> (Option<String>, String, Option<String>, Option<String>) {
        match route(path) {
            Some(Route::Object(target)) => (target.namespace, target.plural, target.name, target.subresource),
            other => panic!("{path}: {other:?}"),
        }
    }

    #[test]
    fn paths_name_what_they_say() {
        let some = |text: &str| Some(text.to_owned());
        let plain = |text: &str| text.to_owned();
        assert_eq!(object("/api/v1/pods"), (None, plain("pods"), None, None));
        assert_eq!(object("/api/v1/namespaces"), (None, plain("namespaces"), None, None));
        assert_eq!(object("/api/v1/namespaces/x"), (None, plain("namespaces"), some("x"), None));
        assert_eq!(object("/api/v1/namespaces/x/status"), (None, plain("namespaces"), some("x"), some("status")));
        assert_eq!(object("/api/v1/namespaces/x/pods/y/log"), (some("x"), plain("pods"), some("y"), some("log")));
        assert_eq!(object("/apis/a/v1/b/c%2Fd"), (None, plain("b"), some("c/d"), None));
        assert_eq!(object("/api/v1/nodes/n/proxy/logs/x"), (None, plain("nodes"), some("n"), some("proxy")));
        assert_eq!(route("/apis/apps/v1"), Some(Route::Resources { group: plain("apps"), version: plain("v1") }));
        assert_eq!(route("/readyz/ping"), Some(Route::Health));
        assert_eq!(route("/nonsense"), None);
        assert_eq!(route("/api/v1/%zz"), None);
    }
}

//! Talking to the API server: every call has a time limit, every failure a kind that says what to do next.

use std::time::Duration;

/// How long one call may take. Longer than the API server's own limit for requests that are not watches makes no sense,
/// and a connection that died silently must not hold a Lease or a status back for minutes.
pub(crate) const CALL_LIMIT: Duration = Duration::from_secs(20);

/// A call that did not succeed.
#[derive(Debug, thiserror::Error)]
pub(crate) enum CallError {
    /// No answer in time: it may or may not have been done.
    #[error("no answer from the API server within {}s", CALL_LIMIT.as_secs())]
    TimedOut,
    /// The API server, or the way to it, said no.
    #[error("{}", describe(.0))]
    Kube(#[source] kube::Error),
}

/// What to do about it.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(crate) enum Kind {
    /// There is no such object.
    NotFound,
    /// There is one already.
    AlreadyExists,
    /// The object is not what we thought (version or UID): read it again.
    Conflict,
    /// The position of a watch or list is no longer known: list again.
    Expired,
    /// The API server will never accept this.
    Invalid,
    /// We may not.
    Forbidden,
    /// A passing fault.
    Unavailable,
}

impl CallError {
    /// See [`Kind`].
    pub(crate) fn kind(&self) -> Kind {
        match self {
            Self::Kube(error) => kind(error),
            Self::TimedOut => Kind::Unavailable,
        }
    }
}

/// See [`Kind`].
pub(crate) fn kind(error: &kube::Error) -> Kind {
    match error {
        kube::Error::Api(status) => kind_of(status.code, &status.reason),
        _ => Kind::Unavailable,
    }
}

/// The kind by HTTP code and the reason that refines it.
pub(crate) fn kind_of(code: u16, reason: &str) -> Kind {
    match code {
        404 => Kind::NotFound,
        409 if reason == "AlreadyExists" => Kind::AlreadyExists,
        409 => Kind::Conflict,
        410 => Kind::Expired,
        401 | 403 => Kind::Forbidden,
        400 | 405 | 413 | 415 | 422 => Kind::Invalid,
        _ => Kind::Unavailable,
    }
}

/// One line for a log. kube's own text repeats the whole status twice.
pub(crate) fn describe(error: &kube::Error) -> String {
    match error {
        kube::Error::Api(status) if kind_of(status.code, &status.reason) == Kind::Forbidden => {
            format!(
                "the API server refused ({}): {}; grant the rules that `virtual_node::rbac` lists",
                status.code, status.message
            )
        }
        kube::Error::Api(status) => format!("the API server answered {}: {}", status.code, status.message),
        other => {
            use std::error::Error as _;
            let mut text = other.to_string();
            let mut source = other.source();
            while let Some(error) = source {
                let inner = error.to_string();
                if !text.contains(&inner) {
                    text = format!("{text}: {inner}");
                }
                source = error.source();
            }
            text
        }
    }
}

/// Makes the call within [`CALL_LIMIT`].
pub(crate) async fn call<T>(request: impl Future<Output = kube::Result<T>>) -> Result<T, CallError> {
    match tokio::time::timeout(CALL_LIMIT, request).await {
        Ok(answer) => answer.map_err(CallError::Kube),
        Err(_) => Err(CallError::TimedOut),
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn failures_are_told_apart() {
        for (code, reason, kind) in [
            (404, "NotFound", Kind::NotFound),
            (409, "AlreadyExists", Kind::AlreadyExists),
            (409, "Conflict", Kind::Conflict),
            (410, "Expired", Kind::Expired),
            (401, "Unauthorized", Kind::Forbidden),
            (403, "Forbidden", Kind::Forbidden),
            (422, "Invalid", Kind::Invalid),
            (413, "", Kind::Invalid),
            (429, "TooManyRequests", Kind::Unavailable),
            (500, "InternalError", Kind::Unavailable),
            (504, "Timeout", Kind::Unavailable),
        ] {
            assert_eq!(kind_of(code, reason), kind, "{code} {reason}");
        }
    }

    #[tokio::test(start_paused = true)]
    async fn a_call_that_never_answers_ends() {
        let outcome = call(std::future::pending::<kube::Result<()>>()).await;
        assert_eq!(outcome.unwrap_err().kind(), Kind::Unavailable);
    }
}

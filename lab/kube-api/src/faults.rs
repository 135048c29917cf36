//! Faults that a test orders: the API becomes an adversary for its clients, in a way that can be repeated.

use std::sync::{Mutex, PoisonError};
use std::time::Duration;

/// What a fault strikes.
#[derive(Debug, Clone, Default, PartialEq, Eq)]
pub struct Matcher {
    /// HTTP method (`GET`, `POST`, `PUT`, `PATCH`, `DELETE`); any when `None`.
    pub method: Option<&'static str>,
    /// The plural name of a resource, with a subresource if one is meant: `pods`, `pods/status`; any when `None`.
    pub resource: Option<String>,
    /// The name of the object; any when `None`.
    pub name: Option<String>,
    /// Whether only watches are struck (`Some(true)`), only other requests (`Some(false)`), or both.
    pub watch: Option<bool>,
}

impl Matcher {
    /// Strikes everything.
    pub fn anything() -> Self {
        Self::default()
    }

    /// Strikes requests with this method on this resource (`pods`, `pods/status`).
    pub fn on(method: &'static str, resource: impl Into<String>) -> Self {
        Self { method: Some(method), resource: Some(resource.into()), ..Self::default() }
    }

    /// Narrows to one object.
    #[must_use]
    pub fn named(mut self, name: impl Into<String>) -> Self {
        self.name = Some(name.into());
        self
    }

    fn strikes(&self, request: &Struck<'_>) -> bool {
        self.method.is_none_or(|method| method == request.method)
            && self.resource.as_deref().is_none_or(|resource| resource == request.resource)
            && self.name.as_deref().is_none_or(|name| name == request.name)
            && self.watch.is_none_or(|watch| watch == request.watch)
    }
}

/// What a fault does.
#[derive(Debug, Clone, PartialEq, Eq)]
pub enum Fault {
    /// The request is refused with this HTTP status, and nothing is done.
    Refuse {
        /// 409, 429, 500, 503, … answered as the real server would word it.
        status: u16,
        /// `Retry-After`, in seconds.
        retry_after: Option<u32>,
    },
    /// The request is carried out, but the answer is lost: the client sees this status.
    LoseAnswer {
        /// What the client sees.
        status: u16,
    },
    /// The request waits this long first.
    Delay(Duration),
}

/// A request as faults see it.
#[derive(Debug)]
pub(crate) struct Struck<'a> {
    pub(crate) method: &'a str,
    pub(crate) resource: &'a str,
    pub(crate) name: &'a str,
    pub(crate) watch: bool,
}

/// The faults that are ordered, in their order; each strikes a given number of times.
#[derive(Debug, Default)]
pub(crate) struct Faults {
    // A Mutex held for a look at a short list, never across an await.
    ordered: Mutex<Vec<(Matcher, Fault, usize)>>,
}

impl Faults {
    pub(crate) fn order(&self, matcher: Matcher, fault: Fault, times: usize) {
        if times > 0 {
            self.ordered.lock().unwrap_or_else(PoisonError::into_inner).push((matcher, fault, times));
        }
    }

    pub(crate) fn clear(&self) {
        self.ordered.lock().unwrap_or_else(PoisonError::into_inner).clear();
    }

    /// The first fault that strikes a request; it is used up by that.
    pub(crate) fn strike(&self, request: &Struck<'_>) -> Option<Fault> {
        let mut ordered = self.ordered.lock().unwrap_or_else(PoisonError::into_inner);
        let index = ordered.iter().position(|(matcher, _, _)| matcher.strikes(request))?;
        let (_, fault, left) = &mut ordered[index];
        let fault = fault.clone();
        *left -= 1;
        if *left == 0 {
            ordered.remove(index);
        }
        Some(fault)
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_fault_strikes_what_it_is_meant_for_as_often_as_ordered() {
        let faults = Faults::default();
        let refuse = Fault::Refuse { status: 500, retry_after: None };
        faults.order(Matcher::on("PATCH", "pods/status").named("a"), refuse.clone(), 2);
        let request = |method, name| Struck { method, resource: "pods/status", name, watch: false };
        assert_eq!(faults.strike(&request("GET", "a")), None);
        assert_eq!(faults.strike(&request("PATCH", "b")), None);
        assert_eq!(faults.strike(&request("PATCH", "a")), Some(refuse.clone()));
        assert_eq!(faults.strike(&request("PATCH", "a")), Some(refuse));
        assert_eq!(faults.strike(&request("PATCH", "a")), None);
    }
}

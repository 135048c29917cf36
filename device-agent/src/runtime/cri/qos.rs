//! What a pod as a whole may use, and who goes first when memory is short: reckoned from its containers as by a kubelet.
//! Pure.

use hawser_wire::deployment::{Ask, Container, EdgeDeployment, Resources};

use super::security::asks;
use crate::cgroup::{Limits, MIN_SHARES, shares};

/// How much of what it uses a pod was promised.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(super) enum Class {
    /// All of it, and it gets no more.
    Guaranteed,
    /// Some of it.
    Burstable,
    /// Nothing.
    BestEffort,
}

pub(super) fn class(pod: &EdgeDeployment) -> Class {
    // Resources of the pod as a whole, where given, are what counts.
    let counted: Vec<Resources> = match whole(pod).filter(asks_for_something) {
        Some(whole) => vec![whole],
        None => counted(pod).copied().collect(),
    };
    if !counted.is_empty() && counted.iter().all(is_guaranteed) {
        Class::Guaranteed
    } else if counted.iter().any(asks_for_something) {
        Class::Burstable
    } else {
        Class::BestEffort
    }
}

/// Whether a pod gets no more than it was promised.
pub(crate) fn is_guaranteed_pod(pod: &EdgeDeployment) -> bool {
    class(pod) == Class::Guaranteed
}

/// What the pod asks for as a whole. What it does not say is what its containers ask for, or else its limit.
fn whole(pod: &EdgeDeployment) -> Option<Resources> {
    let told = asks(pod).find_map(|ask| match ask {
        Ask::Resources(resources) => Some(*resources),
        _ => None,
    })?;
    let request = |own: Option<u64>, of: fn(&Resources) -> Option<u64>, limit: Option<u64>| {
        own.or_else(|| limit.map(|limit| some(Some(pod.at_once(of))).unwrap_or(limit)))
    };
    Some(Resources {
        cpu_request_millis: request(told.cpu_request_millis, |of| of.cpu_request_millis, told.cpu_limit_millis),
        memory_request_bytes: request(told.memory_request_bytes, |of| of.memory_request_bytes, told.memory_limit_bytes),
        ..told
    })
}

/// What it costs to have the pod, besides what its containers use.
fn overhead(pod: &EdgeDeployment) -> Resources {
    let mut told = asks(pod).filter_map(|ask| match ask {
        Ask::Overhead(resources) => Some(*resources),
        _ => None,
    });
    told.next().unwrap_or_default()
}

/// What a container may use: what it says, or else what its pod may use as a whole.
pub(super) fn of_container(pod: &EdgeDeployment, container: &Container) -> Resources {
    let (own, whole) = (container.resources, whole(pod).unwrap_or_default());
    Resources {
        cpu_limit_millis: some(own.cpu_limit_millis).or(some(whole.cpu_limit_millis)),
        memory_limit_bytes: some(own.memory_limit_bytes).or(some(whole.memory_limit_bytes)),
        ..own
    }
}

/// Those of all containers that the pod was made with: one that is added later changes nothing.
fn counted(pod: &EdgeDeployment) -> impl Iterator<Item = &Resources> {
    pod.init_containers.iter().chain(&pod.containers).map(|container| &container.resources)
}

fn asks_for_something(of: &Resources) -> bool {
    [of.cpu_request_millis, of.cpu_limit_millis, of.memory_request_bytes, of.memory_limit_bytes]
        .into_iter()
        .any(|amount| some(amount).is_some())
}

fn is_guaranteed(of: &Resources) -> bool {
    let same = |request: Option<u64>, limit| some(limit).is_some() && some(request).or(limit) == limit;
    same(of.cpu_request_millis, of.cpu_limit_millis) && same(of.memory_request_bytes, of.memory_limit_bytes)
}

/// To ask for nothing is not to ask.
fn some(amount: Option<u64>) -> Option<u64> {
    amount.filter(|amount| *amount > 0)
}

/// The limits of the pod's own cgroup, but for processes: a pod whose containers are not all limited is not.
pub(super) fn limits(pod: &EdgeDeployment) -> Limits {
    if class(pod) == Class::BestEffort {
        return Limits { cpu_shares: Some(MIN_SHARES), ..Limits::default() };
    }
    let (whole, overhead) = (whole(pod).unwrap_or_default(), overhead(pod));
    let request = |own: Option<u64>, of: fn(&Resources) -> Option<u64>| own.unwrap_or_else(|| pod.at_once(of));
    let limit = |own, of: fn(&Resources) -> Option<u64>, more: Option<u64>| {
        let all = || counted(pod).all(|resources| some(of(resources)).is_some());
        let limit = some(own).or_else(|| all().then(|| pod.at_once(of)))?;
        Some(limit.saturating_add(more.unwrap_or(0)))
    };
    let cpu = request(whole.cpu_request_millis, |of| of.cpu_request_millis);
    Limits {
        cpu_shares: Some(shares(cpu.saturating_add(overhead.cpu_request_millis.unwrap_or(0)))),
        cpu_millis: limit(whole.cpu_limit_millis, |of| of.cpu_limit_millis, overhead.cpu_request_millis),
        memory_bytes: limit(whole.memory_limit_bytes, |of| of.memory_limit_bytes, overhead.memory_request_bytes),
        pids: None,
    }
}

/// The adjustments of those who go last and first when memory is short.
const GUARANTEED: i64 = -997;
const BEST_EFFORT: i64 = 1_000;
/// The priority of what a node cannot do without.
const NODE_CRITICAL: i32 = 2_000_001_000;

/// How the kernel is to judge a container's processes when memory is short; `memory`: what the device has.
pub(super) fn oom_adjustment(pod: &EdgeDeployment, container: &Container, memory: u64) -> i64 {
    if pod.priority.is_some_and(|priority| priority >= NODE_CRITICAL) {
        return GUARANTEED;
    }
    match class(pod) {
        Class::Guaranteed => return GUARANTEED,
        Class::BestEffort => return BEST_EFFORT,
        Class::Burstable => {}
    }
    let requested = |container: &Container| container.resources.memory_request_bytes.unwrap_or(0);
    let of = |bytes: u64| {
        let part = u128::from(bytes) * 1_000 / u128::from(memory.max(1));
        BEST_EFFORT - i64::try_from(part).unwrap_or(i64::MAX).min(BEST_EFFORT)
    };
    // What the pod was promised beyond its containers is shared between them.
    let promised = whole(pod).and_then(|whole| whole.memory_request_bytes).unwrap_or(0);
    let spare = promised.saturating_sub(pod.at_once(|of| of.memory_request_bytes));
    let share = spare / u64::try_from(counted(pod).count()).unwrap_or(u64::MAX).max(1);
    let requested = |container: &Container| requested(container).saturating_add(share);
    let mut adjustment = of(requested(container));
    if container.sidecar {
        // A sidecar does not go before the containers that it serves.
        adjustment = adjustment.min(of(pod.containers.iter().map(requested).min().unwrap_or(share)));
    }
    // After everything that is guaranteed, before everything that was promised nothing.
    adjustment.clamp(BEST_EFFORT + GUARANTEED, BEST_EFFORT - 1)
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::runtime::cri::samples;
    use hawser_wire::deployment::{Engine, EphemeralContainer};

    fn resources(request: (u64, u64), limit: (u64, u64)) -> Resources {
        Resources {
            cpu_request_millis: some(Some(request.0)),
            memory_request_bytes: some(Some(request.1)),
            cpu_limit_millis: some(Some(limit.0)),
            memory_limit_bytes: some(Some(limit.1)),
            ..Resources::default()
        }
    }

    fn container(request: (u64, u64), limit: (u64, u64)) -> Container {
        Container { resources: resources(request, limit), ..samples::container() }
    }

    fn sidecar(request: (u64, u64), limit: (u64, u64)) -> Container {
        Container { sidecar: true, ..container(request, limit) }
    }

    fn pod(init_containers: Vec<Container>, containers: Vec<Container>) -> EdgeDeployment {
        EdgeDeployment { init_containers, containers, ..samples::pod() }
    }

    #[test]
    fn classes_follow_the_resources() {
        let full = || container((500, 64), (500, 64));
        let nothing = || container((0, 0), (0, 0));
        for (pod, expected) in [
            (pod(vec![], vec![nothing()]), Class::BestEffort),
            (pod(vec![], vec![container((0, 0), (500, 64))]), Class::Guaranteed),
            (pod(vec![full()], vec![full(), full()]), Class::Guaranteed),
            (pod(vec![nothing()], vec![full()]), Class::Burstable),
            (pod(vec![], vec![container((100, 64), (500, 64))]), Class::Burstable),
            (pod(vec![], vec![container((0, 0), (500, 0))]), Class::Burstable),
            (pod(vec![], vec![container((1, 0), (0, 0)), nothing()]), Class::Burstable),
        ] {
            assert_eq!(class(&pod), expected, "{pod:?}");
            let added = EphemeralContainer { container: nothing(), target: None, hindrance: None };
            let pod = EdgeDeployment { ephemeral_containers: vec![added], ..pod };
            assert_eq!(class(&pod), expected, "with a container that was added: {pod:?}");
        }
    }

    #[test]
    fn a_pod_may_use_what_its_containers_may_at_the_same_time() {
        let limits = |pod: &EdgeDeployment| {
            let of = limits(pod);
            (of.cpu_shares.unwrap(), of.cpu_millis, of.memory_bytes)
        };
        let of = |amount: u64| container((amount, amount), (amount, amount));
        let beside = |amount: u64| sidecar((amount, amount), (amount, amount));
        let shares_of = |millis: u64| millis * 1_024 / 1_000;
        for (pod, expected) in [
            (pod(vec![], vec![of(100), of(200)]), 300),
            // Init containers are gone by then, sidecars are not.
            (pod(vec![of(100)], vec![of(200)]), 200),
            (pod(vec![of(700)], vec![of(200)]), 700),
            (pod(vec![beside(50), of(700)], vec![of(200)]), 750),
            (pod(vec![of(700), beside(50)], vec![of(200)]), 700),
            (pod(vec![beside(50), beside(60)], vec![of(200)]), 310),
        ] {
            assert_eq!(limits(&pod), (shares_of(expected), Some(expected), Some(expected)), "{pod:?}");
        }
        // One that is not limited may use everything, and so may its pod.
        let partly = pod(vec![], vec![container((100, 0), (300, 0)), container((50, 0), (100, 64))]);
        assert_eq!(limits(&partly), (shares_of(150), Some(400), None));
        let first = pod(vec![container((0, 0), (0, 0))], vec![of(100)]);
        assert_eq!(limits(&first), (shares_of(100), None, None));
        assert_eq!(limits(&pod(vec![], vec![container((0, 0), (0, 0))])), (2, None, None));
        assert_eq!(limits(&pod(vec![], vec![of(u64::MAX), of(u64::MAX)])).2, Some(u64::MAX));
    }

    fn asking(pod: EdgeDeployment, asks: Vec<Ask>) -> EdgeDeployment {
        EdgeDeployment { engine: Some(Engine { asks, ..Engine::default() }), ..pod }
    }

    #[test]
    fn what_a_pod_asks_for_as_a_whole_counts_before_its_containers() {
        let whole = |request, limit| Ask::Resources(resources(request, limit));
        let one = || pod(vec![], vec![container((100, 10), (300, 30)), container((0, 0), (0, 0))]);
        let of = |pod: &EdgeDeployment| {
            let of = limits(pod);
            (class(pod), of.cpu_shares.unwrap() * 1_000 / 1_024, of.cpu_millis, of.memory_bytes)
        };
        let same = asking(one(), vec![whole((1_000, 64), (1_000, 64))]);
        assert_eq!(of(&same), (Class::Guaranteed, 1_000, Some(1_000), Some(64)));
        // Where it says no request, that of its containers is its own, and its limit only where they have none.
        let limit = asking(one(), vec![whole((0, 0), (1_000, 64))]);
        assert_eq!(of(&limit), (Class::Burstable, 99, Some(1_000), Some(64)));
        let alone = asking(pod(vec![], vec![container((0, 0), (0, 0))]), vec![whole((0, 0), (1_000, 64))]);
        assert_eq!(of(&alone), (Class::Guaranteed, 1_000, Some(1_000), Some(64)));
        let memory = asking(one(), vec![whole((0, 0), (0, 64))]);
        assert_eq!(of(&memory), (Class::Burstable, 99, None, Some(64)));
        // A container without a limit may use what its pod may.
        let containers: Vec<_> = limit.containers.iter().map(|one| of_container(&limit, one)).collect();
        let limits = containers.iter().map(|of| (of.cpu_request_millis, of.cpu_limit_millis, of.memory_limit_bytes));
        assert_eq!(limits.collect::<Vec<_>>(), [(Some(100), Some(300), Some(30)), (None, Some(1_000), Some(64))]);
    }

    #[test]
    fn overhead_comes_on_top_and_makes_no_limit_where_there_is_none() {
        let overhead = || vec![Ask::Overhead(resources((250, 32), (0, 0)))];
        let of = |pod: &EdgeDeployment| {
            let of = limits(pod);
            (of.cpu_shares.unwrap(), of.cpu_millis, of.memory_bytes)
        };
        let full = pod(vec![], vec![container((750, 64), (750, 64))]);
        assert_eq!(of(&asking(full, overhead())), (1_024, Some(1_000), Some(96)));
        let partly = pod(vec![], vec![container((750, 64), (0, 128))]);
        assert_eq!(of(&asking(partly, overhead())), (1_024, None, Some(160)));
        let nothing = pod(vec![], vec![container((0, 0), (0, 0))]);
        assert_eq!(of(&asking(nothing, overhead())), (2, None, None));
    }

    #[test]
    fn who_goes_first_when_memory_is_short() {
        const DEVICE: u64 = 1_000;
        let adjustment = |pod: &EdgeDeployment| oom_adjustment(pod, &pod.containers[0], DEVICE);
        let asks = |memory| container((0, memory), (0, 0));
        assert_eq!(adjustment(&pod(vec![], vec![container((5, 5), (5, 5))])), -997);
        assert_eq!(adjustment(&pod(vec![], vec![container((0, 0), (0, 0))])), 1_000);
        for (memory, expected) in [(100, 900), (1_000, 3), (u64::MAX, 3), (999, 3), (0, 999)] {
            let pod = pod(vec![], vec![asks(memory), container((7, 0), (0, 0))]);
            assert_eq!(adjustment(&pod), expected, "{memory}");
        }
        let critical = EdgeDeployment { priority: Some(NODE_CRITICAL), ..pod(vec![], vec![asks(0)]) };
        assert_eq!(adjustment(&critical), -997);
        // A sidecar stands as well as the least of those that it serves.
        let served = pod(vec![sidecar((0, 10), (0, 0))], vec![asks(300), asks(200)]);
        assert_eq!(oom_adjustment(&served, &served.init_containers[0], DEVICE), 800);
        let greedy = pod(vec![sidecar((0, 500), (0, 0))], vec![asks(300)]);
        assert_eq!(oom_adjustment(&greedy, &greedy.init_containers[0], DEVICE), 500);
        // 200 more than its two containers ask for.
        let whole = Ask::Resources(resources((0, 600), (0, 0)));
        let promised = asking(pod(vec![], vec![asks(300), asks(100)]), vec![whole]);
        assert_eq!([0, 1].map(|at| oom_adjustment(&promised, &promised.containers[at], DEVICE)), [600, 800]);
        assert_eq!(oom_adjustment(&greedy, &greedy.containers[0], 0), 3, "a device that does not know its memory");
    }
}

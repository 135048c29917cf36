//! What a pod as a whole may use, and who goes first when memory is short: reckoned from its containers as by a kubelet.
//! Pure.

use hawser_wire::deployment::{Container, EdgeDeployment, Resources};

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
    let counted: Vec<&Resources> = counted(pod).collect();
    if !counted.is_empty() && counted.iter().all(|one| is_guaranteed(one)) {
        Class::Guaranteed
    } else if counted.iter().any(|one| asks_for_something(one)) {
        Class::Burstable
    } else {
        Class::BestEffort
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
    let sum_of_limits = |of: fn(&Resources) -> Option<u64>| {
        let all = counted(pod).all(|resources| some(of(resources)).is_some());
        all.then(|| sum(pod, of))
    };
    Limits {
        cpu_shares: Some(shares(sum(pod, |of| of.cpu_request_millis))),
        cpu_millis: sum_of_limits(|of| of.cpu_limit_millis),
        memory_bytes: sum_of_limits(|of| of.memory_limit_bytes),
        pids: None,
    }
}

/// The most that containers of the pod ask for at the same time: init containers run one by one, beside the sidecars before
/// them, and before all others.
fn sum(pod: &EdgeDeployment, of: fn(&Resources) -> Option<u64>) -> u64 {
    let own = |container: &Container| of(&container.resources).unwrap_or(0);
    let (mut sidecars, mut peak) = (0_u64, 0);
    for container in &pod.init_containers {
        let with = sidecars.saturating_add(own(container));
        peak = peak.max(with);
        if container.sidecar {
            sidecars = with;
        }
    }
    pod.containers.iter().map(own).fold(sidecars, u64::saturating_add).max(peak)
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
    let mut adjustment = of(requested(container));
    if container.sidecar {
        // A sidecar does not go before the containers that it serves.
        adjustment = adjustment.min(of(pod.containers.iter().map(requested).min().unwrap_or(0)));
    }
    // After everything that is guaranteed, before everything that was promised nothing.
    adjustment.clamp(BEST_EFFORT + GUARANTEED, BEST_EFFORT - 1)
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::runtime::cri::samples;
    use hawser_wire::deployment::EphemeralContainer;

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
        assert_eq!(oom_adjustment(&greedy, &greedy.containers[0], 0), 3, "a device that does not know its memory");
    }
}

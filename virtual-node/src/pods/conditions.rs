//! The conditions of a pod, as a kubelet derives them from the spec and the containers' statuses. Pure.

use jiff::Timestamp;
use k8s_openapi::api::core::v1::{
    Container, ContainerRestartRule, ContainerRestartRuleOnExitCodes, ContainerStatus, PodCondition, PodSpec, PodStatus,
};
use k8s_openapi::apimachinery::pkg::apis::meta::v1::Time;

/// What a condition says, before its times.
#[derive(Debug, Clone, PartialEq, Eq)]
struct Verdict {
    holds: bool,
    reason: Option<&'static str>,
    message: Option<String>,
}

impl Verdict {
    const fn yes() -> Self {
        Self { holds: true, reason: None, message: None }
    }

    fn no(reason: &'static str, message: Option<String>) -> Self {
        Self { holds: false, reason: Some(reason), message }
    }
}

/// All conditions of the pod: ours derived anew, those of others kept. A condition whose status has not changed keeps its
/// transition time.
pub(crate) fn of_pod(
    spec: &PodSpec,
    old: &PodStatus,
    new: &PodStatus,
    sandbox_ready: bool,
    now: Timestamp,
) -> Vec<PodCondition> {
    let phase = new.phase.as_deref().unwrap_or_default();
    let containers_ready = containers_ready(spec, new, phase);
    let foreign = old.conditions.as_deref().unwrap_or_default();
    let mut verdicts = vec![
        ("PodReadyToStartContainers", Verdict { holds: sandbox_ready, reason: None, message: None }),
        ("Initialized", initialized(spec, new, phase)),
        ("Ready", ready(spec, foreign, &containers_ready)),
        ("ContainersReady", containers_ready),
        ("PodScheduled", Verdict::yes()),
    ];
    verdicts.extend(restarting_all(spec, new, phase).map(|verdict| ("AllContainersRestarting", verdict)));
    // Tells whoever owns the pod that it has not failed by itself.
    if new.reason.as_deref() == Some("Evicted") {
        let evicted = Verdict { holds: true, reason: Some("TerminationByKubelet"), message: new.message.clone() };
        verdicts.push(("DisruptionTarget", evicted));
    }
    let condition = |kind: &str, verdict: &Verdict| {
        let status = if verdict.holds { "True" } else { "False" };
        let before = foreign.iter().find(|condition| condition.type_ == kind);
        let kept =
            before.filter(|before| before.status == status).and_then(|before| before.last_transition_time.clone());
        PodCondition {
            type_: kind.to_owned(),
            status: status.to_owned(),
            reason: verdict.reason.map(str::to_owned),
            message: verdict.message.clone(),
            last_transition_time: Some(kept.unwrap_or(Time(now))),
            last_probe_time: None,
            observed_generation: new.observed_generation,
        }
    };
    let mut conditions: Vec<PodCondition> = Vec::with_capacity(foreign.len() + verdicts.len());
    // In the order in which the API holds them, so that an unchanged list compares equal.
    for old in foreign {
        match verdicts.iter().find(|(kind, _)| *kind == old.type_) {
            Some((kind, verdict)) => conditions.push(condition(kind, verdict)),
            None => conditions.push(old.clone()),
        }
    }
    for (kind, verdict) in &verdicts {
        if !conditions.iter().any(|condition| condition.type_ == *kind) {
            conditions.push(condition(kind, verdict));
        }
    }
    conditions
}

fn is_sidecar(init: &Container) -> bool {
    init.restart_policy.as_deref() == Some("Always")
}

fn find<'a>(statuses: Option<&'a Vec<ContainerStatus>>, name: &str) -> Option<&'a ContainerStatus> {
    statuses?.iter().find(|status| status.name == name)
}

/// `[a b c]`, as Go prints a list.
fn list(what: &str, names: &[&str]) -> Option<String> {
    (!names.is_empty()).then(|| format!("containers with {what} status: [{}]", names.join(" ")))
}

fn join(parts: [Option<String>; 2]) -> Option<String> {
    let parts: Vec<String> = parts.into_iter().flatten().collect();
    (!parts.is_empty()).then(|| parts.join(", "))
}

fn containers_ready(spec: &PodSpec, status: &PodStatus, phase: &str) -> Verdict {
    let (mut unknown, mut unready) = (Vec::new(), Vec::new());
    let sidecars = spec.init_containers.iter().flatten().filter(|init| is_sidecar(init));
    let sidecars = sidecars.map(|init| (&init.name, find(status.init_container_statuses.as_ref(), &init.name)));
    let mains = spec.containers.iter().map(|c| (&c.name, find(status.container_statuses.as_ref(), &c.name)));
    for (name, status) in sidecars.chain(mains) {
        match status {
            None => unknown.push(name.as_str()),
            Some(status) if !status.ready => unready.push(name.as_str()),
            Some(_) => {}
        }
    }
    if phase == "Succeeded" && unknown.is_empty() {
        return Verdict::no("PodCompleted", None);
    }
    if phase == "Failed" {
        return Verdict::no("PodFailed", None);
    }
    match join([list("unknown", &unknown), list("unready", &unready)]) {
        Some(message) => Verdict::no("ContainersNotReady", Some(message)),
        None => Verdict::yes(),
    }
}

/// Whether a container ended in a way that means that all are started again; `None`: no such way is described.
fn restarting_all(spec: &PodSpec, status: &PodStatus, phase: &str) -> Option<Verdict> {
    const ALL: &str = "RestartAllContainers";
    let inits = spec.init_containers.iter().flatten().map(|c| (c, status.init_container_statuses.as_ref()));
    let containers = || inits.clone().chain(spec.containers.iter().map(|c| (c, status.container_statuses.as_ref())));
    let rules = |container: &'_ Container| container.restart_policy_rules.clone().unwrap_or_default();
    if !containers().any(|(container, _)| rules(container).iter().any(|rule| rule.action == ALL)) {
        return None;
    }
    let started = containers().any(|(container, statuses)| {
        let state = find(statuses, &container.name).and_then(|status| status.state.as_ref());
        let Some(code) = state.and_then(|state| state.terminated.as_ref()).map(|end| end.exit_code) else {
            return false;
        };
        let holds = |rule: &ContainerRestartRule| {
            let codes = rule.exit_codes.as_ref();
            let listed =
                |codes: &ContainerRestartRuleOnExitCodes| codes.values.iter().flatten().any(|one| *one == code);
            codes.is_some_and(|codes| listed(codes) != (codes.operator == "NotIn"))
        };
        rules(container).iter().find(|rule| holds(rule)).is_some_and(|rule| rule.action == ALL)
    });
    Some(match phase {
        "Succeeded" => Verdict::no("PodCompleted", None),
        "Failed" => Verdict::no("PodFailed", None),
        _ if started => Verdict {
            holds: true,
            reason: Some("RestartAllContainersStarted"),
            message: Some("container exited with restart policy rule".to_owned()),
        },
        _ => Verdict { holds: false, reason: None, message: None },
    })
}

fn ready(spec: &PodSpec, conditions: &[PodCondition], containers_ready: &Verdict) -> Verdict {
    if !containers_ready.holds {
        return containers_ready.clone();
    }
    let unmet: Vec<String> = spec
        .readiness_gates
        .iter()
        .flatten()
        .filter_map(|gate| {
            let gate = &gate.condition_type;
            match conditions.iter().find(|condition| condition.type_ == *gate) {
                None => Some(format!("corresponding condition of pod readiness gate \"{gate}\" does not exist.")),
                Some(condition) if condition.status != "True" => Some(format!(
                    "the status of pod readiness gate \"{gate}\" is not \"True\", but {}",
                    condition.status
                )),
                Some(_) => None,
            }
        })
        .collect();
    if unmet.is_empty() { Verdict::yes() } else { Verdict::no("ReadinessGatesNotReady", Some(unmet.join(", "))) }
}

fn initialized(spec: &PodSpec, status: &PodStatus, phase: &str) -> Verdict {
    let (mut unknown, mut incomplete) = (Vec::new(), Vec::new());
    for init in spec.init_containers.iter().flatten() {
        match find(status.init_container_statuses.as_ref(), &init.name) {
            None => unknown.push(init.name.as_str()),
            Some(status) if is_sidecar(init) && status.started != Some(true) => incomplete.push(init.name.as_str()),
            Some(status) if !is_sidecar(init) && !status.ready => incomplete.push(init.name.as_str()),
            Some(_) => {}
        }
    }
    if phase == "Succeeded" && unknown.is_empty() {
        return Verdict { reason: Some("PodCompleted"), ..Verdict::yes() };
    }
    let begun = |status: &ContainerStatus| {
        let states = [status.state.as_ref(), status.last_state.as_ref()];
        states.into_iter().flatten().any(|state| state.running.is_some() || state.terminated.is_some())
    };
    if status.container_statuses.iter().flatten().any(begun) {
        return Verdict::yes();
    }
    match join([list("unknown", &unknown), list("incomplete", &incomplete)]) {
        Some(message) => Verdict::no("ContainersNotInitialized", Some(message)),
        None => Verdict::yes(),
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use serde_json::{Value, json};

    fn at(second: i64) -> Timestamp {
        Timestamp::from_second(1_800_000_000 + second).unwrap()
    }

    fn spec(spec: Value) -> PodSpec {
        serde_json::from_value(spec).unwrap()
    }

    fn status(status: Value) -> PodStatus {
        serde_json::from_value(status).unwrap()
    }

    fn c(name: &str, ready: bool, state: Value) -> Value {
        json!({"name": name, "image": "i", "imageID": "", "ready": ready, "restartCount": 0, "started": ready, "state": state})
    }

    /// `type=status/reason/message` of one condition.
    fn one(conditions: &[PodCondition], kind: &str) -> String {
        let c = conditions.iter().find(|c| c.type_ == kind).unwrap();
        let part = |part: &Option<String>| part.clone().unwrap_or_default();
        format!("{}/{}/{}", c.status, part(&c.reason), part(&c.message))
    }

    #[test]
    fn conditions_say_what_a_kubelet_says() {
        let two = json!({"containers": [{"name": "a"}, {"name": "b"}]});
        let init = json!({"initContainers": [{"name": "i"}, {"name": "s", "restartPolicy": "Always"}], "containers": [{"name": "a"}]});
        let (up, wait, done) = (json!({"running": {}}), json!({"waiting": {}}), json!({"terminated": {"exitCode": 0}}));
        let rows = [
            (
                "nothing known",
                &two,
                json!({"phase": "Pending"}),
                "True//",
                "False/ContainersNotReady/containers with unknown status: [a b]",
            ),
            (
                "all up",
                &two,
                json!({"phase": "Running", "containerStatuses": [c("a", true, up.clone()), c("b", true, up.clone())]}),
                "True//",
                "True//",
            ),
            (
                "none up",
                &two,
                json!({"phase": "Running", "containerStatuses": [c("a", false, wait.clone()), c("b", false, wait.clone())]}),
                "True//",
                "False/ContainersNotReady/containers with unready status: [a b]",
            ),
            (
                "one unknown, one unready",
                &two,
                json!({"phase": "Running", "containerStatuses": [c("b", false, wait.clone())]}),
                "True//",
                "False/ContainersNotReady/containers with unknown status: [a], containers with unready status: [b]",
            ),
            (
                "completed",
                &two,
                json!({"phase": "Succeeded", "containerStatuses": [c("a", false, done.clone()), c("b", false, done.clone())]}),
                "True/PodCompleted/",
                "False/PodCompleted/",
            ),
            (
                "failed",
                &two,
                json!({"phase": "Failed", "containerStatuses": [c("a", true, up.clone()), c("b", true, up.clone())]}),
                "True//",
                "False/PodFailed/",
            ),
            (
                "init runs",
                &init,
                json!({"phase": "Pending", "initContainerStatuses": [c("i", false, up.clone()), c("s", false, wait.clone())],
                "containerStatuses": [c("a", false, wait.clone())]}),
                "False/ContainersNotInitialized/containers with incomplete status: [i s]",
                "False/ContainersNotReady/containers with unready status: [s a]",
            ),
            (
                "sidecar not started",
                &init,
                json!({"phase": "Pending", "initContainerStatuses": [c("i", true, done.clone()), c("s", false, up.clone())],
                "containerStatuses": [c("a", false, wait.clone())]}),
                "False/ContainersNotInitialized/containers with incomplete status: [s]",
                "False/ContainersNotReady/containers with unready status: [s a]",
            ),
            (
                "init unknown",
                &init,
                json!({"phase": "Pending"}),
                "False/ContainersNotInitialized/containers with unknown status: [i s]",
                "False/ContainersNotReady/containers with unknown status: [s a]",
            ),
            (
                "initialized once is initialized",
                &init,
                json!({"phase": "Running", "initContainerStatuses": [c("i", false, wait), c("s", true, up.clone())],
                "containerStatuses": [c("a", true, up)]}),
                "True//",
                "True//",
            ),
        ];
        for (name, pod, now_shown, initialized, containers) in rows {
            let conditions = of_pod(&spec(pod.clone()), &PodStatus::default(), &status(now_shown), true, at(1));
            assert_eq!(one(&conditions, "Initialized"), initialized, "{name}");
            assert_eq!(one(&conditions, "ContainersReady"), containers, "{name}");
            assert_eq!(one(&conditions, "Ready"), containers, "{name}: without gates, ready is containers ready");
        }
    }

    #[test]
    fn readiness_gates_hold_a_ready_pod_back() {
        let pod = spec(
            json!({"containers": [{"name": "a"}], "readinessGates": [{"conditionType": "lb"}, {"conditionType": "dns"}]}),
        );
        let new = status(json!({"phase": "Running", "containerStatuses": [c("a", true, json!({"running": {}}))]}));
        for (gates, expected) in [
            (
                json!([]),
                "False/ReadinessGatesNotReady/corresponding condition of pod readiness gate \"lb\" does not exist., \
                corresponding condition of pod readiness gate \"dns\" does not exist.",
            ),
            (
                json!([{"type": "lb", "status": "True"}, {"type": "dns", "status": "False"}]),
                "False/ReadinessGatesNotReady/the status of pod readiness gate \"dns\" is not \"True\", but False",
            ),
            (json!([{"type": "lb", "status": "True"}, {"type": "dns", "status": "True"}]), "True//"),
        ] {
            let old = status(json!({"conditions": gates}));
            let conditions = of_pod(&pod, &old, &new, true, at(1));
            assert_eq!(one(&conditions, "Ready"), expected);
            assert_eq!(one(&conditions, "ContainersReady"), "True//");
        }
    }

    #[test]
    fn a_container_that_restarts_all_says_so_while_it_has_ended() {
        let rules = json!([{"action": "Restart", "exitCodes": {"operator": "In", "values": [41]}},
            {"action": "RestartAllContainers", "exitCodes": {"operator": "NotIn", "values": [0, 40]}}]);
        let pod = spec(json!({"containers": [{"name": "a"}, {"name": "b", "restartPolicyRules": rules}]}));
        let shown = |phase: &str, state: Value| {
            let containers = [c("a", true, json!({"running": {}})), c("b", false, state)];
            let new = status(json!({"phase": phase, "containerStatuses": containers}));
            one(&of_pod(&pod, &PodStatus::default(), &new, true, at(1)), "AllContainersRestarting")
        };
        let ended = |code: i32| json!({"terminated": {"exitCode": code}});
        let started = "True/RestartAllContainersStarted/container exited with restart policy rule";
        for (phase, state, expected) in [
            ("Running", json!({"running": {}}), "False//"),
            ("Running", ended(42), started),
            ("Running", ended(41), "False//"),
            ("Running", ended(40), "False//"),
            ("Running", json!({"waiting": {"reason": "CrashLoopBackOff"}}), "False//"),
            ("Succeeded", ended(0), "False/PodCompleted/"),
            ("Failed", ended(42), "False/PodFailed/"),
        ] {
            assert_eq!(shown(phase, state.clone()), expected, "{phase} {state}");
        }
        let without = spec(json!({"containers": [{"name": "a"}]}));
        let conditions = of_pod(&without, &PodStatus::default(), &status(json!({"phase": "Running"})), true, at(1));
        assert!(conditions.iter().all(|condition| condition.type_ != "AllContainersRestarting"));
    }

    #[test]
    fn transition_times_move_only_with_the_status() {
        let pod = spec(json!({"containers": [{"name": "a"}]}));
        let not_ready =
            status(json!({"phase": "Running", "containerStatuses": [c("a", false, json!({"running": {}}))]}));
        let ready = status(json!({"phase": "Running", "containerStatuses": [c("a", true, json!({"running": {}}))]}));
        let first =
            PodStatus { conditions: Some(of_pod(&pod, &PodStatus::default(), &not_ready, true, at(1))), ..not_ready };
        let second = of_pod(&pod, &first, &ready, true, at(2));
        let time =
            |kind: &str| second.iter().find(|c| c.type_ == kind).unwrap().last_transition_time.clone().unwrap().0;
        assert_eq!((time("Ready"), time("ContainersReady")), (at(2), at(2)));
        assert_eq!((time("Initialized"), time("PodScheduled")), (at(1), at(1)));
    }
}

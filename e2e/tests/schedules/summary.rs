//! What is compared of a status: everything that a person would read, without times.

use hawser_wire::report::{ContainerReport, ContainerState as Said, Phase, WorkloadReport};
use k8s_openapi::api::core::v1::{ContainerState, ContainerStatus};
use virtual_node::provider::PodReport;

/// Of what a device says.
pub(crate) fn of_report(report: &WorkloadReport) -> String {
    let phase = match report.phase {
        Phase::Pending => "Pending",
        Phase::Running => "Running",
        Phase::Succeeded => "Succeeded",
        Phase::Failed => "Failed",
    };
    let mut lines: Vec<String> = report.init_containers.iter().chain(&report.containers).map(said).collect();
    lines.sort();
    format!("{phase} {}", lines.join(" "))
}

/// Of what the API server was given.
pub(crate) fn of_status(report: &PodReport) -> String {
    let mut lines: Vec<String> = report.init_containers.iter().chain(&report.containers).map(shown).collect();
    lines.sort();
    format!("{} {}", report.phase.as_str(), lines.join(" "))
}

/// As [`of_report`], with what was added to look at the pod.
pub(crate) fn all_of_report(report: &WorkloadReport) -> String {
    let added: Vec<String> = report.ephemeral_containers.iter().map(said).collect();
    format!("{} + {}", of_report(report), added.join(" "))
}

/// As [`of_status`], with what was added to look at the pod. While it is under way, bridge and device may know of different
/// ones.
pub(crate) fn all_of_status(report: &PodReport) -> String {
    let added: Vec<String> = report.ephemeral_containers.iter().map(shown).collect();
    format!("{} + {}", of_status(report), added.join(" "))
}

/// Whether a container that was added is shown to have ended.
pub(crate) fn has_ended(report: &PodReport, name: &str) -> bool {
    let ended = |status: &ContainerStatus| status.state.as_ref().is_some_and(|state| state.terminated.is_some());
    report.ephemeral_containers.iter().any(|status| status.name == name && ended(status))
}

fn said(container: &ContainerReport) -> String {
    let state = match &container.state {
        Said::Waiting(waiting) => waiting.reason.clone(),
        Said::Running(_) => "running".to_owned(),
        Said::Terminated(terminated) => format!("ended({})", terminated.exit_code),
    };
    line(&container.name, container.restart_count.into(), container.ready, container.container_id.as_deref(), &state)
}

fn shown(container: &ContainerStatus) -> String {
    let state = match &container.state {
        Some(ContainerState { waiting: Some(waiting), .. }) => waiting.reason.clone().unwrap_or_default(),
        Some(ContainerState { running: Some(_), .. }) => "running".to_owned(),
        Some(ContainerState { terminated: Some(terminated), .. }) => format!("ended({})", terminated.exit_code),
        _ => "nothing".to_owned(),
    };
    let id = container.container_id.as_deref();
    line(&container.name, i64::from(container.restart_count), container.ready, id, &state)
}

fn line(name: &str, restarts: i64, ready: bool, id: Option<&str>, state: &str) -> String {
    format!("{name}#{restarts}:{state}:{ready}:{}", id.unwrap_or("-"))
}

//! Probes and hooks of the containers: when they are due, and what follows from them.

use super::*;

impl Lifecycle {
    /// How the container is looked after, as far as that is known.
    pub(super) fn care(&self, at: usize) -> Option<&Care> {
        self.record.containers[at].described(self.spec.as_deref()?)?.care.as_ref()
    }

    /// Where the pod is reached. Without any address what shares the device's network is there all the same.
    pub(super) fn host(&self) -> String {
        self.addresses().first().cloned().unwrap_or_else(|| "127.0.0.1".to_owned())
    }

    /// Asks what is due.
    pub(super) fn ask(&mut self, now: u64, out: &mut Effects) {
        let Some(spec) = self.spec.clone() else { return };
        let host = self.host();
        for at in 0..self.record.containers.len() {
            let container = &mut self.record.containers[at];
            let ends = match container.activity {
                Activity::Running => container.starting_hook,
                Activity::Stopping { .. } => true,
                _ => continue,
            };
            let Some(care) = container.described(&spec).and_then(|described| described.care.as_ref()) else { continue };
            let (Some(health), Some(attempt)) = (container.health, container.attempt) else { continue };
            for kind in ProbeKind::ALL {
                // What ends may still be ready, or not.
                let asked = match kind {
                    ProbeKind::Startup => !health.started && !ends,
                    ProbeKind::Liveness => health.started && !ends,
                    ProbeKind::Readiness => health.started && !container.starting_hook,
                };
                let Some(probe) = kind.of(care).filter(|_| asked) else { continue };
                let first = match kind {
                    _ if container.adopted => First::Spread(spread(&self.uid, &container.name, kind)),
                    ProbeKind::Readiness => First::Soon,
                    ProbeKind::Startup | ProbeKind::Liveness => First::Period,
                };
                match container.probers[kind as usize].next(now, container.since.unwrap_or(now), probe, first) {
                    Next::Ask => out.push(Effect::Probe(ProbeCall {
                        id: out.id(&container.name, attempt),
                        kind,
                        spec: spec.clone(),
                        host: host.clone(),
                    })),
                    Next::At(next) => self.wake = Some(self.wake.map_or(next, |earlier| earlier.min(next))),
                    Next::Nothing => {}
                }
            }
        }
    }

    pub(super) fn probed(
        &mut self,
        now: u64,
        id: &ContainerId,
        kind: ProbeKind,
        answer: &ProbeAnswer,
        out: &mut Effects,
    ) {
        let Some(spec) = self.spec.clone() else { return };
        let Some(container) = self.current(id) else { return };
        let Some(care) = container.described(&spec).and_then(|described| described.care.as_ref()) else { return };
        let (Some(probe), Some(health)) = (kind.of(care), &mut container.health) else { return };
        let prober = &mut container.probers[kind as usize];
        let believed = prober.answer(probe, answer);
        match (&container.activity, kind) {
            (Activity::Running, _) | (Activity::Stopping { .. }, ProbeKind::Readiness) => {}
            // It has ended, or ends because it does not do well.
            _ => return,
        }
        let (reason, text) = match answer {
            ProbeAnswer::Good => ("", String::new()),
            ProbeAnswer::Warning(text) => ("ProbeWarning", format!("{kind} probe warning: {text}")),
            ProbeAnswer::Bad(text) => ("Unhealthy", format!("{kind} probe failed: {text}")),
            ProbeAnswer::Unclear(text) => {
                ("Unhealthy", format!("{kind} probe errored and resulted in unknown state: {text}"))
            }
        };
        if !reason.is_empty()
            && let Some(count) = prober.complain(now, &text)
        {
            out.event_of(Some(&id.name), true, reason, &text, count);
        }
        match (kind, believed) {
            (_, None) => {}
            (ProbeKind::Readiness, Some(good)) => health.ready = good,
            (ProbeKind::Startup, Some(true)) => {
                prober.finish();
                *health = Health { started: true, ready: care.readiness.is_none() };
            }
            (ProbeKind::Liveness, Some(true)) => {}
            (ProbeKind::Startup | ProbeKind::Liveness, Some(false)) => {
                prober.finish();
                container.unwell = Some(kind);
            }
        }
    }

    /// Containers that do not do well are told to end.
    pub(super) fn stop_unwell(&mut self, now: u64, out: &mut Effects) {
        for at in 0..self.record.containers.len() {
            let Some(kind) = self.record.containers[at].unwell.take() else { continue };
            let own = self.care(at).and_then(|care| kind.of(care)).and_then(|probe| probe.grace_seconds);
            let grace = u64::from(own.unwrap_or(self.record.grace_seconds)) * 1_000;
            let word = kind.to_string().to_lowercase();
            let policy = self.record.policy;
            let container = &mut self.record.containers[at];
            container.revive = container.survives_a_probe(policy);
            let then = if container.revive { ", will be restarted" } else { "" };
            let message = format!("Container {} failed {word} probe{then}", container.name);
            self.stop(now, at, now + grace, &message, out);
        }
    }

    /// A postStart hook was done, or a preStop hook.
    pub(super) fn hooked(&mut self, now: u64, id: &ContainerId, kind: HookKind, end: &HookEnd, out: &mut Effects) {
        let grace = u64::from(self.record.grace_seconds) * 1_000;
        let Some(at) = self.record.containers.iter().position(|c| c.name == id.name && c.attempt == Some(id.attempt))
        else {
            return;
        };
        let container = &mut self.record.containers[at];
        match (kind, &mut container.activity) {
            (HookKind::PostStart, Activity::Running) if container.starting_hook => {
                container.starting_hook = false;
                if *end == HookEnd::Failed {
                    // Not the hook's own words, which could hold secrets and would reach everybody who may read Events.
                    out.event(Some(&id.name), true, "FailedPostStartHook", "PostStartHook failed");
                    self.stop(now, at, now + grace, "FailedPostStartHook", out);
                }
            }
            (HookKind::PreStop, Activity::Stopping { stage: stage @ Stage::Hook, .. }) => {
                *stage = Stage::Turn;
                if *end == HookEnd::Failed {
                    out.event(Some(&id.name), true, "FailedPreStopHook", "PreStopHook failed");
                }
            }
            _ => {}
        }
    }
}

/// A number of this probe that is the same whenever it is asked for.
fn spread(uid: &PodUid, name: &str, kind: ProbeKind) -> u64 {
    let bytes = uid.as_str().bytes().chain(name.bytes()).chain([kind as u8]);
    bytes.fold(0xcbf2_9ce4_8422_2325, |hash: u64, byte| (hash ^ u64::from(byte)).wrapping_mul(0x0100_0000_01b3)) >> 32
}

impl Health {
    /// How a container is that was just started.
    pub(super) fn first(care: Option<&Care>) -> Self {
        let started = care.is_none_or(|care| care.startup.is_none());
        Self { started, ready: started && care.is_none_or(|care| care.readiness.is_none()) }
    }
}

impl Container {
    /// The container as the pod describes it.
    pub(super) fn described<'s>(&self, spec: &'s EdgeDeployment) -> Option<&'s Described> {
        spec.all_containers().map(|(container, _)| container).find(|container| container.name == self.name)
    }

    /// Whether it runs, its postStart hook is done and its startup probe has succeeded.
    pub(super) fn has_started(&self) -> bool {
        self.activity == Activity::Running && !self.starting_hook && self.health.is_none_or(|health| health.started)
    }
}

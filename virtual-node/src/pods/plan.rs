//! What to do about one pod: facts in, a [`Plan`] out.

use std::time::Duration;

use super::index::Life;
use crate::provider::{Applied, NotApplied};

/// What has been done about the pod in this process's life. After a restart every pod is `Fresh` again: the provider
/// may know it from before, but nobody here does.
#[derive(Debug, Clone, PartialEq, Eq, Default)]
pub(crate) enum Stage {
    /// Nothing has been handed over.
    #[default]
    Fresh,
    /// `apply` was called, and is to be called again when the pod's turn comes.
    Wanted {
        /// An earlier form of the pod was accepted.
        held: bool,
    },
    /// The provider has taken over this form of the pod.
    Applied {
        /// The form, as [`Record::wish`](super::index::Record::wish).
        wish: u64,
    },
    /// The provider will never take it over.
    Refused,
    /// `stop` was called with this grace period.
    Stopping {
        /// The shortest so far.
        grace: Duration,
    },
    /// The object was deleted by us; only finalizers can still hold it.
    Deleted,
}

/// All that the decision depends on.
#[derive(Debug, Clone, Copy)]
pub(crate) struct Facts<'a> {
    /// The object is in the API.
    pub(crate) present: bool,
    /// The node is registered as ours, and its pods have been listed.
    pub(crate) ours: bool,
    /// The grace period, if the pod is being deleted.
    pub(crate) deletion: Option<Duration>,
    /// What the API says about its life.
    pub(crate) life: Life,
    /// Its present form.
    pub(crate) wish: u64,
    /// What has been done.
    pub(crate) stage: &'a Stage,
    /// The provider says that nothing of the pod runs any more.
    pub(crate) gone: bool,
    /// A status waits to be written that the API server may still accept.
    pub(crate) status_unwritten: bool,
    /// The provider asked to be called again by now.
    pub(crate) again: bool,
}

/// What to do next.
#[derive(Debug, Clone, PartialEq, Eq)]
pub(crate) enum Plan {
    /// Nothing until something changes.
    Nothing,
    /// Hand the pod to the provider.
    Apply,
    /// Have the provider stop it.
    Stop {
        /// With this grace period.
        grace: Duration,
    },
    /// Remove the object with grace 0.
    Delete(Why),
    /// Tell the provider that the object is gone.
    Forget,
    /// The object is gone and the provider never heard of it.
    Drop,
}

/// Why an object may be removed.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(crate) enum Why {
    /// The provider has reported it gone.
    Gone,
    /// It has ended, and no container is left.
    Ended,
    /// It was refused and nothing of it has ever run.
    Refused,
}

/// Decides.
pub(crate) fn plan(facts: Facts<'_>) -> Plan {
    if !facts.present {
        return if *facts.stage == Stage::Fresh { Plan::Drop } else { Plan::Forget };
    }
    if !facts.ours {
        return Plan::Nothing;
    }
    match facts.deletion {
        Some(grace) => plan_deletion(facts, grace),
        None => plan_life(facts),
    }
}

fn plan_deletion(facts: Facts<'_>, grace: Duration) -> Plan {
    let removable = match facts.stage {
        Stage::Deleted => return Plan::Nothing,
        _ if facts.gone => Some(Why::Gone),
        _ if facts.life == Life::Ended => Some(Why::Ended),
        Stage::Refused if facts.life == Life::Waiting => Some(Why::Refused),
        _ => None,
    };
    match (removable, facts.stage) {
        // The last status must be there before the object goes: Jobs count by it. Its write wakes us.
        (Some(_), _) if facts.status_unwritten => Plan::Nothing,
        (Some(why), _) => Plan::Delete(why),
        (None, Stage::Stopping { grace: before }) if *before <= grace => Plan::Nothing,
        (None, _) => Plan::Stop { grace },
    }
}

fn plan_life(facts: Facts<'_>) -> Plan {
    match facts.stage {
        Stage::Fresh | Stage::Wanted { .. } => Plan::Apply,
        Stage::Applied { .. } if facts.life == Life::Ended => Plan::Nothing,
        Stage::Applied { wish } if *wish != facts.wish || facts.again => Plan::Apply,
        Stage::Applied { .. } | Stage::Refused | Stage::Stopping { .. } | Stage::Deleted => Plan::Nothing,
    }
}

/// What an answer to `apply` means for the pod.
#[derive(Debug, PartialEq)]
pub(crate) struct Answered {
    /// Where the pod stands now.
    pub(crate) stage: Stage,
    /// When to look again.
    pub(crate) next: Next,
    /// What to show.
    pub(crate) show: Show,
    /// The provider knows the pod now, one way or another: the answer counts for the node's first complete view.
    pub(crate) settles_view: bool,
}

/// When a pod's turn comes again.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(crate) enum Next {
    /// When something changes.
    OnChange,
    /// After this time.
    After(Duration),
    /// After the back-off.
    BackOff,
}

/// What is shown of an answer, in the status and as an Event.
#[derive(Debug, Clone, PartialEq)]
pub(crate) enum Show {
    /// Nothing.
    Nothing,
    /// Nothing is missing any more.
    NoLongerWaiting,
    /// The containers wait, and an Event says why.
    Waiting(crate::provider::Waiting),
    /// The pod has failed, and an Event says why.
    Refused { reason: String, message: String },
    /// Only an Event: the pod runs in its last accepted form, and goes on doing so.
    RefusedChange { reason: String, message: String },
}

/// Reads an answer. `before` is the stage when `apply` was called, `wish` the form that was handed over.
pub(crate) fn answered(before: &Stage, life: Life, wish: u64, answer: Result<Applied, NotApplied>) -> Answered {
    let held = matches!(before, Stage::Applied { .. } | Stage::Wanted { held: true });
    let settled = |stage, next, show| Answered { stage, next, show, settles_view: true };
    match answer {
        Ok(Applied::Settled) => settled(Stage::Applied { wish }, Next::OnChange, Show::NoLongerWaiting),
        Ok(Applied::Again(after)) => settled(Stage::Applied { wish }, Next::After(after), Show::NoLongerWaiting),
        // What a pod that has ended refers to may be long gone, and rightly so.
        Err(NotApplied::Waiting(_)) if life == Life::Ended => {
            settled(Stage::Applied { wish }, Next::OnChange, Show::Nothing)
        }
        Err(NotApplied::Waiting(waiting)) => settled(Stage::Wanted { held }, Next::BackOff, Show::Waiting(waiting)),
        Err(NotApplied::Refused { reason, message }) if held || life == Life::Begun => {
            // Not applied again in this form; another form gets its own answer.
            settled(Stage::Applied { wish }, Next::OnChange, Show::RefusedChange { reason, message })
        }
        Err(NotApplied::Refused { .. }) if life == Life::Ended => {
            settled(Stage::Refused, Next::OnChange, Show::Nothing)
        }
        Err(NotApplied::Refused { reason, message }) => {
            settled(Stage::Refused, Next::OnChange, Show::Refused { reason, message })
        }
        Err(NotApplied::Unavailable { .. }) => {
            Answered { stage: Stage::Wanted { held }, next: Next::BackOff, show: Show::Nothing, settles_view: false }
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::provider::Waiting;

    type Edit = fn(&mut Facts<'_>);

    const G30: Duration = Duration::from_secs(30);
    const G5: Duration = Duration::from_secs(5);

    fn facts(stage: &Stage) -> Facts<'_> {
        Facts {
            present: true,
            ours: true,
            deletion: None,
            life: Life::Waiting,
            wish: 1,
            stage,
            gone: false,
            status_unwritten: false,
            again: false,
        }
    }

    const APPLIED: Stage = Stage::Applied { wish: 1 };
    const WANTED: Stage = Stage::Wanted { held: false };
    const STOPPING: Stage = Stage::Stopping { grace: G30 };
    const ALL: [Stage; 6] = [Stage::Fresh, WANTED, APPLIED, Stage::Refused, STOPPING, Stage::Deleted];

    #[test]
    fn a_pod_that_lives() {
        let rows: [(&str, Stage, Edit, Plan); 12] = [
            ("new", Stage::Fresh, |_| {}, Plan::Apply),
            ("ended before we started: applied once", Stage::Fresh, |f| f.life = Life::Ended, Plan::Apply),
            ("its turn again", WANTED, |_| {}, Plan::Apply),
            ("applied", APPLIED, |_| {}, Plan::Nothing),
            ("applied and running", APPLIED, |f| f.life = Life::Begun, Plan::Nothing),
            ("changed", APPLIED, |f| f.wish = 2, Plan::Apply),
            ("asked for again", APPLIED, |f| f.again = true, Plan::Apply),
            ("changed after its end", APPLIED, |f| (f.wish, f.life) = (2, Life::Ended), Plan::Nothing),
            ("refused stays refused", Stage::Refused, |f| f.wish = 2, Plan::Nothing),
            ("gone without deletion", APPLIED, |f| f.gone = true, Plan::Nothing),
            ("never applied after stop", STOPPING, |f| f.wish = 2, Plan::Nothing),
            ("never applied after our delete", Stage::Deleted, |f| f.wish = 2, Plan::Nothing),
        ];
        for (name, stage, change, expected) in rows {
            let mut facts = facts(&stage);
            change(&mut facts);
            assert_eq!(plan(facts), expected, "{name}");
        }
    }

    #[test]
    fn a_pod_that_is_deleted() {
        let rows: [(&str, Stage, Edit, Plan); 13] = [
            ("running", APPLIED, |f| f.life = Life::Begun, Plan::Stop { grace: G30 }),
            ("perhaps known from an earlier life", Stage::Fresh, |_| {}, Plan::Stop { grace: G30 }),
            ("waiting for something", WANTED, |_| {}, Plan::Stop { grace: G30 }),
            ("being stopped", STOPPING, |_| {}, Plan::Nothing),
            ("less grace", STOPPING, |f| f.deletion = Some(G5), Plan::Stop { grace: G5 }),
            ("more grace", Stage::Stopping { grace: G5 }, |_| {}, Plan::Nothing),
            ("reported gone", STOPPING, |f| f.gone = true, Plan::Delete(Why::Gone)),
            ("last status first", STOPPING, |f| (f.gone, f.status_unwritten) = (true, true), Plan::Nothing),
            ("ended", APPLIED, |f| f.life = Life::Ended, Plan::Delete(Why::Ended)),
            ("ended long ago", Stage::Fresh, |f| f.life = Life::Ended, Plan::Delete(Why::Ended)),
            ("refused", Stage::Refused, |_| {}, Plan::Delete(Why::Refused)),
            ("refused but it runs", Stage::Refused, |f| f.life = Life::Begun, Plan::Stop { grace: G30 }),
            ("held by a finalizer", Stage::Deleted, |f| f.gone = true, Plan::Nothing),
        ];
        for (name, stage, change, expected) in rows {
            let mut facts = Facts { deletion: Some(G30), ..facts(&stage) };
            change(&mut facts);
            assert_eq!(plan(facts), expected, "{name}");
        }
    }

    #[test]
    fn a_pod_whose_object_is_gone_is_forgotten_if_the_provider_ever_heard_of_it() {
        for stage in ALL {
            for deletion in [None, Some(G30)] {
                let facts = Facts { present: false, deletion, ..facts(&stage) };
                assert_eq!(plan(facts), if stage == Stage::Fresh { Plan::Drop } else { Plan::Forget }, "{stage:?}");
            }
        }
    }

    #[test]
    fn nothing_is_done_about_pods_on_nodes_that_are_not_ours() {
        for stage in ALL {
            for deletion in [None, Some(G30)] {
                let facts = Facts { ours: false, deletion, ..facts(&stage) };
                assert_eq!(plan(facts), Plan::Nothing, "{stage:?}");
            }
        }
    }

    fn waiting() -> NotApplied {
        NotApplied::Waiting(Waiting {
            containers: vec![],
            event_reason: "Failed".into(),
            event_message: "no map".into(),
        })
    }

    fn refused() -> NotApplied {
        NotApplied::Refused { reason: "UnsupportedField".into(), message: "spec.x".into() }
    }

    #[test]
    fn answers_lead_to_stages() {
        let unavailable = || Err(NotApplied::Unavailable { message: "503".into() });
        let rows = [
            ("settled", Stage::Fresh, Life::Waiting, Ok(Applied::Settled), APPLIED, Next::OnChange, true),
            ("again", APPLIED, Life::Begun, Ok(Applied::Again(G5)), APPLIED, Next::After(G5), true),
            ("waits", Stage::Fresh, Life::Waiting, Err(waiting()), WANTED, Next::BackOff, true),
            ("waits, held", APPLIED, Life::Begun, Err(waiting()), Stage::Wanted { held: true }, Next::BackOff, true),
            ("waits, ended", Stage::Fresh, Life::Ended, Err(waiting()), APPLIED, Next::OnChange, true),
            ("refused", Stage::Fresh, Life::Waiting, Err(refused()), Stage::Refused, Next::OnChange, true),
            ("refused, held", APPLIED, Life::Waiting, Err(refused()), APPLIED, Next::OnChange, true),
            ("refused, runs", Stage::Fresh, Life::Begun, Err(refused()), APPLIED, Next::OnChange, true),
            ("unavailable", Stage::Fresh, Life::Waiting, unavailable(), WANTED, Next::BackOff, false),
        ];
        for (name, before, life, answer, stage, next, settles_view) in rows {
            let after = answered(&before, life, 1, answer);
            assert_eq!((after.stage, after.next, after.settles_view), (stage, next, settles_view), "{name}");
        }
    }

    #[test]
    fn a_refused_change_does_not_fail_what_runs() {
        assert!(matches!(answered(&APPLIED, Life::Begun, 2, Err(refused())).show, Show::RefusedChange { .. }));
        assert!(matches!(answered(&Stage::Fresh, Life::Waiting, 2, Err(refused())).show, Show::Refused { .. }));
        assert_eq!(answered(&Stage::Fresh, Life::Ended, 2, Err(refused())).show, Show::Nothing);
    }
}

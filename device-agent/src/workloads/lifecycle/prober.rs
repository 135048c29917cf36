//! One probe of one attempt: when it is asked, and what its answers make believe. Pure, and knows nothing else of the pod.

use std::fmt;

use hawser_wire::deployment::{Care, Probe};

/// What a probe is for.
#[derive(Debug, Clone, Copy, PartialEq, Eq, PartialOrd, Ord, Hash)]
pub enum ProbeKind {
    /// Whether the container has started.
    Startup,
    /// Whether it is to be started anew.
    Liveness,
    /// Whether it counts as ready.
    Readiness,
}

impl ProbeKind {
    /// All of them. The startup probe comes first, since the others wait for it.
    pub const ALL: [Self; 3] = [Self::Startup, Self::Liveness, Self::Readiness];

    /// The container's probe of this kind.
    pub fn of(self, care: &Care) -> Option<&Probe> {
        match self {
            Self::Startup => care.startup.as_ref(),
            Self::Liveness => care.liveness.as_ref(),
            Self::Readiness => care.readiness.as_ref(),
        }
    }
}

impl fmt::Display for ProbeKind {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str(match self {
            Self::Startup => "Startup",
            Self::Liveness => "Liveness",
            Self::Readiness => "Readiness",
        })
    }
}

/// What came of asking once.
#[derive(Debug, Clone, PartialEq, Eq)]
pub enum ProbeAnswer {
    /// All is well.
    Good,
    /// All is well, but somebody should know.
    Warning(String),
    /// It is not well, for this reason.
    Bad(String),
    /// It could not be asked; nothing follows from that.
    Unclear(String),
}

/// The same complaint again and again is told this often: events cost money on the way.
const TELL_AGAIN: u64 = 300_000;

/// One probe of one attempt.
#[derive(Debug, Clone, Default, PartialEq, Eq)]
pub(super) struct Prober {
    /// When it is asked next; `None`: not decided.
    next: Option<u64>,
    asking: bool,
    /// The last answer, and how often it came in a row.
    streak: Option<(bool, u32)>,
    /// What was to be learned of this attempt was learned.
    done: bool,
    complaint: Complaint,
}

/// What was wrong the last time.
#[derive(Debug, Clone, Default, PartialEq, Eq)]
struct Complaint {
    text: String,
    told_at: u64,
    /// How often it came since it was told.
    count: u32,
}

/// When a probe is asked first.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(super) enum First {
    /// As soon as the container may be asked.
    Soon,
    /// With its next period, counted from the container's start: an answer that comes too early costs a start.
    Period,
    /// This part of a period from now on, in 1/1024: after a restart of the agent not everything is asked at once.
    Spread(u64),
}

/// What to do about a probe now.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(super) enum Next {
    Ask,
    At(u64),
    Nothing,
}

fn period(probe: &Probe) -> u64 {
    u64::from(probe.period_seconds.max(1)) * 1_000
}

impl Prober {
    /// Says what to do now, and remembers that it was said. `since` is the container's start.
    pub(super) fn next(&mut self, now: u64, since: u64, probe: &Probe, first: First) -> Next {
        if self.done || self.asking {
            return Next::Nothing;
        }
        let period = period(probe);
        let next = *self.next.get_or_insert_with(|| {
            let earliest = now.max(since.saturating_add(u64::from(probe.initial_delay_seconds) * 1_000));
            match first {
                First::Soon => earliest,
                First::Period => {
                    since.saturating_add((earliest - since.min(earliest)).div_ceil(period).max(1) * period)
                }
                First::Spread(part) => earliest.saturating_add(period * (part % 1_024) / 1_024),
            }
        });
        if now < next {
            return Next::At(next);
        }
        self.asking = true;
        // Periods that passed while nobody could ask are not made up for.
        self.next = Some(next + ((now - next) / period + 1) * period);
        Next::Ask
    }

    /// Takes an answer in; what is believed from now on, if the answer decides it.
    pub(super) fn answer(&mut self, probe: &Probe, answer: &ProbeAnswer) -> Option<bool> {
        self.asking = false;
        let good = match answer {
            ProbeAnswer::Good | ProbeAnswer::Warning(_) => true,
            ProbeAnswer::Bad(_) => false,
            ProbeAnswer::Unclear(_) => return None,
        };
        let run = match self.streak {
            Some((before, run)) if before == good => run.saturating_add(1),
            _ => 1,
        };
        self.streak = Some((good, run));
        let enough = if good { probe.success_threshold } else { probe.failure_threshold };
        (run >= enough).then_some(good)
    }

    /// It is not asked any more in this attempt.
    pub(super) fn finish(&mut self) {
        self.done = true;
    }

    /// Whether a complaint is to be told now, and for how many of its kind.
    pub(super) fn complain(&mut self, now: u64, text: &str) -> Option<u32> {
        let complaint = &mut self.complaint;
        let same = complaint.text == text;
        let count = if same { complaint.count.saturating_add(1) } else { 1 };
        if same && now.saturating_sub(complaint.told_at) < TELL_AGAIN {
            complaint.count = count;
            return None;
        }
        *complaint = Complaint { text: text.to_owned(), told_at: now, count: 0 };
        Some(count)
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use hawser_wire::deployment::Action;

    fn probe(delay: u32, period: u32, success: u32, failure: u32) -> Probe {
        Probe {
            action: Action::Exec(vec!["true".into()]),
            initial_delay_seconds: delay,
            period_seconds: period,
            timeout_seconds: 1,
            success_threshold: success,
            failure_threshold: failure,
            grace_seconds: None,
        }
    }

    fn bad() -> ProbeAnswer {
        ProbeAnswer::Bad("no".into())
    }

    #[test]
    fn the_first_question_comes_in_its_time() {
        for (case, delay, now, first, expected) in [
            ("soon", 0, 1_000, First::Soon, Next::Ask),
            ("soon, after the delay", 5, 1_000, First::Soon, Next::At(6_000)),
            ("not before a period", 0, 1_000, First::Period, Next::At(11_000)),
            ("the period after the delay", 15, 1_000, First::Period, Next::At(21_000)),
            ("a delay of whole periods", 20, 1_000, First::Period, Next::At(21_000)),
            ("the period after now", 0, 34_000, First::Period, Next::At(41_000)),
            ("half a period later", 0, 50_000, First::Spread(512), Next::At(55_000)),
        ] {
            let next = Prober::default().next(now, 1_000, &probe(delay, 10, 1, 3), first);
            assert_eq!(next, expected, "{case}");
        }
    }

    #[test]
    fn it_is_asked_once_a_period_and_missed_periods_are_not_made_up_for() {
        let probe = probe(0, 10, 1, 3);
        let mut prober = Prober::default();
        assert_eq!(prober.next(0, 0, &probe, First::Soon), Next::Ask);
        assert_eq!(prober.next(10_000, 0, &probe, First::Soon), Next::Nothing, "it is still being asked");
        prober.answer(&probe, &ProbeAnswer::Good);
        assert_eq!(prober.next(35_000, 0, &probe, First::Soon), Next::Ask);
        prober.answer(&probe, &ProbeAnswer::Good);
        assert_eq!(prober.next(35_000, 0, &probe, First::Soon), Next::At(40_000));
        prober.finish();
        assert_eq!(prober.next(40_000, 0, &probe, First::Soon), Next::Nothing);
    }

    #[test]
    fn answers_are_believed_from_their_threshold_on() {
        use ProbeAnswer::{Good, Unclear};
        let probe = probe(0, 10, 2, 3);
        let mut prober = Prober::default();
        for (at, (answer, believed)) in [
            (bad(), None),
            (bad(), None),
            (Unclear("?".into()), None),
            (bad(), Some(false)),
            (bad(), Some(false)),
            (Good, None),
            (bad(), None),
            (Good, None),
            (ProbeAnswer::Warning("hm".into()), Some(true)),
        ]
        .into_iter()
        .enumerate()
        {
            assert_eq!(prober.answer(&probe, &answer), believed, "answer {at}");
        }
    }

    #[test]
    fn a_complaint_is_told_at_once_and_repeated_rarely_with_its_count() {
        let mut prober = Prober::default();
        assert_eq!(prober.complain(0, "a"), Some(1));
        assert_eq!(prober.complain(10_000, "a"), None);
        assert_eq!(prober.complain(20_000, "a"), None);
        assert_eq!(prober.complain(300_000, "a"), Some(3));
        assert_eq!(prober.complain(310_000, "b"), Some(1));
    }

    #[test]
    fn a_probe_without_a_period_does_not_spin() {
        let probe = probe(0, 0, 1, 1);
        let mut prober = Prober::default();
        assert_eq!(prober.next(5, 0, &probe, First::Soon), Next::Ask);
        prober.answer(&probe, &bad());
        assert_eq!(prober.next(5, 0, &probe, First::Soon), Next::At(1_005));
    }
}

//! The wall clock of a device jumps by years while containers run and end: by it engines tell when that was.

use super::*;

const YEARS: Duration = Duration::from_secs(10 * 365 * 24 * 3600);

#[test]
fn an_end_has_its_time_whatever_the_clock_did_meanwhile() {
    let ran = Duration::from_secs(2);
    let spec = pod(RestartPolicy::Always, vec![], vec![container("a")]);
    // What the engine's times amount to, and how long after the start the end is told to have been, in milliseconds.
    for (what, told_ran, told_ago, after) in [
        ("nothing", Some(ran), Some(Duration::from_secs(1)), 2_000),
        ("it went ahead by years since the end", Some(ran), Some(YEARS), 2_000),
        ("it went back to 1970 since the end", Some(ran), None, 2_000),
        ("it went ahead by years before the end", Some(YEARS), Some(Duration::from_secs(1)), 2_000),
        ("it went back to 1970 before the end", Some(Duration::ZERO), Some(Duration::from_secs(1)), 2_000),
        ("both at once", Some(YEARS), Some(YEARS), 0),
    ] {
        let sim = Sim::new(&spec);
        let begun = sim.now;
        let exit = Exit { ran: told_ran, ago: told_ago, ..exit(7) };
        let mut sim = Sim { now: sim.now + 3_000, ..sim }.restarted("boot-1", vec![has_ended("a", 0, exit)]);
        sim.run(&spec);
        let report = sim.report();
        let last = report.containers[0].last.clone().unwrap();
        let (started, finished) = (last.started.unwrap().0, last.finished.unwrap().0);
        assert_eq!((last.exit_code, started - begun, finished - begun), (7, 0, after), "{what}");
        // Back-off goes by the device's own timeline: the first restart is at once, the second after ten seconds.
        assert_eq!(report.containers[0].restart_count, 1, "{what}");
        sim.take_log();
        sim.end("a", 1);
        sim.pass(9_000);
        let started = |sim: &mut Sim| sim.take_log().contains(&"start a-2".to_owned());
        assert!(!started(&mut sim), "{what}");
        sim.pass(1_000);
        assert!(started(&mut sim), "{what}");
    }
}

#[test]
fn what_runs_runs_on_whatever_its_engine_says_of_its_start() {
    let spec = pod(RestartPolicy::Always, vec![], vec![container("a")]);
    for started_ago in [Duration::ZERO, YEARS] {
        let sim = Sim::new(&spec);
        let before = sim.report();
        let found = Found { state: FoundState::Running { started_ago }, ..still_running("a", 0) };
        let mut sim = Sim { now: sim.now + 3_000, ..sim }.restarted("boot-1", vec![found]);
        sim.run(&spec);
        assert_eq!(sim.take_log(), ["prepare"]);
        assert_eq!(sim.report(), before);
    }
}

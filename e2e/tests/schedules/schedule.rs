//! Schedules: what is done to the system, step by step, and how a failing one is made short.

use crate::dice::Dice;

/// One thing that happens from outside. After each, time goes on as the next step says.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(crate) enum Step {
    /// Time passes.
    Wait { millis: u64 },
    /// A pod is created and bound to the device.
    Create { kind: Kind, config: u32 },
    /// A pod is deleted with a grace period.
    Delete { pick: u32, grace: u32 },
    /// A pod's object vanishes at once.
    ForceDelete { pick: u32 },
    /// A pod's object vanishes at once, and another one of its name is created.
    Replace { pick: u32 },
    /// A container of a pod gets another image.
    ChangeImage { pick: u32 },
    /// Somebody adds a container to a pod, to look at it.
    LookAt { pick: u32 },
    /// A ConfigMap changes; no pod's resourceVersion moves.
    ChangeConfig { config: u32 },
    /// A ConfigMap disappears, or is there again.
    HideConfig { config: u32, hidden: bool },
    /// A backup of the API is taken.
    Backup,
    /// The API is restored from the backup, and the bridge is started anew, as an operator would.
    Restore,
    /// The API server answers nobody, or answers again.
    ApiDown { down: bool },
    /// The hub becomes worse or better.
    Weather { loss: u32, twice: u32, delay: u64 },
    /// The device loses the hub, or has it again.
    Cut { cut: bool },
    /// Somebody who recorded everything sends old payloads again.
    Replay { count: u32 },
    /// The hub claims that the device came or went.
    Rumour,
    /// The bridge dies and is started again.
    BridgeDies { back: u64 },
    /// The agent is killed and started again; workloads go on.
    AgentDies { back: u64 },
    /// The device loses power; nothing runs any more.
    PowerCut { back: u64, wall: i64 },
    /// The device's wall clock jumps.
    WallJumps { millis: i64 },
    /// The device's disk refuses writes, or takes them again.
    DiskRefuses { refuses: bool },
    /// A container ends by itself.
    ContainerEnds { pick: u32, code: i32 },
    /// The device has something to tell that concerns no pod.
    DeviceEvent,
    /// The device's facts change.
    NewFacts,
}

/// What a pod does.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(crate) enum Kind {
    /// Runs until it is told to end.
    Server,
    /// Ignores TERM.
    Stubborn,
    /// Crashes again and again.
    Crashy,
    /// Ends well, once.
    Job,
    /// Fails twice, then ends well.
    Flaky,
    /// Has an init container, then serves.
    Staged,
}

const KINDS: [Kind; 6] = [Kind::Server, Kind::Stubborn, Kind::Crashy, Kind::Job, Kind::Flaky, Kind::Staged];

/// How many ConfigMaps there are.
pub(crate) const CONFIGS: u32 = 3;

/// The schedule of a seed.
pub(crate) fn generate(seed: u64) -> Vec<Step> {
    let mut dice = Dice::new(seed ^ 0x5c4e_d01e);
    let length = dice.between(40, 110);
    // They have dice of their own, and come in some schedules only: the others stay what they were.
    let mut people = (seed % 9 == 1).then(|| Dice::new(seed ^ 0x0100_cafe));
    let mut steps = Vec::new();
    for _ in 0..length {
        steps.push(step(&mut dice));
        if let Some(people) = &mut people
            && people.chance(15)
        {
            steps.push(Step::LookAt { pick: people.next() as u32 });
        }
        steps.push(Step::Wait { millis: pause(&mut dice) });
    }
    steps
}

/// Mostly short, so that faults meet each other; now and then long enough for every timer.
fn pause(dice: &mut Dice) -> u64 {
    match dice.between(0, 99) {
        0..=29 => dice.between(0, 60),
        30..=64 => dice.between(50, 2_500),
        65..=91 => dice.between(2_000, 20_000),
        92..=97 => dice.between(20_000, 90_000),
        _ => dice.between(90_000, 400_000),
    }
}

fn step(dice: &mut Dice) -> Step {
    let pick = dice.next() as u32;
    let config = dice.next() as u32 % CONFIGS;
    match dice.between(0, 99) {
        0..=15 => {
            let kind = KINDS[dice.between(0, 5) as usize];
            Step::Create { kind, config }
        }
        16..=22 => Step::Delete { pick, grace: [0, 1, 5, 30][dice.between(0, 3) as usize] },
        23..=25 => Step::ForceDelete { pick },
        26..=28 => Step::Replace { pick },
        29..=34 => Step::ChangeImage { pick },
        35..=41 => Step::ChangeConfig { config },
        42..=44 => Step::HideConfig { config, hidden: dice.chance(50) },
        45..=46 => Step::Backup,
        47..=48 => Step::Restore,
        49..=52 => Step::ApiDown { down: dice.chance(50) },
        53..=58 => Step::Weather {
            loss: [0, 5, 30, 70][dice.between(0, 3) as usize],
            twice: [0, 10, 50][dice.between(0, 2) as usize],
            delay: [10, 300, 5_000, 30_000][dice.between(0, 3) as usize],
        },
        59..=63 => Step::Cut { cut: dice.chance(50) },
        64..=67 => Step::Replay { count: dice.between(1, 40) as u32 },
        68 => Step::Rumour,
        69..=74 => Step::BridgeDies { back: dice.between(10, 8_000) },
        75..=80 => Step::AgentDies { back: dice.between(10, 8_000) },
        81..=84 => Step::PowerCut { back: dice.between(500, 60_000), wall: wall(dice) },
        85..=86 => Step::WallJumps { millis: wall(dice) },
        87..=90 => Step::DiskRefuses { refuses: dice.chance(50) },
        91..=95 => Step::ContainerEnds { pick, code: dice.between(0, 2) as i32 },
        96..=98 => Step::DeviceEvent,
        _ => Step::NewFacts,
    }
}

/// To 1970, or a little or a lot to either side.
fn wall(dice: &mut Dice) -> i64 {
    match dice.between(0, 3) {
        0 => i64::MIN,
        1 => 0,
        2 => -(dice.between(1_000, 86_400_000) as i64),
        _ => dice.between(1_000, 86_400_000_000) as i64,
    }
}

/// Leaves out what is not needed for `fails`, as far as `attempts` allow.
pub(crate) fn shorten(steps: Vec<Step>, mut attempts: u32, fails: impl Fn(&[Step]) -> bool) -> Vec<Step> {
    let mut steps = steps;
    let mut chunk = steps.len().div_ceil(2);
    while chunk > 0 {
        let mut at = 0;
        let mut removed = false;
        while at < steps.len() && attempts > 0 {
            attempts -= 1;
            let end = (at + chunk).min(steps.len());
            let fewer: Vec<Step> = steps[..at].iter().chain(&steps[end..]).copied().collect();
            if fails(&fewer) {
                (steps, removed) = (fewer, true);
            } else {
                at = end;
            }
        }
        if attempts == 0 {
            break;
        }
        // Going on with the same size while it helps: what was needed before may not be any more.
        chunk = if removed && chunk == 1 { 1 } else { chunk / 2 };
    }
    steps
}

//! Disks that refuse a directory's durability, and files that may only be read.

use super::*;
use hawser_wire::PodUid;

const SECRET: [u8; 32] = [7; 32];

fn key(name: &str) -> Key {
    Key::Workload(PodUid::new(name).unwrap())
}

fn save(name: &str, fill: u32) -> Vec<Op> {
    vec![(key(name), Some(fill.to_be_bytes().repeat(75).into()))]
}

fn value(log: &Log, name: &str) -> Option<u32> {
    let value = log.read(&key(name)).unwrap()?;
    Some(u32::from_be_bytes(value[..4].try_into().unwrap()))
}

fn refuses(_: &Path) -> io::Result<()> {
    Err(io::Error::other("the disk refuses"))
}

/// Writes until the file has been compacted, and returns what was written last.
fn until_compacted(log: &mut Log) -> u32 {
    for round in 0.. {
        let before = log.len();
        log.write(save("often", round)).unwrap();
        if log.len() < before {
            return round;
        }
    }
    unreachable!()
}

/// The power goes between the rename of the compacted file and the durability of its name: whichever of the two files
/// has the name afterwards, it has all that was called durable.
#[test]
fn a_compacted_file_whose_name_may_not_last_is_adopted_and_nothing_more_is_called_durable() {
    let dir = tempfile::tempdir().unwrap();
    let path = dir.path().join(FILE);
    let (mut log, ..) = Log::open(dir.path(), &SECRET).unwrap();
    log.write(save("once", 77)).unwrap();
    let old = dir.path().join("old");
    std::fs::hard_link(&path, &old).unwrap();
    log.sync_dir = refuses;
    let last = until_compacted(&mut log);

    // It goes on in the new file, and calls nothing durable that the old one lacks.
    assert_eq!((value(&log, "once"), value(&log, "often")), (Some(77), Some(last)));
    assert_eq!(log.write(save("often", last + 1)).unwrap_err().to_string(), "the disk refuses");
    for survivor in [&path, &old] {
        let after = tempfile::tempdir().unwrap();
        std::fs::copy(survivor, after.path().join(FILE)).unwrap();
        let (log, found, _) = Log::open(after.path(), &SECRET).unwrap();
        assert_eq!(found, Found::Whole);
        assert_eq!((value(&log, "once"), value(&log, "often")), (Some(77), Some(last)));
    }

    // The disk comes to its senses: what is written now is durable, and in the file that has the name.
    log.sync_dir = sync_dir;
    log.write(save("often", last + 2)).unwrap();
    drop(log);
    let (log, found, _) = Log::open(dir.path(), &SECRET).unwrap();
    assert_eq!((found, value(&log, "often")), (Found::Whole, Some(last + 2)));
}

/// As root, file modes stop nobody: the file is put into the state that a read-only disk leaves it in.
#[test]
fn a_file_that_could_only_be_read_is_written_as_soon_as_that_is_possible() {
    let dir = tempfile::tempdir().unwrap();
    let path = dir.path().join(FILE);
    let (mut log, ..) = Log::open(dir.path(), &SECRET).unwrap();
    log.write(save("once", 1)).unwrap();
    (log.file, log.read_only) = (File::open(&path).unwrap(), true);
    // The disk says why it refuses, not what follows from that.
    let away = dir.path().join("away");
    std::fs::rename(&path, &away).unwrap();
    assert_eq!(log.write(save("once", 2)).unwrap_err().kind(), io::ErrorKind::NotFound);
    assert_eq!(value(&log, "once"), Some(1), "still readable");
    std::fs::rename(&away, &path).unwrap();
    log.write(save("once", 2)).unwrap();
    drop(log);
    let (log, found, _) = Log::open(dir.path(), &SECRET).unwrap();
    assert_eq!((found, value(&log, "once")), (Found::Whole, Some(2)));
}

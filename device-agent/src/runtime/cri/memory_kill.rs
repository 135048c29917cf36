//! Whether the kernel has killed something of a container for its memory, as the kernel's log tells. An engine hears of that by a
//! notice, which is lost if the container's cgroup is gone before the engine has read it.

use std::fs::{File, OpenOptions};
use std::io::{self, Read};
use std::os::unix::fs::OpenOptionsExt;

use rustix::fs::OFlags;

/// The kernel's log, a record at a time.
const LOG: &str = "/dev/kmsg";
/// The longest record.
const MAX_RECORD: usize = 8192;
/// More than the log of any device holds.
const MAX_RECORDS: u32 = 1 << 20;

/// Whether the kernel's log tells of it; not where there is none, or the agent may not read it.
pub(super) fn is_told_of(container: &str) -> bool {
    let log = OpenOptions::new().read(true).custom_flags(OFlags::NONBLOCK.bits().cast_signed()).open(LOG);
    log.is_ok_and(|log: File| is_in(log, container))
}

/// `container`: the engine's id.
fn is_in(mut log: impl Read, container: &str) -> bool {
    let mut record = [0; MAX_RECORD];
    for _ in 0..MAX_RECORDS {
        match log.read(&mut record) {
            Ok(0) => return false,
            Ok(len) if tells_of(&String::from_utf8_lossy(&record[..len]), container) => return true,
            Ok(_) => {}
            // The record was overwritten before it was read; the next one follows.
            Err(error) if error.kind() == io::ErrorKind::BrokenPipe => {}
            // That was the last.
            Err(_) => return false,
        }
    }
    false
}

/// The cgroup of what was killed has the container's id in its name, with each driver. Programs may write to the log as well,
/// but not what begins so: the kernel puts their records under another facility than its own.
fn tells_of(record: &str, container: &str) -> bool {
    let Some((head, text)) = record.split_once(';') else { return false };
    let of_the_kernel =
        head.split(',').next().and_then(|number| number.parse::<u32>().ok()).is_some_and(|level| level < 8);
    let killed =
        text.strip_prefix("oom-kill:").and_then(|told| told.split(',').find_map(|one| one.strip_prefix("task_memcg=")));
    of_the_kernel && !container.is_empty() && killed.is_some_and(|cgroup| cgroup.contains(container))
}

#[cfg(test)]
mod tests {
    use super::*;

    const ID: &str = "a6e4b0930f2172b058664a09de7471089174fbdee249773b50ee9ebbae790641";

    fn record(task: &str) -> String {
        format!(
            "6,11830,57025219079,-;oom-kill:constraint=CONSTRAINT_MEMCG,nodemask=(null),cpuset={ID},mems_allowed=0,\
             oom_memcg=/hawser/boat/pod1,task_memcg={task},task=tail,pid=29595,uid=0\n"
        )
    }

    #[test]
    fn it_is_the_container_whose_cgroup_the_killed_was_in() {
        assert!(tells_of(&record(&format!("/hawser/boat/pod1/{ID}")), ID));
        assert!(tells_of(&record(&format!("/boat.slice/cri-containerd-{ID}.scope")), ID));
        assert!(!tells_of(&record("/hawser/boat/pod1/other"), ID), "it only shares the pod's limit");
        assert!(!tells_of(&record(&format!("/hawser/boat/pod1/{ID}")), ""));
        let by_a_program = record(&format!("/hawser/boat/pod1/{ID}")).replacen("6,", "14,", 1);
        assert!(!tells_of(&by_a_program, ID));
        for other in ["", "6,1,2,-", "6,1,2,-;eth0: link up", "6,1,2,-;oom-kill:constraint=CONSTRAINT_NONE"] {
            assert!(!tells_of(other, ID), "{other}");
        }
    }

    /// Records and errors, one for each time it is read.
    struct Log(std::vec::IntoIter<Result<String, io::ErrorKind>>);

    impl Read for Log {
        fn read(&mut self, into: &mut [u8]) -> io::Result<usize> {
            let record = self.0.next().unwrap_or(Err(io::ErrorKind::WouldBlock))?;
            into[..record.len()].copy_from_slice(record.as_bytes());
            Ok(record.len())
        }
    }

    #[test]
    fn the_log_is_read_to_its_end_and_over_what_was_lost() {
        let told = || Ok(record(&format!("/hawser/boat/pod1/{ID}")));
        let other = || Ok("6,1,2,-;eth0: link up\n".to_owned());
        let is_in = |records: Vec<_>| is_in(Log(records.into_iter()), ID);
        assert!(is_in(vec![Err(io::ErrorKind::BrokenPipe), other(), told()]));
        assert!(!is_in(vec![other(), Err(io::ErrorKind::WouldBlock), told()]), "after the end");
        assert!(!is_in(vec![other(); 3]));
    }
}

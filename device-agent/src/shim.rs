//! The shim: one small process per container of the `process` runtime, which outlives the agent.
//!
//! `hawser-agent shim run <dir>` holds a container: it starts the program, writes its output to a log, sweeps up what the
//! program leaves behind, and writes down how it ended. `hawser-agent shim launch` is what the program is before it is
//! the program: it joins the cgroup and drops privileges, then replaces itself. `hawser-agent shim exec` looks after a
//! command that runs beside the program. None of them is for people.
//!
//! A shim is single-threaded, uses no asynchronous runtime and keeps almost nothing in memory, since there are as many
//! as containers. It talks to the agent through its directory (see [`files`]) and once through its standard streams:
//! the [`Spec`](files::Spec) comes in on stdin, so that secrets in the environment never touch the disk, and one
//! [`Reply`](files::Reply) goes out on stdout. While the container runs it takes [`call`]s.

use std::ffi::OsString;
use std::process::ExitCode;

pub(crate) mod call;
mod calls;
pub(crate) mod cgroup;
pub(crate) mod ends;
mod exec;
pub(crate) mod files;
mod hold;
pub(crate) mod identity;
mod launch;
pub(crate) mod line;
mod log;
mod start;
mod sweep;

pub(crate) use self::log::tail as log_tail;
pub(crate) use self::sweep::sweep_left;

/// The program behind the word `shim`; `args` are what follows it. Any program that uses the `process` runtime calls this
/// before anything else when its first argument is `shim`: before threads, and before an asynchronous runtime.
pub fn main(args: impl IntoIterator<Item = OsString>) -> ExitCode {
    let args: Vec<OsString> = args.into_iter().take(3).collect();
    match args.iter().map(|arg| arg.to_str()).collect::<Vec<_>>()[..] {
        [Some("run"), _] => hold::main(args[1].as_ref()),
        [Some("launch")] => launch::main(),
        [Some("exec")] => exec::main(),
        _ => {
            eprintln!("`shim` is started by the agent for each container; there is nothing to run by hand");
            ExitCode::from(2)
        }
    }
}

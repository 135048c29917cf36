//! Both programs in one, so that building the stories builds all they need: which one it is, HAWSER_ACTOR says. The
//! shims of workloads are started from it by their first argument, as from `hawser-agent`.

use std::process::ExitCode;

fn main() -> ExitCode {
    let mut arguments = std::env::args_os().skip(1);
    if arguments.next().is_some_and(|first| first == "shim") {
        return device_agent::shim::main(arguments);
    }
    match std::env::var("HAWSER_ACTOR").as_deref() {
        Ok("hawser-agent") => device_agent::commands::main(),
        Ok("hawser") => edge_provider::cli::main(),
        other => {
            eprintln!("error: HAWSER_ACTOR is {other:?}: set it to `hawser` or `hawser-agent`");
            ExitCode::from(2)
        }
    }
}

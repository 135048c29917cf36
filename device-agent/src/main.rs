//! `hawser-agent`: the agent on a device.

use std::process::ExitCode;

fn main() -> ExitCode {
    let mut args = std::env::args_os().skip(1);
    // Before anything else: a shim has one thread and no asynchronous runtime.
    if args.next().is_some_and(|word| word == "shim") {
        return device_agent::shim::main(args);
    }
    device_agent::commands::main()
}

//! `hawser-agent`: the agent on a device.

use std::process::ExitCode;

fn main() -> ExitCode {
    device_agent::commands::main()
}

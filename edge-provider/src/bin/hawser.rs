//! The program `hawser`.

use std::process::ExitCode;

fn main() -> ExitCode {
    edge_provider::cli::main()
}

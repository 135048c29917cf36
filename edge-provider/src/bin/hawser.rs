//! The program `hawser`: parse, do, say what went wrong.

use std::process::ExitCode;

use clap::Parser;
use edge_provider::cli::Cli;

#[tokio::main]
async fn main() -> ExitCode {
    match Cli::parse().command.run().await {
        Ok(()) => ExitCode::SUCCESS,
        Err(failure) => {
            eprintln!("{}", failure.line());
            ExitCode::from(failure.code)
        }
    }
}

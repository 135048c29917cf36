//! What a long-running command needs of its process: a log, signals, the cryptography of TLS.

use std::io::IsTerminal;

use tokio::signal::unix::{SignalKind, signal};
use tokio_util::sync::CancellationToken;
use tracing_subscriber::EnvFilter;

/// How the log is written.
#[derive(Debug, Clone, clap::Args)]
pub struct LogArgs {
    /// What is logged, e.g. `info` or `edge_provider=debug,info`
    // rumqttd tells of every connection and subscription inside the embedded hub, which tells of its clients itself.
    #[arg(long, value_name = "FILTER", env = "HAWSER_LOG", default_value = "info,rumqttd=warn")]
    pub log: String,
    /// Log in JSON, one object per line
    #[arg(long)]
    pub log_json: bool,
}

impl LogArgs {
    /// Begins to log to standard error.
    pub fn start(&self) -> Result<(), super::Failure> {
        let filter = EnvFilter::try_new(&self.log)
            .map_err(|error| super::Failure::usage(anyhow::anyhow!("--log `{}` is not a filter: {error}", self.log)))?;
        let builder = tracing_subscriber::fmt()
            .with_env_filter(filter)
            .with_ansi(std::io::stderr().is_terminal())
            .with_writer(std::io::stderr);
        // Refused only if somebody (a test) logs already.
        let _ = if self.log_json { builder.json().try_init() } else { builder.try_init() };
        Ok(())
    }
}

/// A token that is cancelled by SIGINT or SIGTERM. A second signal ends the process at once.
pub fn stop_on_signals() -> std::io::Result<CancellationToken> {
    let (mut interrupt, mut terminate) = (signal(SignalKind::interrupt())?, signal(SignalKind::terminate())?);
    let stop = CancellationToken::new();
    let token = stop.clone();
    tokio::spawn(async move {
        for first in [true, false] {
            tokio::select! {
                // Cancel-safe: a signal not taken here is taken by the next `recv`.
                _ = interrupt.recv() => {}
                // Cancel-safe: as above.
                _ = terminate.recv() => {}
            }
            if first {
                tracing::info!("stopping");
                token.cancel();
            } else {
                std::process::exit(130);
            }
        }
    });
    Ok(stop)
}

/// Chooses ring for all TLS of this process.
pub fn install_crypto() {
    // Refused only if it has been chosen already.
    let _ = rustls::crypto::ring::default_provider().install_default();
}

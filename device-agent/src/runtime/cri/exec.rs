//! Commands beside a container's program, for probes and hooks.

use std::time::Duration;

use hawser_cri::{ContainerState, ErrorKind};

use super::{Cri, failure};
use crate::runtime::{ContainerId, ExecError, Executed, MAX_EXEC_OUTPUT, RuntimeError};

impl Cri {
    pub(super) async fn execute(
        &self,
        id: &ContainerId,
        command: Vec<String>,
        limit: Option<Duration>,
    ) -> Result<Executed, ExecError> {
        let operation = || format!("run a command in {id}");
        let found = self.find(id).await.map_err(|error| ExecError::Failed(failure(&operation(), error)))?;
        let running = found.filter(|container| container.state() == ContainerState::Running).ok_or_else(|| {
            let source = std::io::Error::new(std::io::ErrorKind::NotFound, "the container does not run");
            ExecError::Failed(RuntimeError { operation: operation(), source })
        })?;
        let answer = self.0.client.exec_sync(&running.id, command, limit).await.map_err(|error| match error.kind {
            ErrorKind::TimedOut => ExecError::TimedOut,
            _ => ExecError::Failed(failure(&operation(), error)),
        })?;
        let mut output = answer.stdout;
        output.extend(answer.stderr);
        output.truncate(MAX_EXEC_OUTPUT);
        Ok(Executed { code: answer.exit_code, output })
    }
}

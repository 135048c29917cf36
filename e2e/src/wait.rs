//! Waiting for what must come, and saying what was there instead when it does not.

use std::fmt::Debug;
use std::time::Duration;

use anyhow::{Result, bail};

/// How long something may take. Generous: a deadline that is met says nothing about speed, and benches measure that.
pub const SOON: Duration = Duration::from_secs(60);
const PAUSE: Duration = Duration::from_millis(50);

/// Looks until `look` finds what it is looking for. `Err` holds what it saw last.
pub async fn eventually<T, S, F>(what: &str, within: Duration, mut look: impl FnMut() -> F) -> Result<T>
where
    F: Future<Output = Result<T, S>>,
    S: Debug,
{
    let deadline = now() + within;
    loop {
        let seen = match look().await {
            Ok(found) => return Ok(found),
            Err(seen) => seen,
        };
        if now() >= deadline {
            bail!("{what}: not within {within:?}; last seen: {seen:#?}");
        }
        tokio::time::sleep(PAUSE).await;
    }
}

/// Looks for a while and complains if `look` ever finds what must not be.
pub async fn never<S, F>(what: &str, during: Duration, mut look: impl FnMut() -> F) -> Result<()>
where
    F: Future<Output = Option<S>>,
    S: Debug,
{
    let deadline = now() + during;
    while now() < deadline {
        if let Some(seen) = look().await {
            bail!("{what}: must not happen, but: {seen:#?}");
        }
        tokio::time::sleep(PAUSE).await;
    }
    Ok(())
}

#[expect(clippy::disallowed_methods, reason = "stories wait for real processes")]
fn now() -> tokio::time::Instant {
    tokio::time::Instant::now()
}

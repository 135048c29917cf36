//! The arguments of `hawser bridge` about logs that are kept.

use anyhow::anyhow;
use clap::Args;
use hawser_wire::quantity;

use super::Failure;
use crate::kept::KeepLogs;

/// What is kept of the logs of devices for when they are away.
#[derive(Debug, Args)]
#[command(next_help_heading = "Logs of devices that are away (kept in memory)")]
pub struct KeepArgs {
    /// Keep the last so many bytes of the log of each container, 1Ki to 1Mi, and of its run before [default: nothing]. It
    /// costs the device's uplink at most as many bytes a minute for each of 32 containers, twice as many at once
    #[arg(long, value_name = "SIZE", env = "HAWSER_KEEP_LOGS")]
    keep_logs: Option<String>,
    /// Keep no more than this of all logs together
    #[arg(long, value_name = "SIZE", env = "HAWSER_KEEP_LOGS_TOTAL", default_value = "64Mi", requires = "keep_logs")]
    keep_logs_total: String,
}

impl KeepArgs {
    /// `None`: nothing is kept.
    pub(super) fn config(&self) -> Result<Option<KeepLogs>, Failure> {
        let Some(per_container) = &self.keep_logs else { return Ok(None) };
        let per_container = size("--keep-logs", per_container, KeepLogs::LEAST, KeepLogs::MOST)?;
        let total = size("--keep-logs-total", &self.keep_logs_total, 2 * per_container, usize::MAX)?;
        Ok(Some(KeepLogs { per_container, total }))
    }
}

fn size(option: &str, text: &str, least: usize, most: usize) -> Result<usize, Failure> {
    let bytes = quantity::units(text).ok().and_then(|bytes| usize::try_from(bytes).ok());
    bytes.filter(|bytes| (least..=most).contains(bytes)).ok_or_else(|| {
        let most = if most == usize::MAX { String::new() } else { format!(" and at most {most}") };
        Failure::usage(anyhow!("{option} `{text}`: expected a size like 16Ki, at least {least}{most} bytes"))
    })
}

#[cfg(test)]
mod tests {
    use super::*;

    fn read(keep: Option<&str>, total: &str) -> Result<Option<KeepLogs>, String> {
        let args = KeepArgs { keep_logs: keep.map(str::to_owned), keep_logs_total: total.to_owned() };
        args.config().map_err(|failure| failure.line())
    }

    #[test]
    fn sizes_are_within_bounds_or_refused_by_name() {
        assert_eq!(read(None, "64Mi"), Ok(None));
        assert_eq!(read(Some("16Ki"), "64Mi"), Ok(Some(KeepLogs { per_container: 16 << 10, total: 64 << 20 })));
        for (keep, total, option) in [
            ("16", "64Mi", "--keep-logs `16`: expected a size like 16Ki, at least 1024 and at most 1048576 bytes"),
            ("2Mi", "64Mi", "--keep-logs `2Mi`"),
            ("much", "64Mi", "--keep-logs `much`"),
            ("16Ki", "16Ki", "--keep-logs-total `16Ki`: expected a size like 16Ki, at least 32768 bytes"),
        ] {
            let told = read(Some(keep), total).unwrap_err();
            assert!(told.contains(option), "{told}");
        }
    }
}

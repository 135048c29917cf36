//! Where container engines listen.

use std::path::{Path, PathBuf};

/// The usual places, the ones of an engine of its own first.
pub const USUAL: &[&str] =
    &["/run/containerd/containerd.sock", "/run/crio/crio.sock", "/run/k3s/containerd/containerd.sock"];

/// The first of the usual places where there is something.
pub fn find() -> Option<PathBuf> {
    USUAL.iter().map(PathBuf::from).find(|path| path.exists())
}

/// An address that names no socket.
#[derive(Debug, thiserror::Error, PartialEq, Eq)]
#[error("{0:?} is not the address of a container engine; it looks like unix:///run/containerd/containerd.sock")]
pub struct BadAddress(String);

/// Reads `unix:///path`, or just the path.
pub fn parse(address: &str) -> Result<PathBuf, BadAddress> {
    let path = Path::new(address.strip_prefix("unix://").unwrap_or(address));
    let plain = address.bytes().all(|byte| byte.is_ascii_graphic());
    if path.is_absolute() && plain { Ok(path.to_owned()) } else { Err(BadAddress(address.to_owned())) }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn addresses_are_absolute_paths_with_or_without_scheme() {
        for good in ["unix:///run/x.sock", "/run/x.sock"] {
            assert_eq!(parse(good), Ok(PathBuf::from("/run/x.sock")));
        }
        for bad in
            ["", "unix://", "run/x.sock", "tcp://1.2.3.4:5", "unix://run/x.sock", "http:///x", "/run/a b", "/a\nb"]
        {
            assert!(parse(bad).is_err(), "{bad:?}");
        }
    }
}

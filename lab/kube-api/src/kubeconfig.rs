//! The text that tells a client where the lab is and how to be known there.

use std::io::{self, Write};
use std::path::Path;

use base64::Engine;
use base64::engine::general_purpose::STANDARD;

/// How a client proves who it is.
pub(crate) enum Credentials<'a> {
    Certificate { certificate: &'a str, key: &'a str },
    Token(&'a str),
}

/// A kubeconfig with one cluster, one user, one context.
pub(crate) fn text(url: &str, ca_pem: &str, user: &str, credentials: &Credentials<'_>) -> String {
    let proof = match credentials {
        Credentials::Certificate { certificate, key } => format!(
            "    client-certificate-data: {}\n    client-key-data: {}",
            STANDARD.encode(certificate),
            STANDARD.encode(key)
        ),
        Credentials::Token(token) => format!("    token: {token}"),
    };
    let ca = STANDARD.encode(ca_pem);
    format!(
        "# The Hawser lab: an API server in memory, not a cluster.\n\
         apiVersion: v1\nkind: Config\ncurrent-context: hawser-lab\nclusters:\n- name: hawser-lab\n  cluster:\n    \
         server: {url}\n    certificate-authority-data: {ca}\ncontexts:\n- name: hawser-lab\n  context:\n    \
         cluster: hawser-lab\n    user: {user}\nusers:\n- name: {user}\n  user:\n{proof}\n"
    )
}

/// Writes a file that only its owner may read; replaces an existing one in one step.
pub(crate) fn write_private(path: &Path, content: &[u8]) -> io::Result<()> {
    use std::os::unix::fs::OpenOptionsExt;
    let mut temporary = path.as_os_str().to_owned();
    temporary.push(".new");
    let temporary = Path::new(&temporary);
    // A leftover of an interrupted write may have other permissions.
    match std::fs::remove_file(temporary) {
        Err(error) if error.kind() != io::ErrorKind::NotFound => return Err(error),
        _ => {}
    }
    let mut file = std::fs::OpenOptions::new().write(true).create_new(true).mode(0o600).open(temporary)?;
    file.write_all(content)?;
    file.sync_all()?;
    std::fs::rename(temporary, path)
}

#[cfg(test)]
mod tests {
    use std::os::unix::fs::PermissionsExt;

    use super::*;

    #[test]
    fn the_file_is_private_even_over_an_open_one() {
        let folder = tempfile::tempdir().unwrap_or_else(|e| panic!("{e}"));
        let path = folder.path().join("config");
        std::fs::write(&path, "old").unwrap_or_else(|e| panic!("{e}"));
        write_private(&path, b"new").unwrap_or_else(|e| panic!("{e}"));
        let mode = std::fs::metadata(&path).map(|file| file.permissions().mode() & 0o777);
        assert_eq!(mode.ok(), Some(0o600));
        assert_eq!(std::fs::read(&path).ok().as_deref(), Some(&b"new"[..]));
    }
}

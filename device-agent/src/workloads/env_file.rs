//! Variables from files of volumes, which containers before have written.
//!
//! As for a kubelet, such a file is the part of a shell's language that has assignments with single quotes: `NAME='value'`, also
//! over several lines, blank lines, and comments.

use std::borrow::Cow;
use std::sync::Arc;

use hawser_wire::deployment::{Container, EdgeDeployment, EnvValue, FileKey};

use crate::runtime::Runtime;

/// How long a line may be.
const MAX_LINE: usize = 64 * 1024;

/// The container with the values that its variables have in files; in a kubelet's words, what is in the way.
pub(super) async fn filled<'c, R: Runtime>(
    runtime: &R,
    spec: &Arc<EdgeDeployment>,
    container: &'c Container,
) -> Result<Cow<'c, Container>, String> {
    if !container.env.iter().any(|variable| matches!(variable.value, EnvValue::File(_))) {
        return Ok(Cow::Borrowed(container));
    }
    let mut filled = container.clone();
    let mut env = Vec::with_capacity(filled.env.len());
    for mut variable in filled.env {
        if let EnvValue::File(key) = &variable.value {
            match look_up(runtime, spec, key).await? {
                Some(value) => variable.value = EnvValue::Literal(value),
                None => continue,
            }
        }
        env.push(variable);
    }
    filled.env = env;
    Ok(Cow::Owned(filled))
}

/// `None`: it is not there, and need not be.
async fn look_up<R: Runtime>(runtime: &R, spec: &Arc<EdgeDeployment>, key: &FileKey) -> Result<Option<String>, String> {
    let FileKey { volume, path, key, optional } = key;
    let Some(there) = spec.volumes.iter().find(|there| there.name == *volume) else {
        return Err(format!("cannot find the volume \"{volume}\" referenced by FileKeyRef"));
    };
    // Whether the key has to be there or not, the file has to be one.
    let wrong = |why: String| format!("couldn't parse env file: {path} of volume {volume}: {why}");
    let file = runtime.volume_file(spec.uid.clone(), there.clone(), path.clone()).await;
    let file = file.map_err(|error| wrong(error.source.to_string()))?;
    match value(&file, key).map_err(wrong)? {
        value if !value.is_empty() => Ok(Some(value)),
        _ if *optional => Ok(None),
        _ => Err(format!("environment variable key \"{key}\" not found in file \"{path}\" of volume {volume}")),
    }
}

/// The value that `key` is given first; empty: none. An error is told in words, with the line. What stands behind the value is
/// not looked at.
fn value(file: &[u8], key: &str) -> Result<String, String> {
    let mut lines = Lines { rest: file, number: 0 };
    while let Some(line) = lines.next()? {
        let line = line.trim_start_matches([' ', '\t']);
        if line.is_empty() || line.starts_with('#') {
            continue;
        }
        let wrong = |why: &str| Err(format!("line {}: {why}", lines.number));
        let Some((name, assigned)) = line.split_once('=') else { return wrong("missing '='") };
        if name.trim_end_matches([' ', '\t']).is_empty() {
            return wrong("empty variable name");
        }
        if name.ends_with([' ', '\t']) {
            return wrong("whitespace before '=' is not allowed");
        }
        if assigned.starts_with([' ', '\t']) {
            // As in a shell, that is an empty value, and whatever follows is something else.
            if name == key {
                return Ok(String::new());
            }
            continue;
        }
        let Some(quoted) = assigned.strip_prefix('\'') else {
            return wrong("value must be enclosed in single quotes");
        };
        let (name, first) = (name.to_owned(), lines.number);
        let value = lines.quoted(quoted.to_owned(), first)?;
        if name == key {
            return Ok(value);
        }
    }
    Ok(String::new())
}

struct Lines<'f> {
    rest: &'f [u8],
    /// Of the line that was read last.
    number: usize,
}

impl<'f> Lines<'f> {
    fn next(&mut self) -> Result<Option<Cow<'f, str>>, String> {
        if self.rest.is_empty() {
            return Ok(None);
        }
        self.number += 1;
        let end = self.rest.iter().position(|byte| *byte == b'\n');
        let (line, rest) = self.rest.split_at(end.unwrap_or(self.rest.len()));
        self.rest = rest.get(1..).unwrap_or_default();
        if line.len() >= MAX_LINE {
            return Err(format!("line {}: longer than {MAX_LINE} bytes", self.number));
        }
        let line = line.strip_suffix(b"\r").unwrap_or(line);
        match std::str::from_utf8(line) {
            Ok(line) if !line.contains('\0') => Ok(Some(line.into())),
            _ => Err(format!("line {}: not UTF-8, or with a zero byte", self.number)),
        }
    }

    /// What is left of a value up to its closing quote, with the lines that it takes.
    fn quoted(&mut self, mut rest: String, first: usize) -> Result<String, String> {
        let mut value = String::new();
        loop {
            if let Some((end, after)) = rest.split_once('\'') {
                let after = after.trim_start_matches([' ', '\t']);
                if !after.is_empty() && !after.starts_with('#') {
                    return Err(format!("line {}: unexpected content after closing quote", self.number));
                }
                value.push_str(end);
                return Ok(value);
            }
            value.push_str(&rest);
            value.push('\n');
            rest = self.next()?.ok_or_else(|| format!("line {first}: unclosed single quote"))?.into_owned();
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn values_are_found_as_by_a_kubelet() {
        for (file, key, expected) in [
            ("   KEY1='val1'\n\t\tKEY2='val2'\nKEY3='val3'\n", "KEY2", "val2"),
            ("# comment\n\nKEY1='foo'\n   # another comment\n\nKEY2='bar'\n", "KEY2", "bar"),
            ("KEY1='foo'\n", "KEY3", ""),
            ("KEY1='foo#notcomment'", "KEY1", "foo#notcomment"),
            ("KEY1='foo' # a comment", "KEY1", "foo"),
            ("KEY1='a\n  b\\n$(C)\n\nd'\nKEY2='x'", "KEY1", "a\n  b\\n$(C)\n\nd"),
            ("KEY1='a\nb'\nKEY2='x'", "KEY2", "x"),
            ("KEY1= 'val1'\nKEY2='x'", "KEY1", ""),
            ("KEY1= 'val1'\nKEY2='x'", "KEY2", "x"),
            ("KEY1='first'\nKEY1='second'", "KEY1", "first"),
            ("KEY1='a=b'", "KEY1", "a=b"),
            ("KEY1=''", "KEY1", ""),
            ("KEY1='x'\r\nKEY2='y'\r\n", "KEY2", "y"),
            ("KEY1='x'\nnonsense", "KEY1", "x"),
            ("", "KEY1", ""),
            ("ä='ö'", "ä", "ö"),
        ] {
            assert_eq!(value(file.as_bytes(), key).as_deref(), Ok(expected), "{file:?} {key}");
        }
    }

    #[test]
    fn what_is_no_such_file_is_told_with_its_line() {
        for (file, why) in [
            ("A='a'\nnonsense", "line 2: missing '='"),
            ("='x'", "line 1: empty variable name"),
            ("A ='x'", "line 1: whitespace before '=' is not allowed"),
            ("A=x", "line 1: value must be enclosed in single quotes"),
            ("A=\"x\"", "line 1: value must be enclosed in single quotes"),
            ("A=", "line 1: value must be enclosed in single quotes"),
            ("\nA='x\ny", "line 2: unclosed single quote"),
            ("A='x' y", "line 1: unexpected content after closing quote"),
            ("A='x\n' y", "line 2: unexpected content after closing quote"),
            ("A='x\0'", "line 1: not UTF-8, or with a zero byte"),
        ] {
            assert_eq!(value(file.as_bytes(), "KEY").unwrap_err(), why, "{file:?}");
        }
        assert_eq!(value(b"A='\xff'", "KEY").unwrap_err(), "line 1: not UTF-8, or with a zero byte");
        let long = format!("A='{}'", "x".repeat(MAX_LINE));
        assert_eq!(value(long.as_bytes(), "A").unwrap_err(), "line 1: longer than 65536 bytes");
    }
}

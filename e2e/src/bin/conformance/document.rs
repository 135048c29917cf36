//! A document in docs: both columns, and a reason for every spec that does not pass.

use std::collections::BTreeSet;
use std::fmt::Write as _;

use crate::report::{Outcome, Results};

/// Why specs do not pass: lines `part of the name = reason`; the first that fits counts.
#[derive(Debug)]
pub(crate) struct Reasons<'a>(Vec<(&'a str, &'a str)>);

impl<'a> Reasons<'a> {
    pub(crate) fn parse(text: &'a str) -> Self {
        let lines = text.lines().filter(|line| !line.starts_with('#'));
        Self(lines.filter_map(|line| line.split_once(" = ")).map(|(part, why)| (part.trim(), why.trim())).collect())
    }

    pub(crate) fn of(&self, name: &str) -> Option<&'a str> {
        self.0.iter().find(|(part, _)| name.contains(part)).map(|(_, why)| *why)
    }
}

/// A node that was measured.
#[derive(Debug)]
pub(crate) struct Column {
    pub(crate) title: &'static str,
    /// `None`: not measured yet.
    pub(crate) results: Option<Results>,
}

impl Column {
    fn word(&self, name: &str) -> &'static str {
        self.results.as_ref().and_then(|results| results.0.get(name)).map_or("–", |outcome| outcome.word())
    }
}

/// The document.
pub(crate) fn write(introduction: &str, columns: &[Column; 2], reasons: &Reasons<'_>) -> String {
    let mut out = String::from(introduction);
    let _ = writeln!(out, "\n| | passed | failed | skipped |\n|---|---|---|---|");
    for column in columns {
        let _ = match &column.results {
            None => writeln!(out, "| {} | not measured | | |", column.title),
            Some(results) => {
                let [passed, failed, skipped] =
                    [Outcome::Passed, Outcome::Failed, Outcome::Skipped].map(|outcome| results.count(outcome));
                writeln!(out, "| {} | {passed} | {failed} | {skipped} |", column.title)
            }
        };
    }
    let names: BTreeSet<&String> =
        columns.iter().filter_map(|column| column.results.as_ref()).flat_map(|results| results.0.keys()).collect();
    let [first, second] = columns;
    let _ = writeln!(out, "\n## What does not pass, and why\n\n| spec | {} | {} | why |", first.title, second.title);
    let _ = writeln!(out, "|---|---|---|---|");
    let passes = |column: &Column, name: &str| matches!(column.word(name), "passed" | "–");
    for name in names.iter().filter(|name| !(passes(first, name) && passes(second, name))) {
        let why = reasons.of(name).unwrap_or("**no reason is known**");
        let _ = writeln!(out, "| {} | {} | {} | {why} |", cell(name), first.word(name), second.word(name));
    }
    let _ = writeln!(out, "\n## What passes\n\n| spec | {} | {} |\n|---|---|---|", first.title, second.title);
    for name in names.iter().filter(|name| passes(first, name) && passes(second, name)) {
        let _ = writeln!(out, "| {} | {} | {} |", cell(name), first.word(name), second.word(name));
    }
    out
}

/// A name inside a table.
fn cell(name: &str) -> String {
    name.replace('|', "\\|").replace('<', "&lt;")
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_spec_that_does_not_pass_has_a_reason_or_is_said_to_have_none() {
        let results = |lines: &str| Some(Results::from_lines(lines).unwrap());
        let device = results("passed\ta\nfailed\tb <x>|y\nfailed\tc\n");
        let kubelet = results("passed\ta\npassed\tb <x>|y\npassed\tc\n");
        let columns = [Column { title: "device", results: device }, Column { title: "kubelet", results: kubelet }];
        let document = write("# Title\n", &columns, &Reasons::parse("# b = nothing\nb <x> = cannot y yet\n"));
        assert!(document.contains("| device | 1 | 2 | 0 |\n| kubelet | 3 | 0 | 0 |\n"), "{document}");
        assert!(document.contains("| b &lt;x>\\|y | failed | passed | cannot y yet |\n"), "{document}");
        assert!(document.contains("| c | failed | passed | **no reason is known** |\n"), "{document}");
        assert!(
            document
                .contains("\n## What passes\n\n| spec | device | kubelet |\n|---|---|---|\n| a | passed | passed |\n")
        );
    }

    #[test]
    fn a_column_may_not_be_measured_yet() {
        let device = Column { title: "device", results: Some(Results::from_lines("passed\ta\n").unwrap()) };
        let document = write("", &[device, Column { title: "kubelet", results: None }], &Reasons::parse(""));
        assert!(document.contains("| kubelet | not measured | | |\n"), "{document}");
        assert!(document.contains("| a | passed | – |\n"), "{document}");
    }
}

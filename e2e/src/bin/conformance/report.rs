//! What became of each spec, as the suite reports it and as it is kept in a file.

use std::collections::BTreeMap;
use std::fmt::Write as _;
use std::path::Path;

use anyhow::{Context, Result, bail};
use serde::Deserialize;

/// What became of a spec.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(crate) enum Outcome {
    Passed,
    Failed,
    /// The spec itself found that it does not apply here.
    Skipped,
}

impl Outcome {
    pub(crate) fn word(self) -> &'static str {
        match self {
            Self::Passed => "passed",
            Self::Failed => "failed",
            Self::Skipped => "skipped",
        }
    }
}

/// The outcome of every spec that was run, by its name.
#[derive(Debug, Clone, Default, PartialEq)]
pub(crate) struct Results(pub(crate) BTreeMap<String, Outcome>);

impl Results {
    pub(crate) fn count(&self, outcome: Outcome) -> usize {
        self.0.values().filter(|found| **found == outcome).count()
    }

    /// One spec a line, sorted, so that a change of one is a change of one line.
    pub(crate) fn lines(&self) -> String {
        let mut lines = String::new();
        for (name, outcome) in &self.0 {
            let _ = writeln!(lines, "{}\t{name}", outcome.word());
        }
        lines
    }

    pub(crate) fn from_lines(lines: &str) -> Result<Self> {
        let parse = |line: &str| {
            let (word, name) = line.split_once('\t').with_context(|| format!("a line without a tab: {line:?}"))?;
            let all = [Outcome::Passed, Outcome::Failed, Outcome::Skipped];
            let outcome = all.into_iter().find(|outcome| outcome.word() == word);
            Ok((name.to_owned(), outcome.with_context(|| format!("no outcome: {word:?}"))?))
        };
        lines.lines().map(parse).collect::<Result<_>>().map(Self)
    }
}

/// A run: outcomes, and for each failure the first line of what the spec says.
#[derive(Debug, Default)]
pub(crate) struct Run {
    pub(crate) results: Results,
    pub(crate) failures: BTreeMap<String, String>,
}

#[derive(Debug, Deserialize)]
#[serde(rename_all = "PascalCase")]
struct Suite {
    #[serde(default)]
    spec_reports: Vec<Spec>,
}

#[derive(Debug, Deserialize)]
#[serde(rename_all = "PascalCase")]
struct Spec {
    #[serde(default)]
    container_hierarchy_texts: Option<Vec<String>>,
    leaf_node_type: String,
    #[serde(default)]
    leaf_node_text: String,
    state: String,
    #[serde(default)]
    failure: Option<Failure>,
}

#[derive(Debug, Deserialize)]
#[serde(rename_all = "PascalCase")]
struct Failure {
    #[serde(default)]
    message: String,
}

impl Run {
    /// Reads the suite's report.
    pub(crate) fn read(report: &Path) -> Result<Self> {
        let text = std::fs::read(report).with_context(|| format!("the suite left no {}", report.display()))?;
        let suites: Vec<Suite> = serde_json::from_slice(&text).context("the suite's report")?;
        let mut run = Self::default();
        for spec in suites.into_iter().flat_map(|suite| suite.spec_reports) {
            let message = spec.failure.map(|failure| failure.message).unwrap_or_default();
            if spec.leaf_node_type != "It" {
                if spec.state != "passed" {
                    bail!("the suite could not begin: {} {}: {message}", spec.leaf_node_type, spec.state);
                }
                continue;
            }
            let outcome = match spec.state.as_str() {
                "passed" => Outcome::Passed,
                // Not chosen: a spec that skips itself says why.
                "skipped" | "pending" if message.is_empty() => continue,
                "skipped" => Outcome::Skipped,
                _ => Outcome::Failed,
            };
            let mut words = spec.container_hierarchy_texts.unwrap_or_default();
            words.push(spec.leaf_node_text);
            let name = words.join(" ").replace(" [NodeConformance]", "").replace('\t', " ");
            if outcome != Outcome::Passed {
                run.failures.insert(name.clone(), one_line(&message));
            }
            run.results.0.insert(name, outcome);
        }
        Ok(run)
    }
}

/// The beginning of a message, on one line.
fn one_line(message: &str) -> String {
    const MOST: usize = 300;
    let words: Vec<_> = message.split_whitespace().collect();
    words.join(" ").chars().take(MOST).collect()
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_report_is_read_and_kept() {
        let folder = tempfile::tempdir().unwrap();
        let file = folder.path().join("report.json");
        let spec = |text: &str, state: &str, message: &str| {
            format!(
                r#"{{"ContainerHierarchyTexts":["[sig-node] Pods"],"LeafNodeType":"It","LeafNodeText":"{text} [NodeConformance]",
                "State":"{state}","Failure":{{"Message":"{message}"}}}}"#
            )
        };
        let specs = [
            r#"{"ContainerHierarchyTexts":null,"LeafNodeType":"SynchronizedBeforeSuite","LeafNodeText":"","State":"passed"}"#.to_owned(),
            spec("runs", "passed", ""),
            spec("is of another kind", "skipped", ""),
            spec("needs Windows", "skipped", "only for Windows"),
            spec("takes too long", "timedout", "a\\n  b"),
        ];
        std::fs::write(&file, format!(r#"[{{"SpecReports":[{}]}}]"#, specs.join(","))).unwrap();
        let run = Run::read(&file).unwrap();
        let kept = "skipped\t[sig-node] Pods needs Windows\npassed\t[sig-node] Pods runs\n\
            failed\t[sig-node] Pods takes too long\n";
        assert_eq!(run.results.lines(), kept);
        assert_eq!(Results::from_lines(kept).unwrap(), run.results);
        assert_eq!(run.failures["[sig-node] Pods takes too long"], "a b");
    }

    #[test]
    fn a_suite_that_could_not_begin_is_no_result() {
        let folder = tempfile::tempdir().unwrap();
        let file = folder.path().join("report.json");
        let setup = r#"[{"SpecReports":[{"ContainerHierarchyTexts":null,"LeafNodeType":"SynchronizedBeforeSuite",
            "LeafNodeText":"","State":"failed","Failure":{"Message":"no node"}}]}]"#;
        std::fs::write(&file, setup).unwrap();
        assert!(Run::read(&file).unwrap_err().to_string().contains("no node"));
    }
}

//! Tables of custom resources, by the printer columns of their definition.

use jiff::Timestamp;
use serde_json::{Value, json};

use super::{Heading, age_of, narrow, since};
use crate::object;
use crate::registry::{Column, Resource};

/// The columns of a custom resource.
pub(super) fn headings(resource: &Resource) -> Vec<Heading> {
    let mut headings = vec![narrow("Name", "string")];
    if resource.columns.is_empty() {
        headings.push(narrow("Age", "date"));
    }
    headings.extend(resource.columns.iter().map(|column| Heading {
        name: column.name.clone(),
        kind: kind(&column.kind),
        format: "",
        priority: column.priority,
        description: column.description.clone(),
    }));
    headings
}

fn kind(kind: &str) -> &'static str {
    match kind {
        "integer" => "integer",
        "number" => "number",
        "boolean" => "boolean",
        "date" => "date",
        _ => "string",
    }
}

/// The row of a custom resource.
pub(super) fn row(value: &Value, resource: &Resource, now: Timestamp) -> Vec<Value> {
    let mut cells = vec![json!(object::name(value))];
    if resource.columns.is_empty() {
        cells.push(json!(age_of(value, now)));
    }
    cells.extend(resource.columns.iter().map(|column| cell(value, column, now)));
    cells
}

fn cell(value: &Value, column: &Column, now: Timestamp) -> Value {
    let found = select(value, &column.json_path);
    let Some(first) = found.first() else { return Value::Null };
    match column.kind.as_str() {
        "date" => json!(first.as_str().map_or_else(|| "<unknown>".to_owned(), |time| since(time, now))),
        "string" if found.len() > 1 => {
            json!(found.iter().map(|value| shown(value)).collect::<Vec<_>>().join(","))
        }
        "string" => json!(shown(first)),
        _ => (*first).clone(),
    }
}

fn shown(value: &Value) -> String {
    value.as_str().map_or_else(|| value.to_string(), str::to_owned)
}

/// One step of a path.
#[derive(Debug, PartialEq, Eq)]
enum Step<'a> {
    Field(String),
    Index(usize),
    All,
    /// Items whose field equals a text.
    Where(&'a str, &'a str),
}

/// What a JSONPath selects: fields, indices, `[*]` and `[?(@.a=="b")]`, which is what printer columns use.
fn select<'a>(value: &'a Value, path: &str) -> Vec<&'a Value> {
    let Some(steps) = parse(path) else { return Vec::new() };
    let mut here = vec![value];
    for step in steps {
        here = here
            .into_iter()
            .flat_map(|value| -> Vec<&Value> {
                let items = || value.as_array().map_or(&[][..], Vec::as_slice);
                match &step {
                    Step::Field(name) => value.get(name.as_str()).into_iter().collect(),
                    Step::Index(index) => items().get(*index).into_iter().collect(),
                    Step::All => items().iter().collect(),
                    Step::Where(field, wanted) => {
                        let path: Vec<&str> = field.split('.').collect();
                        items()
                            .iter()
                            .filter(|item| object::at(item, &path).map(shown).as_deref() == Some(*wanted))
                            .collect()
                    }
                }
            })
            .collect();
    }
    here
}

fn parse(path: &str) -> Option<Vec<Step<'_>>> {
    let mut rest = path.trim().trim_start_matches('{').trim_end_matches('}');
    let mut steps = Vec::new();
    while !rest.is_empty() {
        if let Some(inner) = rest.strip_prefix('[') {
            let (inside, after) = if inner.starts_with("?(") {
                let end = inner.find(")]")?;
                (&inner[..=end], &inner[end + 2..])
            } else {
                let end = inner.find(']')?;
                (&inner[..end], &inner[end + 1..])
            };
            rest = after;
            steps.push(bracket(inside)?);
        } else {
            let field = rest.strip_prefix('.').unwrap_or(rest);
            let mut name = String::new();
            let mut end = field.len();
            let mut characters = field.char_indices();
            while let Some((index, character)) = characters.next() {
                match character {
                    '\\' => name.extend(characters.next().map(|(_, escaped)| escaped)),
                    '.' | '[' => {
                        end = index;
                        break;
                    }
                    other => name.push(other),
                }
            }
            if name.is_empty() {
                return None;
            }
            steps.push(Step::Field(name));
            rest = &field[end..];
        }
    }
    Some(steps)
}

fn bracket(inside: &str) -> Option<Step<'_>> {
    if inside == "*" {
        return Some(Step::All);
    }
    if let Some(condition) = inside.strip_prefix("?(").and_then(|rest| rest.strip_suffix(')')) {
        let (field, wanted) = condition.split_once("==")?;
        let wanted = wanted.trim().trim_matches(['"', '\'']);
        return Some(Step::Where(field.trim().strip_prefix("@.")?, wanted));
    }
    if let Ok(index) = inside.parse() {
        return Some(Step::Index(index));
    }
    Some(Step::Field(inside.trim_matches(['"', '\'']).to_owned()))
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn printer_columns_find_their_values() {
        let object = json!({
            "spec": {"a": 1, "list": [{"n": "x"}, {"n": "y"}]},
            "metadata": {"labels": {"a.b/c": "dotted"}},
            "status": {"conditions": [{"type": "Ready", "status": "True"}, {"type": "X", "status": "False"}]},
        });
        for (path, expected) in [
            (".spec.a", json!([1])),
            (".spec.list[1].n", json!(["y"])),
            (".spec.list[*].n", json!(["x", "y"])),
            (".status.conditions[?(@.type==\"Ready\")].status", json!(["True"])),
            (".status.conditions[?(@.type=='X')].status", json!(["False"])),
            (".metadata.labels.a\\.b/c", json!(["dotted"])),
            (".metadata.labels['a.b/c']", json!(["dotted"])),
            (".spec.missing", json!([])),
            (".spec.list[9].n", json!([])),
            (".spec.[", json!([])),
        ] {
            assert_eq!(json!(select(&object, path)), expected, "{path}");
        }
    }
}

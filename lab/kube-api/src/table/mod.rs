//! Tables as kubectl prints them (`Accept: application/json;as=Table`). All pure but for the age, which is told from a
//! time that comes in.

mod custom;
mod duration;
mod nodes;
mod others;
mod pods;
mod workloads;

use jiff::Timestamp;
use serde_json::{Value, json};

use self::duration::age;
use crate::object::{self, text};
use crate::registry::Resource;
use crate::{clock, operations::view};

/// A column: name, type, format, whether it is shown only when wide.
pub(crate) struct Heading {
    name: String,
    kind: &'static str,
    format: &'static str,
    priority: i64,
    description: String,
}

/// A column that is always shown.
fn narrow(name: &str, kind: &'static str) -> Heading {
    let format = if name == "Name" { "name" } else { "" };
    Heading { name: name.to_owned(), kind, format, priority: 0, description: String::new() }
}

/// A column that `-o wide` shows.
fn wide(name: &str, kind: &'static str) -> Heading {
    Heading { priority: 1, ..narrow(name, kind) }
}

/// Columns and one row per object.
type Layout = (Vec<Heading>, fn(&Value, Timestamp) -> Vec<Value>);

fn layout(resource: &Resource) -> Layout {
    match (resource.group.as_str(), resource.plural.as_str()) {
        ("", "pods") => (pods::headings(), pods::row),
        ("", "nodes") => (nodes::headings(), nodes::row),
        ("apps", "deployments") => (workloads::deployment_headings(), workloads::deployment),
        ("apps", "replicasets") => (workloads::replica_set_headings(), workloads::replica_set),
        ("apps", "daemonsets") => (workloads::daemon_set_headings(), workloads::daemon_set),
        ("apps", "statefulsets") => (workloads::stateful_set_headings(), workloads::stateful_set),
        ("apps", "controllerrevisions") => (workloads::revision_headings(), workloads::revision),
        ("batch", "jobs") => (workloads::job_headings(), workloads::job),
        ("", "namespaces") => (others::namespace_headings(), others::namespace),
        ("", "configmaps") => (others::config_map_headings(), others::config_map),
        ("", "secrets") => (others::secret_headings(), others::secret),
        ("", "services") => (others::service_headings(), others::service),
        ("", "serviceaccounts") => (others::account_headings(), others::account),
        ("" | "events.k8s.io", "events") => (others::event_headings(), others::event),
        ("coordination.k8s.io", "leases") => (others::lease_headings(), others::lease),
        ("apiextensions.k8s.io", _) => (others::definition_headings(), others::definition),
        _ => (vec![narrow("Name", "string"), narrow("Age", "string")], |object, now| {
            vec![json!(object::name(object)), json!(age_of(object, now))]
        }),
    }
}

/// The age of an object.
fn age_of(object: &Value, now: Timestamp) -> String {
    since(text(object, &["metadata", "creationTimestamp"]), now)
}

/// How long ago a time was.
fn since(time: &str, now: Timestamp) -> String {
    clock::parse(time).map_or_else(|| "<unknown>".to_owned(), |time| age(now.as_second() - time.as_second()))
}

/// The table of some objects.
pub(crate) fn of(objects: &[&Value], resource: &Resource, include: &str, metadata: Value) -> Value {
    at(objects, resource, include, metadata, clock::now())
}

fn at(objects: &[&Value], resource: &Resource, include: &str, metadata: Value, now: Timestamp) -> Value {
    let (headings, rows): (Vec<Heading>, Vec<Vec<Value>>) = if resource.custom {
        let headings = custom::headings(resource);
        (headings, objects.iter().map(|object| custom::row(object, resource, now)).collect())
    } else {
        let (headings, row) = layout(resource);
        (headings, objects.iter().map(|object| row(object, now)).collect())
    };
    let columns: Vec<Value> = headings
        .iter()
        .map(|heading| {
            json!({
                "name": heading.name, "type": heading.kind, "format": heading.format,
                "description": heading.description, "priority": heading.priority,
            })
        })
        .collect();
    let rows: Vec<Value> = objects
        .iter()
        .zip(rows)
        .map(|(object, cells)| {
            let mut row = json!({"cells": cells});
            match include {
                "None" => {}
                "Object" => row["object"] = (*object).clone(),
                _ => row["object"] = view::metadata_only(object),
            }
            row
        })
        .collect();
    json!({
        "kind": "Table", "apiVersion": "meta.k8s.io/v1", "metadata": metadata,
        "columnDefinitions": columns, "rows": rows,
    })
}

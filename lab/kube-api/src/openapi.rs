//! OpenAPI, as far as kubectl uses it: v3 for `explain`, for knowing that the server validates fields and for computing
//! patches; v2 only as an empty document, which tells old clients that there is nothing to check on their side.

use serde_json::{Map, Value, json};

use crate::registry::{Nature, Registry, Resource, TypeOf};
use crate::schema::definitions;

/// The v2 document: valid and empty.
pub(crate) fn v2() -> Value {
    json!({"swagger": "2.0", "info": {"title": "Hawser lab", "version": "v1.36.0"}, "paths": {}, "definitions": {}})
}

/// The v2 document as protobuf: field 1 (`swagger`) only.
pub(crate) fn v2_protobuf() -> Vec<u8> {
    b"\x0a\x032.0".to_vec()
}

fn group_path(group: &str, version: &str) -> String {
    if group.is_empty() { format!("api/{version}") } else { format!("apis/{group}/{version}") }
}

/// The index of v3 documents. The query changes when the documents may, so that clients may cache.
pub(crate) fn v3_index(registry: &Registry, stamp: &str) -> Value {
    let mut paths = Map::new();
    for (group, versions) in registry.groups() {
        for version in versions {
            let path = group_path(&group, &version);
            let url = format!("/openapi/v3/{path}?hash={stamp}");
            paths.insert(path, json!({"serverRelativeURL": url}));
        }
    }
    json!({"paths": paths})
}

/// One v3 document.
pub(crate) fn v3(registry: &Registry, group: &str, version: &str) -> Option<Value> {
    let resources: Vec<_> = registry.all().filter(|one| one.group == group && one.version == version).collect();
    if resources.is_empty() {
        return None;
    }
    let mut schemas = Map::new();
    let mut paths = Map::new();
    for resource in resources {
        let name = schema_name(resource);
        let mut schema = match &resource.schema {
            TypeOf::Builtin(name) => definitions().get(name).cloned()?,
            TypeOf::Custom(schema) => custom_schema(schema),
        };
        let kind = json!({"group": resource.group, "version": resource.version, "kind": resource.kind});
        schema["x-kubernetes-group-version-kind"] = json!([kind]);
        include_referenced(&schema, &mut schemas);
        schemas.insert(name.clone(), schema);
        add_paths(resource, &name, &kind, &mut paths);
    }
    Some(json!({
        "openapi": "3.0.0",
        "info": {"title": "Hawser lab", "version": "v1.36.0"},
        "paths": paths,
        "components": {"schemas": schemas},
    }))
}

fn schema_name(resource: &Resource) -> String {
    match &resource.schema {
        TypeOf::Builtin(name) => name.clone(),
        TypeOf::Custom(_) => {
            let reversed: Vec<&str> = resource.group.rsplit('.').collect();
            format!("{}.{}.{}", reversed.join("."), resource.version, resource.kind)
        }
    }
}

/// A custom schema with the envelope that every object has.
fn custom_schema(schema: &Value) -> Value {
    let mut schema = schema.clone();
    let properties = crate::object::map_at(&mut schema, &["properties"]);
    properties.insert("apiVersion".to_owned(), json!({"type": "string"}));
    properties.insert("kind".to_owned(), json!({"type": "string"}));
    let metadata = json!({"allOf": [{"$ref": "#/components/schemas/io.k8s.apimachinery.pkg.apis.meta.v1.ObjectMeta"}]});
    properties.insert("metadata".to_owned(), metadata);
    schema
}

/// Copies every definition that a schema refers to.
fn include_referenced(schema: &Value, schemas: &mut Map<String, Value>) {
    match schema {
        Value::Object(map) => {
            if let Some(name) =
                map.get("$ref").and_then(Value::as_str).and_then(|path| path.strip_prefix("#/components/schemas/"))
                && !schemas.contains_key(name)
                && let Some(definition) = definitions().get(name)
            {
                schemas.insert(name.to_owned(), definition.clone());
                include_referenced(definition, schemas);
            }
            map.values().for_each(|value| include_referenced(value, schemas));
        }
        Value::Array(items) => items.iter().for_each(|item| include_referenced(item, schemas)),
        _ => {}
    }
}

fn parameter(name: &str) -> Value {
    json!({"name": name, "in": "query", "schema": {"type": "string", "uniqueItems": true}})
}

fn add_paths(resource: &Resource, name: &str, kind: &Value, paths: &mut Map<String, Value>) {
    let base = group_path(&resource.group, &resource.version);
    let plural = &resource.plural;
    let all = if resource.namespaced {
        format!("/{base}/namespaces/{{namespace}}/{plural}")
    } else {
        format!("/{base}/{plural}")
    };
    let schema = json!({"$ref": format!("#/components/schemas/{name}")});
    let answer = json!({"200": {"description": "OK", "content": {"application/json": {"schema": schema}}}});
    let body = json!({"content": {"*/*": {"schema": schema}}});
    let written = json!([parameter("dryRun"), parameter("fieldManager"), parameter("fieldValidation")]);
    let operation = |action: &str, body: Option<&Value>| {
        let mut operation = json!({
            "responses": answer, "parameters": written,
            "x-kubernetes-action": action, "x-kubernetes-group-version-kind": kind,
        });
        if let Some(body) = body {
            operation["requestBody"] = body.clone();
        }
        operation
    };
    if resource.nature == Nature::Question {
        paths.insert(all, json!({"post": operation("post", Some(&body))}));
        return;
    }
    let mut patches = Map::new();
    let mut kinds = vec!["application/apply-patch+yaml", "application/json-patch+json", "application/merge-patch+json"];
    if !resource.custom {
        kinds.push("application/strategic-merge-patch+json");
    }
    for media in kinds {
        let patch = json!({"description": "Patch is provided to give a concrete name and type to the Kubernetes PATCH request body.", "type": "object"});
        patches.insert(media.to_owned(), json!({"schema": patch}));
    }
    let patch = json!({"content": patches});
    paths.insert(
        format!("{all}/{{name}}"),
        json!({
            "get": operation("get", None), "put": operation("put", Some(&body)),
            "patch": operation("patch", Some(&patch)), "delete": operation("delete", None),
        }),
    );
    paths.insert(all, json!({"get": operation("list", None), "post": operation("post", Some(&body))}));
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn every_reference_of_a_document_is_in_it() {
        let document = v3(&Registry::default(), "apps", "v1").unwrap_or(Value::Null);
        let text = document.to_string();
        let schemas = &document["components"]["schemas"];
        for part in text.split("\"#/components/schemas/").skip(1) {
            let name = part.split('"').next().unwrap_or("");
            assert!(schemas.get(name).is_some(), "{name} is missing");
        }
        assert_eq!(
            schemas["io.k8s.api.apps.v1.Deployment"]["x-kubernetes-group-version-kind"][0]["kind"],
            "Deployment"
        );
    }
}

//! What a CustomResourceDefinition adds: resources to serve, and the status that says so.

use std::sync::Arc;

use serde_json::{Value, json};

use super::{Column, Nature, Resource, ScalePaths, Storage, TypeOf};
use crate::object::{self, at, list, text};
use crate::refusal::FieldError;

fn texts(value: &Value, path: &[&str]) -> Vec<String> {
    list(value, path).iter().filter_map(|item| Some(item.as_str()?.to_owned())).collect()
}

fn column(value: &Value) -> Column {
    Column {
        name: text(value, &["name"]).to_owned(),
        kind: text(value, &["type"]).to_owned(),
        json_path: text(value, &["jsonPath"]).to_owned(),
        priority: object::integer(value, &["priority"]).unwrap_or(0),
        description: text(value, &["description"]).to_owned(),
    }
}

/// The resources that a definition serves.
pub(crate) fn resources(definition: &Value) -> Vec<Arc<Resource>> {
    let group = text(definition, &["spec", "group"]);
    let plural = text(definition, &["spec", "names", "plural"]);
    let kind = text(definition, &["spec", "names", "kind"]);
    let names = |key| text(definition, &["spec", "names", key]);
    let served = list(definition, &["spec", "versions"]).iter().filter(|version| version["served"] == json!(true));
    served
        .map(|version| {
            let schema = at(version, &["schema", "openAPIV3Schema"]).cloned();
            let scale = at(version, &["subresources", "scale"]).map(|scale| ScalePaths {
                spec_replicas: text(scale, &["specReplicasPath"]).to_owned(),
                status_replicas: text(scale, &["statusReplicasPath"]).to_owned(),
                selector: Some(text(scale, &["labelSelectorPath"]).to_owned()).filter(|path| !path.is_empty()),
            });
            Arc::new(Resource {
                group: group.to_owned(),
                version: text(version, &["name"]).to_owned(),
                kind: kind.to_owned(),
                list_kind: Some(names("listKind"))
                    .filter(|name| !name.is_empty())
                    .map_or_else(|| format!("{kind}List"), str::to_owned),
                plural: plural.to_owned(),
                singular: Some(names("singular"))
                    .filter(|name| !name.is_empty())
                    .map_or_else(|| kind.to_lowercase(), str::to_owned),
                namespaced: text(definition, &["spec", "scope"]) == "Namespaced",
                short_names: texts(definition, &["spec", "names", "shortNames"]),
                categories: texts(definition, &["spec", "names", "categories"]),
                storage: Storage::new(group, plural),
                nature: Nature::Stored,
                has_status: at(version, &["subresources", "status"]).is_some(),
                scale,
                subresources: &[],
                schema: TypeOf::Custom(Arc::new(
                    schema.unwrap_or_else(|| json!({"x-kubernetes-preserve-unknown-fields": true})),
                )),
                columns: list(version, &["additionalPrinterColumns"]).iter().map(column).collect(),
                custom: true,
            })
        })
        .collect()
}

/// What is wrong with a definition.
pub(crate) fn validate(definition: &Value) -> Vec<FieldError> {
    let mut errors = Vec::new();
    let group = text(definition, &["spec", "group"]);
    let plural = text(definition, &["spec", "names", "plural"]);
    for path in [&["spec", "group"][..], &["spec", "scope"], &["spec", "names", "plural"], &["spec", "names", "kind"]] {
        if text(definition, path).is_empty() {
            errors.push(FieldError::required(path.join("."), ""));
        }
    }
    let scope = text(definition, &["spec", "scope"]);
    if !scope.is_empty() && !matches!(scope, "Namespaced" | "Cluster") {
        errors.push(FieldError::unsupported("spec.scope", &json!(scope), &["Cluster", "Namespaced"]));
    }
    let name = object::name(definition);
    if !group.is_empty() && !plural.is_empty() && name != format!("{plural}.{group}") {
        errors.push(FieldError::invalid("metadata.name", &json!(name), "must be spec.names.plural+\".\"+spec.group"));
    }
    let versions = list(definition, &["spec", "versions"]);
    let stored = versions.iter().filter(|version| version["storage"] == json!(true)).count();
    if stored != 1 {
        let detail = "must have exactly one version marked as storage version";
        errors.push(FieldError::invalid("spec.versions", &json!(versions.len()), detail));
    }
    for (index, version) in versions.iter().enumerate() {
        if at(version, &["schema", "openAPIV3Schema"]).is_none() {
            let field = format!("spec.versions[{index}].schema.openAPIV3Schema");
            errors.push(FieldError::required(field, "schemas are required"));
        }
    }
    errors
}

/// Fills in the names a user may leave out.
pub(crate) fn default(definition: &mut Value) {
    let kind = text(definition, &["spec", "names", "kind"]).to_owned();
    let names = object::map_at(definition, &["spec", "names"]);
    object::set_default(names, "singular", kind.to_lowercase());
    object::set_default(names, "listKind", format!("{kind}List"));
    object::set_default(object::map_at(definition, &["spec"]), "conversion", json!({"strategy": "None"}));
}

/// The status of a definition that is served from now on.
pub(crate) fn establish(definition: &mut Value, now: &str) {
    let names = definition["spec"]["names"].clone();
    let stored: Vec<Value> = list(definition, &["spec", "versions"])
        .iter()
        .filter(|version| version["storage"] == json!(true))
        .map(|version| version["name"].clone())
        .collect();
    definition["status"] = json!({
        "acceptedNames": names,
        "storedVersions": stored,
        "conditions": [
            {"type": "NamesAccepted", "status": "True", "reason": "NoConflicts", "message": "no conflicts found", "lastTransitionTime": now},
            {"type": "Established", "status": "True", "reason": "InitialNamesAccepted", "message": "the initial names have been accepted", "lastTransitionTime": now},
        ],
    });
}

//! What every written object goes through: its type, its defaults, and what admission adds from other objects.

use serde_json::{Value, json};

use super::{Ask, view};
use crate::defaults;
use crate::http::query::FieldValidation;
use crate::object::{self, as_map, at, map_at, set_default, text};
use crate::random;
use crate::refusal::Refusal;
use crate::registry::{Resource, TypeOf, builtin};
use crate::schema::{check, definitions, structural};
use crate::store::Transaction;

/// Checks that a body is an object of the resource.
pub(crate) fn identify(body: &mut Value, resource: &Resource) -> Result<(), Refusal> {
    if !body.is_object() {
        return Err(Refusal::bad_request("the object provided is unrecognized (must be of type map)"));
    }
    let wanted = resource.api_version();
    let (version, kind) = (text(body, &["apiVersion"]).to_owned(), text(body, &["kind"]).to_owned());
    if !version.is_empty() && version != wanted {
        let message =
            format!("the API version in the data ({version}) does not match the expected API version ({wanted})");
        return Err(Refusal::bad_request(message));
    }
    if !kind.is_empty() && kind != resource.kind {
        let message = format!(
            "{} in version \"{}\" cannot be handled as a {}: no kind match: the data says {kind}",
            kind, resource.version, resource.kind
        );
        return Err(Refusal::bad_request(message));
    }
    let map = as_map(body);
    map.insert("apiVersion".to_owned(), wanted.into());
    map.insert("kind".to_owned(), resource.kind.clone().into());
    object::metadata(body);
    Ok(())
}

/// Holds an object against its type: removes what the type does not have, refuses what it cannot have.
/// Returns warnings.
pub(crate) fn conform(object: &mut Value, resource: &Resource, mode: FieldValidation) -> Result<Vec<String>, Refusal> {
    let unknown = match &resource.schema {
        TypeOf::Builtin(name) => {
            object::drop_nulls(object);
            let findings = definitions().get(name).map(|schema| check::check(object, schema)).unwrap_or_default();
            if let Some(mistyped) = findings.mistyped {
                return Err(cannot_be_handled(resource, &mistyped));
            }
            findings.unknown
        }
        TypeOf::Custom(schema) => structural::prune(object, schema),
    };
    let unknown: Vec<String> = unknown.iter().map(|path| format!("unknown field \"{path}\"")).collect();
    match mode {
        FieldValidation::Ignore => Ok(Vec::new()),
        FieldValidation::Warn => Ok(unknown),
        FieldValidation::Strict if unknown.is_empty() => Ok(unknown),
        FieldValidation::Strict => {
            Err(cannot_be_handled(resource, &format!("strict decoding error: {}", unknown.join(", "))))
        }
    }
}

fn cannot_be_handled(resource: &Resource, why: &str) -> Refusal {
    let Resource { kind, version, .. } = resource;
    Refusal::bad_request(format!("{kind} in version \"{version}\" cannot be handled as a {kind}: {why}"))
}

/// Empty collections in the metadata are the same as none.
pub(crate) fn tidy_metadata(object: &mut Value) {
    let metadata = object::metadata(object);
    for field in ["labels", "annotations", "finalizers", "ownerReferences", "managedFields"] {
        let empty = match metadata.get(field) {
            Some(Value::Object(map)) => map.is_empty(),
            Some(Value::Array(items)) => items.is_empty(),
            Some(Value::Null) => true,
            _ => false,
        };
        if empty {
            metadata.remove(field);
        }
    }
    metadata.remove("selfLink");
}

/// Takes a body in: identified, conforming, in the kept version.
pub(crate) fn take_in(body: &mut Value, ask: &Ask) -> Result<Vec<String>, Refusal> {
    identify(body, &ask.resource)?;
    let warnings = conform(body, &ask.resource, ask.params.field_validation)?;
    view::inward(body, &ask.resource);
    tidy_metadata(body);
    Ok(warnings)
}

/// The resource whose rules a kept object follows.
pub(crate) fn kept_as(ask: &Ask) -> std::sync::Arc<Resource> {
    if ask.resource.is("events.k8s.io", "events") { builtin::known("", "events") } else { ask.resource.clone() }
}

/// What admission adds to a new object from what else there is, or refuses.
pub(crate) fn admit_new(tx: &Transaction<'_>, object: &mut Value, resource: &Resource) -> Result<(), Refusal> {
    if resource.is_pod() {
        admit_pod(tx, object)?;
    }
    Ok(())
}

fn admit_pod(tx: &Transaction<'_>, pod: &mut Value) -> Result<(), Refusal> {
    let (name, namespace) = (object::name(pod).to_owned(), object::namespace(pod).to_owned());
    let forbidden = |why: &str| Refusal::forbidden("", "pods", &name, why);
    defaults::pods::pod_only(pod);
    let mirror = at(pod, &["metadata", "annotations", "kubernetes.io/config.mirror"]).is_some();
    if !mirror {
        let spec = map_at(pod, &["spec"]);
        set_default(spec, "serviceAccountName", "default");
        let account_name = text(pod, &["spec", "serviceAccountName"]).to_owned();
        map_at(pod, &["spec"]).insert("serviceAccount".to_owned(), account_name.clone().into());
        let accounts = &builtin::known("", "serviceaccounts").storage;
        let account = tx.get(accounts, &namespace, &account_name).ok_or_else(|| {
            forbidden(&format!(
                "error looking up service account {namespace}/{account_name}: serviceaccount \"{account_name}\" not found"
            ))
        })?;
        defaults::pods::use_account(pod, &account, &random::suffix());
    }
    priority(tx, pod).map_err(|why| forbidden(&why))?;
    runtime_class(tx, pod).map_err(|why| forbidden(&why))?;
    defaults::pods::tolerate_for_a_while(pod);
    // Admission adds containers' mounts and volumes, so their defaults come after it.
    defaults::pods::spec(map_at(pod, &["spec"]));
    Ok(())
}

/// The class says what running in its way costs, and where that can be done.
fn runtime_class(tx: &Transaction<'_>, pod: &mut Value) -> Result<(), String> {
    let given = at(pod, &["spec", "overhead"]).cloned();
    let name = text(pod, &["spec", "runtimeClassName"]).to_owned();
    let class = match name.as_str() {
        "" => None,
        name => {
            let classes = &builtin::known("node.k8s.io", "runtimeclasses").storage;
            let class = tx.get(classes, "", name);
            Some(class.ok_or_else(|| format!("pod rejected: RuntimeClass \"{name}\" not found"))?)
        }
    };
    let overhead = class.as_ref().and_then(|class| at(class, &["overhead", "podFixed"]).cloned());
    match (overhead, given) {
        (Some(fixed), given) if given.as_ref().is_none_or(|given| *given == fixed) => {
            map_at(pod, &["spec"]).insert("overhead".to_owned(), fixed);
        }
        (Some(_), _) => {
            return Err("pod rejected: Pod's Overhead doesn't match RuntimeClass's defined Overhead".to_owned());
        }
        (None, Some(_)) => {
            let why = "pod rejected: Pod Overhead set without corresponding RuntimeClass defined Overhead";
            return Err(why.to_owned());
        }
        (None, None) => {}
    }
    let wanted = class.as_ref().and_then(|class| at(class, &["scheduling", "nodeSelector"]));
    for (key, value) in wanted.and_then(Value::as_object).into_iter().flatten() {
        let selector = map_at(pod, &["spec", "nodeSelector"]);
        let there = selector.entry(key.clone()).or_insert_with(|| value.clone());
        if *there != *value {
            let (value, there) = (value.as_str().unwrap_or_default(), there.as_str().unwrap_or_default());
            return Err(format!(
                "conflict: runtimeClass.scheduling.nodeSelector[{key}] = {value}; pod.spec.nodeSelector[{key}] = {there}"
            ));
        }
    }
    let tolerated = class.as_ref().and_then(|class| at(class, &["scheduling", "tolerations"]));
    for toleration in tolerated.and_then(Value::as_array).into_iter().flatten() {
        let all = map_at(pod, &["spec"]).entry("tolerations").or_insert_with(|| json!([]));
        if let Value::Array(all) = all
            && !all.contains(toleration)
        {
            all.push(toleration.clone());
        }
    }
    Ok(())
}

fn priority(tx: &Transaction<'_>, pod: &mut Value) -> Result<(), String> {
    let classes = &builtin::known("scheduling.k8s.io", "priorityclasses").storage;
    let class_name = text(pod, &["spec", "priorityClassName"]).to_owned();
    let (value, preemption) = if class_name.is_empty() {
        let all = tx.list(classes, None);
        match all.iter().find(|class| class.get("globalDefault") == Some(&json!(true))) {
            Some(class) => (class["value"].clone(), text(class, &["preemptionPolicy"]).to_owned()),
            None => (json!(0), String::new()),
        }
    } else {
        let class = tx.get(classes, "", &class_name);
        let class = class.ok_or_else(|| format!("no PriorityClass with name {class_name} was found"))?;
        (class["value"].clone(), text(&class, &["preemptionPolicy"]).to_owned())
    };
    let spec = map_at(pod, &["spec"]);
    spec.insert("priority".to_owned(), value);
    let preemption = if preemption.is_empty() { "PreemptLowerPriority".to_owned() } else { preemption };
    set_default(spec, "preemptionPolicy", preemption);
    Ok(())
}

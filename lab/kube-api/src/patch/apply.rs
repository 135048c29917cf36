//! Server-side apply: a manager says what it wants; what it wanted before and no longer says is removed; what others own
//! is a conflict unless forced.

use serde_json::{Map, Value, json};

use super::field_set::{FieldSet, item_element};
use super::managers::{Manager, Operation, Writer, ownable};
use crate::refusal::Refusal;
use crate::schema::{ListKind, Place};

/// What an apply makes of an object.
#[derive(Debug)]
pub(crate) struct Applied {
    pub(crate) object: Value,
    pub(crate) managers: Vec<Manager>,
}

/// Applies `config` to `live` (none when the object is new).
pub(crate) fn apply(
    live: Option<&Value>,
    mut managers: Vec<Manager>,
    config: &Value,
    place: Place<'_>,
    writer: &Writer<'_>,
    has_status: bool,
    force: bool,
) -> Result<Applied, Refusal> {
    let wanted = ownable(FieldSet::of(config, place), writer.subresource, has_status);
    let mut object = live.cloned().unwrap_or_else(|| Value::Object(Map::new()));
    merge(&mut object, config, place);

    let changed = FieldSet::changed(live, &object, place);
    let conflicts: Vec<(String, String)> = managers
        .iter()
        .filter(|manager| !manager.is(writer, Operation::Apply))
        .flat_map(|manager| {
            let contested = manager.fields.intersection(&changed).intersection(&wanted);
            contested.paths().into_iter().map(|path| (manager.describe(), path)).collect::<Vec<_>>()
        })
        .collect();
    if !conflicts.is_empty() && !force {
        return Err(refusal(&conflicts));
    }

    let own = managers.iter().position(|manager| manager.is(writer, Operation::Apply));
    let last = own.map(|index| managers.remove(index));
    let mut others = FieldSet::default();
    for manager in &mut managers {
        let contested = manager.fields.intersection(&changed).intersection(&wanted);
        manager.fields.subtract(&contested);
        others.union(&manager.fields);
    }
    if let Some(last) = &last {
        prune(&mut object, &last.fields, &wanted, &others, place);
    }
    // An apply that changes nothing keeps its time, so that it leaves the object as it is.
    let time = match &last {
        Some(last) if last.fields == wanted && live == Some(&object) => last.time.clone(),
        _ => writer.now.to_owned(),
    };
    managers.push(Manager {
        name: writer.name.to_owned(),
        operation: Operation::Apply,
        api_version: writer.api_version.to_owned(),
        subresource: writer.subresource.to_owned(),
        time,
        fields: wanted,
    });
    managers.retain(|manager| !manager.fields.is_empty());
    Ok(Applied { object, managers })
}

fn refusal(conflicts: &[(String, String)]) -> Refusal {
    let message = match conflicts {
        [(manager, path)] => format!("Apply failed with 1 conflict: conflict with {manager}: {path}"),
        _ => {
            let mut lines = Vec::new();
            let mut managers: Vec<&String> = conflicts.iter().map(|(manager, _)| manager).collect();
            managers.sort();
            managers.dedup();
            for manager in managers {
                lines.push(format!("conflicts with {manager}:"));
                lines.extend(
                    conflicts.iter().filter(|(other, _)| other == manager).map(|(_, path)| format!("- {path}")),
                );
            }
            format!("Apply failed with {} conflicts: {}", conflicts.len(), lines.join("\n"))
        }
    };
    let causes: Vec<Value> = conflicts
        .iter()
        .map(|(manager, path)| {
            json!({"reason": "FieldManagerConflict", "message": format!("conflict with {manager}"), "field": path})
        })
        .collect();
    let mut refusal = Refusal::new(409, "Conflict", message);
    refusal.details = Some(Box::new(json!({"causes": causes})));
    refusal
}

/// Lays `config` over `target`.
fn merge(target: &mut Value, config: &Value, place: Place<'_>) {
    match (target, config) {
        (Value::Object(target), Value::Object(config)) if !place.is_atomic_map() => {
            for (key, value) in config {
                match target.get_mut(key) {
                    Some(existing) => merge(existing, value, place.field(key)),
                    None => {
                        target.insert(key.clone(), value.clone());
                    }
                }
            }
        }
        (Value::Array(target), Value::Array(config)) if place.list_kind() != ListKind::Atomic => {
            let kind = place.list_kind();
            for item in config {
                let element = item_element(item, &kind, place);
                match target.iter_mut().find(|other| item_element(other, &kind, place) == element) {
                    Some(existing) => merge(existing, item, place.items()),
                    None => target.push(item.clone()),
                }
            }
        }
        (target, config) => *target = config.clone(),
    }
}

/// Removes what the manager owned, no longer wants, and nobody else owns.
fn prune(value: &mut Value, last: &FieldSet, wanted: &FieldSet, others: &FieldSet, place: Place<'_>) {
    let none = FieldSet::default();
    for (element, before) in &last.children {
        let wanted = wanted.children.get(element);
        let others = others.children.get(element);
        if wanted.is_none() && others.is_none_or(FieldSet::is_empty) {
            remove(value, element, place);
        } else if !before.children.is_empty()
            && let Some((child, place)) = child_mut(value, element, place)
        {
            prune(child, before, wanted.unwrap_or(&none), others.unwrap_or(&none), place);
        }
    }
}

fn remove(value: &mut Value, element: &str, place: Place<'_>) {
    match value {
        Value::Object(map) => {
            if let Some(key) = element.strip_prefix("f:") {
                map.remove(key);
            }
        }
        Value::Array(items) => {
            let kind = place.list_kind();
            items.retain(|item| item_element(item, &kind, place).as_deref() != Some(element));
        }
        _ => {}
    }
}

fn child_mut<'v, 'p>(value: &'v mut Value, element: &str, place: Place<'p>) -> Option<(&'v mut Value, Place<'p>)> {
    match value {
        Value::Object(map) => {
            let key = element.strip_prefix("f:")?;
            Some((map.get_mut(key)?, place.field(key)))
        }
        Value::Array(items) => {
            let kind = place.list_kind();
            let item = items.iter_mut().find(|item| item_element(item, &kind, place).as_deref() == Some(element))?;
            Some((item, place.items()))
        }
        _ => None,
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::schema::definitions;

    struct World {
        object: Option<Value>,
        managers: Vec<Manager>,
    }

    impl World {
        fn apply(&mut self, manager: &str, config: &Value, force: bool) -> Result<(), Refusal> {
            let place = Place::new(&definitions()["io.k8s.api.apps.v1.Deployment"]);
            let writer = Writer { name: manager, api_version: "apps/v1", subresource: "", now: "2026-01-01T00:00:00Z" };
            let managers = self.managers.clone();
            let applied = apply(self.object.as_ref(), managers, config, place, &writer, true, force)?;
            self.object = Some(applied.object);
            self.managers = applied.managers;
            Ok(())
        }

        fn object(&self) -> &Value {
            self.object.as_ref().unwrap_or(&Value::Null)
        }
    }

    fn world() -> World {
        World { object: None, managers: Vec::new() }
    }

    fn containers(list: Value) -> Value {
        json!({"spec": {"template": {"spec": {"containers": list}}}})
    }

    #[test]
    fn a_field_no_longer_applied_is_removed_unless_another_owns_it() {
        let mut world = world();
        world
            .apply("a", &json!({"metadata": {"labels": {"x": "1", "y": "1"}}}), false)
            .unwrap_or_else(|e| panic!("{e:?}"));
        world.apply("b", &json!({"metadata": {"labels": {"y": "1"}}}), false).unwrap_or_else(|e| panic!("{e:?}"));
        world.apply("a", &json!({"metadata": {"labels": {"z": "1"}}}), false).unwrap_or_else(|e| panic!("{e:?}"));
        assert_eq!(world.object()["metadata"]["labels"], json!({"y": "1", "z": "1"}));
    }

    #[test]
    fn a_conflict_names_the_owner_and_the_field_and_force_takes_it() {
        let mut world = world();
        world.apply("a", &json!({"spec": {"replicas": 1}}), false).unwrap_or_else(|e| panic!("{e:?}"));
        let refusal = world.apply("b", &json!({"spec": {"replicas": 2}}), false).err();
        let refusal = refusal.unwrap_or_else(|| panic!("no conflict"));
        assert_eq!(refusal.code, 409);
        assert_eq!(refusal.message, "Apply failed with 1 conflict: conflict with \"a\": .spec.replicas");
        world.apply("b", &json!({"spec": {"replicas": 2}}), true).unwrap_or_else(|e| panic!("{e:?}"));
        assert_eq!(world.object()["spec"]["replicas"], 2);
        assert_eq!(world.managers.len(), 1);
        // The same value is shared, not contested.
        world.apply("c", &json!({"spec": {"replicas": 2}}), false).unwrap_or_else(|e| panic!("{e:?}"));
        assert_eq!(world.managers.len(), 2);
    }

    #[test]
    fn list_items_are_removed_whole_with_what_defaulting_added() {
        let mut world = world();
        world
            .apply("a", &containers(json!([{"name": "x", "image": "1"}, {"name": "y", "image": "1"}])), false)
            .unwrap_or_else(|e| panic!("{e:?}"));
        // what defaulting adds is owned by nobody
        if let Some(object) = &mut world.object {
            object["spec"]["template"]["spec"]["containers"][0]["imagePullPolicy"] = json!("Always");
        }
        world.apply("a", &containers(json!([{"name": "y", "image": "2"}])), false).unwrap_or_else(|e| panic!("{e:?}"));
        assert_eq!(*world.object(), containers(json!([{"name": "y", "image": "2"}])));
    }

    #[test]
    fn several_conflicts_are_listed_by_manager() {
        let mut world = world();
        world
            .apply("a", &json!({"spec": {"replicas": 1, "minReadySeconds": 1}}), false)
            .unwrap_or_else(|e| panic!("{e:?}"));
        let refusal = world.apply("b", &json!({"spec": {"replicas": 2, "minReadySeconds": 2}}), false).err();
        assert_eq!(
            refusal.map(|refusal| refusal.message).as_deref(),
            Some("Apply failed with 2 conflicts: conflicts with \"a\":\n- .spec.minReadySeconds\n- .spec.replicas")
        );
    }
}

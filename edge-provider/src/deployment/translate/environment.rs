//! The environment of a container: services, then `envFrom`, then `env`, each later variable over the earlier ones.

use hawser_wire::deployment::{EnvValue, EnvVar, FileKey};
use k8s_openapi::api::core::v1::{EnvVarSource, SecretKeySelector};

use super::{Place, Problem, Translated, downward};
use crate::deployment::Object;
use crate::deployment::references::{Contents, Fetched, Found};
use crate::deployment::services::Service;
use crate::deployment::subject::Subject;

/// What a ConfigMap and a Secret are called in messages.
#[derive(Debug, Clone, Copy)]
pub(super) enum Kind {
    ConfigMap,
    Secret,
}

impl Kind {
    /// What an API server says of an object that is not there.
    pub(super) fn not_found(self, name: &str) -> String {
        match self {
            Self::ConfigMap => format!("configmap \"{name}\" not found"),
            Self::Secret => format!("secret \"{name}\" not found"),
        }
    }

    fn word(self) -> &'static str {
        match self {
            Self::ConfigMap => "ConfigMap",
            Self::Secret => "Secret",
        }
    }

    /// What was found under this name; `None` if it is missing and may be.
    pub(super) fn contents<'f>(
        self,
        fetched: &'f Fetched,
        name: &str,
        optional: Option<bool>,
    ) -> Translated<Option<&'f Contents>> {
        let found = match self {
            Self::ConfigMap => fetched.config_maps.get(name),
            Self::Secret => fetched.secrets.get(name),
        };
        match found {
            Some(Found::Here(contents)) => Ok(Some(contents)),
            Some(Found::Denied(words)) => Err(Problem::Waits(words.clone())),
            Some(Found::Missing) | None if optional == Some(true) => Ok(None),
            Some(Found::Missing) | None => Err(Problem::Waits(self.not_found(name))),
        }
    }
}

/// Where one value comes from, for messages.
struct Source<'s> {
    kind: Kind,
    name: &'s str,
    key: &'s str,
    optional: Option<bool>,
}

pub(super) fn environment(pod: &Subject<'_>, place: &Place<'_>, fetched: &Fetched) -> Translated<Vec<EnvVar>> {
    let mut variables = services(fetched)?;
    for from in place.container.env_from.iter().flatten() {
        let (kind, name, optional) = match (&from.config_map_ref, &from.secret_ref) {
            (Some(source), _) => (Kind::ConfigMap, &source.name, source.optional),
            (None, Some(source)) => (Kind::Secret, &source.name, source.optional),
            (None, None) => continue,
        };
        let prefix = from.prefix.as_deref().unwrap_or_default();
        let Some(contents) = kind.contents(fetched, name, optional)? else { continue };
        for (key, object) in &contents.data {
            let value = text(pod, object, &Source { kind, name, key, optional })?;
            variables.push(EnvVar { name: format!("{prefix}{key}"), value: EnvValue::Literal(value) });
        }
    }
    for (at, variable) in place.container.env.iter().flatten().enumerate() {
        let value = match (&variable.value, &variable.value_from) {
            (Some(text), _) if !text.is_empty() => Some(EnvValue::Template(text.clone())),
            (_, Some(source)) => value_from(pod, place, source, fetched, at)?,
            (_, None) => Some(EnvValue::Template(String::new())),
        };
        variables.extend(value.map(|value| EnvVar { name: variable.name.clone(), value }));
    }
    Ok(variables)
}

/// What the container hears of services. First, so that everything else replaces it and `$(VAR)` finds it, as with a kubelet.
fn services(fetched: &Fetched) -> Translated<Vec<EnvVar>> {
    let services = fetched.services.as_ref().map_err(|words| Problem::Waits(words.clone()))?;
    let variables = services.iter().flat_map(Service::variables);
    Ok(variables.map(|(name, value)| EnvVar { name, value: EnvValue::Literal(value) }).collect())
}

/// The value, or nothing if it is missing and may be.
fn value_from(
    pod: &Subject<'_>,
    place: &Place<'_>,
    source: &EnvVarSource,
    fetched: &Fetched,
    at: usize,
) -> Translated<Option<EnvValue>> {
    let path = || format!("{}.env[{at}].valueFrom", place.path);
    if let Some(key) = &source.config_map_key_ref {
        let source = Source { kind: Kind::ConfigMap, name: &key.name, key: &key.key, optional: key.optional };
        return Ok(value_of_key(pod, fetched, &source)?.map(EnvValue::Literal));
    }
    if let Some(SecretKeySelector { name, key, optional }) = &source.secret_key_ref {
        let source = Source { kind: Kind::Secret, name, key, optional: *optional };
        return Ok(value_of_key(pod, fetched, &source)?.map(EnvValue::Literal));
    }
    if let Some(field) = &source.field_ref {
        let value = downward::field(pod, field, downward::Maps::No, &format!("{}.fieldRef", path()))?;
        return Ok(Some(value.into()));
    }
    if let Some(resource) = &source.resource_field_ref {
        let value = downward::resource(pod, resource, Some(place.container), &format!("{}.resourceFieldRef", path()))?;
        return Ok(Some(value.into()));
    }
    if let Some(file) = &source.file_key_ref {
        return Ok(Some(EnvValue::File(FileKey {
            volume: file.volume_name.clone(),
            path: file.path.clone(),
            key: file.key.clone(),
            optional: file.optional == Some(true),
        })));
    }
    Ok(Some(EnvValue::Template(String::new())))
}

fn value_of_key(pod: &Subject<'_>, fetched: &Fetched, source: &Source<'_>) -> Translated<Option<String>> {
    let Some(contents) = source.kind.contents(fetched, source.name, source.optional)? else { return Ok(None) };
    match contents.data.get(source.key) {
        Some(object) => text(pod, object, source).map(Some),
        None if source.optional == Some(true) => Ok(None),
        None => Err(Problem::Waits(format!(
            "couldn't find key {} in {} {}/{}",
            source.key,
            source.kind.word(),
            pod.namespace,
            source.name
        ))),
    }
}

fn text(pod: &Subject<'_>, object: &Object, source: &Source<'_>) -> Translated<String> {
    std::str::from_utf8(&object.bytes).map(str::to_owned).map_err(|_| {
        Problem::Waits(format!(
            "key {} in {} {}/{} is not UTF-8 and cannot be an environment variable; mount it as a file",
            source.key,
            source.kind.word(),
            pod.namespace,
            source.name
        ))
    })
}

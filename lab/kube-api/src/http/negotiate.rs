//! What form of an answer a client asks for. JSON only: protobuf and CBOR are not offered.

use crate::refusal::Refusal;

/// The form of an answer.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(crate) enum Form {
    Object,
    Table,
    /// Only the metadata (`PartialObjectMetadata`).
    Metadata,
    /// Aggregated discovery.
    Discovery,
}

/// Chooses the first form that is both asked for and offered.
pub(crate) fn choose(accept: &str) -> Result<Form, Refusal> {
    if accept.trim().is_empty() {
        return Ok(Form::Object);
    }
    accept.split(',').find_map(offered).ok_or_else(|| {
        let message = "only the following media types are accepted: application/json";
        Refusal::new(406, "NotAcceptable", message)
    })
}

fn offered(wanted: &str) -> Option<Form> {
    let mut parts = wanted.split(';').map(str::trim);
    let media = parts.next()?;
    if !matches!(media, "application/json" | "application/*" | "*/*" | "text/plain") {
        return None;
    }
    let parameter = |name: &str| {
        let parts = wanted.split(';').map(str::trim);
        parts.filter_map(|part| part.split_once('=')).find(|(key, _)| *key == name).map(|(_, value)| value)
    };
    match parameter("as") {
        None => Some(Form::Object),
        Some("Table") if parameter("v").is_none_or(|version| version == "v1") => Some(Form::Table),
        Some("PartialObjectMetadata" | "PartialObjectMetadataList") => Some(Form::Metadata),
        Some("APIGroupDiscoveryList") if parameter("v") == Some("v2") => Some(Form::Discovery),
        Some(_) => None,
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn the_first_offered_form_is_chosen() {
        let table = "application/json;as=Table;v=v1;g=meta.k8s.io,application/json;as=Table;v=v1beta1;g=meta.k8s.io,application/json";
        let discovery = "application/json;g=apidiscovery.k8s.io;v=v2;as=APIGroupDiscoveryList,application/json;g=apidiscovery.k8s.io;v=v2beta1;as=APIGroupDiscoveryList,application/json";
        let metadata = "application/vnd.kubernetes.protobuf;as=PartialObjectMetadata;g=meta.k8s.io;v=v1,application/json;as=PartialObjectMetadata;g=meta.k8s.io;v=v1,application/json";
        for (accept, form) in [
            ("", Some(Form::Object)),
            ("*/*", Some(Form::Object)),
            ("application/vnd.kubernetes.protobuf,application/json", Some(Form::Object)),
            (table, Some(Form::Table)),
            (discovery, Some(Form::Discovery)),
            (metadata, Some(Form::Metadata)),
            ("application/vnd.kubernetes.protobuf", None),
        ] {
            assert_eq!(choose(accept).ok(), form, "{accept}");
        }
    }
}

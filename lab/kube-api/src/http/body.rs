//! Reading request bodies, bounded.

use bytes::Bytes;
use http_body_util::{BodyExt, LengthLimitError, Limited};
use serde_json::Value;

use crate::object;
use crate::protobuf;
use crate::refusal::Refusal;

/// The largest body, as in the real server.
pub(crate) const MAX_BODY: usize = 3 * 1024 * 1024;
/// The deepest nesting of an object.
const MAX_DEPTH: usize = 100;

/// Reads a whole body.
pub(crate) async fn read<B>(body: B) -> Result<Bytes, Refusal>
where
    B: hyper::body::Body<Data = Bytes> + Unpin,
    B::Error: Into<Box<dyn std::error::Error + Send + Sync>>,
{
    match Limited::new(body, MAX_BODY).collect().await {
        Ok(collected) => Ok(collected.to_bytes()),
        Err(error) if error.is::<LengthLimitError>() => {
            let message = format!("Request entity too large: limit is {MAX_BODY}");
            Err(Refusal::new(413, "RequestEntityTooLarge", message))
        }
        Err(error) => Err(Refusal::bad_request(format!("the body of the request could not be read: {error}"))),
    }
}

/// Parses a body by its media type.
pub(crate) fn parse(bytes: &Bytes, media: &str) -> Result<Value, Refusal> {
    let media = media.split(';').next().unwrap_or("").trim();
    if media == "application/vnd.kubernetes.protobuf" {
        return protobuf::read(bytes).map_err(|error| {
            let code = if matches!(error, protobuf::Unreadable::UnknownType(_)) { 415 } else { 400 };
            let reason = if code == 415 { "UnsupportedMediaType" } else { "BadRequest" };
            Refusal::new(code, reason, format!("the body of the request cannot be read: {error}"))
        });
    }
    let yaml = matches!(media, "application/yaml" | "application/apply-patch+yaml");
    let json = matches!(media, "" | "application/json" | "*/*") || media.ends_with("patch+json");
    if !yaml && !json {
        let message = "the body of the request was in an unknown format - accepted media types include: application/json, application/yaml";
        return Err(Refusal::new(415, "UnsupportedMediaType", message));
    }
    // YAML is a superset of JSON; JSON first, because it is exact and almost always what comes.
    let value = match serde_json::from_slice::<Value>(bytes) {
        Ok(value) => value,
        Err(error) if !yaml => {
            return Err(Refusal::bad_request(format!("couldn't get version/kind; json parse error: {error}")));
        }
        Err(_) => {
            let text = std::str::from_utf8(bytes)
                .map_err(|_| Refusal::bad_request("error decoding YAML: the body is not UTF-8"))?;
            serde_saphyr::from_str::<Value>(text)
                .map_err(|error| Refusal::bad_request(format!("error decoding YAML: {error}")))?
        }
    };
    if object::deeper_than(&value, MAX_DEPTH) {
        return Err(Refusal::bad_request(format!("the body is nested deeper than {MAX_DEPTH} levels")));
    }
    Ok(value)
}

#[cfg(test)]
mod tests {
    use serde_json::json;

    use super::*;

    #[test]
    fn bodies_are_read_by_their_media_type() {
        let parse = |text: &str, media: &str| parse(&Bytes::copy_from_slice(text.as_bytes()), media);
        assert_eq!(parse("{\"a\": 1}", "application/json; charset=utf-8"), Ok(json!({"a": 1})));
        assert_eq!(parse("a: 1\nb: [x]\n", "application/yaml"), Ok(json!({"a": 1, "b": ["x"]})));
        assert_eq!(parse("{}", "application/cbor").err().map(|r| r.code), Some(415));
        assert_eq!(parse("{", "application/json").err().map(|r| r.code), Some(400));
        let deep = format!("{}{}", "[".repeat(110), "]".repeat(110));
        assert_eq!(parse(&deep, "application/json").err().map(|r| r.code), Some(400));
        let hostile = "[".repeat(100_000);
        assert_eq!(parse(&hostile, "application/yaml").err().map(|r| r.code), Some(400));
    }

    #[tokio::test]
    async fn a_body_over_the_limit_is_refused() {
        let body = http_body_util::Full::new(Bytes::from(vec![b' '; MAX_BODY + 1]));
        assert_eq!(read(body).await.err().map(|refusal| refusal.code), Some(413));
    }
}

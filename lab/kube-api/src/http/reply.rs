//! Building answers.

use bytes::Bytes;
use http::{HeaderValue, Response, StatusCode, header};
use http_body_util::combinators::UnsyncBoxBody;
use http_body_util::{BodyExt, Empty, Full};
use serde_json::Value;

use crate::operations::Answer;
use crate::refusal::Refusal;

/// The body of every answer. Only what comes from a kubelet can fail.
pub(crate) type Body = UnsyncBoxBody<Bytes, hyper::Error>;

/// No body.
pub(crate) fn empty() -> Body {
    Empty::new().map_err(|never| match never {}).boxed_unsync()
}

fn response(code: u16, media: &'static str, body: Bytes) -> Response<Body> {
    let mut response = Response::new(Full::new(body).map_err(|never| match never {}).boxed_unsync());
    *response.status_mut() = StatusCode::from_u16(code).unwrap_or(StatusCode::INTERNAL_SERVER_ERROR);
    let headers = response.headers_mut();
    headers.insert(header::CONTENT_TYPE, HeaderValue::from_static(media));
    headers.insert(header::CACHE_CONTROL, HeaderValue::from_static("no-cache, private"));
    response
}

/// A JSON answer.
pub(crate) fn json(code: u16, value: &Value) -> Response<Body> {
    json_as(code, value, "application/json")
}

/// A JSON answer under a more exact media type.
pub(crate) fn json_as(code: u16, value: &Value, media: &'static str) -> Response<Body> {
    let mut text = value.to_string();
    text.push('\n');
    response(code, media, text.into())
}

pub(crate) fn text(body: &'static str) -> Response<Body> {
    response(200, "text/plain; charset=utf-8", Bytes::from_static(body.as_bytes()))
}

pub(crate) fn bytes(media: &'static str, body: Vec<u8>) -> Response<Body> {
    response(200, media, body.into())
}

/// An answer that goes on.
pub(crate) fn stream(body: Body) -> Response<Body> {
    let mut response = Response::new(body);
    let headers = response.headers_mut();
    headers.insert(header::CONTENT_TYPE, HeaderValue::from_static("application/json"));
    headers.insert(header::CACHE_CONTROL, HeaderValue::from_static("no-cache, private"));
    response
}

/// A refusal.
pub(crate) fn refusal(refusal: &Refusal) -> Response<Body> {
    let mut response = json(refusal.code, &refusal.to_status());
    if let Some(seconds) = refusal.retry_after {
        response.headers_mut().insert(header::RETRY_AFTER, HeaderValue::from(seconds));
    }
    response
}

/// The answer of an operation, with its warnings as kubectl shows them.
pub(crate) fn answer(answer: &Answer) -> Response<Body> {
    with_warnings(json(answer.code, &answer.object), &answer.warnings)
}

/// Adds warnings to an answer.
pub(crate) fn with_warnings(mut response: Response<Body>, warnings: &[String]) -> Response<Body> {
    for warning in warnings.iter().take(16) {
        let quoted = warning.replace('\\', "\\\\").replace('"', "\\\"");
        if let Ok(value) = HeaderValue::from_str(&format!("299 - \"{quoted}\"")) {
            response.headers_mut().append(header::WARNING, value);
        }
    }
    response
}

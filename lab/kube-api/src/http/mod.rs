//! From an HTTP request to an operation and back.

pub(crate) mod body;
pub(crate) mod negotiate;
pub(crate) mod path;
pub(crate) mod query;
pub(crate) mod reply;
mod stream;

use std::sync::Arc;

use bytes::Bytes;
use http::{HeaderMap, Method, Request, Response, header};
use hyper::body::Incoming;
use serde_json::{Value, json};

use self::negotiate::Form;
use self::path::{Route, Target};
use self::query::Params;
use self::reply::Body;
use crate::auth::{self, User};
use crate::faults::{Fault, Struck};
use crate::kubelet::{self, Errand};
use crate::operations::delete::Options;
use crate::operations::{Answer, Ask, create, delete, patch, questions, read, special, update, view, watch};
use crate::refusal::Refusal;
use crate::registry::{Nature, Resource};
use crate::server::Shared;
use crate::{clock, discovery, object, openapi, table};

/// Answers a request of a connection whose client certificate named `certified`.
pub(crate) async fn serve(shared: Arc<Shared>, certified: Option<User>, request: Request<Incoming>) -> Response<Body> {
    let before = shared.store.version();
    let response = match handle(&shared, certified, request).await {
        Ok(response) => response,
        Err(refusal) => reply::refusal(&refusal),
    };
    // A change is answered only when it will survive a crash.
    if shared.store.version() != before {
        shared.durable().await;
    }
    response
}

fn text_of(headers: &HeaderMap, name: header::HeaderName) -> &str {
    headers.get(name).and_then(|value| value.to_str().ok()).unwrap_or("")
}

fn authenticate(shared: &Shared, certified: Option<User>, headers: &HeaderMap) -> Result<User, Refusal> {
    let authorization = text_of(headers, header::AUTHORIZATION);
    let user = match authorization.split_once(' ') {
        Some((scheme, token)) if scheme.eq_ignore_ascii_case("bearer") => {
            let now = clock::now().as_second();
            questions::bearer(&shared.store, &shared.authority, token.trim(), now)
        }
        _ => certified,
    };
    user.ok_or_else(Refusal::unauthorized)
}

async fn handle(
    shared: &Arc<Shared>,
    certified: Option<User>,
    request: Request<Incoming>,
) -> Result<Response<Body>, Refusal> {
    let (head, incoming) = request.into_parts();
    let user = authenticate(shared, certified, &head.headers)?;
    let route = path::route(head.uri.path()).ok_or_else(Refusal::no_such_path)?;
    let accept = text_of(&head.headers, header::ACCEPT).to_owned();
    let target = match route {
        Route::Object(target) => target,
        other if head.method == Method::GET => return fixed(shared, &other, &accept),
        _ => return Err(Refusal::method_not_allowed()),
    };
    if let Some(errand) = Errand::of(&target) {
        let fault = strike(shared, &head.method, &target, false).await?;
        let result = kubelet::serve(shared, errand, &target, Request::from_parts(head, incoming)).await;
        return lost(fault, result);
    }
    let params = query::parse(head.uri.query().unwrap_or(""))?;
    let form = negotiate::choose(&accept)?;
    let content_type = text_of(&head.headers, header::CONTENT_TYPE).to_owned();
    let agent = text_of(&head.headers, header::USER_AGENT).to_owned();

    let fault = strike(shared, &head.method, &target, params.watch).await?;
    let ask = locate(shared, target, params, user, agent)?;
    let result = match head.method {
        Method::GET => get(shared, ask, form),
        Method::HEAD => Err(Refusal::method_not_allowed()),
        method => {
            let bytes = body::read(incoming).await?;
            write(shared, &method, &ask, form, &content_type, &bytes)
        }
    };
    lost(fault, result)
}

/// Lets the fault that is ordered for a request strike before it is carried out.
async fn strike(shared: &Shared, method: &Method, target: &Target, watch: bool) -> Result<Option<Fault>, Refusal> {
    let part = target.subresource.as_ref().map(|part| format!("/{part}")).unwrap_or_default();
    let struck = Struck {
        method: method.as_str(),
        resource: &format!("{}{part}", target.plural),
        name: target.name.as_deref().unwrap_or(""),
        watch,
    };
    let fault = shared.faults.strike(&struck);
    match &fault {
        Some(Fault::Refuse { status, retry_after }) => return Err(ordered(*status, *retry_after)),
        Some(Fault::Delay(time)) => tokio::time::sleep(*time).await,
        Some(Fault::LoseAnswer { .. }) | None => {}
    }
    Ok(fault)
}

/// Loses the answer of a request that was carried out, if that is ordered.
fn lost<T>(fault: Option<Fault>, result: Result<T, Refusal>) -> Result<T, Refusal> {
    match fault {
        Some(Fault::LoseAnswer { status }) => Err(ordered(status, None)),
        _ => result,
    }
}

/// A refusal that a test ordered, in the words the real server would use.
fn ordered(status: u16, retry_after: Option<u32>) -> Refusal {
    let reason = match status {
        401 => "Unauthorized",
        403 => "Forbidden",
        404 => "NotFound",
        409 => "Conflict",
        410 => "Expired",
        429 => "TooManyRequests",
        503 => "ServiceUnavailable",
        504 => "Timeout",
        _ => "InternalError",
    };
    let mut refusal = Refusal::new(status, reason, format!("the lab was told to answer {status}"));
    refusal.retry_after = retry_after;
    refusal
}

/// What does not depend on objects.
fn fixed(shared: &Shared, route: &Route, accept: &str) -> Result<Response<Body>, Refusal> {
    if *route == Route::OpenApi2 {
        // kubectl takes v2 only as protobuf.
        return Ok(if accept.contains("protobuf") {
            reply::bytes("application/com.github.proto-openapi.spec.v2@v1.0+protobuf", openapi::v2_protobuf())
        } else {
            reply::json(200, &openapi::v2())
        });
    }
    let form = negotiate::choose(accept)?;
    let registry = shared.store.registry();
    let found = |value: Option<Value>| value.ok_or_else(Refusal::no_such_path);
    let value = match route {
        Route::CoreVersions | Route::Groups if form == Form::Discovery => {
            let value = discovery::aggregated(&registry, *route == Route::CoreVersions);
            let media = "application/json;g=apidiscovery.k8s.io;v=v2;as=APIGroupDiscoveryList";
            return Ok(reply::json_as(200, &value, media));
        }
        Route::CoreVersions => discovery::core_versions(&shared.address.to_string()),
        Route::Groups => discovery::groups(&registry),
        Route::Group(group) => found(discovery::group(&registry, group))?,
        Route::Resources { group, version } => found(discovery::resources(&registry, group, version))?,
        Route::Version => discovery::version(),
        Route::Health => return Ok(reply::text("ok")),
        Route::OpenApi3Index => {
            let stamp =
                format!("{:08x}", crc32fast::hash(discovery::aggregated(&registry, false).to_string().as_bytes()));
            openapi::v3_index(&registry, &stamp)
        }
        Route::OpenApi3 { group, version } => found(openapi::v3(&registry, group, version))?,
        Route::Root => {
            json!({"paths": ["/api", "/apis", "/healthz", "/livez", "/openapi/v2", "/openapi/v3", "/readyz", "/version"]})
        }
        Route::OpenApi2 | Route::Object(_) => return Err(Refusal::no_such_path()),
    };
    Ok(reply::json(200, &value))
}

/// Finds what a request is about, and whether it makes sense there.
fn locate(shared: &Shared, target: Target, params: Params, user: User, agent: String) -> Result<Ask, Refusal> {
    let registry = shared.store.registry();
    let resource = registry.find(&target.group, &target.version, &target.plural).ok_or_else(Refusal::no_such_path)?;
    if let Some(subresource) = &target.subresource
        && !resource.has_subresource(subresource)
    {
        return Err(Refusal::no_such_path());
    }
    let needs_namespace = resource.namespaced && target.name.is_some();
    if target.namespace.is_some() != resource.namespaced && (target.namespace.is_some() || needs_namespace) {
        return Err(Refusal::no_such_path());
    }
    Ok(Ask {
        resource,
        namespace: target.namespace,
        name: target.name.unwrap_or_default(),
        subresource: target.subresource.unwrap_or_default(),
        params,
        user,
        agent,
        now: clock::now(),
    })
}

fn get(shared: &Arc<Shared>, ask: Ask, form: Form) -> Result<Response<Body>, Refusal> {
    if ask.resource.nature == Nature::Question {
        return Err(Refusal::method_not_allowed());
    }
    match ask.subresource.as_str() {
        "binding" | "eviction" | "token" | "finalize" => return Err(Refusal::method_not_allowed()),
        _ => {}
    }
    if ask.params.watch {
        let watch = match watch::begin(&shared.store, &ask, form) {
            Ok(watch) => watch,
            // The real server begins such a watch and then says so in it; clients look for it there.
            Err(refusal) if refusal.code == 410 => {
                return Ok(reply::json(200, &json!({"type": "ERROR", "object": refusal.to_status()})));
            }
            Err(refusal) => return Err(refusal),
        };
        return Ok(reply::stream(stream::body(shared.clone(), watch, ask.params.timeout_seconds)));
    }
    if ask.name.is_empty() {
        return list(shared, &ask, form);
    }
    let found = read::get(&shared.store, &ask)?;
    if let (Some(paths), "scale") = (&ask.resource.scale, ask.subresource.as_str()) {
        return Ok(reply::json(200, &update::scale_of(&found, paths)));
    }
    let shown = view::outward(&found, &ask.resource);
    Ok(reply::json(
        200,
        &match form {
            Form::Table => {
                let metadata = json!({"resourceVersion": object::resource_version(&found)});
                table::of(&[&*shown], &ask.resource, &ask.params.include_object, metadata)
            }
            Form::Metadata => view::metadata_only(&shown),
            Form::Object | Form::Discovery => shown.into_owned(),
        },
    ))
}

fn list(shared: &Shared, ask: &Ask, form: Form) -> Result<Response<Body>, Refusal> {
    let listed = read::list(&shared.store, ask)?;
    Ok(reply::json(200, &render(&listed.items, listed.metadata(), &ask.resource, &ask.params.include_object, form)))
}

fn render(items: &[crate::store::Object], metadata: Value, resource: &Resource, include: &str, form: Form) -> Value {
    let shown: Vec<_> = items.iter().map(|item| view::outward(item, resource)).collect();
    match form {
        Form::Table => {
            let objects: Vec<&Value> = shown.iter().map(AsRef::as_ref).collect();
            table::of(&objects, resource, include, metadata)
        }
        Form::Metadata => json!({
            "kind": "PartialObjectMetadataList", "apiVersion": "meta.k8s.io/v1", "metadata": metadata,
            "items": shown.iter().map(|item| view::metadata_only(item)).collect::<Vec<_>>(),
        }),
        Form::Object | Form::Discovery => json!({
            "kind": resource.list_kind, "apiVersion": resource.api_version(), "metadata": metadata,
            "items": shown.into_iter().map(std::borrow::Cow::into_owned).collect::<Vec<_>>(),
        }),
    }
}

/// Gives a written object back in the form that was asked for.
fn shaped(answer: Answer, ask: &Ask, form: Form) -> Response<Body> {
    let is_object = answer.object.get("kind").and_then(Value::as_str) == Some(ask.resource.kind.as_str());
    let object = match form {
        Form::Table if is_object => table::of(&[&answer.object], &ask.resource, &ask.params.include_object, json!({})),
        Form::Metadata if is_object => view::metadata_only(&answer.object),
        _ => answer.object,
    };
    reply::answer(&Answer { object, ..answer })
}

fn write(
    shared: &Shared,
    method: &Method,
    ask: &Ask,
    form: Form,
    content_type: &str,
    bytes: &Bytes,
) -> Result<Response<Body>, Refusal> {
    let store = &shared.store;
    let ca = shared.authority.ca_pem();
    let answer = match (method.as_str(), ask.name.is_empty()) {
        ("POST", true) if ask.resource.nature == Nature::Question => {
            questions::answer(store, &shared.authority, ask, body::parse(bytes, content_type)?)?
        }
        _ if ask.resource.nature == Nature::Question => return Err(Refusal::method_not_allowed()),
        ("POST", true) => {
            if ask.resource.namespaced && ask.namespace.is_none() {
                return Err(Refusal::bad_request("an empty namespace may not be set during creation"));
            }
            create::create(store, ask, body::parse(bytes, content_type)?, ca)?
        }
        ("POST", false) => match ask.subresource.as_str() {
            "binding" => special::bind(store, ask, &body::parse(bytes, content_type)?)?,
            "eviction" => special::evict(store, ask, &body::parse(bytes, content_type)?, ca)?,
            "token" => special::token(store, &shared.authority, ask, body::parse(bytes, content_type)?)?,
            _ => return Err(Refusal::method_not_allowed()),
        },
        ("PUT", false) => match ask.subresource.as_str() {
            "finalize" => special::finalize(store, ask, body::parse(bytes, content_type)?, ca)?,
            "binding" | "eviction" | "token" => return Err(Refusal::method_not_allowed()),
            _ => update::update(store, ask, body::parse(bytes, content_type)?, ca)?,
        },
        ("PATCH", false) => {
            let kind = patch::Kind::of(content_type, ask.resource.custom)?;
            patch::patch(store, ask, kind, &body::parse(bytes, content_type)?, ca)?
        }
        ("DELETE", unnamed) if ask.subresource.is_empty() => {
            let options = if bytes.is_empty() { None } else { Some(body::parse(bytes, content_type)?) };
            let options = Options::read(ask, options.as_ref())?;
            if unnamed {
                let gone = delete::delete_collection(store, ask, &options, ca)?;
                let metadata = json!({"resourceVersion": store.version().to_string()});
                return Ok(reply::json(200, &render(&gone, metadata, &ask.resource, &ask.params.include_object, form)));
            }
            delete::delete(store, ask, &options, ca)?
        }
        _ => return Err(Refusal::method_not_allowed()),
    };
    Ok(shaped(answer, ask, form))
}

/// Reads the user that a connection's client certificate names.
pub(crate) fn certified(certificates: Option<&[rustls::pki_types::CertificateDer<'_>]>) -> Option<User> {
    auth::user_of_certificate(certificates?.first()?)
}

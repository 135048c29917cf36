//! Metrics and health over HTTP, for those who watch the bridge.

use std::net::SocketAddr;
use std::sync::{Arc, Mutex, PoisonError};

use axum::Router;
use axum::extract::State;
use axum::http::{StatusCode, header};
use axum::response::{IntoResponse, Response};
use axum::routing::get;
use prometheus_client::registry::Registry;
use tokio::net::TcpListener;
use tokio_util::sync::CancellationToken;

use super::StartError;
use crate::metrics::Metrics;

#[derive(Clone)]
struct Shown {
    registry: Arc<Mutex<Registry>>,
    metrics: Metrics,
}

pub(super) async fn listen(address: SocketAddr) -> Result<TcpListener, StartError> {
    TcpListener::bind(address).await.map_err(|source| StartError::Http { address, source })
}

pub(super) async fn serve(
    listener: TcpListener,
    registry: Arc<Mutex<Registry>>,
    metrics: Metrics,
    stop: CancellationToken,
) -> std::io::Result<()> {
    let routes = Router::new()
        .route("/metrics", get(scrape))
        // The process answers: that is all that a restart could improve.
        .route("/healthz", get(|| async { "ok\n" }))
        .route("/readyz", get(ready))
        .with_state(Shown { registry, metrics });
    // Scrapes are short; one that hangs is not worth waiting for.
    let serving = axum::serve(listener, routes).into_future();
    tokio::select! {
        // Cancel-safe: a token only ever goes one way.
        () = stop.cancelled() => Ok(()),
        // Cancelled only to end.
        served = serving => served,
    }
}

async fn scrape(State(shown): State<Shown>) -> Response {
    let mut text = String::new();
    let registry = shown.registry.lock().unwrap_or_else(PoisonError::into_inner);
    match prometheus_client::encoding::text::encode(&mut text, &registry) {
        Ok(()) => ([(header::CONTENT_TYPE, "application/openmetrics-text; version=1.0.0; charset=utf-8")], text)
            .into_response(),
        Err(_) => StatusCode::INTERNAL_SERVER_ERROR.into_response(),
    }
}

/// Ready to carry messages: devices and pods have their own conditions.
async fn ready(State(shown): State<Shown>) -> Response {
    match shown.metrics.readiness() {
        Ok(()) => "ok\n".into_response(),
        Err(why) => (StatusCode::SERVICE_UNAVAILABLE, format!("{why}\n")).into_response(),
    }
}

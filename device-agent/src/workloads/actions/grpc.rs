//! Questions to gRPC health services.

use std::time::Duration;

use hawser_wire::deployment::GrpcHealth;
use hyper::http::uri::PathAndQuery;
use tonic::client::Grpc;
use tonic::transport::Endpoint;
use tonic::{Code, Request};
use tonic_prost::ProstCodec;

use super::{PROBE_AGENT, ProbeAnswer, address};

/// `grpc.health.v1.HealthCheckRequest`.
#[derive(Clone, PartialEq, prost::Message)]
struct HealthCheckRequest {
    #[prost(string, tag = "1")]
    service: String,
}

/// `grpc.health.v1.HealthCheckResponse`.
#[derive(Clone, Copy, PartialEq, prost::Message)]
struct HealthCheckResponse {
    #[prost(enumeration = "ServingStatus", tag = "1")]
    status: i32,
}

#[derive(Debug, Clone, Copy, PartialEq, Eq, prost::Enumeration)]
#[repr(i32)]
enum ServingStatus {
    Unknown = 0,
    Serving = 1,
    NotServing = 2,
    ServiceUnknown = 3,
}

/// An answer has a few bytes.
const MAX_ANSWER: usize = 4 * 1024;

pub(super) async fn probe(health: &GrpcHealth, host: &str, limit: Duration) -> ProbeAnswer {
    let address = address(host, health.port);
    let within = format!("within {}s", limit.as_secs());
    let work = async {
        let endpoint = match Endpoint::from_shared(format!("http://{address}")) {
            Ok(endpoint) => endpoint.user_agent(PROBE_AGENT),
            Err(error) => Err(error),
        };
        let endpoint = match endpoint {
            Ok(endpoint) => endpoint,
            Err(error) => return ProbeAnswer::Unclear(format!("{address}: {error}")),
        };
        let channel = match tokio::time::timeout(limit, endpoint.connect()).await {
            Ok(Ok(channel)) => channel,
            Ok(Err(error)) => {
                let why = innermost(&error);
                return ProbeAnswer::Bad(format!("error: failed to connect service at \"{address}\": {why}"));
            }
            Err(_) => {
                return ProbeAnswer::Bad(format!(
                    "timeout: failed to connect service \"{address}\" {within}: context deadline exceeded"
                ));
            }
        };
        check(Grpc::new(channel).max_decoding_message_size(MAX_ANSWER), health).await
    };
    match tokio::time::timeout(limit, work).await {
        Ok(answer) => answer,
        Err(_) => ProbeAnswer::Bad(format!("timeout: health rpc did not complete {within}")),
    }
}

async fn check(mut grpc: Grpc<tonic::transport::Channel>, health: &GrpcHealth) -> ProbeAnswer {
    if let Err(error) = grpc.ready().await {
        return ProbeAnswer::Bad(format!("error: health rpc probe failed: {}", innermost(&error)));
    }
    let path = PathAndQuery::from_static("/grpc.health.v1.Health/Check");
    let request = Request::new(HealthCheckRequest { service: health.service.clone() });
    let codec = ProstCodec::<HealthCheckRequest, HealthCheckResponse>::default();
    match grpc.unary(request, path, codec).await.map(|answer| answer.into_inner().status()) {
        Ok(ServingStatus::Serving) => ProbeAnswer::Good,
        Ok(status) => {
            let word = match status {
                ServingStatus::NotServing => "NOT_SERVING",
                ServingStatus::ServiceUnknown => "SERVICE_UNKNOWN",
                ServingStatus::Unknown | ServingStatus::Serving => "UNKNOWN",
            };
            ProbeAnswer::Bad(format!("service unhealthy (responded with \"{word}\")"))
        }
        Err(status) if status.code() == Code::Unimplemented => ProbeAnswer::Bad(format!(
            "error: this server does not implement the grpc health protocol (grpc.health.v1.Health): {}",
            status.message()
        )),
        Err(status) => ProbeAnswer::Bad(format!(
            "error: health rpc probe failed: rpc error: code = {:?} desc = {}",
            status.code(),
            status.message()
        )),
    }
}

fn innermost(error: &(dyn std::error::Error + 'static)) -> String {
    let mut error = error;
    while let Some(source) = error.source() {
        error = source;
    }
    error.to_string()
}

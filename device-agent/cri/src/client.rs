//! Calls to a container engine.

use std::error::Error;
use std::io;
use std::path::{Path, PathBuf};
use std::time::Duration;

use http::uri::PathAndQuery;
use tonic::client::Grpc;
use tonic::transport::{Channel, Endpoint};
use tonic::{Code, Request, Status};
use tonic_prost::ProstCodec;

use crate::messages::*;

/// How long an engine may take for what needs no work.
const QUICK: Duration = Duration::from_secs(10);
/// How long an engine may take to make, start or remove something, on a slow card.
const WORK: Duration = Duration::from_secs(240);
/// How long a command may take that may take as long as it likes: longer than anybody waits.
const ANY: Duration = Duration::from_secs(7 * 24 * 60 * 60);
/// How long the connection may take.
const CONNECT: Duration = Duration::from_secs(5);
/// No answer may be longer: a thousand containers with all their annotations are some megabytes.
const MAX_ANSWER: usize = 16 * 1024 * 1024;
/// Nothing we say is longer.
const MAX_REQUEST: usize = 4 * 1024 * 1024;

/// A container engine. A clone is another handle to the same connection, which is made when it is needed and made again
/// when it broke.
#[derive(Debug, Clone)]
pub struct Client {
    socket: PathBuf,
    channel: Channel,
}

/// A call that failed.
#[derive(Debug, Clone, thiserror::Error, PartialEq, Eq)]
#[error("{message}")]
pub struct CallError {
    /// What kind of failure it is.
    pub kind: ErrorKind,
    /// The engine's own words, or what is wrong with the connection.
    pub message: String,
}

/// What kind of failure it is.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum ErrorKind {
    /// There is no such thing.
    NotFound,
    /// The engine cannot do this at all.
    Unimplemented,
    /// The engine cannot be reached; whether it has done what was asked is not known.
    Unreachable,
    /// It did not answer in time; whether it has done what was asked is not known.
    TimedOut,
    /// The engine says no.
    Refused,
}

const RUNTIME: &str = "runtime.v1.RuntimeService";
const IMAGES: &str = "runtime.v1.ImageService";

impl Client {
    /// The engine behind this socket. Nothing is sent yet.
    pub fn new(socket: &Path) -> Result<Self, CallError> {
        let uri = format!("unix://{}", socket.display());
        let endpoint = Endpoint::from_shared(uri).map_err(|error| CallError {
            kind: ErrorKind::Unreachable,
            message: format!("{} cannot be the path of a socket: {error}", socket.display()),
        })?;
        let endpoint = endpoint
            .connect_timeout(CONNECT)
            // An engine that hangs is noticed, and its connection made anew.
            .http2_keep_alive_interval(Duration::from_secs(60))
            .keep_alive_timeout(Duration::from_secs(20));
        Ok(Self { socket: socket.to_owned(), channel: endpoint.connect_lazy() })
    }

    /// The socket.
    pub fn socket(&self) -> &Path {
        &self.socket
    }

    /// Which engine it is.
    pub async fn version(&self) -> Result<VersionResponse, CallError> {
        self.call(RUNTIME, "Version", VersionRequest { version: "v1".to_owned() }, QUICK).await
    }

    /// How the engine is.
    pub async fn status(&self, verbose: bool) -> Result<StatusResponse, CallError> {
        self.call(RUNTIME, "Status", StatusRequest { verbose }, QUICK).await
    }

    /// How the engine wants things; engines before 2023 do not know the question.
    pub async fn runtime_config(&self) -> Result<RuntimeConfigResponse, CallError> {
        self.call(RUNTIME, "RuntimeConfig", Empty {}, QUICK).await
    }

    /// Tells the engine which addresses pods are to have: ranges, with commas between them.
    pub async fn update_runtime_config(&self, pod_cidr: String) -> Result<(), CallError> {
        let runtime_config = Some(RuntimeConfig { network_config: Some(NetworkConfig { pod_cidr }) });
        let request = UpdateRuntimeConfigRequest { runtime_config };
        let Empty {} = self.call(RUNTIME, "UpdateRuntimeConfig", request, QUICK).await?;
        Ok(())
    }

    /// Makes and starts a sandbox; its id.
    pub async fn run_pod_sandbox(&self, config: PodSandboxConfig, handler: &str) -> Result<String, CallError> {
        let request = RunPodSandboxRequest { config: Some(config), runtime_handler: handler.to_owned() };
        let answer: PodSandboxId = self.call(RUNTIME, "RunPodSandbox", request, WORK).await?;
        Ok(answer.pod_sandbox_id)
    }

    /// Ends everything in a sandbox and gives its network back. Done is done: an unknown one is no failure.
    pub async fn stop_pod_sandbox(&self, id: &str) -> Result<(), CallError> {
        let request = PodSandboxId { pod_sandbox_id: id.to_owned() };
        missing_is_done(self.call::<_, Empty>(RUNTIME, "StopPodSandbox", request, WORK).await.map(drop))
    }

    /// Removes a sandbox with its containers. An unknown one is no failure.
    pub async fn remove_pod_sandbox(&self, id: &str) -> Result<(), CallError> {
        let request = PodSandboxId { pod_sandbox_id: id.to_owned() };
        missing_is_done(self.call::<_, Empty>(RUNTIME, "RemovePodSandbox", request, WORK).await.map(drop))
    }

    /// How a sandbox is.
    pub async fn pod_sandbox_status(&self, id: &str) -> Result<PodSandboxStatus, CallError> {
        let request = PodSandboxId { pod_sandbox_id: id.to_owned() };
        let answer: PodSandboxStatusResponse = self.call(RUNTIME, "PodSandboxStatus", request, QUICK).await?;
        answer.status.ok_or_else(|| empty("PodSandboxStatus"))
    }

    /// What the engine knows of a sandbox, in words of its own.
    pub async fn pod_sandbox_info(&self, id: &str) -> Result<Labels, CallError> {
        let request = PodSandboxStatusRequest { pod_sandbox_id: id.to_owned(), verbose: true };
        let answer: PodSandboxStatusResponse = self.call(RUNTIME, "PodSandboxStatus", request, QUICK).await?;
        Ok(answer.info)
    }

    /// The sandboxes that have all these labels.
    pub async fn list_pod_sandboxes(&self, labels: Labels) -> Result<Vec<PodSandbox>, CallError> {
        let filter = PodSandboxFilter { label_selector: labels };
        let request = ListPodSandboxRequest { filter: Some(filter) };
        let answer: ListPodSandboxResponse = self.call(RUNTIME, "ListPodSandbox", request, QUICK).await?;
        Ok(answer.items)
    }

    /// Makes a container in a sandbox; its id.
    pub async fn create_container(&self, request: CreateContainerRequest) -> Result<String, CallError> {
        let answer: ContainerId = self.call(RUNTIME, "CreateContainer", request, WORK).await?;
        Ok(answer.container_id)
    }

    /// Starts a container.
    pub async fn start_container(&self, id: &str) -> Result<(), CallError> {
        let request = ContainerId { container_id: id.to_owned() };
        self.call::<_, Empty>(RUNTIME, "StartContainer", request, WORK).await.map(drop)
    }

    /// Asks a container to end and kills it after `timeout` seconds, of which none means at once. Returns when it has
    /// ended, or when `wait` is over: it then goes on, and is not killed.
    pub async fn stop_container(&self, id: &str, timeout: i64, wait: Duration) -> Result<(), CallError> {
        let request = StopContainerRequest { container_id: id.to_owned(), timeout };
        missing_is_done(self.call::<_, Empty>(RUNTIME, "StopContainer", request, wait).await.map(drop))
    }

    /// Gives a container that runs other limits.
    pub async fn update_container_resources(&self, id: &str, limits: LinuxContainerResources) -> Result<(), CallError> {
        let request = UpdateContainerResourcesRequest { container_id: id.to_owned(), linux: Some(limits) };
        self.call::<_, Empty>(RUNTIME, "UpdateContainerResources", request, WORK).await.map(drop)
    }

    /// Removes a container, killing it if need be. An unknown one is no failure.
    pub async fn remove_container(&self, id: &str) -> Result<(), CallError> {
        let request = ContainerId { container_id: id.to_owned() };
        missing_is_done(self.call::<_, Empty>(RUNTIME, "RemoveContainer", request, WORK).await.map(drop))
    }

    /// The containers that have all these labels.
    pub async fn list_containers(&self, labels: Labels) -> Result<Vec<Container>, CallError> {
        let filter = ContainerFilter { label_selector: labels };
        let request = ListContainersRequest { filter: Some(filter) };
        let answer: ListContainersResponse = self.call(RUNTIME, "ListContainers", request, QUICK).await?;
        Ok(answer.containers)
    }

    /// How a container is; `verbose` adds what the engine knows besides, in words of its own.
    pub async fn container_status(&self, id: &str, verbose: bool) -> Result<ContainerStatusResponse, CallError> {
        let request = ContainerStatusRequest { container_id: id.to_owned(), verbose };
        self.call(RUNTIME, "ContainerStatus", request, QUICK).await
    }

    /// Runs a command in a container and waits for its end, which the engine brings about after `limit`.
    pub async fn exec_sync(
        &self,
        id: &str,
        cmd: Vec<String>,
        limit: Option<Duration>,
    ) -> Result<ExecSyncResponse, CallError> {
        let timeout = limit.map_or(0, |limit| i64::try_from(limit.as_secs().max(1)).unwrap_or(0));
        let request = ExecSyncRequest { container_id: id.to_owned(), cmd, timeout };
        // The engine needs a moment to end the command and say so.
        let wait = limit.map_or(ANY, |limit| limit.saturating_add(QUICK));
        self.call(RUNTIME, "ExecSync", request, wait).await
    }

    /// What those that run of the containers with all these labels use.
    pub async fn list_container_stats(&self, labels: Labels) -> Result<Vec<ContainerStats>, CallError> {
        let filter = ContainerStatsFilter { label_selector: labels };
        let request = ListContainerStatsRequest { filter: Some(filter) };
        let answer: ListContainerStatsResponse = self.call(RUNTIME, "ListContainerStats", request, QUICK).await?;
        Ok(answer.stats)
    }

    /// The container's log file was moved away: the engine is to write a new one.
    pub async fn reopen_container_log(&self, id: &str) -> Result<(), CallError> {
        let request = ContainerId { container_id: id.to_owned() };
        self.call::<_, Empty>(RUNTIME, "ReopenContainerLog", request, QUICK).await.map(drop)
    }

    /// Where a command's streams can be had. The command is started by whoever takes them.
    pub async fn exec(&self, request: ExecRequest) -> Result<String, CallError> {
        let answer: StreamingResponse = self.call(RUNTIME, "Exec", request, QUICK).await?;
        Ok(answer.url)
    }

    /// Where the streams of a container's own program can be had.
    pub async fn attach(&self, request: AttachRequest) -> Result<String, CallError> {
        let answer: StreamingResponse = self.call(RUNTIME, "Attach", request, QUICK).await?;
        Ok(answer.url)
    }

    /// The images on the device.
    pub async fn list_images(&self) -> Result<Vec<Image>, CallError> {
        let answer: ListImagesResponse = self.call(IMAGES, "ListImages", Empty {}, QUICK).await?;
        Ok(answer.images)
    }

    /// An image, if it is on the device.
    pub async fn image_status(&self, image: &str) -> Result<Option<Image>, CallError> {
        let request = ImageStatusRequest { image: Some(ImageSpec::named(image)) };
        let answer: ImageStatusResponse = self.call(IMAGES, "ImageStatus", request, QUICK).await?;
        Ok(answer.image)
    }

    /// Removes an image with all its names. An unknown one is no failure.
    pub async fn remove_image(&self, image: &str) -> Result<(), CallError> {
        let request = RemoveImageRequest { image: Some(ImageSpec::named(image)) };
        missing_is_done(self.call::<_, Empty>(IMAGES, "RemoveImage", request, WORK).await.map(drop))
    }

    /// Where images are, and how much they take.
    pub async fn image_fs_info(&self) -> Result<ImageFsInfoResponse, CallError> {
        self.call(IMAGES, "ImageFsInfo", Empty {}, QUICK).await
    }

    /// Fetches an image; its identity. It may take as long as `limit`.
    pub async fn pull_image(&self, request: PullImageRequest, limit: Duration) -> Result<String, CallError> {
        let answer: PullImageResponse = self.call(IMAGES, "PullImage", request, limit).await?;
        Ok(answer.image_ref)
    }

    async fn call<Q, A>(&self, service: &str, method: &str, request: Q, limit: Duration) -> Result<A, CallError>
    where
        Q: prost::Message + 'static,
        A: prost::Message + Default + 'static,
    {
        let mut grpc = Grpc::new(self.channel.clone())
            .max_decoding_message_size(MAX_ANSWER)
            .max_encoding_message_size(MAX_REQUEST);
        let path = PathAndQuery::try_from(format!("/{service}/{method}"))
            .map_err(|error| CallError { kind: ErrorKind::Refused, message: error.to_string() })?;
        let mut request = Request::new(request);
        // The engine hears of the limit too and gives up by itself.
        request.set_timeout(limit);
        let answer = async {
            grpc.ready().await.map_err(|error| self.unreachable(&error))?;
            let answer = grpc.unary(request, path, ProstCodec::<Q, A>::default()).await;
            answer.map(tonic::Response::into_inner).map_err(|status| self.failed(method, &status))
        };
        match tokio::time::timeout(limit, answer).await {
            Ok(answer) => answer,
            Err(_) => Err(CallError {
                kind: ErrorKind::TimedOut,
                message: format!("{method}: no answer from {} within {} s", self.socket.display(), limit.as_secs()),
            }),
        }
    }

    fn failed(&self, method: &str, status: &Status) -> CallError {
        let said = status.message();
        let (kind, message) = match status.code() {
            Code::NotFound => (ErrorKind::NotFound, said.to_owned()),
            Code::Unimplemented if said.starts_with("unknown service") => (
                ErrorKind::Unimplemented,
                format!(
                    "the engine at {} answers, but not as a Kubernetes runtime: enable its CRI plugin (in containerd's \
                     config.toml, take \"cri\" out of disabled_plugins)",
                    self.socket.display()
                ),
            ),
            Code::Unimplemented => (ErrorKind::Unimplemented, format!("the engine does not know {method}: {said}")),
            Code::DeadlineExceeded | Code::Cancelled => (ErrorKind::TimedOut, format!("{method}: {said}")),
            // What the transport says, and what an engine says that is just starting.
            Code::Unavailable | Code::Unknown if status.source().is_some() => return self.unreachable(status),
            Code::Unavailable => (ErrorKind::Unreachable, said.to_owned()),
            // The words of an engine, which often wraps a missing thing in another error.
            _ => (ErrorKind::Refused, said.to_owned()),
        };
        CallError { kind, message }
    }

    /// One line about a connection: the thing, the cause, the fix.
    fn unreachable(&self, error: &(dyn Error + 'static)) -> CallError {
        let socket = self.socket.display();
        let message = match io_kind(error) {
            Some(io::ErrorKind::NotFound) => {
                format!("there is no container engine at {socket}: install and start containerd, or name its socket")
            }
            Some(io::ErrorKind::ConnectionRefused) => {
                format!("nobody listens at {socket}: the container engine is not running; start it")
            }
            Some(io::ErrorKind::PermissionDenied) => {
                format!("no permission to use {socket}: run the agent as root, or as a member of the socket's group")
            }
            Some(_) => format!("the connection to {socket} broke: {}", innermost(error)),
            None => format!("what listens at {socket} is no container engine: {}", innermost(error)),
        };
        CallError { kind: ErrorKind::Unreachable, message }
    }
}

fn missing_is_done(result: Result<(), CallError>) -> Result<(), CallError> {
    match result {
        Err(CallError { kind: ErrorKind::NotFound, .. }) => Ok(()),
        other => other,
    }
}

fn empty(method: &str) -> CallError {
    CallError { kind: ErrorKind::Refused, message: format!("{method}: the engine's answer is empty") }
}

fn chain<'e>(error: &'e (dyn Error + 'static)) -> impl Iterator<Item = &'e (dyn Error + 'static)> {
    std::iter::successors(Some(error), |error: &&'e (dyn Error + 'static)| (*error).source())
}

fn io_kind(error: &(dyn Error + 'static)) -> Option<io::ErrorKind> {
    chain(error).find_map(|error| error.downcast_ref::<io::Error>()).map(io::Error::kind)
}

fn innermost(error: &(dyn Error + 'static)) -> String {
    chain(error).last().map(ToString::to_string).unwrap_or_default()
}

//! `/exec`, `/attach` and `/run`.

use bytes::Bytes;
use http::{Request, StatusCode};
use hyper::body::Incoming;
use hyper_util::rt::TokioIo;
use tokio::io::AsyncReadExt;

use super::answer::{Ask, Refusal, Response, json_bytes};
use super::route;
use super::serve::Session;
use super::session::Start;
use super::upgrade::{Agreed, What};
use super::{spdy, websocket};
use crate::provider::Provider;
use crate::provider::streams::{Channels, Output, StreamError};

/// What `/run` keeps of an output.
const RUN_LIMIT: u64 = 1 << 20;

/// Which streams a query asks for.
fn channels(query: &[(String, String)]) -> Result<Channels, Refusal> {
    let set = |name| route::value(query, name).is_some_and(|value| value == "1" || value == "true");
    let tty = set("tty");
    // A terminal has one output only; a client that asks for more gets it all there, as from a kubelet.
    let channels = Channels { stdin: set("input"), stdout: set("output"), stderr: set("error") && !tty, tty };
    if channels.stdin || channels.stdout || channels.stderr {
        Ok(channels)
    } else {
        Err(Refusal::new(StatusCode::BAD_REQUEST, "you must specify at least 1 of stdin, stdout, stderr"))
    }
}

/// `/exec` with a command, `/attach` without.
pub(crate) fn stream<P: Provider>(
    ask: Ask<P>,
    container: String,
    exec: bool,
    request: Request<Incoming>,
) -> Result<(Response, Session), Refusal> {
    let channels = channels(&ask.query)?;
    let command: Vec<String> =
        ask.query.iter().filter(|(name, _)| name == "command").map(|(_, value)| value.clone()).collect();
    if exec && command.is_empty() {
        return Err(Refusal::new(StatusCode::BAD_REQUEST, "you must specify a command"));
    }
    let (agreed, response) = Agreed::on(What::Process, request.headers())?;
    let patience = ask.patience;
    let start: Start = Box::pin(async move {
        let (provider, node, pod) = (&ask.provider, &ask.node, &ask.pod);
        if exec {
            let starting = provider.exec(node, pod, &container, command, channels);
            ask.limited(starting).await
        } else {
            let mut process = ask.limited(provider.attach(node, pod, &container, channels)).await?;
            let exit = process.exit;
            // What the container ended with is not how attaching went.
            process.exit = Box::pin(async move { exit.await.map(|_| 0) });
            Ok(process)
        }
    });
    let session = async move {
        // A client that hangs up here has asked for nothing.
        let Ok(transport) = hyper::upgrade::on(request).await else { return };
        let transport = TokioIo::new(transport);
        match agreed {
            Agreed::Spdy(protocol) => spdy::process(transport, protocol, channels, start, patience).await,
            Agreed::WebSocket(protocol) => websocket::process(transport, protocol, channels, start, patience).await,
            // Not offered for processes.
            Agreed::Tunnel => {}
        }
    };
    Ok((response, Box::pin(session)))
}

/// `/run`: the whole output of a command in one answer.
pub(crate) async fn run<P: Provider>(ask: Ask<P>, container: String) -> Result<Response, Refusal> {
    let command = route::value(&ask.query, "cmd").unwrap_or_default();
    let words: Vec<String> = command.split(' ').map(str::to_owned).collect();
    let channels = Channels { stdout: true, stderr: true, ..Channels::default() };
    let starting = ask.provider.exec(&ask.node, &ask.pod, &container, words, channels);
    let process = ask.limited(starting).await.map_err(|error| failed(&error))?;
    let whole = async |output: Option<Output>| {
        let mut bytes = Vec::new();
        if let Some(output) = output {
            // What was read before a failure is still an answer.
            let mut output = output.take(RUN_LIMIT);
            let _ = output.read_to_end(&mut bytes).await;
            let _ = tokio::io::copy(&mut output.into_inner(), &mut tokio::io::sink()).await;
        }
        bytes
    };
    let (mut text, errors, exit) = tokio::join!(whole(process.stdout), whole(process.stderr), process.exit);
    text.extend_from_slice(&errors);
    match exit.map_err(|error| failed(&error))? {
        0 => Ok(json_bytes(Bytes::from(text))),
        code => {
            let text = format!("command '{command}' exited with {code}: {}", String::from_utf8_lossy(&text));
            Err(Refusal::new(StatusCode::INTERNAL_SERVER_ERROR, text))
        }
    }
}

fn failed(error: &StreamError) -> Refusal {
    Refusal::new(StatusCode::INTERNAL_SERVER_ERROR, error.to_string())
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn streams_are_asked_for_as_api_servers_do() {
        let read = |query| channels(&route::query(Some(query)));
        let all = Channels { stdin: true, stdout: true, stderr: true, tty: false };
        assert_eq!(read("command=sh&input=1&output=1&error=1"), Ok(all));
        let terminal = Channels { stderr: false, tty: true, ..all };
        assert_eq!(read("input=1&output=1&error=1&tty=1"), Ok(terminal));
        let refusal = read("command=sh&tty=1").unwrap_err();
        assert_eq!(refusal.status, StatusCode::BAD_REQUEST);
        assert_eq!(refusal.text, "you must specify at least 1 of stdin, stdout, stderr");
    }
}

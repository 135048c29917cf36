//! What a client says when there is no engine, or something else in its place.

use std::os::unix::fs::PermissionsExt;
use std::path::Path;

use hawser_cri::{CallError, Client, ErrorKind};
use tokio::io::{AsyncReadExt, AsyncWriteExt};
use tokio::net::UnixListener;

async fn ask(socket: &Path) -> CallError {
    Client::new(socket).unwrap().version().await.unwrap_err()
}

#[tokio::test]
async fn a_missing_engine_is_named_with_what_to_do() {
    let error = ask(Path::new("/nonexistent/engine.sock")).await;
    assert_eq!(error.kind, ErrorKind::Unreachable);
    assert_eq!(
        error.message,
        "there is no container engine at /nonexistent/engine.sock: install and start containerd, or name its socket"
    );
}

#[tokio::test]
async fn a_socket_that_nobody_serves_any_more_is_told_from_a_missing_one() {
    let dir = tempfile::tempdir().unwrap();
    let socket = dir.path().join("dead.sock");
    drop(UnixListener::bind(&socket).unwrap());
    let error = ask(&socket).await;
    assert_eq!(error.kind, ErrorKind::Unreachable);
    assert!(error.message.ends_with("the container engine is not running; start it"), "{error}");
}

#[tokio::test]
async fn a_socket_of_something_else_is_recognised() {
    let dir = tempfile::tempdir().unwrap();
    let socket = dir.path().join("http.sock");
    let listener = UnixListener::bind(&socket).unwrap();
    let server = tokio::spawn(async move {
        loop {
            let (mut stream, _) = listener.accept().await.unwrap();
            let mut some = [0; 64];
            let _ = stream.read(&mut some).await;
            let _ = stream.write_all(b"HTTP/1.1 400 Bad Request\r\nContent-Length: 0\r\n\r\n").await;
        }
    });
    let error = ask(&socket).await;
    server.abort();
    assert_eq!(error.kind, ErrorKind::Unreachable);
    assert!(error.message.contains("is no container engine"), "{error}");
}

#[tokio::test]
async fn a_socket_that_one_may_not_use_says_so() {
    let dir = tempfile::tempdir().unwrap();
    let socket = dir.path().join("closed.sock");
    let _listener = UnixListener::bind(&socket).unwrap();
    std::fs::set_permissions(&socket, std::fs::Permissions::from_mode(0o000)).unwrap();
    // Root may use it all the same, and then nobody answers the handshake.
    if std::os::unix::net::UnixStream::connect(&socket).is_ok() {
        eprintln!("skipped: this user may use every socket");
        return;
    }
    let error = ask(&socket).await;
    assert!(error.message.contains("run the agent as root"), "{error}");
}

//! Starts of the lab that cannot succeed: one line, and nothing is left running.

use std::io::{BufRead, BufReader, Read};
use std::net::TcpListener;
use std::path::Path;
use std::process::Stdio;

use clap::Parser;
use device_agent::state_dir::StateDir;
use hawser_lab::args::Args;
use hawser_lab::lab::Lab;

fn args(folder: &Path, more: &[&str]) -> Args {
    let (kubeconfig, data) = (folder.join("kubeconfig"), folder.join("data"));
    let own =
        ["hawser-lab", "--runtime", "scripted", "--no-demo", "--kubeconfig", kubeconfig.to_str().unwrap(), "--data"];
    Args::parse_from(own.into_iter().chain([data.to_str().unwrap()]).chain(more.iter().copied()))
}

#[tokio::test(flavor = "multi_thread")]
async fn a_board_that_cannot_start_leaves_no_other_running() {
    let folder = tempfile::tempdir().unwrap();
    // Where the second board's folder is to be, there is a file.
    let data = folder.path().join("data");
    std::fs::create_dir(&data).unwrap();
    std::fs::write(data.join("lab-2"), "").unwrap();
    let port = TcpListener::bind("127.0.0.1:0").unwrap().local_addr().unwrap().port();
    let args = args(folder.path(), &["--devices", "3", "--port", &port.to_string()]);
    let Err(error) = Lab::start(&args).await else { panic!("it started") };
    let told = format!("{error:#}");
    assert!(told.starts_with("lab-2: ") && told.contains("data/lab-2") && !told.contains('\n'), "{told}");

    // The first board's agent has let go of its state, and the API of its port.
    drop(StateDir::lock(&data.join("lab-1")).unwrap());
    TcpListener::bind(("127.0.0.1", port)).unwrap();
    assert!(!data.join("lab-3").exists());
    std::fs::remove_file(data.join("lab-2")).unwrap();
    Lab::start(&args).await.unwrap().stop().await;
}

#[test]
fn a_port_in_use_is_named() {
    let taken = TcpListener::bind("127.0.0.1:0").unwrap();
    let address = taken.local_addr().unwrap();
    let folder = tempfile::tempdir().unwrap();
    let mut lab = std::process::Command::new(env!("CARGO_BIN_EXE_hawser-lab"));
    lab.args(["--port", &address.port().to_string(), "--kubeconfig"]).arg(folder.path().join("kubeconfig"));
    let output = lab.output().unwrap();
    let told = String::from_utf8_lossy(&output.stderr);
    assert_eq!((output.status.code(), told.trim().lines().count()), (Some(1), 1), "{told}");
    for word in [&address.to_string(), "--port names another port", "in use"] {
        assert!(told.contains(word), "{word} in {told}");
    }
}

#[test]
fn told_to_stop_while_it_starts_it_stops_all_it_has_started() {
    let folder = tempfile::tempdir().unwrap();
    let mut lab = std::process::Command::new(env!("CARGO_BIN_EXE_hawser-lab"));
    lab.args(["--port", "0", "--kubeconfig"]).arg(folder.path().join("kubeconfig"));
    let mut lab = lab.stdout(Stdio::piped()).spawn().unwrap();
    let mut said = BufReader::new(lab.stdout.take().unwrap());
    let mut first = String::new();
    said.read_line(&mut first).unwrap();
    let told = std::process::Command::new("kill").args(["-TERM", &lab.id().to_string()]).status().unwrap();
    assert!(told.success());
    let mut rest = String::new();
    said.read_to_string(&mut rest).unwrap();
    let status = lab.wait().unwrap();
    assert!(status.success() && rest.contains("Stopped; nothing is left running."), "{status}: {first}{rest}");
}

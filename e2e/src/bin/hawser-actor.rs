//! Both programs in one, so that building the stories builds all they need: which one it is, HAWSER_ACTOR says. The
//! shims of workloads are started from it by their first argument, as from `hawser-agent`. It can also be a workload that
//! listens, since not every machine has one.

use std::ffi::OsString;
use std::io::{Read, Write};
use std::net::{Ipv4Addr, Shutdown, TcpListener, TcpStream};
use std::os::unix::ffi::OsStringExt;
use std::os::unix::process::{CommandExt, parent_id};
use std::process::{Command, ExitCode};

fn main() -> ExitCode {
    let mut arguments = std::env::args_os().skip(1);
    if arguments.next().is_some_and(|first| first == "shim") {
        live_in_the_time_of_the_agent();
        return device_agent::shim::main(arguments);
    }
    match std::env::var("HAWSER_ACTOR").as_deref() {
        Ok("hawser-agent") => device_agent::commands::main(),
        Ok("hawser") => edge_provider::cli::main(),
        Ok("echo") => echo(),
        other => {
            eprintln!("error: HAWSER_ACTOR is {other:?}: set it to `hawser`, `hawser-agent` or `echo`");
            ExitCode::from(2)
        }
    }
}

/// Shims start with an empty environment. One whose agent was given another clock by its environment is on the same device,
/// so it has the same clock: it starts again with that part of the agent's environment. (The agent waits for it meanwhile.)
fn live_in_the_time_of_the_agent() {
    const PRETENDED: [&[u8]; 3] = [b"LD_PRELOAD", b"FAKETIME", b"FAKETIME_DONT_FAKE_MONOTONIC"];
    if std::env::var_os("FAKETIME").is_some() {
        return;
    }
    let agent = std::fs::read(format!("/proc/{}/environ", parent_id())).unwrap_or_default();
    let variables = agent.split(|byte| *byte == 0).filter_map(|variable| {
        let (name, value) = variable.split_at(variable.iter().position(|byte| *byte == b'=')?);
        PRETENDED.contains(&name).then(|| [name, &value[1..]].map(|part| OsString::from_vec(part.to_vec())))
    });
    let variables: Vec<_> = variables.map(|[name, value]| (name, value)).collect();
    if variables.iter().any(|(name, _)| name == "FAKETIME") {
        let mut again = Command::new("/proc/self/exe");
        let error = again.args(std::env::args_os().skip(1)).envs(variables).exec();
        eprintln!("error: the shim cannot start again in the time of its agent: {error}");
    }
}

/// Listens on the ports it is given. Each connection is told the port, and gets back what it sends.
fn echo() -> ExitCode {
    for port in std::env::args().skip(1) {
        let listener = match port.parse().map(|port: u16| TcpListener::bind((Ipv4Addr::LOCALHOST, port))) {
            Ok(Ok(listener)) => listener,
            other => {
                eprintln!("error: port {port}: {other:?}");
                return ExitCode::FAILURE;
            }
        };
        std::thread::spawn(move || {
            for stream in listener.incoming().flatten() {
                let port = port.clone();
                std::thread::spawn(move || answer(stream, &port));
            }
        });
    }
    loop {
        std::thread::park();
    }
}

/// Whoever does not listen to the end does not want to know of errors either.
fn answer(mut stream: TcpStream, port: &str) {
    let _ = writeln!(stream, "port {port}");
    let mut buffer = vec![0; 64 * 1024];
    while let Ok(count @ 1..) = stream.read(&mut buffer) {
        if stream.write_all(&buffer[..count]).is_err() {
            return;
        }
    }
    let _ = stream.shutdown(Shutdown::Write);
}

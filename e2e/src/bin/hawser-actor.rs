//! Both programs in one, so that building the stories builds all they need: which one it is, HAWSER_ACTOR says. The
//! shims of workloads are started from it by their first argument, as from `hawser-agent`. It can also be a workload that
//! listens, since not every machine has one.

use std::io::{Read, Write};
use std::net::{Ipv4Addr, Shutdown, TcpListener, TcpStream};
use std::process::ExitCode;

fn main() -> ExitCode {
    let mut arguments = std::env::args_os().skip(1);
    if arguments.next().is_some_and(|first| first == "shim") {
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

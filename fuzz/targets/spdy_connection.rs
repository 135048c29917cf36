//! A whole connection, with an application that gives back what it hears, and a peer that says anything and hangs up: no
//! panic, and it ends. The application reads all of its streams at any time, as it has to: a connection brings nothing
//! more while a stream is full.
//!
//! The input is frames cut short by length, so that noise gets past the first byte: header blocks are compressed here.
#![no_main]

use bytes::BytesMut;
use hawser_spdy::{Encoder, Headers, Limits, connect, serve};
use libfuzzer_sys::fuzz_target;
use tokio::io::AsyncWriteExt;
use tokio::task::JoinSet;

const LIMITS: Limits =
    Limits { streams: 4, stream_buffer: 256, connection_buffer: 512, headers: 1024, send_buffer: 256 };

fuzz_target!(|input: &[u8]| {
    let Some((&role, script)) = input.split_first() else { return };
    let runtime = tokio::runtime::Builder::new_current_thread().enable_time().start_paused(true).build();
    runtime.expect("a runtime").block_on(talk(role & 1 == 1, said(script)));
});

fn said(mut script: &[u8]) -> BytesMut {
    let (mut encoder, mut out) = (Encoder::default(), BytesMut::new());
    while let Some((&[kind, flags, id, length], rest)) = script.split_first_chunk() {
        let (body, rest) = rest.split_at(usize::from(length).min(rest.len()));
        script = rest;
        let (id, fin) = (u32::from(id), flags & 1 == 1);
        let headers = || Headers::from_iter([("streamtype", String::from_utf8_lossy(body).into_owned())]);
        match kind % 16 {
            0..=4 => encoder.data(&mut out, id, body, fin),
            5..=7 => drop(encoder.syn_stream(&mut out, id, &headers(), fin)),
            8 => drop(encoder.syn_reply(&mut out, id, &headers(), fin)),
            9 => out.extend_from_slice(body),
            kind => {
                out.extend_from_slice(&[0x80, 3, 0, kind - 7, flags, 0, 0, body.len() as u8]);
                out.extend_from_slice(body);
            }
        }
    }
    out
}

async fn talk(client: bool, said: BytesMut) {
    let (here, wire) = tokio::io::duplex(512);
    let (handle, driver) = if client { connect(here, LIMITS) } else { serve(here, LIMITS) };
    let driver = tokio::spawn(driver.run());
    let ours = handle.open(&Headers::default());
    let (mut read, mut write) = tokio::io::split(wire);
    let mut heard = JoinSet::new();
    if let Ok(mut ours) = ours {
        heard.spawn(async move { drop(tokio::io::copy(&mut ours, &mut tokio::io::sink()).await) });
    }
    let application = tokio::spawn(async move {
        while let Ok(incoming) = handle.accept().await {
            let Ok((_, stream)) = incoming.accept(&Headers::default()) else { break };
            let (mut read, mut write) = stream.split();
            heard.spawn(async move { drop(tokio::io::copy(&mut read, &mut write).await) });
        }
        heard.join_all().await;
    });
    let listen = tokio::spawn(async move { tokio::io::copy(&mut read, &mut tokio::io::sink()).await });
    let _ = write.write_all(&said).await;
    let _ = write.shutdown().await;
    let _ = driver.await.expect("no panic");
    application.await.expect("no panic");
    listen.await.expect("no panic").expect("a pipe in memory");
}

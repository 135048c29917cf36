//! How large the programs are that people install.

use std::path::Path;

pub(crate) fn run() {
    let target = Path::new(env!("CARGO_MANIFEST_DIR")).join("../target");
    for (name, path, how) in [
        ("hawser-agent", "board/hawser-agent", "cargo build --profile board -p hawser-device-agent"),
        ("hawser", "release/hawser", "cargo build --release -p hawser-edge-provider"),
    ] {
        match std::fs::metadata(target.join(path)) {
            Ok(file) => println!("{name}: {:.2} MiB", file.len() as f64 / (1024.0 * 1024.0)),
            Err(_) => println!("{name}: not built; `{how}` builds it"),
        }
    }
}

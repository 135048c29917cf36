# What people do here, by name. `just` lists it; every recipe is one or two commands you can also type.

control_plane := justfile_directory() / "target" / "control-plane"

[private]
default:
    @"{{ just_executable() }}" --list --unsorted

# does everything compile?
check:
    cargo check --workspace --all-targets

# run all tests; the stories run on the lab
test *args:
    cargo test --workspace {{ args }}

# formatting and lints, as CI judges them
lint:
    cargo fmt --all --check
    cargo clippy --workspace --all-targets -- -D warnings

# build the documentation; a broken link is an error
docs:
    RUSTDOCFLAGS="-D warnings" cargo doc --workspace --no-deps

# licences, banned crates, sources (advisories need the network: `cargo deny check advisories`)
deny:
    cargo deny --offline check bans licenses sources

# the whole system on this machine, until Ctrl-C
lab *args:
    cargo run --release -p hawser-lab -- {{ args }}

# build a real control plane and start it in the background
cluster:
    e2e/cluster/build
    e2e/cluster/up --detach {{ control_plane }}

# stop the real control plane; keeps its data
cluster-down:
    e2e/cluster/down {{ control_plane }}

# tell the stories on the lab, or on the cluster that KUBECONFIG names, one after another: `just stories cluster`
stories on="lab" *args:
    HAWSER_E2E={{ on }} cargo test -p hawser-e2e --test stories -- {{ if on == "cluster" { "--test-threads=1" } else { "" } }} {{ args }}

# fuzz every decoder of bytes from outside: `just fuzz 600 mux` gives one of them ten minutes
fuzz *args:
    fuzz/run {{ args }}

# Kubernetes' specs for nodes, on a device or (`--node kubelet`) on a kubelet; writes docs/conformance*.md; needs root
conformance *args:
    e2e/conformance/run {{ args }}

# measure and print, as docs/benchmarks.md shows it; as root, with Go and containerd, containers beside a kubelet too
bench:
    cargo run --release -p hawser-e2e --bin bench
    e2e/cluster/bench

# everything that must hold before a change goes in
ci:
    .ci/run

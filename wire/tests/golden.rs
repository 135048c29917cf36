//! The bytes are the contract: every message as it was first sent.
//!
//! `golden.txt` holds a line per sample. A changed line means that agents in the field no longer understand the bridge:
//! add fields and variants at the end instead, with a new sample. `HAWSER_GOLDEN=append cargo test -p hawser-wire --test
//! golden` writes the lines of new samples; it never touches an existing one.

use std::collections::BTreeMap;
use std::fmt::Write as _;
use std::path::Path;

use hawser_wire::codec::Open;
use hawser_wire::deployment::*;
use hawser_wire::desired::*;
use hawser_wire::messages::{Ack, Down, Up};
use hawser_wire::report::*;
use hawser_wire::session_messages::*;
use hawser_wire::stream::*;
use hawser_wire::{BootId, ContentHash, DeviceTime, Digest, PodUid, SessionId, TokenId, Version, decode, encode};
use minicbor::{CborLen, Decode, Encode};

/// The samples, in the order of the file.
#[derive(Default)]
struct Book {
    lines: Vec<(String, String)>,
}

impl Book {
    fn add<T>(&mut self, name: &str, value: T)
    where
        T: Encode<()> + for<'b> Decode<'b, ()> + CborLen<()> + PartialEq + std::fmt::Debug,
    {
        let bytes = encode(&value);
        let back = decode::<T>(&bytes, usize::MAX).expect(name);
        assert_eq!(back.value, value, "{name}");
        let hex = bytes.iter().fold(String::new(), |mut hex, byte| {
            let _ = write!(hex, "{byte:02x}");
            hex
        });
        self.lines.push((name.to_owned(), hex));
    }
}

fn uid() -> PodUid {
    PodUid::new("0d9f3c1e-55aa-4b7c-9e00-1234567890ab").expect("valid")
}

fn hash(byte: u8) -> ContentHash {
    ContentHash([byte; 32])
}

fn object() -> ObjectRef {
    ObjectRef { hash: hash(0xaa), len: 300 }
}

fn terminated() -> Terminated {
    Terminated {
        exit_code: 137,
        signal: Some(9),
        reason: "Error".into(),
        message: Some("bye".into()),
        started: Some(DeviceTime(1000)),
        finished: Some(DeviceTime(2000)),
        container_id: Some("process://x".into()),
    }
}

fn container_report(state: ContainerState) -> ContainerReport {
    ContainerReport {
        name: "main".into(),
        ready: true,
        started: Some(true),
        restart_count: 3,
        image: "host".into(),
        image_id: "host".into(),
        container_id: Some("process://x".into()),
        state,
        last: Some(terminated()),
        given: None,
    }
}

fn workload(phase: Phase, state: ContainerState) -> WorkloadReport {
    WorkloadReport {
        uid: uid(),
        deployment: Some(hash(0xbb)),
        phase,
        reason: Some("R".into()),
        message: Some("m".into()),
        started: Some(DeviceTime(500)),
        sandbox_ready: true,
        pod_ips: vec!["10.0.0.7".into()],
        init_containers: vec![],
        containers: vec![container_report(state)],
        ephemeral_containers: vec![],
        resize: None,
    }
}

fn container(pull_policy: PullPolicy) -> Container {
    let var = |name: &str, value| EnvVar { name: name.into(), value };
    Container {
        name: "main".into(),
        image: "host".into(),
        pull_policy,
        command: vec!["sleep".into()],
        args: vec!["60".into()],
        working_dir: Some("/tmp".into()),
        env: vec![
            var("A", EnvValue::Template("$(B)".into())),
            var("B", EnvValue::Literal("b".into())),
            var("C", EnvValue::Device(DeviceField::PodIp)),
            var("D", EnvValue::Device(DeviceField::PodIps)),
            var("E", EnvValue::Device(DeviceField::HostIp)),
            var("F", EnvValue::Device(DeviceField::HostIps)),
            var("G", EnvValue::Device(DeviceField::Allocatable("cpu".into(), 1))),
        ],
        mounts: vec![Mount {
            volume: "v".into(),
            path: "/etc/v".into(),
            read_only: true,
            sub_path: Some("sub".into()),
            sub_path_expr: true,
            propagation: None,
            read_only_below: None,
        }],
        resources: Resources {
            cpu_request_millis: Some(100),
            cpu_limit_millis: Some(200),
            memory_request_bytes: Some(1 << 20),
            memory_limit_bytes: Some(1 << 21),
            storage_request_bytes: None,
            storage_limit_bytes: None,
        },
        sidecar: true,
        user: User { uid: Some(1000), gid: Some(1001), non_root: true },
        termination_message_path: "/dev/termination-log".into(),
        termination_message_from_logs: true,
        interactive: None,
        confinement: None,
        care: None,
        restart_to_resize: None,
    }
}

fn care(action: Action) -> Care {
    let probe = |grace_seconds| Probe {
        action: action.clone(),
        initial_delay_seconds: 1,
        period_seconds: 10,
        timeout_seconds: 2,
        success_threshold: 3,
        failure_threshold: 4,
        grace_seconds,
    };
    let rule = |not_in, action| RestartRule { codes: vec![42, 43], not_in, action };
    Care {
        liveness: Some(probe(Some(5))),
        readiness: Some(probe(None)),
        startup: Some(probe(Some(300))),
        post_start: Some(action.clone()),
        pre_stop: Some(action.clone()),
        restart: Some(RestartPolicy::OnFailure),
        restart_rules: vec![rule(false, RestartAction::Container), rule(true, RestartAction::Pod)],
    }
}

fn deployment(restart_policy: RestartPolicy, pull_policy: PullPolicy) -> EdgeDeployment {
    let file = |path: &str, content| File { path: path.into(), mode: 0o644, content, owner: None };
    let files = Files {
        secret: true,
        entries: vec![
            file("a", Content::Inline(vec![1, 2])),
            file("b", Content::Blob(object())),
            file("c", Content::Device(DeviceField::HostIp)),
        ],
    };
    let empty = EmptyDir { memory: true, size_limit: Some(1 << 20) };
    EdgeDeployment {
        uid: uid(),
        namespace: "default".into(),
        name: "web".into(),
        restart_policy,
        grace_seconds: 30,
        active_deadline_seconds: Some(600),
        init_containers: vec![container(pull_policy)],
        containers: vec![container(pull_policy)],
        volumes: vec![
            Volume { name: "e".into(), source: VolumeSource::EmptyDir(empty) },
            Volume { name: "f".into(), source: VolumeSource::Files(files) },
        ],
        hostname: Some("web".into()),
        host_network: true,
        fs_group: Some(2000),
        supplemental_groups: vec![3000],
        engine: None,
        priority: None,
        ephemeral_containers: Vec::new(),
        generation: None,
    }
}

fn envelopes(book: &mut Book) {
    let hello = |intent| Hello { oldest: 1, newest: 1, intent, noise: vec![1, 2, 3] };
    book.add("Envelope::Hello/Join", Envelope::Hello(hello(Intent::Join(TokenId([5; 8])))));
    book.add("Envelope::Hello/Resume", Envelope::Hello(hello(Intent::Resume)));
    book.add("Envelope::Welcome", Envelope::Welcome(Welcome { protocol: 1, noise: vec![4, 5] }));
    let sealed = Sealed { session: SessionId([6; 8]), counter: 1 << 33, ciphertext: vec![7; 17] };
    book.add("Envelope::Sealed", Envelope::Sealed(sealed));
    for kind in [
        RefusalKind::UnknownDevice,
        RefusalKind::OtherKey,
        RefusalKind::TokenUsed,
        RefusalKind::TokenExpired,
        RefusalKind::Protocol,
        RefusalKind::Unreadable,
        RefusalKind::Unavailable,
    ] {
        book.add(&format!("Envelope::Refusal/{kind:?}"), Envelope::Refusal(Refusal { kind, message: "m".into() }));
    }
    book.add("Envelope::NoSession", Envelope::NoSession(SessionId([8; 8])));
    let accepted = Some(Version { epoch: 1, revision: 70_000, edit: 2 });
    let payload =
        HelloPayload { agent_version: "0.1.0".into(), accepted, digest: Some(Digest([9; 16])), boot: BootId([1; 8]) };
    book.add("HelloPayload", payload);
    let payload =
        WelcomePayload { protocol: 1, bridge_version: "0.1.0".into(), heartbeat_seconds: 10, bridge_millis: 1 << 41 };
    book.add("WelcomePayload", payload);
}

fn ups(book: &mut Book) {
    let heartbeat = Heartbeat {
        boot: BootId([1; 8]),
        now: DeviceTime(123_456),
        wall_millis: 1_700_000_000_000,
        digest: Some(Digest([2; 16])),
        answers: Some(3),
    };
    book.add("Up::Heartbeat", Up::Heartbeat(heartbeat));
    let wanted = WantedObject { hash: hash(0xcc), offset: 4096, window: 65_536 };
    book.add("Up::Want", Up::Want(Want { objects: vec![wanted] }));
    let mut item = |name: &str, item| {
        let items = vec![Numbered { seq: 41, item: Open::Known(item) }];
        book.add(&format!("Up::Report/{name}"), Up::Report(Report { items }));
    };
    let waiting = || ContainerState::Waiting(Waiting { reason: "ContainerCreating".into(), message: Some("m".into()) });
    for phase in [Phase::Pending, Phase::Running, Phase::Succeeded, Phase::Failed] {
        item(&format!("Workload/{phase:?}"), ReportItem::Workload(workload(phase, waiting())));
    }
    let running = ContainerState::Running(Running { since: DeviceTime(800) });
    let mut looked_at = workload(Phase::Running, waiting());
    looked_at.ephemeral_containers = vec![container_report(running.clone())];
    item("Workload/Ephemeral", ReportItem::Workload(looked_at));
    item("Workload/ContainerRunning", ReportItem::Workload(workload(Phase::Running, running)));
    let ended = ContainerState::Terminated(terminated());
    item("Workload/ContainerTerminated", ReportItem::Workload(workload(Phase::Failed, ended.clone())));
    let mut resized = workload(Phase::Running, waiting());
    let amount = |millis| Resources { cpu_limit_millis: Some(millis), ..Resources::default() };
    resized.containers[0].given = Some(Given { allocated: amount(200), actual: Some(amount(100)) });
    resized.resize = Some(Resize {
        pending: Some(ResizePending { infeasible: true, message: "m".into(), generation: Some(3) }),
        in_progress: Some(ResizeInProgress { generation: Some(2), error: Some("e".into()) }),
        whole: Some(amount(400)),
    });
    item("Workload/Resized", ReportItem::Workload(resized));
    item("Gone", ReportItem::Gone(Gone { uid: uid(), last: Some(workload(Phase::Failed, ended)) }));
    let resource = |name: &str, quantity: &str| Resource { name: name.into(), quantity: quantity.into() };
    item(
        "Facts",
        ReportItem::Facts(NodeFacts {
            capacity: vec![resource("cpu", "4"), resource("memory", "3884520Ki")],
            allocatable: vec![resource("cpu", "4")],
            arch: "arm64".into(),
            os: "linux".into(),
            kernel: "6.12.1".into(),
            os_image: "Debian GNU/Linux 13".into(),
            machine_id: "m".into(),
            system_uuid: "s".into(),
            boot_id: "b".into(),
            agent_version: "0.1.0".into(),
            runtime: "process://0.1.0".into(),
            hostname: "pi".into(),
            addresses: vec!["192.0.2.7".into()],
            images: vec![Image { names: vec!["busybox:1".into()], bytes: 4_000_000 }],
            conditions: vec![Condition {
                kind: "MemoryPressure".into(),
                holds: Some(false),
                reason: "Enough".into(),
                message: "m".into(),
            }],
        }),
    );
    item(
        "Event",
        ReportItem::Event(DeviceEvent {
            pod: Some(uid()),
            container: Some("main".into()),
            at: DeviceTime(900),
            warning: true,
            reason: "BackOff".into(),
            message: "m".into(),
            count: 2,
        }),
    );
}

fn downs(book: &mut Book) {
    let version = Version { epoch: 0, revision: 815, edit: 0 };
    for (name, wish) in
        [("Run", Wish::Run(object())), ("Keep", Wish::Keep), ("Stop", Wish::Stop(30)), ("Retain", Wish::Retain)]
    {
        let index = Index::new(version, vec![IndexEntry { uid: uid(), wish }]).expect("few");
        book.add(&format!("Down::Index/{name}"), Down::Index(index));
    }
    let ranges = ["10.42.7.0/24", "fd00:10::/64"].map(|range| range.parse().expect("a range"));
    let digest = digest_of(&[], &ranges);
    book.add("Down::Index/ranges", Down::Index(Index { version, entries: vec![], digest, pod_ranges: ranges.into() }));
    let chunk = Chunk { hash: hash(0xdd), total: 10, offset: 8, data: vec![1, 2] };
    book.add("Down::Chunk", Down::Chunk(chunk));
    book.add("Down::Ack", Down::Ack(Ack { seqs: vec![1, 300] }));
    book.add("Down::Ping", Down::Ping(7));
}

fn deployments(book: &mut Book) {
    for (policy, pull) in [
        (RestartPolicy::Always, PullPolicy::Always),
        (RestartPolicy::OnFailure, PullPolicy::IfNotPresent),
        (RestartPolicy::Never, PullPolicy::Never),
    ] {
        book.add(&format!("EdgeDeployment/{policy:?}/{pull:?}"), deployment(policy, pull));
    }
    let mut talks = deployment(RestartPolicy::Never, PullPolicy::Never);
    talks.containers[0].interactive = Some(Interactive { stdin: true, once: false, tty: true });
    book.add("EdgeDeployment/Interactive", talks);
    for (name, action) in [
        ("Exec", Action::Exec(vec!["cat".into(), "/tmp/ok".into()])),
        (
            "Http",
            Action::Http(HttpGet {
                https: true,
                host: Some("192.0.2.1".into()),
                port: 8443,
                path: "/healthz?full".into(),
                headers: vec![Header { name: "X-Probe".into(), value: "1".into() }],
            }),
        ),
        ("Tcp", Action::Tcp(TcpSocket { host: None, port: 80 })),
        ("Grpc", Action::Grpc(GrpcHealth { port: 9000, service: "store".into() })),
        ("Sleep", Action::Sleep(5)),
    ] {
        let mut cared_for = deployment(RestartPolicy::Always, PullPolicy::Never);
        cared_for.containers[0].care = Some(care(action));
        book.add(&format!("EdgeDeployment/Care/{name}"), cared_for);
    }
    let mut engine = deployment(RestartPolicy::Always, PullPolicy::Always);
    let login = RegistryLogin { registry: "r.example".into(), username: "u".into(), password: "p".into() };
    let port = |protocol, address| HostPort { host: 8080, pod: 80, protocol, address };
    engine.engine = Some(Engine {
        logins: vec![login],
        host_ports: vec![
            port(Protocol::Tcp, None),
            port(Protocol::Udp, Some("192.0.2.1".into())),
            port(Protocol::Sctp, None),
        ],
        asks: vec![],
    });
    engine.containers[0].confinement = Some(Confinement {
        privileged: true,
        read_only_root: true,
        no_new_privileges: true,
        add_capabilities: vec!["NET_ADMIN".into()],
        drop_capabilities: vec!["ALL".into()],
        seccomp: true,
        asks: vec![],
        all_calls: false,
    });
    book.add("EdgeDeployment/Engine", engine);
    let mut open = deployment(RestartPolicy::Always, PullPolicy::Always);
    open.containers[0].confinement = Some(Confinement { all_calls: true, ..Confinement::default() });
    book.add("EdgeDeployment/AllCalls", open);
    let mut pressed = deployment(RestartPolicy::Always, PullPolicy::Always);
    pressed.priority = Some(-7);
    pressed.containers[0].resources.storage_request_bytes = Some(1 << 20);
    pressed.containers[0].resources.storage_limit_bytes = Some(1 << 21);
    book.add("EdgeDeployment/Pressure", pressed);
    let label = SeLinux { user: "u".into(), role: "r".into(), kind: "t".into(), level: "s0:c1".into() };
    let mut labelled = deployment(RestartPolicy::Always, PullPolicy::Always);
    labelled.containers[0].confinement =
        Some(Confinement { asks: vec![ConfinementAsk::SeLinux(label)], ..Confinement::default() });
    book.add("EdgeDeployment/SeLinux", labelled);
    let mut looked_at = deployment(RestartPolicy::Always, PullPolicy::Always);
    let added = |target: Option<&str>, hindrance| EphemeralContainer {
        container: container(PullPolicy::Always),
        target: target.map(Into::into),
        hindrance,
    };
    let hindrance = Hindrance { reason: "CreateContainerConfigError".into(), message: "m".into() };
    looked_at.ephemeral_containers = vec![added(Some("main"), None), added(None, Some(hindrance))];
    book.add("EdgeDeployment/Ephemeral", looked_at);
    book.add("EdgeDeployment/Asks", asks());
    let mut whole = deployment(RestartPolicy::Always, PullPolicy::Always);
    let limits = Resources { cpu_limit_millis: Some(500), memory_limit_bytes: Some(1 << 26), ..Resources::default() };
    let overhead =
        Resources { cpu_request_millis: Some(250), memory_request_bytes: Some(1 << 25), ..Resources::default() };
    whole.engine = Some(Engine { asks: vec![Ask::Resources(limits), Ask::Overhead(overhead)], ..Engine::default() });
    book.add("EdgeDeployment/Whole", whole);
    let mut apart = deployment(RestartPolicy::Always, PullPolicy::Always);
    apart.engine = Some(Engine { asks: vec![Ask::OwnUsers], ..Engine::default() });
    apart.containers[0].confinement =
        Some(Confinement { asks: vec![ConfinementAsk::UnmaskedProc], ..Confinement::default() });
    book.add("EdgeDeployment/OwnUsers", apart);
    let key = FileKey { volume: "v".into(), path: "out/env".into(), key: "TOKEN".into(), optional: true };
    book.add("EnvValue::File", EnvValue::File(key));
    let mut resized = deployment(RestartPolicy::Always, PullPolicy::Always);
    resized.generation = Some(7);
    resized.containers[0].restart_to_resize = Some(RestartToResize { cpu: false, memory: true });
    book.add("EdgeDeployment/Resized", resized);
    let content = Content::Inline(vec![1, 2]);
    book.add("File/Owner", File { path: "token".into(), mode: 0o600, content, owner: Some(1000) });
    for kind in [
        HostPathKind::Any,
        HostPathKind::Directory,
        HostPathKind::DirectoryOrCreate,
        HostPathKind::File,
        HostPathKind::FileOrCreate,
        HostPathKind::Socket,
        HostPathKind::CharDevice,
        HostPathKind::BlockDevice,
    ] {
        let path = HostPath { path: "/dev/i2c-1".into(), kind, of_group: false, only_if_differs: false, local: false };
        book.add(&format!("VolumeSource::HostPath/{kind:?}"), VolumeSource::HostPath(path));
    }
    for only_if_differs in [false, true] {
        let path = HostPath {
            path: "/mnt/data".into(),
            kind: HostPathKind::Directory,
            of_group: true,
            only_if_differs,
            local: false,
        };
        book.add(&format!("VolumeSource::HostPath/OfGroup/{only_if_differs}"), VolumeSource::HostPath(path));
    }
    for pull_policy in [PullPolicy::Always, PullPolicy::IfNotPresent, PullPolicy::Never] {
        let image = ImageVolume { reference: "r.example/model:1".into(), pull_policy };
        book.add(&format!("VolumeSource::Image/{pull_policy:?}"), VolumeSource::Image(image));
    }
    let local = HostPath {
        path: "/mnt/data".into(),
        kind: HostPathKind::Directory,
        of_group: true,
        only_if_differs: false,
        local: true,
    };
    book.add("VolumeSource::HostPath/Local", VolumeSource::HostPath(local));
    let pages = HugePagesDir { page_bytes: 2 << 20, size_limit: Some(8 << 20) };
    book.add("VolumeSource::HugePages", VolumeSource::HugePages(pages));
    let pages = HugePages { container: Some("main".into()), page_bytes: 2 << 20, bytes: 8 << 20 };
    book.add("Ask::HugePages", Ask::HugePages(pages));
}

/// A pod that asks for all there is.
fn asks() -> EdgeDeployment {
    let mut pod = deployment(RestartPolicy::Always, PullPolicy::Always);
    let dns = |base| {
        Ask::Dns(Dns {
            base,
            servers: vec!["192.0.2.53".into()],
            searches: vec!["example.org".into()],
            options: vec!["ndots:2".into()],
        })
    };
    let asks = vec![
        Ask::HostProcesses,
        Ask::HostIpc,
        Ask::SharedProcesses,
        Ask::Sysctl { name: "kernel.shm_rmid_forced".into(), value: "1".into() },
        Ask::Handler("crun".into()),
        Ask::HostAlias { address: "192.0.2.7".into(), names: vec!["a".into(), "b".into()] },
        dns(DnsBase::Device),
        dns(DnsBase::Cluster),
        dns(DnsBase::Nothing),
        Ask::Subdomain("sub".into()),
        Ask::HostnameIsWhole,
        Ask::StrictGroups,
    ];
    pod.engine = Some(Engine { asks, ..Engine::default() });
    pod.containers[0].confinement = Some(Confinement {
        asks: vec![
            ConfinementAsk::SeccompFile("profiles/audit.json".into()),
            ConfinementAsk::AppArmor(AppArmor::Engine),
            ConfinementAsk::AppArmor(AppArmor::None),
            ConfinementAsk::AppArmor(AppArmor::Loaded("strict".into())),
        ],
        ..Confinement::default()
    });
    let mount = |propagation, read_only_below| Mount {
        volume: "v".into(),
        path: "/v".into(),
        read_only: true,
        sub_path: None,
        sub_path_expr: false,
        propagation,
        read_only_below,
    };
    pod.containers[0].mounts = vec![
        mount(Some(Propagation::FromDevice), None),
        mount(Some(Propagation::BothWays), None),
        mount(None, Some(ReadOnlyBelow::IfPossible)),
        mount(None, Some(ReadOnlyBelow::Always)),
    ];
    pod
}

fn streams(book: &mut Book) {
    let channels = Channels { stdin: true, stdout: true, stderr: false, tty: true };
    let logs = LogsRequest {
        pod: uid(),
        container: "main".into(),
        follow: true,
        previous: false,
        timestamps: true,
        tail: Some(10),
        since: Some(DeviceTime(5)),
        limit_bytes: Some(1000),
        from: None,
        newest: None,
    };
    let position = || LogPosition { position: vec![1, 2, 3] };
    let logs_from = LogsRequest { from: Some(position()), tail: None, since: None, ..logs.clone() };
    let logs_newest = LogsRequest { newest: Some(4096), ..logs_from.clone() };
    let exec = ExecRequest { pod: uid(), container: "main".into(), command: vec!["sh".into()], channels };
    let attach = AttachRequest { pod: uid(), container: "main".into(), channels };
    for (name, body) in [
        ("Open/Logs", StreamBody::Open(StreamRequest::Logs(logs))),
        ("Open/Exec", StreamBody::Open(StreamRequest::Exec(exec))),
        ("Open/Attach", StreamBody::Open(StreamRequest::Attach(attach))),
        ("Open/PortForward", StreamBody::Open(StreamRequest::PortForward(uid(), 8080))),
        ("Accept", StreamBody::Accept),
        ("Refuse", StreamBody::Refuse(StreamRefusal { status: 404, message: "m".into() })),
        ("Data", StreamBody::Data(StreamData { channel: 1, offset: 70_000, data: vec![1, 2, 3] })),
        ("Credit", StreamBody::Credit(1, 65_536)),
        ("HalfClose", StreamBody::HalfClose(0)),
        ("Resize", StreamBody::Resize(80, 24)),
        ("Exit", StreamBody::Exit(-1)),
        ("Abort", StreamBody::Abort("m".into())),
        ("Open/LogsFrom", StreamBody::Open(StreamRequest::Logs(logs_from))),
        ("Open/LogsNewest", StreamBody::Open(StreamRequest::Logs(logs_newest))),
        ("Open/Stats", StreamBody::Open(StreamRequest::Stats)),
        ("Mark", StreamBody::Mark(LogMark { bytes: 70_000, position: position() })),
    ] {
        let frame = StreamFrame { id: 9, body, number: None };
        book.add(&format!("Up::Stream/{name}"), Up::Stream(frame.clone()));
        book.add(&format!("Down::Stream/{name}"), Down::Stream(frame));
    }
    for (name, id, number, body) in [
        ("Numbered", 9, Some(70_000), StreamBody::HalfClose(1)),
        ("Alive", 0, Some(3), StreamBody::Alive),
        ("Received", 0, None, StreamBody::Received(500)),
        ("Broken", 0, Some(4), StreamBody::Broken("m".into())),
    ] {
        let frame = StreamFrame { id, body, number };
        book.add(&format!("Up::Stream/{name}"), Up::Stream(frame.clone()));
        book.add(&format!("Down::Stream/{name}"), Down::Stream(frame));
    }
    let usage = Usage {
        cpu_nanoseconds: Some(5_000_000_000),
        memory_working_set_bytes: Some(3_000_000),
        memory_rss_bytes: Some(2_000_000),
        at: None,
        processes: None,
    };
    let measured_apart = Usage { memory_rss_bytes: None, at: Some(DeviceTime(123)), ..usage };
    let container = ContainerStats { name: "main".into(), started: Some(DeviceTime(7)), usage: measured_apart };
    let pod = PodStats { pod: uid(), started: Some(DeviceTime(6)), containers: vec![container] };
    let with_processes = Usage { processes: Some(44), ..usage };
    let node = Stats { at: DeviceTime(124), node: with_processes, started: None, pods: vec![], disk: None };
    book.add("Stats/Processes", node);
    let stats = Stats { at: DeviceTime(124), node: usage, started: Some(DeviceTime(1)), pods: vec![pod], disk: None };
    book.add("Stats", stats.clone());
    let space = |bytes| Space { bytes, inodes: 3 };
    let file_system = FileSystem {
        capacity_bytes: 8_000_000_000,
        available_bytes: 5_000_000_000,
        inodes: 500_000,
        inodes_free: 400_000,
        used: space(2_000_000_000),
    };
    let of_pod = PodSpace {
        pod: uid(),
        ephemeral: space(5000),
        volumes: vec![VolumeSpace { name: "v".into(), used: space(1), memory: true }],
        containers: vec![ContainerSpace { name: "main".into(), written: space(2), logs: space(3) }],
    };
    let disk = DiskStats { at: DeviceTime(99), node: file_system, images: Some(file_system), pods: vec![of_pod] };
    book.add("Stats/Disk", Stats { disk: Some(disk), ..stats });
}

/// A new variant does not compile here until somebody has looked for its sample above.
#[expect(dead_code, clippy::too_many_arguments, reason = "it is there to be compiled")]
fn every_variant_has_a_sample(
    envelope: &Envelope,
    intent: Intent,
    up: &Up,
    down: &Down,
    item: &ReportItem,
    state: &ContainerState,
    wish: Wish,
    (env, field, volume, content): (&EnvValue, &DeviceField, &VolumeSource, &Content),
    (ask, confinement): (&Ask, &ConfinementAsk),
    (body, request): (&StreamBody, &StreamRequest),
) {
    match envelope {
        Envelope::Hello(_) | Envelope::Welcome(_) | Envelope::Sealed(_) => {}
        Envelope::Refusal(refusal) => match refusal.kind {
            RefusalKind::UnknownDevice | RefusalKind::OtherKey | RefusalKind::TokenUsed => {}
            RefusalKind::TokenExpired | RefusalKind::Protocol | RefusalKind::Unreadable => {}
            RefusalKind::Unavailable => {}
        },
        Envelope::NoSession(_) => {}
    }
    match intent {
        Intent::Join(_) | Intent::Resume => {}
    }
    match up {
        Up::Heartbeat(_) | Up::Want(_) | Up::Report(_) | Up::Stream(_) => {}
    }
    match down {
        Down::Index(_) | Down::Chunk(_) | Down::Ack(_) | Down::Ping(_) | Down::Stream(_) => {}
    }
    match item {
        ReportItem::Workload(_) | ReportItem::Gone(_) | ReportItem::Facts(_) | ReportItem::Event(_) => {}
    }
    match state {
        ContainerState::Waiting(_) | ContainerState::Running(_) | ContainerState::Terminated(_) => {}
    }
    match wish {
        Wish::Run(_) | Wish::Keep | Wish::Stop(_) | Wish::Retain => {}
    }
    match env {
        EnvValue::Template(_) | EnvValue::Literal(_) | EnvValue::Device(_) | EnvValue::File(_) => {}
    }
    match field {
        DeviceField::PodIp | DeviceField::PodIps | DeviceField::HostIp | DeviceField::HostIps => {}
        DeviceField::Allocatable(..) => {}
    }
    match volume {
        VolumeSource::EmptyDir(_) | VolumeSource::Files(_) | VolumeSource::HostPath(_) | VolumeSource::Image(_) => {}
        VolumeSource::HugePages(_) => {}
    }
    match ask {
        Ask::HostProcesses | Ask::HostIpc | Ask::SharedProcesses | Ask::Sysctl { .. } | Ask::Handler(_) => {}
        Ask::HostAlias { .. }
        | Ask::Dns(_)
        | Ask::Subdomain(_)
        | Ask::HostnameIsWhole
        | Ask::StrictGroups
        | Ask::Resources(_)
        | Ask::Overhead(_)
        | Ask::HugePages(_)
        | Ask::OwnUsers => {}
    }
    match confinement {
        ConfinementAsk::SeccompFile(_) | ConfinementAsk::SeLinux(_) | ConfinementAsk::UnmaskedProc => {}
        ConfinementAsk::AppArmor(AppArmor::Engine | AppArmor::None | AppArmor::Loaded(_)) => {}
    }
    match content {
        Content::Inline(_) | Content::Blob(_) | Content::Device(_) => {}
    }
    match body {
        StreamBody::Open(_) | StreamBody::Accept | StreamBody::Refuse(_) | StreamBody::Data(_) => {}
        StreamBody::Credit(..) | StreamBody::HalfClose(_) | StreamBody::Resize(..) => {}
        StreamBody::Exit(_) | StreamBody::Abort(_) | StreamBody::Mark(_) => {}
        StreamBody::Alive | StreamBody::Received(_) | StreamBody::Broken(_) => {}
    }
    match request {
        StreamRequest::Logs(_) | StreamRequest::Exec(_) | StreamRequest::Attach(_) => {}
        StreamRequest::PortForward(..) | StreamRequest::Stats => {}
    }
}

#[test]
fn the_bytes_are_the_ones_that_were_first_sent() {
    let mut book = Book::default();
    envelopes(&mut book);
    ups(&mut book);
    downs(&mut book);
    deployments(&mut book);
    streams(&mut book);

    let path = Path::new(env!("CARGO_MANIFEST_DIR")).join("tests/golden.txt");
    let text = std::fs::read_to_string(&path).unwrap_or_default();
    let pinned: BTreeMap<&str, &str> = text.lines().filter_map(|line| line.split_once(' ')).collect();

    let mut missing = String::new();
    for (name, hex) in &book.lines {
        match pinned.get(name.as_str()) {
            Some(golden) => assert_eq!(hex, golden, "{name}: the bytes changed"),
            None => {
                let _ = writeln!(missing, "{name} {hex}");
            }
        }
    }
    for name in pinned.keys() {
        assert!(book.lines.iter().any(|(sample, _)| sample == name), "{name} is pinned but has no sample any more");
    }
    if std::env::var("HAWSER_GOLDEN").as_deref() == Ok("append") {
        std::fs::write(&path, text + &missing).expect("golden.txt can be written");
    } else {
        assert!(missing.is_empty(), "samples that are not pinned yet (HAWSER_GOLDEN=append pins them):\n{missing}");
    }
}

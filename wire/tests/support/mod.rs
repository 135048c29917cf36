//! Arbitrary messages, for properties.

use hawser_wire::codec::Open;
use hawser_wire::deployment::*;
use hawser_wire::desired::*;
use hawser_wire::messages::{Ack, Down, Up};
use hawser_wire::report::*;
use hawser_wire::session_messages::*;
use hawser_wire::stream::*;
use hawser_wire::{AddressRange, BootId, ContentHash, DeviceTime, Digest, PodUid, SessionId, TokenId, Version};
use proptest::collection::vec;
use proptest::option::of;
use proptest::prelude::*;

pub(crate) fn up() -> impl Strategy<Value = Up> {
    prop_oneof![
        heartbeat().prop_map(Up::Heartbeat),
        vec((hash(), any::<u64>(), any::<u32>()), 0..5).prop_map(|objects| {
            let objects = objects.into_iter().map(|(hash, offset, window)| WantedObject { hash, offset, window });
            Up::Want(Want { objects: objects.collect() })
        }),
        vec((any::<u64>(), item()), 0..4).prop_map(|items| {
            let items = items.into_iter().map(|(seq, item)| Numbered { seq, item: Open::Known(item) });
            Up::Report(Report { items: items.collect() })
        }),
        stream().prop_map(Up::Stream),
    ]
}

pub(crate) fn down() -> impl Strategy<Value = Down> {
    prop_oneof![
        (version(), vec((uid(), wish()), 0..5), vec(range(), 0..3)).prop_map(|(version, entries, pod_ranges)| {
            let entries = entries.into_iter().map(|(uid, wish)| IndexEntry { uid, wish }).collect();
            Down::Index(Index { pod_ranges, ..Index::new(version, entries).expect("few enough") })
        }),
        (hash(), any::<u64>(), any::<u64>(), bytes()).prop_map(|(hash, total, offset, data)| Down::Chunk(Chunk {
            hash,
            total,
            offset,
            data
        })),
        vec(any::<u64>(), 0..9).prop_map(|seqs| Down::Ack(Ack { seqs })),
        any::<u32>().prop_map(Down::Ping),
        stream().prop_map(Down::Stream),
    ]
}

fn range() -> impl Strategy<Value = AddressRange> {
    (any::<std::net::IpAddr>(), 0..=32u8)
        .prop_map(|(address, bits)| AddressRange::new(address, bits).expect("few bits"))
}

pub(crate) fn envelope() -> impl Strategy<Value = Envelope> {
    prop_oneof![
        (any::<u16>(), any::<u16>(), of(any::<[u8; 8]>()), bytes()).prop_map(|(oldest, newest, token, noise)| {
            let intent = token.map_or(Intent::Resume, |id| Intent::Join(TokenId(id)));
            Envelope::Hello(Hello { oldest, newest, intent, noise })
        }),
        (any::<u16>(), bytes()).prop_map(|(protocol, noise)| Envelope::Welcome(Welcome { protocol, noise })),
        (any::<[u8; 8]>(), any::<u64>(), bytes()).prop_map(|(id, counter, ciphertext)| {
            Envelope::Sealed(Sealed { session: SessionId(id), counter, ciphertext })
        }),
        text().prop_map(|message| Envelope::Refusal(Refusal { kind: RefusalKind::OtherKey, message })),
        any::<[u8; 8]>().prop_map(|id| Envelope::NoSession(SessionId(id))),
    ]
}

pub(crate) fn deployment() -> impl Strategy<Value = EdgeDeployment> {
    (
        (uid(), text(), text(), restart_policy(), any::<u32>(), of(any::<u64>())),
        (vec(container(), 0..3), vec(container(), 0..3), vec(volume(), 0..3), vec(ephemeral(), 0..3)),
        (of(text()), any::<bool>(), of(any::<u32>()), vec(any::<u32>(), 0..3), of(engine()), of(any::<i32>())),
    )
        .prop_map(|(head, (init_containers, containers, volumes, ephemeral_containers), tail)| EdgeDeployment {
            uid: head.0,
            namespace: head.1,
            name: head.2,
            restart_policy: head.3,
            grace_seconds: head.4,
            active_deadline_seconds: head.5,
            init_containers,
            containers,
            volumes,
            hostname: tail.0,
            host_network: tail.1,
            fs_group: tail.2,
            supplemental_groups: tail.3,
            engine: tail.4,
            generation: tail.5.and_then(|number| u64::try_from(number).ok()),
            priority: tail.5,
            ephemeral_containers,
        })
}

fn ephemeral() -> impl Strategy<Value = EphemeralContainer> {
    let hindrance = (text(), text()).prop_map(|(reason, message)| Hindrance { reason, message });
    (container(), of(text()), of(hindrance)).prop_map(|(container, target, hindrance)| EphemeralContainer {
        container,
        target,
        hindrance,
    })
}

fn engine() -> impl Strategy<Value = Engine> {
    let login = (text(), text(), text()).prop_map(|(registry, username, password)| RegistryLogin {
        registry,
        username,
        password,
    });
    let protocol = prop_oneof![Just(Protocol::Tcp), Just(Protocol::Udp), Just(Protocol::Sctp)];
    let port = (any::<u16>(), any::<u16>(), protocol, of(text())).prop_map(|(host, pod, protocol, address)| HostPort {
        host,
        pod,
        protocol,
        address,
    });
    (vec(login, 0..3), vec(port, 0..3), vec(ask(), 0..4)).prop_map(|(logins, host_ports, asks)| Engine {
        logins,
        host_ports,
        asks,
    })
}

fn ask() -> impl Strategy<Value = Ask> {
    let base = prop_oneof![Just(DnsBase::Device), Just(DnsBase::Cluster), Just(DnsBase::Nothing)];
    let dns = (base, vec(text(), 0..3), vec(text(), 0..3), vec(text(), 0..3))
        .prop_map(|(base, servers, searches, options)| Ask::Dns(Dns { base, servers, searches, options }));
    prop_oneof![
        Just(Ask::HostProcesses),
        Just(Ask::HostIpc),
        Just(Ask::SharedProcesses),
        Just(Ask::HostnameIsWhole),
        Just(Ask::StrictGroups),
        Just(Ask::OwnUsers),
        text().prop_map(Ask::Handler),
        text().prop_map(Ask::Subdomain),
        (text(), text()).prop_map(|(name, value)| Ask::Sysctl { name, value }),
        (text(), vec(text(), 0..3)).prop_map(|(address, names)| Ask::HostAlias { address, names }),
        dns,
    ]
}

fn confinement_ask() -> impl Strategy<Value = ConfinementAsk> {
    prop_oneof![
        text().prop_map(ConfinementAsk::SeccompFile),
        Just(ConfinementAsk::AppArmor(AppArmor::Engine)),
        text().prop_map(|level| ConfinementAsk::SeLinux(SeLinux { level, ..SeLinux::default() })),
        Just(ConfinementAsk::AppArmor(AppArmor::None)),
        Just(ConfinementAsk::UnmaskedProc),
        text().prop_map(|name| ConfinementAsk::AppArmor(AppArmor::Loaded(name))),
    ]
}

fn confinement() -> impl Strategy<Value = Confinement> {
    let asks = vec(confinement_ask(), 0..3);
    (any::<[bool; 5]>(), vec(text(), 0..3), vec(text(), 0..3), asks).prop_map(|(flags, add, drop, asks)| Confinement {
        privileged: flags[0],
        read_only_root: flags[1],
        no_new_privileges: flags[2],
        add_capabilities: add,
        drop_capabilities: drop,
        seccomp: flags[3],
        asks,
        all_calls: flags[4],
    })
}

fn care() -> impl Strategy<Value = Care> {
    let rule = (vec(any::<i32>(), 0..3), any::<bool>(), any::<bool>()).prop_map(|(codes, not_in, pod)| RestartRule {
        codes,
        not_in,
        action: if pod { RestartAction::Pod } else { RestartAction::Container },
    });
    let probes = (of(probe()), of(probe()), of(probe()));
    (probes, of(action()), of(action()), of(restart_policy()), vec(rule, 0..3)).prop_map(
        |((liveness, readiness, startup), post_start, pre_stop, restart, restart_rules)| Care {
            liveness,
            readiness,
            startup,
            post_start,
            pre_stop,
            restart,
            restart_rules,
        },
    )
}

fn probe() -> impl Strategy<Value = Probe> {
    (action(), any::<[u32; 5]>(), of(any::<u32>())).prop_map(|(action, numbers, grace_seconds)| Probe {
        action,
        initial_delay_seconds: numbers[0],
        period_seconds: numbers[1],
        timeout_seconds: numbers[2],
        success_threshold: numbers[3],
        failure_threshold: numbers[4],
        grace_seconds,
    })
}

fn action() -> impl Strategy<Value = Action> {
    let header = (text(), text()).prop_map(|(name, value)| Header { name, value });
    let http = (any::<bool>(), of(text()), any::<u16>(), text(), vec(header, 0..3))
        .prop_map(|(https, host, port, path, headers)| HttpGet { https, host, port, path, headers });
    prop_oneof![
        vec(text(), 0..3).prop_map(Action::Exec),
        http.prop_map(Action::Http),
        (of(text()), any::<u16>()).prop_map(|(host, port)| Action::Tcp(TcpSocket { host, port })),
        (any::<u16>(), text()).prop_map(|(port, service)| Action::Grpc(GrpcHealth { port, service })),
        any::<u32>().prop_map(Action::Sleep),
    ]
}

fn restart_policy() -> impl Strategy<Value = RestartPolicy> {
    prop_oneof![Just(RestartPolicy::Always), Just(RestartPolicy::OnFailure), Just(RestartPolicy::Never)]
}

fn pull_policy() -> impl Strategy<Value = PullPolicy> {
    prop_oneof![Just(PullPolicy::Always), Just(PullPolicy::IfNotPresent), Just(PullPolicy::Never)]
}

/// Boxed: a pod of these would not fit on the stack of a test.
fn container() -> BoxedStrategy<Container> {
    let env = (text(), env_value()).prop_map(|(name, value)| EnvVar { name, value });
    let propagation = of(prop_oneof![Just(Propagation::FromDevice), Just(Propagation::BothWays)]);
    let below = of(prop_oneof![Just(ReadOnlyBelow::IfPossible), Just(ReadOnlyBelow::Always)]);
    let mount = ((text(), text(), any::<bool>(), of(text()), any::<bool>()), propagation, below).prop_map(
        |((volume, path, read_only, sub_path, sub_path_expr), propagation, read_only_below)| Mount {
            volume,
            path,
            read_only,
            sub_path,
            sub_path_expr,
            propagation,
            read_only_below,
        },
    );
    let resources = of(any::<u64>()).prop_map(|n| Resources {
        memory_limit_bytes: n,
        storage_limit_bytes: n,
        ..Resources::default()
    });
    let interactive = any::<(bool, bool, bool)>().prop_map(|(stdin, once, tty)| Interactive { stdin, once, tty });
    let user = (of(any::<u32>()), any::<bool>()).prop_map(|(uid, non_root)| User { uid, gid: uid, non_root });
    (
        (text(), text(), pull_policy(), vec(text(), 0..3), vec(text(), 0..3), of(text())),
        (
            (vec(env, 0..4), vec(mount, 0..3), resources, any::<bool>(), user, text(), any::<bool>()),
            (of(interactive), of(confinement()), of(care()), of(any::<(bool, bool)>())),
        ),
    )
        .prop_map(|(head, (tail, more))| Container {
            name: head.0,
            image: head.1,
            pull_policy: head.2,
            command: head.3,
            args: head.4,
            working_dir: head.5,
            env: tail.0,
            mounts: tail.1,
            resources: tail.2,
            sidecar: tail.3,
            user: tail.4,
            termination_message_path: tail.5,
            termination_message_from_logs: tail.6,
            interactive: more.0,
            confinement: more.1,
            care: more.2,
            restart_to_resize: more.3.map(|(cpu, memory)| RestartToResize { cpu, memory }),
        })
        .boxed()
}

fn env_value() -> impl Strategy<Value = EnvValue> {
    prop_oneof![
        text().prop_map(EnvValue::Template),
        text().prop_map(EnvValue::Literal),
        device_field().prop_map(EnvValue::Device),
        (text(), text(), text(), any::<bool>()).prop_map(|(volume, path, key, optional)| EnvValue::File(FileKey {
            volume,
            path,
            key,
            optional
        })),
    ]
}

fn device_field() -> impl Strategy<Value = DeviceField> {
    prop_oneof![
        Just(DeviceField::PodIp),
        Just(DeviceField::PodIps),
        Just(DeviceField::HostIp),
        Just(DeviceField::HostIps),
        (text(), any::<u64>()).prop_map(|(resource, divisor)| DeviceField::Allocatable(resource, divisor)),
    ]
}

fn host_path_kind() -> impl Strategy<Value = HostPathKind> {
    prop_oneof![
        Just(HostPathKind::Any),
        Just(HostPathKind::Directory),
        Just(HostPathKind::DirectoryOrCreate),
        Just(HostPathKind::File),
        Just(HostPathKind::FileOrCreate),
        Just(HostPathKind::Socket),
        Just(HostPathKind::CharDevice),
        Just(HostPathKind::BlockDevice),
    ]
}

fn volume() -> impl Strategy<Value = Volume> {
    let content = prop_oneof![
        bytes().prop_map(Content::Inline),
        object().prop_map(Content::Blob),
        device_field().prop_map(Content::Device),
    ];
    let file = (text(), any::<u32>(), content, of(any::<u32>())).prop_map(|(path, mode, content, owner)| File {
        path,
        mode,
        content,
        owner,
    });
    let source = prop_oneof![
        (any::<bool>(), of(any::<u64>()))
            .prop_map(|(memory, size_limit)| VolumeSource::EmptyDir(EmptyDir { memory, size_limit })),
        (any::<bool>(), vec(file, 0..3)).prop_map(|(secret, entries)| VolumeSource::Files(Files { secret, entries })),
        (text(), host_path_kind(), any::<[bool; 3]>()).prop_map(|(path, kind, [of_group, only_if_differs, local])| {
            VolumeSource::HostPath(HostPath { path, kind, of_group, only_if_differs, local })
        }),
        (text(), pull_policy())
            .prop_map(|(reference, pull_policy)| VolumeSource::Image(ImageVolume { reference, pull_policy })),
    ];
    (text(), source).prop_map(|(name, source)| Volume { name, source })
}

fn item() -> impl Strategy<Value = ReportItem> {
    prop_oneof![
        workload().prop_map(ReportItem::Workload),
        (uid(), of(workload())).prop_map(|(uid, last)| ReportItem::Gone(Gone { uid, last })),
        facts().prop_map(ReportItem::Facts),
        (of(uid()), of(text()), any::<u64>(), any::<bool>(), text(), any::<u32>()).prop_map(
            |(pod, container, at, warning, text, count)| ReportItem::Event(DeviceEvent {
                pod,
                container,
                at: DeviceTime(at),
                warning,
                reason: text.clone(),
                message: text,
                count,
            })
        ),
    ]
}

fn workload() -> impl Strategy<Value = WorkloadReport> {
    let phase = prop_oneof![Just(Phase::Pending), Just(Phase::Running), Just(Phase::Succeeded), Just(Phase::Failed)];
    (
        (uid(), of(hash()), phase, of(text()), of(any::<u64>()), any::<bool>()),
        (
            vec(text(), 0..3),
            vec(container_report(), 0..3),
            vec(container_report(), 0..3),
            vec(container_report(), 0..3),
            of(resize()),
        ),
    )
        .prop_map(|(head, tail)| WorkloadReport {
            uid: head.0,
            deployment: head.1,
            phase: head.2,
            message: head.3.clone(),
            reason: head.3,
            started: head.4.map(DeviceTime),
            sandbox_ready: head.5,
            pod_ips: tail.0,
            init_containers: tail.1,
            containers: tail.2,
            ephemeral_containers: tail.3,
            resize: tail.4,
        })
}

fn resize() -> impl Strategy<Value = Resize> {
    let pending = (any::<bool>(), text(), of(any::<u64>()))
        .prop_map(|(infeasible, message, generation)| ResizePending { infeasible, message, generation });
    let in_progress =
        (of(any::<u64>()), of(text())).prop_map(|(generation, error)| ResizeInProgress { generation, error });
    let whole = of(any::<u64>()).prop_map(|amount| Resources { cpu_limit_millis: amount, ..Resources::default() });
    (of(pending), of(in_progress), of(whole)).prop_map(|(pending, in_progress, whole)| Resize {
        pending,
        in_progress,
        whole,
    })
}

fn container_report() -> impl Strategy<Value = ContainerReport> {
    let state = prop_oneof![
        (text(), of(text())).prop_map(|(reason, message)| ContainerState::Waiting(Waiting { reason, message })),
        any::<u64>().prop_map(|since| ContainerState::Running(Running { since: DeviceTime(since) })),
        terminated().prop_map(ContainerState::Terminated),
    ];
    let given = any::<(u64, Option<u64>)>().prop_map(|(allocated, actual)| Given {
        allocated: Resources { memory_limit_bytes: Some(allocated), ..Resources::default() },
        actual: actual.map(|amount| Resources { memory_limit_bytes: Some(amount), ..Resources::default() }),
    });
    (text(), any::<bool>(), of(any::<bool>()), any::<u32>(), of(text()), state, of(terminated()), of(given)).prop_map(
        |(name, ready, started, restart_count, container_id, state, last, given)| ContainerReport {
            image: name.clone(),
            image_id: name.clone(),
            name,
            ready,
            started,
            restart_count,
            container_id,
            state,
            last,
            given,
        },
    )
}

fn terminated() -> impl Strategy<Value = Terminated> {
    (any::<i32>(), of(any::<i32>()), text(), of(any::<u64>()), of(text())).prop_map(
        |(exit_code, signal, reason, time, message)| Terminated {
            exit_code,
            signal,
            reason,
            container_id: message.clone(),
            message,
            started: time.map(DeviceTime),
            finished: time.map(DeviceTime),
        },
    )
}

fn facts() -> impl Strategy<Value = NodeFacts> {
    let resource = (text(), text()).prop_map(|(name, quantity)| Resource { name, quantity });
    let image = (vec(text(), 0..3), any::<u64>()).prop_map(|(names, bytes)| Image { names, bytes });
    let condition = (text(), of(any::<bool>()), text()).prop_map(|(kind, holds, message)| Condition {
        reason: kind.clone(),
        kind,
        holds,
        message,
    });
    (vec(resource, 0..4), vec(image, 0..3), vec(condition, 0..3), vec(text(), 0..3), text()).prop_map(
        |(capacity, images, conditions, addresses, text)| NodeFacts {
            allocatable: capacity.clone(),
            capacity,
            arch: text.clone(),
            os: text.clone(),
            kernel: text.clone(),
            os_image: text.clone(),
            machine_id: text.clone(),
            system_uuid: text.clone(),
            boot_id: text.clone(),
            agent_version: text.clone(),
            runtime: text.clone(),
            hostname: text,
            addresses,
            images,
            conditions,
        },
    )
}

fn heartbeat() -> impl Strategy<Value = Heartbeat> {
    (any::<[u8; 8]>(), any::<u64>(), any::<u64>(), of(any::<[u8; 16]>()), of(any::<u32>())).prop_map(
        |(boot, now, wall_millis, digest, answers)| Heartbeat {
            boot: BootId(boot),
            now: DeviceTime(now),
            wall_millis,
            digest: digest.map(Digest),
            answers,
        },
    )
}

fn stream() -> impl Strategy<Value = StreamFrame> {
    let channels = any::<[bool; 4]>().prop_map(|[stdin, stdout, stderr, tty]| Channels { stdin, stdout, stderr, tty });
    let logs = (uid(), text(), any::<[bool; 3]>(), of(any::<u64>())).prop_map(|(pod, container, flags, number)| {
        StreamRequest::Logs(LogsRequest {
            pod,
            container,
            follow: flags[0],
            previous: flags[1],
            timestamps: flags[2],
            tail: number,
            since: number.map(DeviceTime),
            limit_bytes: number,
            from: number.map(|number| position(number.to_be_bytes().to_vec())),
            newest: number,
        })
    });
    let request = prop_oneof![
        logs,
        (uid(), text(), vec(text(), 0..3), channels.clone()).prop_map(|(pod, container, command, channels)| {
            StreamRequest::Exec(ExecRequest { pod, container, command, channels })
        }),
        (uid(), text(), channels).prop_map(|(pod, container, channels)| StreamRequest::Attach(AttachRequest {
            pod,
            container,
            channels
        })),
        (uid(), any::<u16>()).prop_map(|(pod, port)| StreamRequest::PortForward(pod, port)),
        Just(StreamRequest::Stats),
    ];
    let body = prop_oneof![
        request.prop_map(StreamBody::Open),
        Just(StreamBody::Accept),
        (any::<u16>(), text()).prop_map(|(status, message)| StreamBody::Refuse(StreamRefusal { status, message })),
        (any::<u8>(), any::<u64>(), bytes()).prop_map(|(channel, offset, data)| StreamBody::Data(StreamData {
            channel,
            offset,
            data
        })),
        (any::<u8>(), any::<u32>()).prop_map(|(channel, bytes)| StreamBody::Credit(channel, bytes)),
        any::<u8>().prop_map(StreamBody::HalfClose),
        (any::<u16>(), any::<u16>()).prop_map(|(columns, rows)| StreamBody::Resize(columns, rows)),
        any::<i32>().prop_map(StreamBody::Exit),
        text().prop_map(StreamBody::Abort),
        (any::<u64>(), bytes())
            .prop_map(|(bytes, place)| StreamBody::Mark(LogMark { bytes, position: position(place) })),
        Just(StreamBody::Alive),
        any::<u64>().prop_map(StreamBody::Received),
        text().prop_map(StreamBody::Broken),
    ];
    (any::<u32>(), body, of(any::<u64>())).prop_map(|(id, body, number)| StreamFrame { id, body, number })
}

fn position(position: Vec<u8>) -> LogPosition {
    LogPosition { position }
}

fn wish() -> impl Strategy<Value = Wish> {
    prop_oneof![object().prop_map(Wish::Run), Just(Wish::Keep), any::<u32>().prop_map(Wish::Stop), Just(Wish::Retain)]
}

fn object() -> impl Strategy<Value = ObjectRef> {
    (hash(), any::<u64>()).prop_map(|(hash, len)| ObjectRef { hash, len })
}

fn version() -> impl Strategy<Value = Version> {
    (any::<u32>(), any::<u64>(), any::<u32>()).prop_map(|(epoch, revision, edit)| Version { epoch, revision, edit })
}

fn hash() -> impl Strategy<Value = ContentHash> {
    any::<[u8; 32]>().prop_map(ContentHash)
}

fn uid() -> impl Strategy<Value = PodUid> {
    "[0-9a-f]{8}-[0-9a-f]{4}-[0-9a-f]{4}-[0-9a-f]{4}-[0-9a-f]{12}|[a-zA-Z0-9][a-zA-Z0-9_.-]{0,20}"
        .prop_map(|text| PodUid::new(&text).expect("the pattern is valid"))
}

fn text() -> impl Strategy<Value = String> {
    "[ -~äß→]{0,12}"
}

fn bytes() -> impl Strategy<Value = Vec<u8>> {
    vec(any::<u8>(), 0..40)
}

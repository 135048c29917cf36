//! The fields of probes, hooks and restart rules.

use super::Verdict::{self, Mapped, Refused, Table};

pub(crate) const PROBE: &[(&str, Verdict)] = &[
    ("exec", Table(EXEC)),
    ("failureThreshold", Mapped),
    ("grpc", Table(GRPC)),
    ("httpGet", Table(HTTP_GET)),
    ("initialDelaySeconds", Mapped),
    ("periodSeconds", Mapped),
    ("successThreshold", Mapped),
    ("tcpSocket", Table(TCP_SOCKET)),
    ("terminationGracePeriodSeconds", Mapped),
    ("timeoutSeconds", Mapped),
];

pub(crate) const LIFECYCLE: &[(&str, Verdict)] = &[
    ("postStart", Table(HANDLER)),
    ("preStop", Table(HANDLER)),
    (
        "stopSignal",
        Refused(
            "Kubernetes has it switched off unless ContainerStopSignals is set, and a device ends programs with TERM: send another signal from a preStop hook",
        ),
    ),
];

pub(crate) const HANDLER: &[(&str, Verdict)] =
    &[("exec", Table(EXEC)), ("httpGet", Table(HTTP_GET)), ("sleep", Table(SLEEP)), ("tcpSocket", Table(TCP_SOCKET))];

pub(crate) const EXEC: &[(&str, Verdict)] = &[("command", Mapped)];

pub(crate) const GRPC: &[(&str, Verdict)] = &[("port", Mapped), ("service", Mapped)];

pub(crate) const HTTP_GET: &[(&str, Verdict)] =
    &[("host", Mapped), ("httpHeaders", Table(HTTP_HEADER)), ("path", Mapped), ("port", Mapped), ("scheme", Mapped)];

pub(crate) const HTTP_HEADER: &[(&str, Verdict)] = &[("name", Mapped), ("value", Mapped)];

pub(crate) const TCP_SOCKET: &[(&str, Verdict)] = &[("host", Mapped), ("port", Mapped)];

pub(crate) const SLEEP: &[(&str, Verdict)] = &[("seconds", Mapped)];

pub(crate) const RESTART_RULE: &[(&str, Verdict)] = &[("action", Mapped), ("exitCodes", Table(EXIT_CODES))];

pub(crate) const EXIT_CODES: &[(&str, Verdict)] = &[("operator", Mapped), ("values", Mapped)];

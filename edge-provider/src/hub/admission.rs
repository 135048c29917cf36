//! Who may have a session. Pure: everything is given, the answer is a value.
//!
//! A hello proves nothing about *now* (the hub may replay it), and a joining hello does not even prove that its sender
//! has the token: the token's secret goes into the handshake's second message. So admission only decides whether to
//! answer. What a joined device may change (its key in the Device, the token's end) is changed when it has spoken in the
//! session, which nobody without the secret can.

use hawser_wire::session::SessionError;
use hawser_wire::session_messages::{Intent, Refusal, RefusalKind};
use hawser_wire::{DeviceId, PublicKey};
use jiff::Timestamp;

use crate::device::join_token::StoredToken;
use crate::registry::record::{DeviceRecord, KnownKey};

/// A hello that may be answered.
#[derive(Debug, Clone, PartialEq, Eq)]
pub enum Admission {
    /// The device's key is known.
    Resume,
    /// The device has a token.
    Join {
        /// The token's secret.
        secret: [u8; 32],
        /// Whether the key has to be kept once the device has proved the token.
        keep_key: bool,
    },
}

/// Decides about a hello that could be read. `token` is what is stored for the device, read because it wants to join.
pub fn admit(
    device: &DeviceId,
    intent: Intent,
    key: PublicKey,
    record: &DeviceRecord,
    token: Option<&StoredToken>,
    now: Timestamp,
) -> Result<Admission, Refusal> {
    match (intent, record.key) {
        (_, KnownKey::Invalid) => Err(refusal(
            RefusalKind::Unavailable,
            format!(
                "the public key stored for device `{device}` is not 64 hexadecimal digits: correct `spec.publicKey`, or remove and add the device"
            ),
        )),
        (_, KnownKey::Given(known) | KnownKey::Joined(known)) if known != key => Err(other_key(device)),
        (Intent::Resume, KnownKey::Given(_) | KnownKey::Joined(_)) => Ok(Admission::Resume),
        (Intent::Resume, KnownKey::None) => Err(refusal(
            RefusalKind::OtherKey,
            format!(
                "device `{device}` has not joined yet, with this key or any: run `hawser-agent join` with a token from `hawser device add {device} --renew`"
            ),
        )),
        (Intent::Join(id), known) => {
            let keep_key = known == KnownKey::None;
            let stored = token.filter(|stored| stored.token.id == id).ok_or_else(|| token_used(device, keep_key))?;
            if stored.expires <= now {
                return Err(refusal(
                    RefusalKind::TokenExpired,
                    format!(
                        "the join token of device `{device}` expired at {}: make a new one with `hawser device add {device} --renew`",
                        stored.expires
                    ),
                ));
            }
            Ok(Admission::Join { secret: stored.token.secret, keep_key })
        }
    }
}

/// There is no such device.
pub fn unknown_device(device: &DeviceId) -> Refusal {
    refusal(
        RefusalKind::UnknownDevice,
        format!("the cluster has no Device `{device}`: add it with `hawser device add {device}`"),
    )
}

/// The bridge cannot answer now.
pub fn unavailable(why: &str) -> Refusal {
    refusal(RefusalKind::Unavailable, format!("the bridge cannot answer now ({why}): the agent tries again by itself"))
}

/// The device has another key already.
pub fn other_key(device: &DeviceId) -> Refusal {
    refusal(
        RefusalKind::OtherKey,
        format!(
            "device `{device}` has joined with another key: two agents use this name, or the agent was installed anew; in the latter case give it a new token with `hawser device add {device} --renew --reset-key`"
        ),
    )
}

/// The hello could not be read.
pub fn unreadable(device: &DeviceId, bridge: &PublicKey, error: &SessionError) -> Refusal {
    match error {
        SessionError::NoCommonProtocol { .. } => refusal(
            RefusalKind::Protocol,
            format!("{error}: install an agent of this bridge's version or the one before"),
        ),
        _ => refusal(
            RefusalKind::Unreadable,
            format!(
                "the hello of device `{device}` is not readable with this bridge's key: the agent was joined to another bridge, or with a mistyped key; this bridge's key is {bridge}"
            ),
        ),
    }
}

fn token_used(device: &DeviceId, keep_key: bool) -> Refusal {
    let message = if keep_key {
        format!(
            "the join token of device `{device}` is unknown or was replaced: make a new one with `hawser device add {device} --renew`"
        )
    } else {
        format!(
            "the join token of device `{device}` was used already, with this very key: start the agent with `hawser-agent run`"
        )
    };
    refusal(RefusalKind::TokenUsed, message)
}

fn refusal(kind: RefusalKind, message: String) -> Refusal {
    Refusal { kind, message }
}

#[cfg(test)]
mod tests {
    use super::*;
    use hawser_wire::TokenId;
    use hawser_wire::token::JoinToken;

    const KEY: PublicKey = PublicKey([1; 32]);
    const OTHER: PublicKey = PublicKey([2; 32]);
    const TOKEN: Intent = Intent::Join(TokenId([7; 8]));

    fn now() -> Timestamp {
        "2026-11-21T12:00:00Z".parse().unwrap()
    }

    fn stored(id: u8, expires: &str) -> StoredToken {
        StoredToken { token: JoinToken { id: TokenId([id; 8]), secret: [9; 32] }, expires: expires.parse().unwrap() }
    }

    fn decide(intent: Intent, known: KnownKey, token: Option<StoredToken>) -> Result<Admission, RefusalKind> {
        let device = DeviceId::new("pi").unwrap();
        let record = DeviceRecord { key: known, ..DeviceRecord::for_test("pi") };
        let decided = admit(&device, intent, KEY, &record, token.as_ref(), now());
        if let Err(refusal) = &decided {
            assert!(refusal.message.contains("`pi`"), "{}", refusal.message);
            assert!(!refusal.message.contains('\n'), "{}", refusal.message);
        }
        decided.map_err(|refusal| refusal.kind)
    }

    #[test]
    fn every_case_has_its_answer() {
        let fresh = || Some(stored(7, "2026-11-21T13:00:00Z"));
        let over = || Some(stored(7, "2026-11-21T12:00:00Z"));
        let foreign = || Some(stored(8, "2026-11-21T13:00:00Z"));
        let join = |keep_key| Ok(Admission::Join { secret: [9; 32], keep_key });
        let cases = [
            ("known device", Intent::Resume, KnownKey::Joined(KEY), None, Ok(Admission::Resume)),
            ("key given by the operator", Intent::Resume, KnownKey::Given(KEY), None, Ok(Admission::Resume)),
            ("another key", Intent::Resume, KnownKey::Joined(OTHER), None, Err(RefusalKind::OtherKey)),
            ("not joined", Intent::Resume, KnownKey::None, None, Err(RefusalKind::OtherKey)),
            ("not joined, token waiting", Intent::Resume, KnownKey::None, fresh(), Err(RefusalKind::OtherKey)),
            ("first join", TOKEN, KnownKey::None, fresh(), join(true)),
            ("joined, but the welcome was lost", TOKEN, KnownKey::Joined(KEY), fresh(), join(false)),
            ("given key and token", TOKEN, KnownKey::Given(KEY), fresh(), join(false)),
            ("token used by another", TOKEN, KnownKey::Joined(OTHER), fresh(), Err(RefusalKind::OtherKey)),
            ("token used by itself", TOKEN, KnownKey::Joined(KEY), None, Err(RefusalKind::TokenUsed)),
            ("token unknown", TOKEN, KnownKey::None, None, Err(RefusalKind::TokenUsed)),
            ("token replaced", TOKEN, KnownKey::None, foreign(), Err(RefusalKind::TokenUsed)),
            ("token expired", TOKEN, KnownKey::None, over(), Err(RefusalKind::TokenExpired)),
            ("stored key damaged", Intent::Resume, KnownKey::Invalid, None, Err(RefusalKind::Unavailable)),
        ];
        for (case, intent, known, token, expected) in cases {
            assert_eq!(decide(intent, known, token), expected, "{case}");
        }
    }
}

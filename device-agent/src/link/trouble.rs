//! Why there is no connection to the hub, in words for people: the thing, the cause, the fix. Pure.

use std::io::ErrorKind;

use hawser_wire::DeviceId;
use rumqttc::{ConnectReturnCode, ConnectionError, StateError, TlsError, mqttbytes};
use rustls::CertificateError;
use rustls::pki_types::UnixTime;

use super::hub_url::HubUrl;

/// What is wrong. `greeted`: the hub had answered our CONNECT.
pub(super) fn in_words(error: &ConnectionError, url: &HubUrl, device: &DeviceId, greeted: bool) -> String {
    match error {
        ConnectionError::ConnectionRefused(
            ConnectReturnCode::NotAuthorized | ConnectReturnCode::BadUserNamePassword,
        ) => format!("the hub {url} does not let user `{device}` in: check its accounts"),
        ConnectionError::ConnectionRefused(code) => format!("the hub {url} refused the connection ({code:?})"),
        ConnectionError::NetworkTimeout => {
            format!("the hub {url} does not answer: check address, port and firewall")
        }
        ConnectionError::Tls(error) => tls(error, url),
        other if hung_up(other) && greeted => {
            format!("the hub {url} ended the connection: it was stopped, or threw us out; its log tells")
        }
        ConnectionError::MqttState(_) if !greeted => {
            let tls = if url.tls { "" } else { "; if it is for TLS, write mqtts://" };
            format!("the hub {url} does not speak MQTT with us ({error}): check that its port is for MQTT{tls}")
        }
        ConnectionError::Io(error) => {
            format!("the hub {url} cannot be reached ({error}): check that it runs and the address")
        }
        other => format!("the connection to the hub {url} was lost ({other}): its log may tell more"),
    }
}

/// Whether the other side ended the connection, in any of the ways in which that is told.
fn hung_up(error: &ConnectionError) -> bool {
    let kind = match error {
        ConnectionError::MqttState(StateError::ConnectionAborted) => return true,
        ConnectionError::MqttState(
            StateError::Io(error) | StateError::Deserialization(mqttbytes::Error::Io(error)),
        ) => error.kind(),
        ConnectionError::Io(error) => error.kind(),
        _ => return false,
    };
    matches!(
        kind,
        ErrorKind::UnexpectedEof | ErrorKind::ConnectionReset | ErrorKind::ConnectionAborted | ErrorKind::BrokenPipe
    )
}

fn tls(error: &TlsError, url: &HubUrl) -> String {
    let rustls = match error {
        TlsError::TLS(error) => Some(error),
        TlsError::Io(error) => error.get_ref().and_then(|inner| inner.downcast_ref::<rustls::Error>()),
        _ => None,
    };
    match rustls {
        Some(rustls::Error::InvalidCertificate(error)) => certificate(error, url),
        Some(rustls::Error::InvalidMessage(_)) => {
            format!("the hub {url} does not speak TLS on this port: check the port, or write mqtt://")
        }
        _ => format!("the hub {url} and we do not agree on TLS ({error}): check that its port is for TLS, and its log"),
    }
}

fn certificate(error: &CertificateError, url: &HubUrl) -> String {
    match error {
        CertificateError::ExpiredContext { time, not_after } => format!(
            "the certificate of the hub {url} has expired on {}, and this device's clock says {}: renew the certificate, or set the clock",
            date(*not_after),
            date(*time)
        ),
        CertificateError::NotValidYetContext { time, not_before } => format!(
            "the certificate of the hub {url} is not valid yet: it begins on {}, and this device's clock says {}; set the clock",
            date(*not_before),
            date(*time)
        ),
        // The latter: of an authority of the same name with another key.
        CertificateError::UnknownIssuer | CertificateError::BadSignature => format!(
            "the certificate of the hub {url} is from an authority that we do not trust: name its file with --hub-ca when joining"
        ),
        CertificateError::NotValidForName | CertificateError::NotValidForNameContext { .. } => format!(
            "the certificate of the hub is for another name than `{}`: join with a URL that has the certificate's name",
            url.host
        ),
        other => format!("the certificate of the hub {url} cannot be trusted ({other:?}): check the certificate"),
    }
}

/// The day, as ISO 8601 has it.
fn date(time: UnixTime) -> String {
    // Howard Hinnant's civil_from_days, for days from 1970 to 9999.
    let days = (time.as_secs() / 86_400).min(2_932_896) + 719_468;
    let (era, day_of_era) = (days / 146_097, days % 146_097);
    let year_of_era = (day_of_era - day_of_era / 1460 + day_of_era / 36_524 - day_of_era / 146_096) / 365;
    let day_of_year = day_of_era - (365 * year_of_era + year_of_era / 4 - year_of_era / 100);
    let shifted = (5 * day_of_year + 2) / 153;
    let (day, month) =
        (day_of_year - (153 * shifted + 2) / 5 + 1, if shifted < 10 { shifted + 3 } else { shifted - 9 });
    format!("{:04}-{month:02}-{day:02}", year_of_era + era * 400 + u64::from(month <= 2))
}

#[cfg(test)]
mod tests {
    use super::*;
    use std::io;
    use std::time::Duration;

    fn at(seconds: u64) -> UnixTime {
        UnixTime::since_unix_epoch(Duration::from_secs(seconds))
    }

    #[test]
    fn days_are_dates() {
        for (seconds, day) in [
            (0, "1970-01-01"),
            (951_782_399, "2000-02-28"),
            (951_782_400, "2000-02-29"),
            (951_868_800, "2000-03-01"),
            (1_767_225_599, "2025-12-31"),
            (4_107_542_400, "2100-03-01"),
        ] {
            assert_eq!(date(at(seconds)), day);
        }
        assert_eq!(date(at(u64::MAX)).len(), 10, "a date of any clock is a date");
    }

    #[test]
    fn each_trouble_is_one_line_with_a_fix() {
        let of_certificate = |error| {
            let inner = rustls::Error::InvalidCertificate(error);
            ConnectionError::Tls(TlsError::Io(io::Error::new(io::ErrorKind::InvalidData, inner)))
        };
        let expired = CertificateError::ExpiredContext { time: at(86_400), not_after: at(0) };
        let early = CertificateError::NotValidYetContext { time: at(0), not_before: at(951_782_400) };
        let plain = rustls::Error::InvalidMessage(rustls::InvalidMessage::InvalidContentType);
        let plain = ConnectionError::Tls(TlsError::Io(io::Error::new(io::ErrorKind::InvalidData, plain)));
        let refused = |code| ConnectionError::ConnectionRefused(code);
        let io = |kind: io::ErrorKind| ConnectionError::Io(kind.into());
        let (tls, bare) = (HubUrl::parse("mqtts://hub:1").unwrap(), HubUrl::parse("mqtt://hub:1").unwrap());
        let device = DeviceId::new("pi").unwrap();
        for (error, url, greeted, words) in [
            (of_certificate(expired), &tls, false, ["expired on 1970-01-01", "renew the certificate"]),
            (of_certificate(early), &tls, false, ["begins on 2000-02-29", "set the clock"]),
            (of_certificate(CertificateError::UnknownIssuer), &tls, false, ["authority", "--hub-ca"]),
            (of_certificate(CertificateError::BadSignature), &tls, false, ["authority", "--hub-ca"]),
            (of_certificate(CertificateError::NotValidForName), &tls, false, ["another name than `hub`", "join with"]),
            (of_certificate(CertificateError::Revoked), &tls, false, ["Revoked", "check the certificate"]),
            (plain, &tls, false, ["does not speak TLS", "mqtt://"]),
            (refused(ConnectReturnCode::NotAuthorized), &bare, false, ["user `pi`", "check its accounts"]),
            (ConnectionError::NetworkTimeout, &bare, false, ["does not answer", "firewall"]),
            (io(io::ErrorKind::ConnectionRefused), &bare, false, ["cannot be reached", "check that it runs"]),
            (ConnectionError::MqttState(StateError::ConnectionAborted), &bare, false, ["speak MQTT", "mqtts://"]),
            (ConnectionError::MqttState(StateError::ConnectionAborted), &tls, false, ["speak MQTT", "its port"]),
            (io(io::ErrorKind::UnexpectedEof), &tls, true, ["ended the connection", "its log"]),
            (ConnectionError::MqttState(StateError::ConnectionAborted), &bare, true, ["ended the connection", "hub:1"]),
            (ConnectionError::MqttState(StateError::AwaitPingResp), &bare, true, ["was lost", "pingreq"]),
        ] {
            let told = in_words(&error, url, &device, greeted);
            assert!(words.iter().all(|word| told.contains(word)) && !told.contains('\n'), "{told}");
        }
    }
}

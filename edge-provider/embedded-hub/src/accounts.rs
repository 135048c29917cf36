//! Who may connect: one table, changed by its owner while the hub runs, read by every connection.
//!
//! The table lives in a `watch` channel: only its latest state matters. A connection keeps the [`Grant`] that let it in
//! and asks again after every change; a grant that no longer holds ends the connection.

use std::collections::BTreeMap;
use std::fmt;
use std::sync::Arc;
use tokio::sync::watch;

/// The username of every bridge.
pub const BRIDGE_USERNAME: &str = "bridge";

/// A password; never shown.
#[derive(Clone, PartialEq, Eq)]
pub struct Password(String);

impl Password {
    /// Takes a password as it is.
    #[must_use]
    pub fn new(password: impl Into<String>) -> Self {
        Self(password.into())
    }

    /// A new password of 192 random bits, in hexadecimal.
    ///
    /// # Errors
    /// When the operating system has no randomness to give.
    pub fn generate() -> Result<Self, std::io::Error> {
        let mut random = [0u8; 24];
        getrandom::fill(&mut random).map_err(std::io::Error::other)?;
        Ok(Self(random.iter().map(|byte| format!("{byte:02x}")).collect()))
    }

    /// The password itself, for whoever has to hand it to a client.
    #[must_use]
    pub fn reveal(&self) -> &str {
        &self.0
    }

    /// Takes as long for a wrong password as for a right one of the same length.
    fn matches(&self, given: &str) -> bool {
        let (ours, given) = (self.0.as_bytes(), given.as_bytes());
        let differing = ours.iter().zip(given).fold(0u8, |seen, (a, b)| seen | (a ^ b));
        ours.len() == given.len() && std::hint::black_box(differing) == 0
    }
}

impl fmt::Debug for Password {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str("Password(…)")
    }
}

/// Which devices may connect.
#[derive(Debug, Clone, Default, PartialEq, Eq)]
pub enum Devices {
    /// Any device, with its name as username and without a password: what protects the workloads is the end-to-end
    /// session. A password, if sent, is not looked at.
    #[default]
    Open,
    /// The devices named, each with its password.
    Table(BTreeMap<String, Password>),
}

/// A handle to the accounts of a hub. Clones share one table.
#[derive(Debug, Clone)]
pub struct Accounts {
    table: Arc<watch::Sender<Table>>,
}

#[derive(Debug)]
struct Table {
    bridge: Password,
    devices: Devices,
    /// Names that may not connect although [`Devices::Open`] lets everybody in.
    barred: std::collections::BTreeSet<String>,
}

/// What a client was let in as.
#[derive(Debug, Clone, PartialEq, Eq)]
pub(crate) struct Grant {
    pub(crate) role: Role,
    /// The password it was let in by, if the table asked for one.
    by: Option<Password>,
}

/// What a client is to the hub.
#[derive(Debug, Clone, PartialEq, Eq)]
pub(crate) enum Role {
    /// Speaks to all devices.
    Bridge,
    /// Speaks for itself only.
    Device(String),
}

/// Why a client was not let in.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(crate) enum Denied {
    /// The name cannot be a device's name.
    BadName,
    /// The table does not know the name.
    Unknown,
    /// The password is missing or wrong.
    BadPassword,
}

impl Accounts {
    /// Accounts with this password for bridges, open to all devices.
    #[must_use]
    pub fn new(bridge: Password) -> Self {
        let table = Table { bridge, devices: Devices::Open, barred: Default::default() };
        Self { table: Arc::new(watch::Sender::new(table)) }
    }

    /// The password that bridges connect with.
    #[must_use]
    pub fn bridge_password(&self) -> Password {
        self.table.borrow().bridge.clone()
    }

    /// Changes the bridges' password. Bridges that are connected by the old one are disconnected.
    pub fn set_bridge_password(&self, password: Password) {
        self.table.send_modify(|table| table.bridge = password);
    }

    /// Replaces the rule for devices. Connected devices that the new rule does not let in are disconnected.
    pub fn set_devices(&self, devices: Devices) {
        self.table.send_modify(|table| {
            table.devices = devices;
            table.barred.clear();
        });
    }

    /// Lets a device in by this password (with [`Devices::Open`]: lets it in again after [`Accounts::remove_device`]).
    /// A device that is connected by another password is disconnected.
    pub fn set_device(&self, name: &str, password: Password) {
        self.table.send_modify(|table| {
            table.barred.remove(name);
            if let Devices::Table(devices) = &mut table.devices {
                devices.insert(name.to_owned(), password);
            }
        });
    }

    /// Lets a device in no more and disconnects it. With [`Devices::Open`] its name is remembered as barred.
    pub fn remove_device(&self, name: &str) {
        self.table.send_modify(|table| match &mut table.devices {
            Devices::Open => {
                table.barred.insert(name.to_owned());
            }
            Devices::Table(devices) => {
                devices.remove(name);
            }
        });
    }

    /// Wakes its reader after every change.
    pub(crate) fn changes(&self) -> AccountChanges {
        AccountChanges { table: self.table.subscribe() }
    }

    pub(crate) fn admit(&self, username: &str, password: &str) -> Result<Grant, Denied> {
        self.table.borrow().admit(username, password)
    }
}

/// A reader's view of the accounts.
#[derive(Debug)]
pub(crate) struct AccountChanges {
    table: watch::Receiver<Table>,
}

impl AccountChanges {
    /// Waits for a change; pends for ever when the owner is gone, since nothing can change any more. Cancel-safe.
    pub(crate) async fn changed(&mut self) {
        if self.table.changed().await.is_err() {
            std::future::pending::<()>().await;
        }
    }

    pub(crate) fn still_holds(&self, grant: &Grant) -> bool {
        self.table.borrow().still_holds(grant)
    }
}

impl Table {
    fn admit(&self, username: &str, password: &str) -> Result<Grant, Denied> {
        if username == BRIDGE_USERNAME {
            return if self.bridge.matches(password) {
                Ok(Grant { role: Role::Bridge, by: Some(self.bridge.clone()) })
            } else {
                Err(Denied::BadPassword)
            };
        }
        if !valid_device_name(username) {
            return Err(Denied::BadName);
        }
        let role = Role::Device(username.to_owned());
        match &self.devices {
            Devices::Open if self.barred.contains(username) => Err(Denied::Unknown),
            Devices::Open => Ok(Grant { role, by: None }),
            Devices::Table(devices) => match devices.get(username) {
                None => Err(Denied::Unknown),
                Some(expected) if expected.matches(password) => Ok(Grant { role, by: Some(expected.clone()) }),
                Some(_) => Err(Denied::BadPassword),
            },
        }
    }

    fn still_holds(&self, grant: &Grant) -> bool {
        match &grant.role {
            Role::Bridge => grant.by.as_ref() == Some(&self.bridge),
            Role::Device(name) => match &self.devices {
                Devices::Open => !self.barred.contains(name),
                Devices::Table(devices) => grant.by.is_some() && grant.by.as_ref() == devices.get(name),
            },
        }
    }
}

/// A device's name is its Node's name: a DNS subdomain. `bridge` is taken.
fn valid_device_name(name: &str) -> bool {
    let inner = |b: u8| b.is_ascii_lowercase() || b.is_ascii_digit() || matches!(b, b'-' | b'.');
    let edge = |b: Option<&u8>| b.is_some_and(|b| b.is_ascii_lowercase() || b.is_ascii_digit());
    let bytes = name.as_bytes();
    bytes.len() <= 253 && edge(bytes.first()) && edge(bytes.last()) && bytes.iter().copied().all(inner)
}

#[cfg(test)]
mod tests {
    use super::*;

    fn table(devices: &[(&str, &str)]) -> Devices {
        Devices::Table(devices.iter().map(|(n, p)| ((*n).to_owned(), Password::new(*p))).collect())
    }

    #[test]
    fn the_bridge_needs_its_password() {
        let accounts = Accounts::new(Password::new("right"));
        assert_eq!(accounts.admit("bridge", "right").map(|g| g.role), Ok(Role::Bridge));
        for wrong in ["", "righ", "rightt", "wrong"] {
            assert_eq!(accounts.admit("bridge", wrong), Err(Denied::BadPassword), "{wrong:?}");
        }
    }

    #[test]
    fn an_open_hub_lets_any_well_named_device_in() {
        let accounts = Accounts::new(Password::new("x"));
        assert_eq!(accounts.admit("pi-4.desk", "").map(|g| g.role), Ok(Role::Device("pi-4.desk".into())));
        for bad in ["", "a/b", "+", "#", "$share", "Pi", "-a", "a-", "a b", "ä", &"a".repeat(254)] {
            assert_eq!(accounts.admit(bad, ""), Err(Denied::BadName), "{bad:?}");
        }
    }

    #[test]
    fn a_table_lets_in_what_it_names() {
        let accounts = Accounts::new(Password::new("x"));
        accounts.set_devices(table(&[("a", "1")]));
        assert!(accounts.admit("a", "1").is_ok());
        assert_eq!(accounts.admit("a", "2"), Err(Denied::BadPassword));
        assert_eq!(accounts.admit("b", "1"), Err(Denied::Unknown));
    }

    #[test]
    fn a_grant_ends_with_what_it_was_given_for() {
        let accounts = Accounts::new(Password::new("x"));
        let open = accounts.admit("a", "").expect("open");
        let bridge = accounts.admit("bridge", "x").expect("bridge");
        let view = accounts.changes();
        assert!(view.still_holds(&open) && view.still_holds(&bridge));

        accounts.remove_device("a");
        assert!(!view.still_holds(&open), "a barred device stays in");
        assert_eq!(accounts.admit("a", ""), Err(Denied::Unknown));
        accounts.set_device("a", Password::new("unused"));
        assert!(view.still_holds(&open), "a device that was let in again is out");

        accounts.set_devices(table(&[("a", "1")]));
        assert!(!view.still_holds(&open), "a device without a password stays in although one is asked for now");
        let by_password = accounts.admit("a", "1").expect("known");
        accounts.set_device("b", Password::new("2"));
        assert!(view.still_holds(&by_password), "another device's account ended this one");
        accounts.set_device("a", Password::new("3"));
        assert!(!view.still_holds(&by_password), "a changed password did not end the connection");

        accounts.set_bridge_password(Password::new("y"));
        assert!(!view.still_holds(&bridge));
    }

    #[test]
    fn generated_passwords_differ_and_hide() {
        let (a, b) = (Password::generate().expect("randomness"), Password::generate().expect("randomness"));
        assert_ne!(a, b);
        assert_eq!(a.reveal().len(), 48);
        assert_eq!(format!("{a:?}"), "Password(…)");
    }
}

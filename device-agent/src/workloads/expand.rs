//! `$(VAR)` in commands, arguments and variables, and what only the device knows. Pure.

use std::cell::RefCell;
use std::collections::{BTreeMap, BTreeSet};

use hawser_wire::deployment::{Container, DeviceField, EnvValue};

/// What the device knows about itself and pods ask for.
#[derive(Debug, Clone, Default, PartialEq, Eq)]
pub struct HostFacts {
    /// The device's addresses, the first one first.
    pub addresses: Vec<String>,
    /// What pods may use, by resource name: `cpu` in thousandths, everything else in whole units.
    pub allocatable: BTreeMap<String, u64>,
}

impl HostFacts {
    /// The value of a field for a pod with these addresses of its own (`None`: it shares the device's).
    pub fn field(&self, field: &DeviceField, pod_addresses: Option<&[String]>) -> String {
        let pod = pod_addresses.unwrap_or(&self.addresses);
        match field {
            DeviceField::PodIp => pod.first().cloned().unwrap_or_default(),
            DeviceField::PodIps => pod.join(","),
            DeviceField::HostIp => self.addresses.first().cloned().unwrap_or_default(),
            DeviceField::HostIps => self.addresses.join(","),
            DeviceField::Allocatable(resource, divisor) => {
                let amount = self.allocatable.get(resource).copied().unwrap_or(0);
                amount.div_ceil((*divisor).max(1)).to_string()
            }
        }
    }
}

/// Replaces `$(NAME)` by what `lookup` knows. What it does not know stays as it is, `$$` is one `$`, and an unfinished
/// reference is text.
pub fn expand(text: &str, lookup: impl Fn(&str) -> Option<String>) -> String {
    let mut result = String::with_capacity(text.len());
    let mut rest = text;
    while let Some(at) = rest.find('$') {
        result.push_str(&rest[..at]);
        let after = &rest[at + 1..];
        let mut chars = after.chars();
        match chars.next() {
            Some('$') => {
                result.push('$');
                rest = chars.as_str();
            }
            Some('(') => match chars.as_str().split_once(')') {
                Some((name, tail)) => {
                    match lookup(name) {
                        Some(value) => result.push_str(&value),
                        None => result.extend(["$(", name, ")"]),
                    }
                    rest = tail;
                }
                None => {
                    result.push_str("$(");
                    rest = chars.as_str();
                }
            },
            Some(other) => {
                result.extend(['$', other]);
                rest = chars.as_str();
            }
            None => {
                result.push('$');
                rest = after;
            }
        }
    }
    result.push_str(rest);
    result
}

/// A container's environment, command and mounts with everything filled in.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Expanded {
    /// The environment, each name once, in the order of first mention.
    pub env: Vec<(String, String)>,
    /// Command and arguments.
    pub command: Vec<String>,
    /// The mounts' sub-paths, in the order of the mounts; or, in a kubelet's words, what is missing for one.
    pub sub_paths: Result<Vec<Option<String>>, String>,
}

/// Fills in everything that the device has to fill in. `env` is what the runtime gives every container.
pub fn expand_container(
    container: &Container,
    mut env: Vec<(String, String)>,
    host: &HostFacts,
    pod_addresses: Option<&[String]>,
) -> Expanded {
    for variable in &container.env {
        let value = match &variable.value {
            EnvValue::Template(text) => expand(text, |name| find(&env, name)),
            EnvValue::Literal(text) => text.clone(),
            EnvValue::Device(field) => host.field(field, pod_addresses),
            // Was looked up before; without a value there is no variable.
            EnvValue::File(_) => continue,
        };
        match env.iter_mut().find(|(name, _)| *name == variable.name) {
            Some((_, old)) => *old = value,
            None => env.push((variable.name.clone(), value)),
        }
    }
    let fill = |text: &String| expand(text, |name| find(&env, name));
    let command = container.command.iter().chain(&container.args).map(fill).collect();
    let sub_paths = container
        .mounts
        .iter()
        .map(|mount| match (&mount.sub_path, mount.sub_path_expr) {
            (Some(path), true) => fill_all(path, &env).map(Some),
            (path, _) => Ok(path.clone()),
        })
        .collect();
    Expanded { env, command, sub_paths }
}

/// In a path every variable must have a value.
fn fill_all(path: &str, env: &[(String, String)]) -> Result<String, String> {
    let missing = RefCell::new(BTreeSet::new());
    let filled = expand(path, |name| {
        let value = find(env, name).filter(|value| !value.is_empty());
        if value.is_none() {
            missing.borrow_mut().insert(name.to_owned());
        }
        value
    });
    let missing = missing.into_inner();
    if missing.is_empty() {
        return Ok(filled);
    }
    Err(format!("missing value for {}", missing.into_iter().collect::<Vec<_>>().join(", ")))
}

fn find(env: &[(String, String)], name: &str) -> Option<String> {
    env.iter().find(|(known, _)| known == name).map(|(_, value)| value.clone())
}

#[cfg(test)]
mod tests {
    use super::*;
    use hawser_wire::deployment::{EnvVar, PullPolicy, Resources, User};

    #[test]
    fn references_expand_as_in_a_kubelet() {
        let lookup = |name: &str| match name {
            "A" => Some("a".to_owned()),
            "DOLLAR" => Some("$(A)".to_owned()),
            "" => None,
            _ => None,
        };
        for (text, expected) in [
            ("$(A)", "a"),
            ("x$(A)y$(A)", "xaya"),
            ("$$(A)", "$(A)"),
            ("$$$(A)", "$a"),
            ("$$$$(A)", "$$(A)"),
            ("$(MISSING)", "$(MISSING)"),
            ("$(A", "$(A"),
            ("$(A $(A)", "$(A $(A)"),
            ("$()", "$()"),
            ("$A", "$A"),
            ("$", "$"),
            ("$$", "$"),
            ("100$", "100$"),
            ("$é$(A)", "$éa"),
            ("$(DOLLAR)", "$(A)"),
            ("", ""),
        ] {
            assert_eq!(expand(text, lookup), expected, "{text}");
        }
    }

    fn container(env: Vec<(&str, EnvValue)>, command: &[&str]) -> Container {
        Container {
            name: "c".into(),
            image: "host".into(),
            pull_policy: PullPolicy::Never,
            command: command.iter().map(|s| (*s).into()).collect(),
            args: vec![],
            working_dir: None,
            env: env.into_iter().map(|(name, value)| EnvVar { name: name.into(), value }).collect(),
            mounts: vec![],
            resources: Resources::default(),
            sidecar: false,
            user: User::default(),
            termination_message_path: String::new(),
            termination_message_from_logs: false,
            interactive: None,
            confinement: None,
            care: None,
            restart_to_resize: None,
        }
    }

    #[test]
    fn a_variable_sees_the_ones_before_it_and_a_command_sees_all() {
        let template = |text: &str| EnvValue::Template(text.into());
        let container = container(
            vec![
                ("EARLY", template("$(LATE)")),
                ("LATE", template("late")),
                ("RAW", EnvValue::Literal("$(LATE)".into())),
                ("LATE", template("$(LATE)r")),
            ],
            &["$(EARLY)", "$(LATE)", "$(RAW)", "$(BASE)"],
        );
        let expanded = expand_container(&container, vec![("BASE".into(), "b".into())], &HostFacts::default(), None);
        assert_eq!(expanded.command, ["$(LATE)", "later", "$(LATE)", "b"]);
        assert_eq!(
            expanded.env.iter().map(|(name, _)| name.as_str()).collect::<Vec<_>>(),
            ["BASE", "EARLY", "LATE", "RAW"]
        );
    }

    #[test]
    fn a_path_needs_a_value_for_each_of_its_variables() {
        let env = [("A".to_owned(), "a".to_owned()), ("EMPTY".to_owned(), String::new())];
        assert_eq!(fill_all("x/$(A)/$$(B)", &env), Ok("x/a/$(B)".to_owned()));
        assert_eq!(fill_all("$(C)/$(EMPTY)/$(A)/$(C)", &env), Err("missing value for C, EMPTY".to_owned()));
    }

    #[test]
    fn the_device_fills_in_its_own_facts() {
        let host = HostFacts {
            addresses: vec!["10.0.0.7".into(), "fd00::7".into()],
            allocatable: BTreeMap::from([("cpu".into(), 3_500), ("memory".into(), 1_000_001)]),
        };
        let own = ["172.16.0.2".to_owned()];
        let cases = [
            (DeviceField::PodIp, Some(&own[..]), "172.16.0.2"),
            (DeviceField::PodIp, None, "10.0.0.7"),
            (DeviceField::PodIps, None, "10.0.0.7,fd00::7"),
            (DeviceField::HostIp, Some(&own[..]), "10.0.0.7"),
            (DeviceField::HostIps, None, "10.0.0.7,fd00::7"),
            (DeviceField::Allocatable("cpu".into(), 1_000), None, "4"),
            (DeviceField::Allocatable("memory".into(), 1), None, "1000001"),
            (DeviceField::Allocatable("memory".into(), 0), None, "1000001"),
            (DeviceField::Allocatable("gpu".into(), 1), None, "0"),
        ];
        for (field, pod, expected) in cases {
            assert_eq!(host.field(&field, pod), expected, "{field:?}");
        }
        assert_eq!(HostFacts::default().field(&DeviceField::PodIp, None), "");
    }
}

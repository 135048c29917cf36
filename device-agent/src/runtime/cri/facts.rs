//! What the engine says of itself, for the node.

use std::time::Duration;

use hawser_cri::{CallError, RuntimeCondition};
use hawser_wire::AddressRange;
use hawser_wire::report::{Condition, Image};

use super::Cri;
use crate::runtime::RuntimeFacts;

const NETWORK: &str = "NetworkReady";
/// How many images are told, as by a kubelet.
const MAX_IMAGES: usize = 50;
/// How many names of one image are told.
const MAX_NAMES: usize = 5;

/// How often, and in what distance, an engine that was told addresses is asked whether it has a network now.
const LOOKS: u32 = 20;
const BETWEEN: Duration = Duration::from_millis(100);

impl Cri {
    pub(super) async fn look_at_engine(&self, pod_ranges: &[AddressRange]) -> RuntimeFacts {
        let mut conditions = self.engine_conditions().await;
        if !pod_ranges.is_empty() && lacks_network(&conditions) {
            conditions = self.give_ranges(pod_ranges, conditions).await;
        }
        // Images that cannot be listed now are told the next time.
        let images = self.0.client.list_images().await.unwrap_or_default();
        RuntimeFacts { images: tell(images), conditions, disk: self.image_place().await }
    }

    async fn engine_conditions(&self) -> Vec<Condition> {
        match self.0.client.status(false).await {
            Ok(answer) => conditions(&answer.status.unwrap_or_default().conditions),
            Err(error) => vec![unreachable(&error)],
        }
    }

    /// An engine without a network may be waiting for the addresses of its pods. One that is not takes no notice.
    async fn give_ranges(&self, pod_ranges: &[AddressRange], before: Vec<Condition>) -> Vec<Condition> {
        let ranges = pod_ranges.iter().map(AddressRange::to_string).collect::<Vec<_>>().join(",");
        if let Err(error) = self.0.client.update_runtime_config(ranges.clone()).await {
            return with_refusal(before, &ranges, &error);
        }
        tracing::debug!(ranges, "the engine was told the addresses of pods");
        let mut now = before;
        // It writes its configuration, and then reads it.
        for _ in 0..LOOKS {
            now = self.engine_conditions().await;
            if !lacks_network(&now) {
                tracing::info!(
                    ranges,
                    "the engine has a network with the addresses that the cluster gave to pods here"
                );
                break;
            }
            tokio::time::sleep(BETWEEN).await;
        }
        now
    }
}

fn lacks_network(conditions: &[Condition]) -> bool {
    conditions.iter().any(|condition| condition.kind == NETWORK && condition.holds == Some(false))
}

/// Says with the network's condition why the engine did not take the addresses.
fn with_refusal(mut conditions: Vec<Condition>, ranges: &str, error: &CallError) -> Vec<Condition> {
    for condition in conditions.iter_mut().filter(|condition| condition.kind == NETWORK) {
        condition.message =
            format!("{}; the engine did not take the addresses {ranges}: {}", condition.message, error.message);
    }
    conditions
}

fn conditions(told: &[RuntimeCondition]) -> Vec<Condition> {
    let known = told.iter().filter(|condition| matches!(condition.kind.as_str(), "RuntimeReady" | NETWORK));
    let condition = |told: &RuntimeCondition| Condition {
        kind: told.kind.clone(),
        holds: Some(told.status),
        reason: match told.reason.as_str() {
            "" if told.status => told.kind.clone(),
            "" => format!("Not{}", told.kind),
            reason => reason.to_owned(),
        },
        message: told.message.clone(),
    };
    known.map(condition).collect()
}

fn unreachable(error: &CallError) -> Condition {
    Condition {
        kind: "RuntimeReady".to_owned(),
        holds: Some(false),
        reason: "EngineUnreachable".to_owned(),
        message: error.message.clone(),
    }
}

fn tell(images: Vec<hawser_cri::Image>) -> Vec<Image> {
    let mut told: Vec<Image> = images
        .into_iter()
        .map(|image| Image {
            names: image.repo_digests.into_iter().chain(image.repo_tags).take(MAX_NAMES).collect(),
            bytes: image.size,
        })
        .filter(|image| !image.names.is_empty())
        .collect();
    // By name as well, so that nothing is told anew because the engine lists in another order.
    told.sort_by(|a, b| b.bytes.cmp(&a.bytes).then_with(|| a.names.cmp(&b.names)));
    told.truncate(MAX_IMAGES);
    told
}

#[cfg(test)]
mod tests {
    use hawser_cri::ErrorKind;

    use super::*;

    fn told(kind: &str, status: bool, reason: &str) -> RuntimeCondition {
        RuntimeCondition { kind: kind.into(), status, reason: reason.into(), message: String::new() }
    }

    #[test]
    fn an_engine_that_refuses_addresses_says_so_with_its_network() {
        let lacking =
            conditions(&[told("RuntimeReady", true, ""), told("NetworkReady", false, "NetworkPluginNotReady")]);
        assert!(lacks_network(&lacking));
        assert!(!lacks_network(&conditions(&[told("RuntimeReady", false, ""), told("NetworkReady", true, "")])));
        let error = CallError { kind: ErrorKind::Refused, message: "read-only file system".to_owned() };
        let [runtime, network] = &with_refusal(lacking, "10.42.7.0/24", &error)[..] else { panic!("two conditions") };
        assert_eq!(runtime.message, told("RuntimeReady", true, "").message);
        assert!(
            network.message.ends_with("; the engine did not take the addresses 10.42.7.0/24: read-only file system")
        );
    }

    #[test]
    fn the_largest_images_are_told_and_no_more_than_fit() {
        let image = |number: u64| hawser_cri::Image {
            repo_tags: (0..9).map(|tag| format!("i{number}:{tag}")).collect(),
            size: number % 70,
            ..hawser_cri::Image::default()
        };
        let told = tell((0..70).map(image).collect());
        assert_eq!((told.len(), told[0].bytes, told[49].bytes), (50, 69, 20));
        assert_eq!(told[0].names.len(), 5);
    }

    #[test]
    fn conditions_that_say_no_more_get_a_reason_all_the_same() {
        let all = [
            told("RuntimeReady", true, ""),
            told("NetworkReady", false, "NetworkPluginNotReady"),
            told("Other", true, ""),
        ];
        let reasons: Vec<_> = conditions(&all).into_iter().map(|c| (c.holds, c.reason)).collect();
        assert_eq!(
            reasons,
            [(Some(true), "RuntimeReady".to_owned()), (Some(false), "NetworkPluginNotReady".to_owned())]
        );
    }
}

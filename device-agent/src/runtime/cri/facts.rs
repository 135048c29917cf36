//! What the engine says of itself, for the node.

use hawser_cri::{CallError, RuntimeCondition};
use hawser_wire::report::{Condition, Image};

use super::Cri;
use crate::runtime::RuntimeFacts;

/// How many images are told, as by a kubelet.
const MAX_IMAGES: usize = 50;
/// How many names of one image are told.
const MAX_NAMES: usize = 5;

impl Cri {
    pub(super) async fn look_at_engine(&self) -> RuntimeFacts {
        let conditions = match self.0.client.status(false).await {
            Ok(answer) => conditions(&answer.status.unwrap_or_default().conditions),
            Err(error) => vec![unreachable(&error)],
        };
        // Images that cannot be listed now are told the next time.
        let images = self.0.client.list_images().await.unwrap_or_default();
        RuntimeFacts { images: tell(images), conditions, disk: self.image_place().await }
    }
}

fn conditions(told: &[RuntimeCondition]) -> Vec<Condition> {
    let known = told.iter().filter(|condition| matches!(condition.kind.as_str(), "RuntimeReady" | "NetworkReady"));
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
    use super::*;

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
        let told = |kind: &str, status, reason: &str| RuntimeCondition {
            kind: kind.into(),
            status,
            reason: reason.into(),
            message: String::new(),
        };
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

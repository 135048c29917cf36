//! The sets of specs that are run, and where it is kept how they fare.

use clap::ValueEnum;

use crate::Node;

/// A set of specs.
#[derive(Debug, Clone, Copy, PartialEq, Eq, ValueEnum)]
pub(crate) enum Specs {
    /// What every node must do: those labelled NodeConformance
    Node,
    /// Limits of pods as a whole, and limits that change while a pod runs
    Resources,
}

impl Specs {
    /// Both.
    pub(crate) const ALL: [Self; 2] = [Self::Node, Self::Resources];

    /// The labels of its specs.
    pub(crate) fn labels(self) -> Option<&'static str> {
        match self {
            Self::Node => Some("NodeConformance"),
            // Some have a label for all that has to do with this, others are Conformance by now and have that alone.
            Self::Resources => None,
        }
    }

    /// Which names are of this set and, where that is given, match a regular expression.
    pub(crate) fn names(self, focus: Option<&str>) -> Option<String> {
        match (self, focus) {
            (Self::Node, focus) => focus.map(str::to_owned),
            (Self::Resources, None) => Some(RESOURCES.to_owned()),
            (Self::Resources, Some(focus)) => Some(format!("(?:{RESOURCES}).*(?:{focus})")),
        }
    }

    /// Where the outcomes on this node are kept, in e2e/conformance; `None`: there is no node.
    pub(crate) fn kept(self, node: Node) -> Option<&'static str> {
        match (self, node) {
            (Self::Node, Node::Device) => Some("device.txt"),
            (Self::Node, Node::Kubelet) => Some("kubelet.txt"),
            (Self::Resources, Node::Device) => Some("resources-device.txt"),
            (Self::Resources, Node::Kubelet) => Some("resources-kubelet.txt"),
            (_, Node::None) => None,
        }
    }

    /// The document, in docs.
    pub(crate) fn document(self) -> &'static str {
        match self {
            Self::Node => "conformance.md",
            Self::Resources => "conformance-resources.md",
        }
    }

    /// How its document begins.
    pub(crate) fn introduction(self) -> &'static str {
        match self {
            Self::Node => NODE,
            Self::Resources => OF_RESOURCES,
        }
    }
}

/// How the names of the groups begin after `[sig-node]`.
const RESOURCES: &str = "InPlace Resize|Pod Level Resources";

const NODE: &str = "# Node conformance

Kubernetes' own end-to-end tests mark with `[NodeConformance]` what every node must do. `just conformance` builds those specs
from the release that e2e/cluster/go.mod names, and runs them on a device with the runtime `cri`, through hub and bridge, on
a real control plane and a containerd of its own; `just conformance --node kubelet` runs the same on a kubelet of the same release,
machine and containerd. Each run writes this file anew; the reasons come from e2e/conformance/reasons.txt, and the columns
are kept in e2e/conformance/device.txt and e2e/conformance/kubelet.txt. `just conformance --focus 'should be submitted'`
runs single specs and writes nothing, unless `--keep` is said too. Specs about limits that change while a pod runs are
[apart](conformance-resources.md).
";

const OF_RESOURCES: &str = "# Limits of pods, and limits that change

Kubernetes' own end-to-end tests about limits of pods as a whole, and about limits and requests that change while a pod runs
(`kubectl patch --subresource resize`). They are not marked with `[NodeConformance]`, so they are no part of
[node conformance](conformance.md), but are built and run in the same way: `just conformance --specs resources` on a device,
with `--node kubelet` on a kubelet of the same release, machine and containerd. Each run writes this file anew; the reasons
come from e2e/conformance/reasons.txt, and the columns are kept in e2e/conformance/resources-device.txt and
e2e/conformance/resources-kubelet.txt.
";

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_focus_stays_within_its_set() {
        for (specs, focus, names) in [
            (Specs::Node, None, None),
            (Specs::Node, Some("a|b"), Some("a|b")),
            (Specs::Resources, None, Some("InPlace Resize|Pod Level Resources")),
            (Specs::Resources, Some("a|b"), Some("(?:InPlace Resize|Pod Level Resources).*(?:a|b)")),
        ] {
            assert_eq!(specs.names(focus).as_deref(), names);
        }
    }
}

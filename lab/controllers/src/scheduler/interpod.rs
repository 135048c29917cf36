//! Affinity and anti-affinity between pods. Pure.

use std::borrow::Cow;
use std::collections::BTreeSet;

use k8s_openapi::api::core::v1::{Pod, PodAffinityTerm, WeightedPodAffinityTerm};
use k8s_openapi::apimachinery::pkg::apis::meta::v1::{LabelSelector, LabelSelectorRequirement};

use super::snapshot::{Place, Snapshot};
use crate::selectors;

/// The parts of the cluster in which something holds: label key and value of their nodes.
type Domains<'a> = BTreeSet<(Cow<'a, str>, &'a str)>;

/// What affinity says, worked out once for all nodes.
pub(super) struct InterPod<'a> {
    affinity: Vec<PodAffinityTerm>,
    /// Where pods are that match all affinity terms, by each term's key.
    attracting: Domains<'a>,
    /// The pod would attract itself, and nobody else is there yet: the first of a group may go anywhere.
    first_of_its_kind: bool,
    /// Where pods are that this one avoids.
    avoided: Domains<'a>,
    /// Where pods are that avoid this one.
    forbidden: Domains<'a>,
}

fn required(pod: &Pod, anti: bool) -> Vec<PodAffinityTerm> {
    let affinity = pod.spec.as_ref().and_then(|spec| spec.affinity.as_ref());
    let terms = if anti {
        let anti = affinity.and_then(|affinity| affinity.pod_anti_affinity.as_ref());
        anti.and_then(|anti| anti.required_during_scheduling_ignored_during_execution.clone())
    } else {
        let affinity = affinity.and_then(|affinity| affinity.pod_affinity.as_ref());
        affinity.and_then(|affinity| affinity.required_during_scheduling_ignored_during_execution.clone())
    };
    terms.unwrap_or_default()
}

fn preferred(pod: &Pod, anti: bool) -> Vec<WeightedPodAffinityTerm> {
    let affinity = pod.spec.as_ref().and_then(|spec| spec.affinity.as_ref());
    let terms = if anti {
        let anti = affinity.and_then(|affinity| affinity.pod_anti_affinity.as_ref());
        anti.and_then(|anti| anti.preferred_during_scheduling_ignored_during_execution.clone())
    } else {
        let affinity = affinity.and_then(|affinity| affinity.pod_affinity.as_ref());
        affinity.and_then(|affinity| affinity.preferred_during_scheduling_ignored_during_execution.clone())
    };
    terms.unwrap_or_default()
}

/// The selector of a term with the labels of the pod that has the term filled in where the term says so.
pub(super) fn with_own_labels(
    selector: Option<&LabelSelector>,
    own: &Pod,
    equal: Option<&[String]>,
    different: Option<&[String]>,
) -> Option<LabelSelector> {
    let mut selector = selector?.clone();
    let mut extend = |keys: Option<&[String]>, operator: &str| {
        for key in keys.unwrap_or_default() {
            if let Some(value) = own.metadata.labels.as_ref().and_then(|labels| labels.get(key)) {
                selector.match_expressions.get_or_insert_default().push(LabelSelectorRequirement {
                    key: key.clone(),
                    operator: operator.to_owned(),
                    values: Some(vec![value.clone()]),
                });
            }
        }
    };
    extend(equal, "In");
    extend(different, "NotIn");
    Some(selector)
}

/// Whether the term of `owner` speaks of `other`.
fn speaks_of(term: &PodAffinityTerm, owner: &Pod, other: &Pod, snapshot: &Snapshot) -> bool {
    let namespace = other.metadata.namespace.as_deref().unwrap_or_default();
    let listed = term.namespaces.as_deref().unwrap_or_default();
    let in_namespace = match &term.namespace_selector {
        None if listed.is_empty() => owner.metadata.namespace.as_deref().unwrap_or_default() == namespace,
        None => listed.iter().any(|one| one == namespace),
        Some(selector) => {
            let labels = snapshot.namespaces.get(namespace).and_then(|one| one.metadata.labels.as_ref());
            listed.iter().any(|one| one == namespace) || selectors::matches(selector, labels)
        }
    };
    let equal = term.match_label_keys.as_deref();
    let different = term.mismatch_label_keys.as_deref();
    // A term without a selector speaks of nobody.
    in_namespace
        && with_own_labels(term.label_selector.as_ref(), owner, equal, different)
            .is_some_and(|selector| selectors::matches(&selector, other.metadata.labels.as_ref()))
}

fn add<'a>(domains: &mut Domains<'a>, place: &'a Place, key: &str) {
    if let Some(value) = place.label(key) {
        domains.insert((Cow::Owned(key.to_owned()), value));
    }
}

fn within(domains: &Domains<'_>, place: &Place, key: &str) -> bool {
    place.label(key).is_some_and(|value| domains.contains(&(Cow::Borrowed(key), value)))
}

impl<'a> InterPod<'a> {
    pub(super) fn new(pod: &Pod, snapshot: &'a Snapshot) -> Self {
        let affinity = required(pod, false);
        let anti = required(pod, true);
        let (mut attracting, mut avoided, mut forbidden) = (Domains::new(), Domains::new(), Domains::new());
        for place in &snapshot.places {
            for other in &place.pods {
                if !affinity.is_empty() && affinity.iter().all(|term| speaks_of(term, pod, other, snapshot)) {
                    affinity.iter().for_each(|term| add(&mut attracting, place, &term.topology_key));
                }
                for term in anti.iter().filter(|term| speaks_of(term, pod, other, snapshot)) {
                    add(&mut avoided, place, &term.topology_key);
                }
                for term in required(other, true).iter().filter(|term| speaks_of(term, other, pod, snapshot)) {
                    add(&mut forbidden, place, &term.topology_key);
                }
            }
        }
        let first_of_its_kind =
            attracting.is_empty() && affinity.iter().all(|term| speaks_of(term, pod, pod, snapshot));
        Self { affinity, attracting, first_of_its_kind, avoided, forbidden }
    }

    /// What speaks against the node.
    pub(super) fn check(&self, place: &Place) -> Option<&'static str> {
        let met = self.affinity.iter().all(|term| {
            let key = &term.topology_key;
            within(&self.attracting, place, key) || self.first_of_its_kind && place.label(key).is_some()
        });
        let inside = |domains: &Domains<'_>| domains.iter().any(|(key, value)| place.label(key) == Some(value));
        if !met {
            Some("node(s) didn't match pod affinity rules")
        } else if inside(&self.avoided) {
            Some("node(s) didn't match pod anti-affinity rules")
        } else if inside(&self.forbidden) {
            Some("node(s) didn't satisfy existing pods anti-affinity rules")
        } else {
            None
        }
    }
}

/// How much the pod would like to be with the pods in the node's domains: weights for, less weights against.
pub(super) fn preference(pod: &Pod, place: &Place, snapshot: &Snapshot) -> i64 {
    let (liked, disliked) = (preferred(pod, false), preferred(pod, true));
    if liked.is_empty() && disliked.is_empty() {
        return 0;
    }
    let signed = liked.iter().map(|term| (term, 1)).chain(disliked.iter().map(|term| (term, -1)));
    let mut sum = 0;
    for (weighted, sign) in signed {
        let term = &weighted.pod_affinity_term;
        let Some(here) = place.label(&term.topology_key) else { continue };
        let there = snapshot.places.iter().filter(|other| other.label(&term.topology_key) == Some(here));
        let count = there.flat_map(|other| &other.pods).filter(|other| speaks_of(term, pod, other, snapshot)).count();
        sum += sign * i64::from(weighted.weight) * i64::try_from(count).unwrap_or(i64::MAX / 1000);
    }
    sum
}

#[cfg(test)]
mod tests {
    use std::sync::Arc;

    use k8s_openapi::api::core::v1::{Affinity, Namespace, Node, PodAffinity, PodAntiAffinity};
    use k8s_openapi::apimachinery::pkg::apis::meta::v1::ObjectMeta;

    use super::*;
    use crate::samples;

    fn node(name: &str, zone: &str) -> Arc<Node> {
        let mut node = samples::node(name);
        node.metadata.labels = Some(samples::labels(&[("zone", zone), ("kubernetes.io/hostname", name)]));
        Arc::new(node)
    }

    fn term(app: &str, key: &str) -> PodAffinityTerm {
        PodAffinityTerm {
            label_selector: Some(samples::selector(app)),
            topology_key: key.into(),
            ..PodAffinityTerm::default()
        }
    }

    fn pod(name: &str, app: &str, node: Option<&str>) -> Pod {
        let mut pod = samples::pod(name);
        pod.metadata.labels = Some(samples::labels(&[("app", app)]));
        pod.spec.get_or_insert_default().node_name = node.map(str::to_owned);
        pod
    }

    fn with(mut pod: Pod, affinity: &[PodAffinityTerm], anti: &[PodAffinityTerm]) -> Pod {
        pod.spec.get_or_insert_default().affinity = Some(Affinity {
            node_affinity: None,
            pod_affinity: Some(PodAffinity {
                required_during_scheduling_ignored_during_execution: Some(affinity.to_vec()),
                ..PodAffinity::default()
            }),
            pod_anti_affinity: Some(PodAntiAffinity {
                required_during_scheduling_ignored_during_execution: Some(anti.to_vec()),
                ..PodAntiAffinity::default()
            }),
        });
        pod
    }

    fn namespace(name: &str, labels: &[(&str, &str)]) -> Arc<Namespace> {
        Arc::new(Namespace {
            metadata: ObjectMeta {
                name: Some(name.into()),
                labels: Some(samples::labels(labels)),
                ..ObjectMeta::default()
            },
            ..Namespace::default()
        })
    }

    /// Three nodes, two zones; the names of those that are open to the pod.
    fn open(pod: &Pod, others: Vec<Pod>) -> Vec<String> {
        let nodes = [node("a1", "a"), node("a2", "a"), node("b1", "b")];
        let others: Vec<_> = others.into_iter().map(Arc::new).collect();
        let namespaces = [namespace("default", &[]), namespace("team", &[("team", "x")])];
        let snapshot = Snapshot::new(&nodes, &others, &namespaces);
        let rules = InterPod::new(pod, &snapshot);
        let open = snapshot.places.iter().filter(|place| rules.check(place).is_none());
        open.map(|place| place.name().to_owned()).collect()
    }

    #[test]
    fn affinity_follows_into_the_zone() {
        let follower = with(pod("p", "web", None), &[term("db", "zone")], &[]);
        assert_eq!(open(&follower, vec![pod("x", "db", Some("a1"))]), ["a1", "a2"]);
        assert!(open(&follower, vec![]).is_empty(), "nobody to follow");
        let by_host = with(pod("p", "web", None), &[term("db", "kubernetes.io/hostname")], &[]);
        assert_eq!(open(&by_host, vec![pod("x", "db", Some("a1"))]), ["a1"]);
    }

    #[test]
    fn the_first_of_a_group_may_go_anywhere() {
        let member = with(pod("p", "web", None), &[term("web", "zone")], &[]);
        assert_eq!(open(&member, vec![]).len(), 3);
        assert_eq!(open(&member, vec![pod("x", "web", Some("b1"))]), ["b1"]);
        let nowhere = with(pod("p", "web", None), &[term("web", "rack")], &[]);
        assert!(open(&nowhere, vec![]).is_empty(), "the nodes do not have the label");
    }

    #[test]
    fn anti_affinity_holds_both_ways() {
        let loner = with(pod("p", "web", None), &[], &[term("web", "zone")]);
        assert_eq!(open(&loner, vec![pod("x", "web", Some("a1"))]), ["b1"]);
        let existing = with(pod("x", "db", Some("a1")), &[], &[term("web", "kubernetes.io/hostname")]);
        assert_eq!(open(&pod("p", "web", None), vec![existing]), ["a2", "b1"]);
    }

    #[test]
    fn namespaces_are_respected() {
        let mut foreign = pod("x", "db", Some("a1"));
        foreign.metadata.namespace = Some("team".into());
        let anti = |change: &dyn Fn(&mut PodAffinityTerm)| {
            let mut term = term("db", "kubernetes.io/hostname");
            change(&mut term);
            open(&with(pod("p", "web", None), &[], &[term]), vec![foreign.clone()])
        };
        assert_eq!(anti(&|_| {}).len(), 3, "its own namespace only");
        assert_eq!(anti(&|term| term.namespaces = Some(vec!["team".into()])), ["a2", "b1"]);
        assert_eq!(anti(&|term| term.namespace_selector = Some(LabelSelector::default())), ["a2", "b1"]);
        let labelled = |value: &'static str| {
            move |term: &mut PodAffinityTerm| {
                term.namespace_selector = Some(LabelSelector {
                    match_labels: Some(samples::labels(&[("team", value)])),
                    match_expressions: None,
                });
            }
        };
        assert_eq!(anti(&labelled("x")), ["a2", "b1"]);
        assert_eq!(anti(&labelled("y")).len(), 3);
    }

    #[test]
    fn own_labels_complete_a_term() {
        let mut term = term("web", "zone");
        term.match_label_keys = Some(vec!["version".into()]);
        let mut member = with(pod("p", "web", None), &[], &[term]);
        member.metadata.labels.get_or_insert_default().insert("version".into(), "2".into());
        let mut older = pod("x", "web", Some("a1"));
        older.metadata.labels.get_or_insert_default().insert("version".into(), "1".into());
        assert_eq!(open(&member, vec![older]).len(), 3);
    }
}

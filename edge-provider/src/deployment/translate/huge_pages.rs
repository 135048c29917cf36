//! Huge pages: what containers and the pod as a whole may use of them, and volumes in them.

use std::collections::BTreeSet;

use hawser_wire::deployment::{Ask, HugePages, HugePagesDir};
use hawser_wire::quantity;
use k8s_openapi::api::core::v1::{EmptyDirVolumeSource, PodSpec, ResourceRequirements};

use super::{Problem, Translated};

const RESOURCE: &str = "hugepages-";
/// A volume in pages of the one size that its pod asks for; with a size behind it, in those.
const MEDIUM: &str = "HugePages";

/// In a fixed order. What is requested of them is the limit, as the API server has it.
pub(super) fn asks(spec: &PodSpec, asks: &mut Vec<Ask>) -> Translated<()> {
    for (container, resources, path) in lists(spec) {
        for (name, amount) in resources.limits.iter().flatten() {
            let refused = |error| Problem::Refused(format!("{path}.limits.{name}: {error}"));
            let Some(size) = name.strip_prefix(RESOURCE) else { continue };
            let page_bytes = quantity::units(size).map_err(refused)?;
            let bytes = quantity::units(&amount.0).map_err(refused)?;
            if bytes > 0 {
                asks.push(Ask::HugePages(HugePages { container: container.map(str::to_owned), page_bytes, bytes }));
            }
        }
    }
    Ok(())
}

/// The resources of each container and of the pod as a whole, with where they stand.
fn lists(spec: &PodSpec) -> impl Iterator<Item = (Option<&str>, &ResourceRequirements, String)> {
    let init = spec.init_containers.iter().flatten().enumerate().map(|one| ("initContainers", one));
    let main = spec.containers.iter().enumerate().map(|one| ("containers", one));
    let of_containers = init.chain(main).filter_map(|(list, (at, container))| {
        let resources = container.resources.as_ref()?;
        Some((Some(container.name.as_str()), resources, format!("spec.{list}[{at}].resources")))
    });
    let whole = spec.resources.iter().map(|resources| (None, resources, "spec.resources".to_owned()));
    of_containers.chain(whole)
}

/// The volume, if it is to be in huge pages; `size_limit` as it was read. Where the pod asks for none of that size, or does not
/// say which, a kubelet's words.
pub(super) fn volume(
    spec: &PodSpec,
    source: Option<&EmptyDirVolumeSource>,
    size_limit: Option<u64>,
) -> Translated<Option<HugePagesDir>> {
    let medium = source.and_then(|source| source.medium.as_deref()).unwrap_or_default();
    let Some(size) = medium.strip_prefix(MEDIUM) else { return Ok(None) };
    let waits = |words: &str| Err(Problem::Waits(format!("medium{words}")));
    let size = match size.strip_prefix('-') {
        Some(size) => match quantity::units(size) {
            Ok(bytes) => Some(bytes),
            Err(error) => return waits(&format!(" {medium}: {error}")),
        },
        None => None,
    };
    // Requests and limits are the same, but one of them may not be written down.
    let names = lists(spec).flat_map(|(_, resources, _)| {
        resources.requests.iter().chain(&resources.limits).flatten().map(|(name, _)| name.clone()).collect::<Vec<_>>()
    });
    let asked = names.filter_map(|name| quantity::units(name.strip_prefix(RESOURCE)?).ok());
    let asked: BTreeSet<u64> = asked.filter(|page| size.is_none_or(|size| size == *page)).collect();
    match asked.first() {
        None => {
            waits(&format!(" {medium}: hugePages storage requested, but there is no resource request for huge pages"))
        }
        Some(_) if asked.len() > 1 => {
            waits(&format!(": {medium} can't be used if container requests multiple huge page sizes"))
        }
        Some(page) => Ok(Some(HugePagesDir { page_bytes: *page, size_limit })),
    }
}

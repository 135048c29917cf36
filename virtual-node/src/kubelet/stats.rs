//! What nodes and pods use, in the forms that clients of a kubelet read. Pure.

use std::fmt::Write as _;

use jiff::Timestamp;
use serde_json::{Map, Value, json};

use crate::ids::NodeName;
use crate::provider::stats::{ContainerStats, FsUsage, NodeStats, PodStats, Usage};

/// `/stats/summary`.
pub(crate) fn summary(node: &NodeName, stats: &NodeStats, now: Timestamp) -> Value {
    let mut about = Map::from_iter([("nodeName".to_owned(), json!(node.as_str()))]);
    // Clients insist on a start.
    about.insert("startTime".to_owned(), json!(time(stats.started.unwrap_or(now))));
    put_usage(&mut about, &stats.node, now);
    if let Some(fs) = &stats.fs {
        about.insert("fs".to_owned(), of_fs(fs, now));
    }
    if let Some(fs) = &stats.image_fs {
        // A kubelet says the same of both, wherever containers write.
        about.insert("runtime".to_owned(), json!({"imageFs": of_fs(fs, now), "containerFs": of_fs(fs, now)}));
    }
    let pods: Vec<Value> = stats.pods.iter().map(|pod| of_pod(pod, now)).collect();
    json!({"node": about, "pods": pods})
}

fn of_pod(pod: &PodStats, now: Timestamp) -> Value {
    let name = &pod.pod;
    let mut about = Map::new();
    let reference = json!({"name": name.name, "namespace": name.namespace, "uid": name.uid.as_str()});
    about.insert("podRef".to_owned(), reference);
    about.insert("startTime".to_owned(), json!(time(pod.started.unwrap_or(now))));
    let containers: Vec<Value> = pod
        .containers
        .iter()
        .map(|container| {
            let mut about = Map::from_iter([("name".to_owned(), json!(container.name))]);
            about.insert("startTime".to_owned(), json!(time(container.started.unwrap_or(now))));
            put_usage(&mut about, &container.usage, now);
            for (name, fs) in [("rootfs", &container.rootfs), ("logs", &container.logs)] {
                if let Some(fs) = fs {
                    about.insert(name.to_owned(), of_fs(fs, now));
                }
            }
            Value::Object(about)
        })
        .collect();
    about.insert("containers".to_owned(), Value::Array(containers));
    put_usage(&mut about, &sum(&pod.containers), now);
    if let Some(fs) = &pod.ephemeral_storage {
        about.insert("ephemeral-storage".to_owned(), of_fs(fs, now));
    }
    let volumes = pod.volumes.iter().map(|volume| {
        let mut about = of_fs(&volume.fs, now);
        about["name"] = json!(volume.name);
        about
    });
    let volumes: Vec<Value> = volumes.collect();
    if !volumes.is_empty() {
        about.insert("volume".to_owned(), Value::Array(volumes));
    }
    Value::Object(about)
}

fn of_fs(fs: &FsUsage, now: Timestamp) -> Value {
    let mut about = Map::from_iter([("time".to_owned(), json!(time(fs.at.unwrap_or(now))))]);
    for (name, amount) in [
        ("availableBytes", fs.available_bytes),
        ("capacityBytes", fs.capacity_bytes),
        ("usedBytes", fs.used_bytes),
        ("inodesFree", fs.inodes_free),
        ("inodes", fs.inodes),
        ("inodesUsed", fs.inodes_used),
    ] {
        if let Some(amount) = amount {
            about.insert(name.to_owned(), json!(amount));
        }
    }
    Value::Object(about)
}

fn put_usage(about: &mut Map<String, Value>, usage: &Usage, now: Timestamp) {
    let at = time(usage.at.unwrap_or(now));
    if let Some(used) = usage.cpu_nanoseconds {
        about.insert("cpu".to_owned(), json!({"time": at, "usageCoreNanoSeconds": used}));
    }
    let mut memory = Map::new();
    for (name, bytes) in [("workingSetBytes", usage.memory_working_set_bytes), ("rssBytes", usage.memory_rss_bytes)] {
        if let Some(bytes) = bytes {
            memory.insert(name.to_owned(), json!(bytes));
        }
    }
    if !memory.is_empty() {
        memory.insert("time".to_owned(), json!(at));
        about.insert("memory".to_owned(), Value::Object(memory));
    }
}

/// What the containers of a pod use together. A sum that lacks a part would be wrong, so it is not given.
fn sum(containers: &[ContainerStats]) -> Usage {
    let all = |part: fn(&Usage) -> Option<u64>| -> Option<u64> {
        if containers.is_empty() {
            return None;
        }
        containers.iter().try_fold(0u64, |sum, container| Some(sum.saturating_add(part(&container.usage)?)))
    };
    Usage {
        at: containers.iter().filter_map(|container| container.usage.at).min(),
        cpu_nanoseconds: all(|usage| usage.cpu_nanoseconds),
        memory_working_set_bytes: all(|usage| usage.memory_working_set_bytes),
        memory_rss_bytes: all(|usage| usage.memory_rss_bytes),
    }
}

fn time(at: Timestamp) -> String {
    Timestamp::from_second(at.as_second()).unwrap_or(at).to_string()
}

/// One metric of the text format, with its samples.
struct Metric {
    name: &'static str,
    help: &'static str,
    kind: &'static str,
    samples: String,
}

impl Metric {
    fn new(name: &'static str, kind: &'static str, help: &'static str) -> Self {
        Self { name, help, kind, samples: String::new() }
    }

    fn sample(&mut self, labels: &[(&str, &str)], value: Option<f64>, at: Option<Timestamp>) {
        let Some(value) = value else { return };
        let labels: Vec<String> = labels.iter().map(|(name, value)| format!("{name}=\"{}\"", escaped(value))).collect();
        let labels = if labels.is_empty() { String::new() } else { format!("{{{}}}", labels.join(",")) };
        let at = at.map(|at| format!(" {}", at.as_millisecond())).unwrap_or_default();
        // Writing to a string does not fail.
        let _ = writeln!(self.samples, "{}{labels} {value}{at}", self.name);
    }
}

fn escaped(value: &str) -> String {
    value.replace('\\', "\\\\").replace('"', "\\\"").replace('\n', "\\n")
}

fn text(metrics: &[Metric]) -> String {
    let mut text = String::new();
    for Metric { name, help, kind, samples } in metrics.iter().filter(|metric| !metric.samples.is_empty()) {
        let _ = write!(text, "# HELP {name} {help}\n# TYPE {name} {kind}\n{samples}");
    }
    text
}

fn seconds(nanoseconds: Option<u64>) -> Option<f64> {
    nanoseconds.map(|nanoseconds| nanoseconds as f64 / 1e9)
}

fn bytes(bytes: Option<u64>) -> Option<f64> {
    bytes.map(|bytes| bytes as f64)
}

/// `/metrics/resource`. `None`: nothing could be measured.
pub(crate) fn resource_metrics(stats: Option<&NodeStats>) -> String {
    let mut container_cpu = Metric::new(
        "container_cpu_usage_seconds_total",
        "counter",
        "[STABLE] Cumulative cpu time consumed by the container in core-seconds",
    );
    let mut container_memory = Metric::new(
        "container_memory_working_set_bytes",
        "gauge",
        "[STABLE] Current working set of the container in bytes",
    );
    let mut container_start = Metric::new(
        "container_start_time_seconds",
        "gauge",
        "[STABLE] Start time of the container since unix epoch in seconds",
    );
    let mut node_cpu = Metric::new(
        "node_cpu_usage_seconds_total",
        "counter",
        "[STABLE] Cumulative cpu time consumed by the node in core-seconds",
    );
    let mut node_memory =
        Metric::new("node_memory_working_set_bytes", "gauge", "[STABLE] Current working set of the node in bytes");
    let mut pod_cpu = Metric::new(
        "pod_cpu_usage_seconds_total",
        "counter",
        "[STABLE] Cumulative cpu time consumed by the pod in core-seconds",
    );
    let mut pod_memory =
        Metric::new("pod_memory_working_set_bytes", "gauge", "[STABLE] Current working set of the pod in bytes");
    let what = "1 if there was an error while getting container metrics, 0 otherwise";
    let mut failed = Metric::new("resource_scrape_error", "gauge", what);
    let mut failed_before = Metric::new("scrape_error", "gauge", what);
    let failure = Some(if stats.is_some() { 0.0 } else { 1.0 });
    failed.sample(&[], failure, None);
    failed_before.sample(&[], failure, None);
    if let Some(stats) = stats {
        let node = &stats.node;
        node_cpu.sample(&[], seconds(node.cpu_nanoseconds), node.at);
        node_memory.sample(&[], bytes(node.memory_working_set_bytes), node.at);
    }
    for pod in stats.iter().flat_map(|stats| &stats.pods) {
        let (name, namespace) = (pod.pod.name.as_str(), pod.pod.namespace.as_str());
        for container in &pod.containers {
            let labels = [("container", container.name.as_str()), ("namespace", namespace), ("pod", name)];
            let usage = &container.usage;
            container_cpu.sample(&labels, seconds(usage.cpu_nanoseconds), usage.at);
            container_memory.sample(&labels, bytes(usage.memory_working_set_bytes), usage.at);
            let started = container.started.map(|at| at.as_millisecond() as f64 / 1e3);
            container_start.sample(&labels, started, None);
        }
        let labels = [("namespace", namespace), ("pod", name)];
        let usage = sum(&pod.containers);
        pod_cpu.sample(&labels, seconds(usage.cpu_nanoseconds), usage.at);
        pod_memory.sample(&labels, bytes(usage.memory_working_set_bytes), usage.at);
    }
    text(&[
        container_cpu,
        container_memory,
        container_start,
        node_cpu,
        node_memory,
        pod_cpu,
        pod_memory,
        failed,
        failed_before,
    ])
}

/// `/metrics/cadvisor`, as far as it is measured: per container, and the machine as `id="/"`.
pub(crate) fn cadvisor_metrics(stats: &NodeStats) -> String {
    let mut cpu =
        Metric::new("container_cpu_usage_seconds_total", "counter", "Cumulative cpu time consumed in seconds.");
    let mut working_set = Metric::new("container_memory_working_set_bytes", "gauge", "Current working set in bytes.");
    let mut rss = Metric::new("container_memory_rss", "gauge", "Size of RSS in bytes.");
    let mut started = Metric::new(
        "container_start_time_seconds",
        "gauge",
        "Start time of the container since unix epoch in seconds.",
    );
    let mut put = |labels: &[(&str, &str)], usage: &Usage, since: Option<Timestamp>| {
        let mut with_cpu = vec![("cpu", "total")];
        with_cpu.extend_from_slice(labels);
        cpu.sample(&with_cpu, seconds(usage.cpu_nanoseconds), usage.at);
        working_set.sample(labels, bytes(usage.memory_working_set_bytes), usage.at);
        rss.sample(labels, bytes(usage.memory_rss_bytes), usage.at);
        started.sample(labels, since.map(|at| at.as_millisecond() as f64 / 1e3), usage.at);
    };
    put(&[("container", ""), ("id", "/"), ("namespace", ""), ("pod", "")], &stats.node, stats.started);
    for pod in &stats.pods {
        for container in &pod.containers {
            let id = format!("/{}/{}", pod.pod.uid, container.name);
            let labels = [
                ("container", container.name.as_str()),
                ("id", &id),
                ("namespace", &pod.pod.namespace),
                ("pod", &pod.pod.name),
            ];
            put(&labels, &container.usage, container.started);
        }
    }
    text(&[cpu, working_set, rss, started])
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::ids::{PodRef, PodUid};
    use crate::provider::stats::VolumeStats;

    fn stats() -> NodeStats {
        let at = Some(Timestamp::from_second(1_800_000_000).unwrap());
        let usage = |cpu, memory| Usage {
            at,
            cpu_nanoseconds: Some(cpu),
            memory_working_set_bytes: Some(memory),
            memory_rss_bytes: None,
        };
        let container = |name: &str, usage| ContainerStats {
            name: name.into(),
            started: Some(Timestamp::from_millisecond(1_700_000_000_500).unwrap()),
            usage,
            rootfs: None,
            logs: None,
        };
        let pod = |name: &str, containers| PodStats {
            pod: PodRef { namespace: "shop".into(), name: name.into(), uid: PodUid::new("u1") },
            started: None,
            containers,
            ephemeral_storage: None,
            volumes: vec![],
        };
        NodeStats {
            node: usage(10_500_000_000, 4096),
            started: None,
            fs: None,
            image_fs: None,
            pods: vec![
                pod("web", vec![container("a", usage(1_000_000_000, 100)), container("b", usage(500_000_000, 50))]),
                pod("half", vec![container("a", usage(1, 1)), container("b", Usage::default())]),
            ],
        }
    }

    #[test]
    fn resource_metrics_are_what_metrics_server_reads() {
        let text = resource_metrics(Some(&stats()));
        for line in [
            "# TYPE node_cpu_usage_seconds_total counter",
            "node_cpu_usage_seconds_total 10.5 1800000000000",
            "node_memory_working_set_bytes 4096 1800000000000",
            r#"container_cpu_usage_seconds_total{container="a",namespace="shop",pod="web"} 1 1800000000000"#,
            r#"container_memory_working_set_bytes{container="b",namespace="shop",pod="web"} 50 1800000000000"#,
            r#"container_start_time_seconds{container="a",namespace="shop",pod="web"} 1700000000.5"#,
            r#"pod_cpu_usage_seconds_total{namespace="shop",pod="web"} 1.5 1800000000000"#,
            r#"pod_memory_working_set_bytes{namespace="shop",pod="web"} 150 1800000000000"#,
            "scrape_error 0",
            "resource_scrape_error 0",
        ] {
            assert!(text.lines().any(|found| found == line), "{line} in\n{text}");
        }
        assert!(
            !text.contains(r#"pod="half"} 1 1800000000000"#)
                || !text.contains(r#"pod_cpu_usage_seconds_total{namespace="shop",pod="half"}"#)
        );
        let nothing = resource_metrics(None);
        assert!(nothing.contains("\nresource_scrape_error 1\n") && !nothing.contains("node_cpu"), "{nothing}");
    }

    #[test]
    fn a_sum_that_lacks_a_part_is_not_given() {
        let text = resource_metrics(Some(&stats()));
        assert!(!text.contains(r#"pod_cpu_usage_seconds_total{namespace="shop",pod="half"}"#), "{text}");
    }

    #[test]
    fn the_summary_has_its_fields() {
        let now = Timestamp::from_second(1_800_000_100).unwrap();
        let summary = summary(&NodeName::new("gw-1").unwrap(), &stats(), now);
        assert_eq!(summary["node"]["nodeName"], "gw-1");
        assert_eq!(
            summary["node"]["cpu"],
            json!({"time": "2027-01-15T08:00:00Z", "usageCoreNanoSeconds": 10_500_000_000u64})
        );
        assert_eq!(summary["node"]["memory"]["workingSetBytes"], 4096);
        let web = &summary["pods"][0];
        assert_eq!(web["podRef"], json!({"name": "web", "namespace": "shop", "uid": "u1"}));
        assert_eq!((&web["containers"][1]["name"], &web["memory"]["workingSetBytes"]), (&json!("b"), &json!(150)));
        assert_eq!(summary["pods"][1].get("cpu"), None);
    }

    #[test]
    fn the_summary_tells_of_disks_as_far_as_they_are_known() {
        let now = Timestamp::from_second(1_800_000_000).unwrap();
        let used = |bytes| FsUsage { used_bytes: Some(bytes), ..FsUsage::default() };
        let whole = FsUsage {
            at: Some(Timestamp::from_second(1_799_999_999).unwrap()),
            capacity_bytes: Some(100),
            available_bytes: Some(60),
            used_bytes: Some(30),
            inodes: Some(9),
            inodes_free: Some(5),
            inodes_used: Some(4),
        };
        let mut stats = stats();
        (stats.fs, stats.image_fs) = (Some(whole), Some(used(7)));
        let pod = &mut stats.pods[0];
        pod.ephemeral_storage = Some(used(6));
        pod.volumes = vec![VolumeStats { name: "data".into(), fs: used(5) }];
        (pod.containers[0].rootfs, pod.containers[0].logs) = (Some(used(4)), Some(used(3)));
        let summary = summary(&NodeName::new("gw-1").unwrap(), &stats, now);
        let told = json!({
            "time": "2027-01-15T07:59:59Z", "capacityBytes": 100, "availableBytes": 60, "usedBytes": 30,
            "inodes": 9, "inodesFree": 5, "inodesUsed": 4,
        });
        assert_eq!(summary["node"]["fs"], told);
        let (time, web) = ("2027-01-15T08:00:00Z", &summary["pods"][0]);
        assert_eq!(summary["node"]["runtime"]["imageFs"], json!({"time": time, "usedBytes": 7}));
        assert_eq!(web["ephemeral-storage"], json!({"time": time, "usedBytes": 6}));
        assert_eq!(web["volume"], json!([{"time": time, "usedBytes": 5, "name": "data"}]));
        assert_eq!(web["containers"][0]["rootfs"], json!({"time": time, "usedBytes": 4}));
        assert_eq!(web["containers"][0]["logs"], json!({"time": time, "usedBytes": 3}));
        let half = summary["pods"][1].as_object().unwrap();
        assert!(!half.contains_key("volume") && !half.contains_key("ephemeral-storage"), "{half:?}");
    }

    #[test]
    fn cadvisor_metrics_say_what_is_measured() {
        let text = cadvisor_metrics(&stats());
        assert!(text.contains(r#"container_cpu_usage_seconds_total{cpu="total",container="a",id="/u1/a",namespace="shop",pod="web"} 1 1800000000000"#), "{text}");
        assert!(text.contains(r#"container_memory_working_set_bytes{container="",id="/",namespace="",pod=""} 4096"#));
        assert!(!text.contains("container_memory_rss"));
    }
}

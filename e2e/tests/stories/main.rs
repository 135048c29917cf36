//! Stories: what a user does, from `kubectl` to a process on a device and back.
//!
//! Each is told on the lab (an API server in memory, made for the story) and, unchanged, on the cluster that KUBECONFIG
//! names when `HAWSER_E2E=cluster`. The programs are real processes in both: hub, bridge, agents, workloads.

mod containers;
mod containers_clock;
mod containers_disk;
mod containers_image_volumes;
mod containers_images;
mod containers_network;
mod containers_resize;
mod containers_storage;
mod containers_variables;
mod debug;
mod describe;
mod faults;
mod joining;
mod kubectl;
mod pods;
mod probes;
mod references;
mod refusals;
mod setting_up;
mod statuses;
mod steady;
mod strangers;
mod tls;
mod verbs_containers;
mod verbs_exec;
mod verbs_faults;
mod verbs_logs;
mod verbs_node;
mod verbs_ports;
mod verbs_releases;
mod verbs_top;
mod workloads;

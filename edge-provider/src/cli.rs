//! The subcommands of `hawser`, each as something that can be parsed and run.

pub mod device;
pub mod manifests;

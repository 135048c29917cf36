//! The in-memory Kubernetes API of the lab.

//! Be Kubernetes nodes without being machines.

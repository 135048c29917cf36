//! The provider for devices.

//! The words that the bridge and the agents exchange.
#![no_std]

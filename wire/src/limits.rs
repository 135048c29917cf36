//! Every bound of the wire in one place. A value beyond its bound is refused before anything is allocated for it.

/// The longest MQTT payload that either side sends or reads. A Noise message cannot be longer than 65,535 bytes; the
/// rest is the envelope around it.
pub const MAX_PAYLOAD: usize = 65_535 + 64;
/// The longest plaintext inside a sealed frame: a Noise message less its authentication tag.
pub const MAX_PLAINTEXT: usize = 65_535 - 16;
/// How deep CBOR may nest. Our own messages nest 9 deep; the rest is room for later versions.
pub const MAX_DEPTH: usize = 24;
/// How many entries a CBOR map may have. Our messages have none; later versions may.
pub const MAX_MAP_ENTRIES: u64 = 256;
/// How many pods one device can be given.
pub const MAX_INDEX_ENTRIES: usize = 512;
/// How many ranges of addresses the pods of a node have: one of each family.
pub const MAX_POD_RANGES: usize = 2;
/// How many objects a device asks for at once.
pub const MAX_WANTED_OBJECTS: usize = 64;
/// The longest object: an edge deployment or a blob. ConfigMaps and Secrets end at 1 MiB.
pub const MAX_OBJECT: u64 = 4 * 1024 * 1024;
/// How much of an object travels in one chunk.
pub const MAX_CHUNK: usize = 32 * 1024;
/// How many report items travel in one message, and how many sequence numbers in one acknowledgement.
pub const MAX_REPORT_ITEMS: usize = 256;
/// How many bytes of stream data travel in one frame.
pub const MAX_STREAM_DATA: usize = 32 * 1024;
/// The longest name of a device: a DNS-1123 subdomain that is also one level of an MQTT topic.
pub const MAX_DEVICE_ID: usize = 253;
/// The longest pod UID.
pub const MAX_POD_UID: usize = 64;
/// The longest topic root.
pub const MAX_ROOT: usize = 128;

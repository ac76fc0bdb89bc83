//! Every limit of the wire, with its reason. What is longer is refused, never buffered.

/// Longest string, bytes: names, texts, queries. "Conventions": strings MUST be no longer than 4096
/// bytes.
pub const STRING_BYTES_MAX: usize = 4096;

/// Most bytes of one option's data that are held in memory. A guess, not tuned: the largest honest
/// option names an export (4096) and a dozen meta contexts.
pub const OPTION_DATA_BYTES_MAX: u32 = 64 << 10;

/// Most bytes of one option's data that are read and thrown away so that the option can still be
/// answered with `ERR_TOO_BIG`. Longer ones end the connection ("Termination of the session during
/// option haggling" allows a hard disconnect for denial of service). A guess, not tuned: sixteen
/// times what we accept.
pub const OPTION_DRAIN_BYTES_MAX: u32 = 1 << 20;

/// Most options in one handshake; real clients send fewer than ten. The next one ends the
/// connection. A guess, not tuned.
pub const HANDSHAKE_OPTIONS_MAX: u32 = 1024;

/// So many options more for each export that a LIST has shown, because some clients (`qemu-nbd
/// --list`) then ask for each of them on the same connection: INFO and LIST_META_CONTEXT, and as
/// much again to spare.
pub const OPTIONS_PER_LISTED_EXPORT: u32 = 4;

/// Most exports that a LIST shows; with more it is answered with `ERR_TOO_BIG`. A guess, not tuned:
/// at 4 KiB a name and a description each this is 80 MiB, with the usual UUIDs under one.
pub const LIST_EXPORTS_MAX: usize = 10_000;

/// Most snapshots whose context a LIST_META_CONTEXT shows, the newest; a record for the family
/// stands for the rest. A guess, not tuned: 86 bytes each, so less than 100 KiB a reply.
pub const LIST_SNAPSHOTS_MAX: usize = 1000;

/// Most contexts that a connection selects; further ones are not selected. Every BLOCK_STATUS costs
/// a walk and a chunk of up to [`BLOCK_DESCRIPTORS_MAX`] descriptors for each. A guess, not tuned:
/// a backup needs two.
pub const SELECTED_CONTEXTS_MAX: usize = 16;

/// Most bytes of one option reply's data that a client accepts: name and description, and then
/// some. A guess.
pub const OPTION_REPLY_BYTES_MAX: u32 = 64 << 10;

/// Most bytes of data in one READ reply or WRITE request, advertised as maximum payload. "Size
/// constraints" wants at least 32 MiB to be taken; clients that write up to 50 MiB in one request
/// have been measured.
pub const PAYLOAD_BYTES_MAX: u32 = 64 << 20;

/// Most bytes of one chunk that a client accepts: the data of a whole READ and its offset.
pub const CHUNK_BYTES_MAX: u32 = PAYLOAD_BYTES_MAX + 8;

/// Most descriptors in one block status chunk that we send: 64 KiB of them. "Structured reply
/// types" allows to return fewer than would describe the range; the client asks on from there. A
/// guess, not tuned.
pub const BLOCK_DESCRIPTORS_MAX: usize = 8192;

/// Most bytes of the other side's words that we repeat in a text, so that our own words stay in
/// sight. A guess.
pub const ESCAPED_BYTES_MAX: usize = 256;

const _: () = assert!(OPTION_DATA_BYTES_MAX < OPTION_DRAIN_BYTES_MAX);
const _: () = assert!(4 + 8 * BLOCK_DESCRIPTORS_MAX <= CHUNK_BYTES_MAX as usize);

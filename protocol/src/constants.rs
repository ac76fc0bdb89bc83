//! Magic numbers. Source: "Newstyle negotiation", "Fixed newstyle negotiation", "Request message",
//! "Simple reply message", "Structured reply chunk message".

/// First word of the greeting (`INIT_PASSWD`, "NBDMAGIC").
pub(crate) const GREETING_MAGIC: u64 = 0x4e42_444d_4147_4943;
/// Second word of the greeting, and first of every option ("IHAVEOPT").
pub(crate) const OPTION_MAGIC: u64 = 0x4948_4156_454f_5054;
/// First word of every option reply.
pub(crate) const OPTION_REPLY_MAGIC: u64 = 0x0003_e889_0455_65a9;
/// First word of every request (`NBD_REQUEST_MAGIC`).
pub(crate) const REQUEST_MAGIC: u32 = 0x2560_9513;
/// First word of a simple reply (`NBD_SIMPLE_REPLY_MAGIC`).
pub(crate) const SIMPLE_REPLY_MAGIC: u32 = 0x6744_6698;
/// First word of a structured reply chunk (`NBD_STRUCTURED_REPLY_MAGIC`).
pub(crate) const CHUNK_MAGIC: u32 = 0x668e_33ef;

/// Bit 0 of a chunk's flags: the last chunk of its reply (`NBD_REPLY_FLAG_DONE`).
pub(crate) const CHUNK_FLAG_DONE: u16 = 1;
/// Bit 15 of a chunk's type: it is an error chunk, known or not ("Structured reply types").
pub(crate) const CHUNK_TYPE_ERROR_BIT: u16 = 1 << 15;
/// Bit 31 of an option reply's type: it is an error, known or not ("Option reply types").
pub(crate) const OPTION_REPLY_ERROR_BIT: u32 = 1 << 31;

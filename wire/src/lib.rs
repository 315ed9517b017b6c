//! SMC-R on the wire, without I/O: bytes, completions and the time come in, bytes and work requests go out.
//!
//! SMC-R (RFC 7609, and IBM's "Shared Memory Communications Version 2" for what is called v2) moves the bytes of a TCP
//! connection by RDMA. Three kinds of messages:
//!
//! - **CLC** ([`clc`]), on the TCP connection, before any byte of the application: PROPOSAL, ACCEPT, CONFIRM, DECLINE.
//!   They agree on a queue pair and on where each end's receive buffer is, or that the connection stays TCP.
//! - **LLC** ([`llc`]), as RDMA SENDs between two hosts: they keep a link and its memory keys in order.
//! - **CDC** ([`cdc`]), as RDMA SENDs for one connection: cursors and flags. The data itself goes by RDMA WRITE, without
//!   any header, into the peer's ring.
//!
//! On top of the messages, and as free of I/O:
//!
//! - [`handshake`]: the CLC conversation of one connection, as client and as server, up to the end of CONFIRM LINK;
//! - [`group`]: one link group with its single link: what is answered to the peer's LLC messages, what is sent of its own
//!   accord, and when a link is given up;
//! - [`iwarp`]: what is said besides where the devices are iWARP;
//! - [`conn`]: one connection: cursors, flow control, urgent data, and the close states.
//!
//! Everything that comes from a peer is untrusted. Nothing here panics or reads outside a message, whatever the bytes;
//! `wire/fuzz` tries. Fields that are reserved are sent as zero and not looked at on receipt (RFC 7609 appendix A). All
//! fields are big-endian, except two lengths of LLC v2 ([`llc`]); offsets are in bytes from the start of the message, and
//! bit 7 is the most significant bit of a byte.
//!
//! Where RFC 7609 and Linux differ, this follows Linux 6.12, whose messages are the fixtures of the tests.
#![forbid(unsafe_code)]

mod bytes;
pub mod cdc;
pub mod clc;
pub mod conn;
pub mod diagnosis;
pub mod group;
pub mod handshake;
pub mod ids;
pub mod iwarp;
pub mod llc;
pub mod option;

pub use bytes::{Bounded, TooMany};
pub use diagnosis::Diagnosis;
pub use ids::{Eid, Gid, Mac, MtuCode, PeerId, Rmb, SizeCode, U24};

/// A point in time, as the distance from any moment the caller has chosen. Only differences count, so a monotonic clock's
/// reading will do. The state machines never look at a clock.
pub type Time = core::time::Duration;

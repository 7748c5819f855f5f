//! ONC RPC version 2 (RFC 5531), made so that it can also be wrong on purpose.
//!
//! The layers, from the bytes up; each module can be read on its own:
//!
//! - [`xdr`]: how values lie on the wire (RFC 4506);
//! - [`record`]: how messages are cut out of a TCP stream (RFC 5531, section 11);
//! - [`msg`]: the call and reply headers, credentials, and the errors of the RPC layer;
//! - [`server`]: sockets → whole records → a [`server::Service`] → one vectored write per batch;
//! - [`datagrams`]: a UDP socket that replies from the address that was asked;
//! - [`drc`]: answers kept for calls that must not be executed twice;
//! - [`client`]: outgoing calls, matched to their replies by xid.
//!
//! This crate knows no program: numbers such as 100003 stand in `proto`.

#![cfg_attr(test, allow(clippy::unwrap_used, clippy::indexing_slicing))]

pub mod client;
pub mod datagrams;
pub mod drc;
pub mod msg;
pub mod record;
pub mod server;
pub mod xdr;

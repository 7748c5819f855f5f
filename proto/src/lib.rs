//! The wire types of the programs around NFSv3, one file per program, with the names of their
//! specifications. Values that a specification forbids can be decoded, shown and encoded like any other:
//! sending them is part of what nfslab is for. What a type means when it is legal stands beside it.

#![cfg_attr(test, allow(clippy::unwrap_used, clippy::indexing_slicing))]

pub mod mount;
pub mod nfs3;
pub mod nlm;
pub mod nsm;
pub mod portmap;
pub mod rpcbind;

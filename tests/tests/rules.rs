//! Rules on the wire: every action at every point where it can be done, gates, callbacks, expectations, the journal and
//! its replay, and the commands. Clients are raw: they choose their xids and see every byte.

#![allow(
    clippy::unwrap_used,
    clippy::indexing_slicing,
    reason = "a test that panics has failed"
)]

mod common;
#[path = "common/fake_client.rs"]
mod fake_client;

#[path = "rules/callbacks.rs"]
mod callbacks;
#[path = "rules/commands.rs"]
mod commands;
#[path = "rules/connections.rs"]
mod connections;
#[path = "rules/documents.rs"]
mod documents;
#[path = "rules/gates.rs"]
mod gates;
#[path = "rules/journal.rs"]
mod journal;
#[path = "rules/keys.rs"]
mod keys;
#[path = "rules/kit.rs"]
mod kit;
#[path = "rules/lessons.rs"]
mod lessons;
#[path = "rules/lost.rs"]
mod lost;
#[path = "rules/replies.rs"]
mod replies;

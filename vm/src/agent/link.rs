//! The agent's end of the line to the host.

use std::fs::File;
use std::io::Write;
use std::sync::{Mutex, PoisonError};

use crate::protocol::{Answer, Message, encode};

/// Writes messages, each as one whole line, from any thread.
pub(super) struct Link(Mutex<File>);

impl Link {
    pub(super) fn new(port: File) -> Self {
        Self(Mutex::new(port))
    }

    /// Returns when the host has it.
    pub(super) fn send(&self, message: &Message) {
        let line = encode(message);
        let mut port = self.0.lock().unwrap_or_else(PoisonError::into_inner);
        // If the host does not listen any more, there is nobody to tell.
        let _ = port.write_all(&line);
    }

    pub(super) fn reply(&self, id: u64, answer: Answer) {
        self.send(&Message::Reply { id, answer });
    }

    pub(super) fn refuse(&self, id: u64, problem: &str) {
        self.reply(id, Answer::Error(problem.to_owned()));
    }
}

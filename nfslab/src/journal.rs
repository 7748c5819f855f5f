//! The journal of decisions: kept for those who ask, and written to `--journal`.

use anyhow::{Context, Result};
use faults::journal::{Differs, Entry, Header};
use parking_lot::Mutex;
use std::collections::VecDeque;
use std::fs::File;
use std::io::Write;
use std::path::Path;
use std::sync::OnceLock;

/// Decisions that are kept in memory.
const KEPT: usize = 65_536;

/// The decisions so far.
pub struct Journal {
    header: Header,
    kept: Mutex<VecDeque<Entry>>,
    /// Written line by line: whoever kills the server has every decision.
    file: Option<Mutex<File>>,
    differs: OnceLock<Differs>,
}

impl Journal {
    /// A journal, in a file too if that is wanted.
    ///
    /// # Errors
    /// If the file cannot be written.
    pub fn new(seed: u64, path: Option<&Path>) -> Result<Journal> {
        let header = Header::new(seed);
        let create = |path: &Path| -> Result<Mutex<File>> {
            let failed = || format!("cannot write the journal {} (--journal)", path.display());
            let mut file = File::create(path).with_context(failed)?;
            writeln!(file, "{}", serde_json::to_string(&header)?).with_context(failed)?;
            Ok(Mutex::new(file))
        };
        Ok(Journal {
            file: path.map(create).transpose()?,
            header,
            kept: Mutex::default(),
            differs: OnceLock::new(),
        })
    }

    /// Adds decisions.
    pub fn write(&self, entries: Vec<Entry>) {
        if let Some(file) = &self.file {
            let mut file = file.lock();
            for entry in &entries {
                let line = serde_json::to_string(entry).unwrap_or_default();
                if let Err(error) = writeln!(file, "{line}") {
                    tracing::error!(%error, "the journal is not complete");
                }
            }
        }
        let mut kept = self.kept.lock();
        for entry in entries {
            if kept.len() == KEPT {
                kept.pop_front();
            }
            kept.push_back(entry);
        }
    }

    /// The decisions that are kept, with their header.
    pub fn view(&self) -> faults::journal::Journal {
        let entries = self.kept.lock().iter().cloned().collect();
        faults::journal::Journal::new(self.header.clone(), entries)
    }

    /// The run is not as the journal that is replayed. The first time counts.
    pub fn differs(&self, how: Differs) {
        let _ = self.differs.set(how);
    }

    /// How the run differs from the journal that is replayed, if it does.
    pub fn difference(&self) -> Option<&Differs> {
        self.differs.get()
    }

    /// Forgets the decisions that are kept in memory.
    pub fn clear(&self) {
        self.kept.lock().clear();
    }
}

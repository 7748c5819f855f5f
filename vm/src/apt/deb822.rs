//! The format of Debian's control files: stanzas of `Key: value`, where a line
//! that begins with a blank carries the value on.

use std::collections::BTreeMap;

/// One stanza. Keys keep their spelling.
pub(crate) type Stanza = BTreeMap<String, String>;

/// Splits a text into its stanzas.
pub(crate) fn stanzas(text: &str) -> Vec<Stanza> {
    let mut all = Vec::new();
    let mut reader = Reader::new(|_| true);
    for line in text.lines().chain([""]) {
        all.extend(reader.line(line));
    }
    all
}

/// Reads stanzas line by line, so that an index of 60 MB need not be held, and
/// keeps only the keys that are wanted.
pub(crate) struct Reader<F> {
    wanted: F,
    stanza: Stanza,
    key: Option<String>,
}

impl<F: Fn(&str) -> bool> Reader<F> {
    pub(crate) fn new(wanted: F) -> Self {
        Self {
            wanted,
            stanza: Stanza::new(),
            key: None,
        }
    }

    /// Takes the next line; a blank one ends the stanza and hands it out.
    pub(crate) fn line(&mut self, line: &str) -> Option<Stanza> {
        if line.trim().is_empty() {
            self.key = None;
            let stanza = std::mem::take(&mut self.stanza);
            return (!stanza.is_empty()).then_some(stanza);
        }
        if line.starts_with('#') {
            return None;
        }
        if line.starts_with([' ', '\t']) {
            if let Some(value) = self.key.as_ref().and_then(|key| self.stanza.get_mut(key)) {
                value.push('\n');
                value.push_str(line.trim());
            }
            return None;
        }
        let (key, value) = line.split_once(':').unwrap_or((line, ""));
        self.key = (self.wanted)(key).then(|| key.to_owned());
        if let Some(key) = &self.key {
            self.stanza.insert(key.clone(), value.trim().to_owned());
        }
        None
    }
}

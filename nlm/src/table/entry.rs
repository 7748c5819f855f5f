//! A lock as it lies in the tree: 24 bytes.

use super::{Now, OwnerId};
use crate::range::{Kind, OFFSET_MAX, Range};
use std::fmt;
use std::time::Duration;

/// A lock without its file.
///
/// The kind is the top bit of the last byte's number, which no range uses; the time is in whole
/// milliseconds, and stands still after 49 days.
#[derive(Clone, Copy, PartialEq, Eq)]
pub(crate) struct Entry {
    start: u64,
    last_and_kind: u64,
    owner: OwnerId,
    since_ms: u32,
}

const EXCLUSIVE: u64 = 1 << 63;

impl Entry {
    pub(crate) fn new(owner: OwnerId, range: Range, kind: Kind, since: Now) -> Self {
        let flag = if kind.is_exclusive() { EXCLUSIVE } else { 0 };
        let since_ms = u32::try_from(since.as_millis()).unwrap_or(u32::MAX);
        Entry {
            start: range.start(),
            last_and_kind: range.last() | flag,
            owner,
            since_ms,
        }
    }

    pub(crate) fn key(&self) -> (u64, OwnerId) {
        (self.start, self.owner)
    }

    pub(crate) fn owner(&self) -> OwnerId {
        self.owner
    }

    pub(crate) fn start(&self) -> u64 {
        self.start
    }

    pub(crate) fn last(&self) -> u64 {
        self.last_and_kind & OFFSET_MAX
    }

    pub(crate) fn range(&self) -> Range {
        Range::new(self.start, self.last()).unwrap_or(Range::WHOLE_FILE)
    }

    pub(crate) fn kind(&self) -> Kind {
        Kind::from_wire(self.last_and_kind & EXCLUSIVE != 0)
    }

    pub(crate) fn since(&self) -> Now {
        Duration::from_millis(u64::from(self.since_ms))
    }
}

impl fmt::Debug for Entry {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "{} {:?} of {:?}", self.kind(), self.range(), self.owner)
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn an_entry_is_24_bytes_and_keeps_what_it_is_given() {
        assert_eq!(size_of::<Entry>(), 24);
        for kind in [Kind::Shared, Kind::Exclusive] {
            let e = Entry::new(OwnerId(7), Range::WHOLE_FILE, kind, Duration::from_millis(1234));
            assert_eq!(
                (e.owner(), e.range(), e.kind()),
                (OwnerId(7), Range::WHOLE_FILE, kind)
            );
            assert_eq!(e.since(), Duration::from_millis(1234));
        }
    }
}

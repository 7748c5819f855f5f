//! Which bytes a lock covers, and how.
//!
//! On the wire (XNFS C702, chapter 10; version 4: RFC 1813, appendix II) a range is an offset and a
//! length, and length 0 means "to the end of the file, however long it becomes". Here it is the first
//! and the last byte, both included: that form has no special case, and the six ways in which two ranges
//! can meet become comparisons.

use std::fmt;

/// The last byte that a lock can cover: 2^63-1, the largest signed file offset. A lock "to the end" ends here.
pub const OFFSET_MAX: u64 = i64::MAX as u64;

/// The bytes `start..=last`. Invariant: `start <= last <= OFFSET_MAX`.
#[derive(Clone, Copy, PartialEq, Eq, PartialOrd, Ord, Hash)]
pub struct Range {
    start: u64,
    last: u64,
}

/// The range does not fit into a signed 64-bit offset: `NLM4_FBIG`.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct TooBig;

impl Range {
    /// Every byte: what `flock` becomes over NFS.
    pub const WHOLE_FILE: Range = Range {
        start: 0,
        last: OFFSET_MAX,
    };

    /// The first in the order of ranges.
    pub(crate) const LEAST: Range = Range { start: 0, last: 0 };

    /// From the wire. A start beyond 2^63-1, or a length that runs past it, is [`TooBig`].
    pub fn from_wire(offset: u64, len: u64) -> Result<Range, TooBig> {
        if offset > OFFSET_MAX {
            return Err(TooBig);
        }
        match len.checked_sub(1) {
            None => Ok(Range {
                start: offset,
                last: OFFSET_MAX,
            }),
            Some(beyond) if beyond > OFFSET_MAX - offset => Err(TooBig),
            Some(beyond) => Ok(Range {
                start: offset,
                last: offset + beyond,
            }),
        }
    }

    /// The bytes `start..=last`; `None` if that is empty or beyond [`OFFSET_MAX`].
    pub fn new(start: u64, last: u64) -> Option<Range> {
        (start <= last && last <= OFFSET_MAX).then_some(Range { start, last })
    }

    /// Offset and length for the wire. A range that reaches [`OFFSET_MAX`] goes out with length 0, as
    /// Linux sends it, whether the client had asked with length 0 or spelled it out.
    pub fn to_wire(self) -> (u64, u64) {
        let len = if self.last == OFFSET_MAX {
            0
        } else {
            self.last - self.start + 1
        };
        (self.start, len)
    }

    /// The first byte.
    pub fn start(self) -> u64 {
        self.start
    }

    /// The last byte, included.
    pub fn last(self) -> u64 {
        self.last
    }

    /// Whether the two share a byte.
    pub fn overlaps(self, other: Range) -> bool {
        self.start <= other.last && other.start <= self.last
    }

    /// Whether every byte of `other` is in `self`.
    pub fn covers(self, other: Range) -> bool {
        self.start <= other.start && other.last <= self.last
    }

    /// The smallest range that has both.
    pub(crate) fn span(self, other: Range) -> Range {
        Range {
            start: self.start.min(other.start),
            last: self.last.max(other.last),
        }
    }

    /// The bytes that are in both.
    pub(crate) fn common(self, other: Range) -> Option<Range> {
        Range::new(self.start.max(other.start), self.last.min(other.last))
    }

    /// What of `self` lies before `other` and what lies after it.
    pub(crate) fn without(self, other: Range) -> [Option<Range>; 2] {
        let before = other
            .start
            .checked_sub(1)
            .and_then(|end| Range::new(self.start, end.min(self.last)));
        let after = Range::new(self.start.max(other.last + 1), self.last);
        [before, after]
    }
}

impl fmt::Display for Range {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match (self.start, self.last) {
            (0, OFFSET_MAX) => f.write_str("the whole file"),
            (start, OFFSET_MAX) => write!(f, "bytes {start} to the end"),
            (start, last) if start == last => write!(f, "byte {start}"),
            (start, last) => write!(f, "bytes {start} to {last}"),
        }
    }
}

impl fmt::Debug for Range {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "{}..={}", self.start, self.last)
    }
}

/// Whether others may hold a lock on the same bytes.
#[derive(Debug, Clone, Copy, PartialEq, Eq, PartialOrd, Ord, Hash)]
pub enum Kind {
    /// A read lock: any number of owners may have one.
    Shared,
    /// A write lock: no other owner has any.
    Exclusive,
}

impl Kind {
    /// From the `exclusive` field of the wire.
    pub fn from_wire(exclusive: bool) -> Kind {
        if exclusive { Kind::Exclusive } else { Kind::Shared }
    }

    /// For the `exclusive` field of the wire.
    pub fn is_exclusive(self) -> bool {
        self == Kind::Exclusive
    }

    /// Whether two owners cannot have these at once on the same byte.
    pub fn conflicts(self, other: Kind) -> bool {
        self.is_exclusive() || other.is_exclusive()
    }
}

impl fmt::Display for Kind {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str(match self {
            Kind::Shared => "shared",
            Kind::Exclusive => "exclusive",
        })
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn length_zero_reaches_the_end_and_goes_out_as_zero() {
        let r = Range::from_wire(7, 0).unwrap();
        assert_eq!((r.start(), r.last()), (7, OFFSET_MAX));
        assert_eq!(r.to_wire(), (7, 0));
        assert_eq!(Range::from_wire(0, 0), Ok(Range::WHOLE_FILE));
    }

    #[test]
    fn the_last_byte_can_be_locked_and_the_one_after_it_cannot() {
        assert_eq!(
            Range::from_wire(OFFSET_MAX, 1).unwrap().to_wire(),
            (OFFSET_MAX, 0)
        );
        assert_eq!(Range::from_wire(OFFSET_MAX, 2), Err(TooBig));
        assert_eq!(Range::from_wire(OFFSET_MAX + 1, 0), Err(TooBig));
        assert_eq!(Range::from_wire(0, OFFSET_MAX + 1), Ok(Range::WHOLE_FILE));
        assert_eq!(Range::from_wire(0, OFFSET_MAX + 2), Err(TooBig));
        assert_eq!(Range::from_wire(1, u64::MAX), Err(TooBig));
    }

    #[test]
    fn taking_a_range_away_leaves_what_lies_on_both_sides() {
        let r = |a, b| Range::new(a, b).unwrap();
        assert_eq!(r(0, 9).without(r(3, 5)), [Some(r(0, 2)), Some(r(6, 9))]);
        assert_eq!(r(0, 9).without(r(0, 5)), [None, Some(r(6, 9))]);
        assert_eq!(r(0, 9).without(r(5, 20)), [Some(r(0, 4)), None]);
        assert_eq!(r(3, 5).without(r(0, 9)), [None, None]);
        assert_eq!(
            Range::WHOLE_FILE.without(r(OFFSET_MAX, OFFSET_MAX)),
            [Some(r(0, OFFSET_MAX - 1)), None]
        );
    }

    #[test]
    fn ranges_are_shown_in_words() {
        let shown = |a, b| Range::new(a, b).unwrap().to_string();
        assert_eq!(shown(0, OFFSET_MAX), "the whole file");
        assert_eq!(shown(4, OFFSET_MAX), "bytes 4 to the end");
        assert_eq!(shown(4, 4), "byte 4");
        assert_eq!(shown(4, 8), "bytes 4 to 8");
    }
}

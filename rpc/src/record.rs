//! Record marking on TCP (RFC 5531, section 11): a message is one or more fragments, each behind four
//! bytes of which the highest bit says "last" and the rest the length.
//!
//! The peer announces up to 2 GiB per fragment. [`RecordReader`] compares the announcement with its limit
//! and otherwise believes only bytes that have arrived: a buffer grows by doubling with them, or at once
//! to the size of a record that this peer has already delivered in full.

use bytes::{Buf, Bytes, BytesMut};

/// The highest bit of a record mark.
pub const LAST_FRAGMENT: u32 = 0x8000_0000;
/// Longest record taken from a peer, in bytes: a WRITE of 1 MiB with room for its header.
pub const MAX_RECORD: usize = (1 << 20) + (16 << 10);
/// What a connection's buffer starts with, in bytes.
pub const FIRST_BUFFER: usize = 16 << 10;

/// A record that cannot be taken. The stream has no recognisable end of it, so the connection must close.
#[derive(Debug, Clone, Copy, PartialEq, Eq, thiserror::Error)]
#[error("record of at least {announced} bytes announced, the limit is {limit}")]
pub struct TooLong {
    /// Fragments so far and the one announced.
    pub announced: usize,
    /// The limit.
    pub limit: usize,
}

/// Cuts whole records out of a stream.
#[derive(Debug)]
pub struct RecordReader {
    limit: usize,
    /// Fragments of a record whose last has not come yet.
    partial: BytesMut,
    /// Bytes that the fragment at the head of the buffer needs, its mark included.
    wanted: usize,
    /// The longest fragment that this peer has really delivered.
    earned: usize,
}

impl RecordReader {
    /// Takes records of at most `limit` bytes.
    pub fn new(limit: usize) -> Self {
        RecordReader {
            limit,
            partial: BytesMut::new(),
            wanted: 4,
            earned: FIRST_BUFFER,
        }
    }

    /// Takes the next whole record from the front of `buffer`; `None`: more bytes are needed.
    ///
    /// A record in one fragment, the usual case, is a slice of the buffer and not copied.
    ///
    /// # Errors
    /// [`TooLong`] as soon as the announcement exceeds the limit, before anything is stored.
    pub fn next(&mut self, buffer: &mut BytesMut) -> Result<Option<Bytes>, TooLong> {
        while let Some(mark) = buffer.first_chunk::<4>() {
            let mark = u32::from_be_bytes(*mark);
            let len = (mark & !LAST_FRAGMENT) as usize;
            let announced = self.partial.len() + len;
            if announced > self.limit {
                return Err(TooLong {
                    announced,
                    limit: self.limit,
                });
            }
            if buffer.len() < 4 + len {
                self.wanted = 4 + len;
                return Ok(None);
            }
            buffer.advance(4);
            let fragment = buffer.split_to(len);
            self.earned = self.earned.max(4 + len);
            self.wanted = 4;
            if mark & LAST_FRAGMENT == 0 {
                self.partial.extend_from_slice(&fragment);
            } else if self.partial.is_empty() {
                return Ok(Some(fragment.freeze()));
            } else {
                self.partial.extend_from_slice(&fragment);
                return Ok(Some(self.partial.split().freeze()));
            }
        }
        self.wanted = 4;
        Ok(None)
    }

    /// Takes as many whole records from the front of `buffer` as can be had at once; `None`: more bytes are needed.
    ///
    /// # Errors
    /// As for [`next`](Self::next).
    pub fn several(&mut self, buffer: &mut BytesMut) -> Result<Option<Records>, TooLong> {
        let mut end = 0;
        if self.partial.is_empty() {
            let front = |end| buffer.get(end..).and_then(whole).map(|(record, _)| record.len());
            while let Some(len) = front(end).filter(|len| *len <= self.limit) {
                self.earned = self.earned.max(4 + len);
                end += 4 + len;
            }
        }
        if end > 0 {
            let marked = buffer.split_to(end).freeze();
            return Ok(Some(Records {
                bytes: marked,
                marked: true,
            }));
        }
        let record = self.next(buffer)?;
        Ok(record.map(|bytes| Records { bytes, marked: false }))
    }

    /// Makes room in `buffer` for the next read: for the rest of the fragment under way if the peer has
    /// earned that, else as much again as has arrived.
    pub fn reserve(&self, buffer: &mut BytesMut) {
        let missing = self.wanted.saturating_sub(buffer.len());
        let trusted = self
            .earned
            .saturating_sub(buffer.len())
            .max(buffer.len())
            .max(FIRST_BUFFER);
        buffer.reserve(missing.min(trusted).max(FIRST_BUFFER / 4));
    }
}

/// The record at the front of `bytes`, if it is whole and in one fragment, and what follows it.
fn whole(bytes: &[u8]) -> Option<(&[u8], &[u8])> {
    let (mark, rest) = bytes.split_first_chunk::<4>()?;
    let mark = u32::from_be_bytes(*mark);
    let is_last = mark & LAST_FRAGMENT != 0;
    rest.split_at_checked((mark & !LAST_FRAGMENT) as usize)
        .filter(|_| is_last)
}

/// Whole records that lie in one buffer.
#[derive(Debug)]
pub struct Records {
    bytes: Bytes,
    /// Each is in one fragment and behind its mark; otherwise there is one, without a mark.
    marked: bool,
}

impl Records {
    /// The buffer, for whoever wants to keep part of it.
    pub fn buffer(&self) -> &Bytes {
        &self.bytes
    }

    /// Each of them, without its mark.
    pub fn iter(&self) -> impl Iterator<Item = &[u8]> {
        let only = (!self.marked).then_some(&self.bytes[..]);
        let mut rest: &[u8] = if self.marked { &self.bytes } else { &[] };
        only.into_iter().chain(std::iter::from_fn(move || {
            let (record, after) = whole(rest)?;
            rest = after;
            Some(record)
        }))
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use proptest::prelude::*;

    fn framed(fragments: &[&[u8]]) -> Vec<u8> {
        let mut bytes = Vec::new();
        for (i, fragment) in fragments.iter().enumerate() {
            let last = if i + 1 == fragments.len() {
                LAST_FRAGMENT
            } else {
                0
            };
            bytes.extend((fragment.len() as u32 | last).to_be_bytes());
            bytes.extend(*fragment);
        }
        bytes
    }

    #[test]
    fn two_gigabytes_are_refused_before_a_byte_is_stored() {
        let mut reader = RecordReader::new(MAX_RECORD);
        let mut buffer = BytesMut::from(&[0xff, 0xff, 0xff, 0xff][..]);
        let before = buffer.capacity();
        assert_eq!(
            reader.next(&mut buffer),
            Err(TooLong {
                announced: 0x7fff_ffff,
                limit: MAX_RECORD
            })
        );
        assert_eq!(buffer.capacity(), before);
    }

    #[test]
    fn an_announcement_alone_reserves_only_the_first_buffer() {
        let mut reader = RecordReader::new(MAX_RECORD);
        let mut buffer = BytesMut::from(&(LAST_FRAGMENT | (1 << 20)).to_be_bytes()[..]);
        assert_eq!(reader.next(&mut buffer), Ok(None));
        reader.reserve(&mut buffer);
        assert!(buffer.capacity() <= 4 * FIRST_BUFFER, "{}", buffer.capacity());
    }

    #[test]
    fn fragments_of_one_byte_make_a_whole_record() {
        let mut reader = RecordReader::new(16);
        let mut buffer = BytesMut::from(&framed(&[b"a", b"", b"b", b"c"])[..]);
        assert_eq!(reader.next(&mut buffer), Ok(Some(Bytes::from("abc"))));
        assert_eq!(reader.next(&mut buffer), Ok(None));
    }

    #[test]
    fn fragments_that_add_up_to_too_much_are_refused() {
        let mut reader = RecordReader::new(4);
        let mut buffer = BytesMut::from(&framed(&[b"abc", b"de"])[..]);
        assert_eq!(
            reader.next(&mut buffer),
            Err(TooLong {
                announced: 5,
                limit: 4
            })
        );
    }

    #[test]
    fn one_that_is_too_long_is_refused_behind_others() {
        let mut reader = RecordReader::new(4);
        let mut buffer = BytesMut::from(&[framed(&[b"abc"]), framed(&[b"abcde"])].concat()[..]);
        let records = reader.several(&mut buffer).unwrap().unwrap();
        assert_eq!(records.iter().collect::<Vec<_>>(), [b"abc"]);
        let error = reader.several(&mut buffer).unwrap_err();
        assert_eq!((error.announced, error.limit), (5, 4));
    }

    proptest! {
        /// However the stream is cut into fragments and reads, the same records come out.
        #[test]
        fn records_survive_any_cutting(
            records in prop::collection::vec(
                prop::collection::vec(prop::collection::vec(any::<u8>(), 0..40), 1..4), 1..6),
            reads in prop::collection::vec(1usize..50, 1..20),
        ) {
            let mut stream = Vec::new();
            let mut expected = Vec::new();
            for fragments in &records {
                let parts: Vec<&[u8]> = fragments.iter().map(Vec::as_slice).collect();
                stream.extend(framed(&parts));
                expected.push(Bytes::from(fragments.concat()));
            }
            let (mut reader, mut another) = (RecordReader::new(1000), RecordReader::new(1000));
            let (mut buffer, mut seen) = (BytesMut::new(), Vec::new());
            let (mut another_buffer, mut seen_at_once) = (BytesMut::new(), Vec::new());
            let mut rest = &stream[..];
            for n in reads.iter().cycle() {
                if rest.is_empty() {
                    break;
                }
                let (head, tail) = rest.split_at((*n).min(rest.len()));
                rest = tail;
                buffer.extend_from_slice(head);
                another_buffer.extend_from_slice(head);
                while let Some(records) = another.several(&mut another_buffer).unwrap() {
                    seen_at_once.extend(records.iter().map(|record| records.buffer().slice_ref(record)));
                }
                while let Some(record) = reader.next(&mut buffer).unwrap() {
                    seen.push(record);
                }
            }
            prop_assert_eq!(seen, &expected[..]);
            prop_assert_eq!(seen_at_once, expected);
        }
    }
}

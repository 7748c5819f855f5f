//! The duplicate request cache: a call that is repeated because its answer was lost must not be executed twice.
//!
//! A REMOVE that is executed again says NFS3ERR_NOENT although it had worked (RFC 1813, section 4.5). So the
//! answers to such calls are kept for a while, and a copy gets the same answer. A copy of a call that is still
//! being executed gets none: the answer will come.
//!
//! A call is known by its peer's address, xid, program, version, procedure and a checksum of its arguments.
//! Not by the port, so that a copy is recognised after a reconnection; the checksum tells a copy from another
//! call of a client that restarted and counts its xids from the start again.
//!
//! The cache is bounded in entries and in bytes; the oldest go first. Pure: no clock, no lock.

use bytes::Bytes;
use std::collections::BTreeMap;
use std::collections::hash_map::DefaultHasher;
use std::hash::Hasher;
use std::net::IpAddr;

/// Arguments beyond this do not go into the checksum, as in Linux knfsd (`RC_CSUMLEN`).
const CHECKSUMMED: usize = 256;
/// Answers kept, by default.
pub const ENTRIES: usize = 16_384;
/// Bytes of answers kept, by default.
pub const BYTES: usize = 8 << 20;

/// What makes two calls the same.
#[derive(Debug, Clone, Copy, PartialEq, Eq, PartialOrd, Ord, Hash)]
pub struct Key {
    peer: IpAddr,
    xid: u32,
    program: u32,
    version: u32,
    procedure: u32,
    checksum: u64,
}

impl Key {
    /// The key of a call.
    pub fn new(peer: IpAddr, header: &crate::msg::CallHeader<'_>, args: &[u8]) -> Key {
        let mut hasher = DefaultHasher::new();
        hasher.write(args.get(..CHECKSUMMED).unwrap_or(args));
        hasher.write_usize(args.len());
        Key {
            peer,
            xid: header.xid,
            program: header.program,
            version: header.version,
            procedure: header.procedure,
            checksum: hasher.finish(),
        }
    }
}

/// What the cache knows of a call.
#[derive(Debug, Clone, PartialEq, Eq)]
pub enum Seen {
    /// Nothing: it is to be executed, and then [`Cache::answered`] or [`Cache::abandon`] to be called.
    New,
    /// It is being executed.
    InProgress,
    /// It was answered with this message.
    Answered(Bytes),
}

#[derive(Debug)]
struct Entry {
    order: u64,
    answer: Option<Bytes>,
}

/// Answers to calls that must not be executed twice.
#[derive(Debug)]
pub struct Cache {
    entries: BTreeMap<Key, Entry>,
    by_age: BTreeMap<u64, Key>,
    next: u64,
    bytes: usize,
    max_entries: usize,
    max_bytes: usize,
}

impl Default for Cache {
    fn default() -> Self {
        Cache::new(ENTRIES, BYTES)
    }
}

impl Cache {
    /// An empty cache with these limits.
    pub fn new(max_entries: usize, max_bytes: usize) -> Cache {
        Cache {
            entries: BTreeMap::new(),
            by_age: BTreeMap::new(),
            next: 0,
            bytes: 0,
            max_entries,
            max_bytes,
        }
    }

    /// Looks a call up, and notes it as being executed if it is new.
    pub fn look_up(&mut self, key: Key) -> Seen {
        match self.entries.get(&key) {
            Some(Entry {
                answer: Some(answer), ..
            }) => return Seen::Answered(answer.clone()),
            Some(Entry { answer: None, .. }) => return Seen::InProgress,
            None => {}
        }
        self.next += 1;
        self.entries.insert(
            key,
            Entry {
                order: self.next,
                answer: None,
            },
        );
        self.by_age.insert(self.next, key);
        self.shrink();
        Seen::New
    }

    /// Keeps the answer to a call.
    pub fn answered(&mut self, key: &Key, answer: Bytes) {
        if let Some(entry) = self.entries.get_mut(key) {
            self.bytes += answer.len();
            self.bytes -= entry.answer.replace(answer).map_or(0, |old| old.len());
            self.shrink();
        }
    }

    /// Forgets a call that will get no answer, so that a copy is a new call; nothing if it has been answered.
    pub fn abandon(&mut self, key: &Key) {
        if self.entries.get(key).is_some_and(|entry| entry.answer.is_none()) {
            self.forget(key);
        }
    }

    fn forget(&mut self, key: &Key) {
        if let Some(entry) = self.entries.remove(key) {
            self.by_age.remove(&entry.order);
            self.bytes -= entry.answer.map_or(0, |answer| answer.len());
        }
    }

    /// Forgets everything, as a restart does.
    pub fn clear(&mut self) {
        *self = Cache::new(self.max_entries, self.max_bytes);
    }

    /// Calls that it knows.
    pub fn len(&self) -> usize {
        self.entries.len()
    }

    /// Whether it knows none.
    pub fn is_empty(&self) -> bool {
        self.entries.is_empty()
    }

    fn shrink(&mut self) {
        while self.entries.len() > self.max_entries || self.bytes > self.max_bytes {
            let Some((_, oldest)) = self.by_age.first_key_value() else {
                return;
            };
            let oldest = *oldest;
            self.forget(&oldest);
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::msg::{CallHeader, OpaqueAuth};

    fn key(peer: u8, xid: u32, args: &[u8]) -> Key {
        let none = OpaqueAuth::default();
        let header = CallHeader {
            xid,
            program: 100_003,
            version: 3,
            procedure: 12,
            cred: none,
            verf: none,
        };
        Key::new([10, 77, 0, peer].into(), &header, args)
    }

    #[test]
    fn a_copy_waits_for_the_answer_and_then_gets_the_same() {
        let mut cache = Cache::default();
        assert_eq!(cache.look_up(key(2, 7, b"remove a")), Seen::New);
        assert_eq!(cache.look_up(key(2, 7, b"remove a")), Seen::InProgress);
        cache.answered(&key(2, 7, b"remove a"), Bytes::from("removed"));
        assert_eq!(
            cache.look_up(key(2, 7, b"remove a")),
            Seen::Answered(Bytes::from("removed"))
        );
    }

    #[test]
    fn another_peer_xid_or_argument_is_another_call() {
        let mut cache = Cache::default();
        cache.look_up(key(2, 7, b"remove a"));
        for other in [
            key(3, 7, b"remove a"),
            key(2, 8, b"remove a"),
            key(2, 7, b"remove b"),
        ] {
            assert_eq!(cache.look_up(other), Seen::New);
        }
    }

    #[test]
    fn a_call_without_an_answer_is_forgotten() {
        let mut cache = Cache::default();
        cache.look_up(key(2, 7, b""));
        cache.abandon(&key(2, 7, b""));
        assert_eq!(cache.look_up(key(2, 7, b"")), Seen::New);
        cache.answered(&key(2, 7, b""), Bytes::from("yes"));
        cache.abandon(&key(2, 7, b""));
        let answered = Seen::Answered(Bytes::from("yes"));
        assert_eq!(cache.look_up(key(2, 7, b"")), answered);
    }

    #[test]
    fn neither_entries_nor_bytes_exceed_their_limit_and_the_oldest_go_first() {
        let mut cache = Cache::new(3, 10);
        for xid in 0..5 {
            cache.look_up(key(2, xid, b""));
        }
        assert_eq!(cache.len(), 3);
        assert_eq!(cache.look_up(key(2, 4, b"")), Seen::InProgress);
        cache.answered(&key(2, 3, b""), Bytes::from_static(&[0; 6]));
        cache.answered(&key(2, 4, b""), Bytes::from_static(&[0; 6]));
        assert_eq!(cache.bytes, 6);
        assert_eq!(
            cache.look_up(key(2, 4, b"")),
            Seen::Answered(Bytes::from_static(&[0; 6]))
        );
        // An answer that is too large alone is not kept either.
        cache.answered(&key(2, 4, b""), Bytes::from_static(&[0; 11]));
        assert_eq!((cache.bytes, cache.len()), (0, 0));
    }
}

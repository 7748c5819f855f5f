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
//! The cache is bounded in entries and in bytes. The oldest answers go first; a call that is being executed stays, and
//! if there is no room but theirs, the next is not kept. Pure: no clock, no lock.

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
    /// Nothing: it is to be executed, and then [`Cache::answered`] or [`Cache::abandon`] to be called with this ticket.
    New(Ticket),
    /// It is being executed.
    InProgress,
    /// It was answered with this message.
    Answered(Bytes),
}

/// One execution of a call. What comes of an earlier one, from before the cache was [cleared](Cache::clear), says nothing
/// of a copy that is being executed now.
#[derive(Debug, Clone, Copy, PartialEq, Eq, PartialOrd, Ord)]
pub struct Ticket(u64);

#[derive(Debug)]
struct Entry {
    ticket: Ticket,
    answer: Option<Bytes>,
}

/// Answers to calls that must not be executed twice.
#[derive(Debug)]
pub struct Cache {
    entries: BTreeMap<Key, Entry>,
    /// Those that have been answered.
    by_age: BTreeMap<Ticket, Key>,
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
        let ticket = Ticket(self.next);
        while self.entries.len() >= self.max_entries && self.forget_oldest() {}
        if self.entries.len() < self.max_entries {
            self.entries.insert(key, Entry { ticket, answer: None });
        }
        Seen::New(ticket)
    }

    /// Keeps the answer to a call.
    pub fn answered(&mut self, key: &Key, ticket: Ticket, answer: Bytes) {
        if let Some(entry) = self.entries.get_mut(key).filter(|entry| entry.ticket == ticket) {
            self.bytes += answer.len();
            self.bytes -= entry.answer.replace(answer).map_or(0, |old| old.len());
            self.by_age.insert(ticket, *key);
            while self.bytes > self.max_bytes && self.forget_oldest() {}
        }
    }

    /// Forgets a call that will get no answer, so that a copy is a new call; nothing if it has been answered.
    pub fn abandon(&mut self, key: &Key, ticket: Ticket) {
        let unanswered = |entry: &Entry| entry.ticket == ticket && entry.answer.is_none();
        if self.entries.get(key).is_some_and(unanswered) {
            self.entries.remove(key);
        }
    }

    /// Whether there was an answer to forget.
    fn forget_oldest(&mut self) -> bool {
        let Some((_, key)) = self.by_age.pop_first() else {
            return false;
        };
        let answer = self.entries.remove(&key).and_then(|entry| entry.answer);
        self.bytes -= answer.map_or(0, |answer| answer.len());
        true
    }

    /// Forgets everything, as a restart does.
    pub fn clear(&mut self) {
        *self = Cache {
            next: self.next,
            ..Cache::new(self.max_entries, self.max_bytes)
        };
    }

    /// Calls that it knows.
    pub fn len(&self) -> usize {
        self.entries.len()
    }

    /// Whether it knows none.
    pub fn is_empty(&self) -> bool {
        self.entries.is_empty()
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

    fn new(seen: Seen) -> Ticket {
        match seen {
            Seen::New(ticket) => ticket,
            known => panic!("{known:?}"),
        }
    }

    #[test]
    fn a_copy_waits_for_the_answer_and_then_gets_the_same() {
        let mut cache = Cache::default();
        let ticket = new(cache.look_up(key(2, 7, b"remove a")));
        assert_eq!(cache.look_up(key(2, 7, b"remove a")), Seen::InProgress);
        cache.answered(&key(2, 7, b"remove a"), ticket, Bytes::from("removed"));
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
            new(cache.look_up(other));
        }
    }

    #[test]
    fn a_call_without_an_answer_is_forgotten() {
        let mut cache = Cache::default();
        let ticket = new(cache.look_up(key(2, 7, b"")));
        cache.abandon(&key(2, 7, b""), ticket);
        let ticket = new(cache.look_up(key(2, 7, b"")));
        cache.answered(&key(2, 7, b""), ticket, Bytes::from("yes"));
        cache.abandon(&key(2, 7, b""), ticket);
        let answered = Seen::Answered(Bytes::from("yes"));
        assert_eq!(cache.look_up(key(2, 7, b"")), answered);
    }

    #[test]
    fn an_execution_from_before_a_restart_says_nothing_of_one_after_it() {
        let mut cache = Cache::default();
        let before = new(cache.look_up(key(2, 7, b"")));
        cache.clear();
        new(cache.look_up(key(2, 7, b"")));
        cache.answered(&key(2, 7, b""), before, Bytes::from("old"));
        cache.abandon(&key(2, 7, b""), before);
        assert_eq!(cache.look_up(key(2, 7, b"")), Seen::InProgress);
    }

    #[test]
    fn what_is_being_executed_is_not_pushed_out() {
        let mut cache = Cache::new(3, 10);
        let slow = new(cache.look_up(key(2, 0, b"")));
        for xid in 1..9 {
            let ticket = new(cache.look_up(key(2, xid, b"")));
            cache.answered(&key(2, xid, b""), ticket, Bytes::from("yes"));
        }
        assert_eq!(cache.look_up(key(2, 0, b"")), Seen::InProgress);
        new(cache.look_up(key(2, 10, b"")));
        new(cache.look_up(key(2, 11, b"")));
        // Three are being executed: there is no room for a fourth, which is executed all the same.
        let fourth = new(cache.look_up(key(2, 12, b"")));
        cache.answered(&key(2, 12, b""), fourth, Bytes::from("yes"));
        new(cache.look_up(key(2, 12, b"")));
        assert_eq!((cache.len(), cache.bytes), (3, 0));
        cache.answered(&key(2, 0, b""), slow, Bytes::from("late"));
        let late = Seen::Answered(Bytes::from("late"));
        assert_eq!(cache.look_up(key(2, 0, b"")), late);
    }

    #[test]
    fn neither_entries_nor_bytes_exceed_their_limit_and_the_oldest_go_first() {
        let mut cache = Cache::new(3, 10);
        let answer = |cache: &mut Cache, xid, len| {
            let ticket = new(cache.look_up(key(2, xid, b"")));
            cache.answered(&key(2, xid, b""), ticket, vec![0; len].into());
            ticket
        };
        for xid in 0..5 {
            answer(&mut cache, xid, 1);
        }
        assert_eq!((cache.len(), cache.bytes), (3, 3));
        let kept = Seen::Answered(Bytes::from_static(&[0]));
        assert_eq!(cache.look_up(key(2, 2, b"")), kept);
        answer(&mut cache, 5, 8);
        assert_eq!((cache.len(), cache.bytes), (3, 10));
        let last = answer(&mut cache, 6, 6);
        assert_eq!((cache.len(), cache.bytes), (1, 6));
        // An answer that is too large alone is not kept either.
        cache.answered(&key(2, 6, b""), last, Bytes::from_static(&[0; 11]));
        assert_eq!((cache.bytes, cache.len()), (0, 0));
    }
}

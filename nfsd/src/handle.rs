//! File handles (RFC 1813, section 2.4 and `nfs_fh3`): opaque to clients, verified before anything is looked up.
//!
//! ```text
//! 0        4                       n-16            n ≤ 64
//! ┌────────┬───────────────────────┬───────────────┐
//! │ export │ key: the store's name │ SipHash-2-4   │
//! │  id    │ of the file, ≤ 44 B   │ of the rest   │
//! └────────┴───────────────────────┴───────────────┘
//! ```
//! The 128-bit code is keyed: whoever does not know the key can neither guess a handle nor change a bit of one.
//! With the same key and the same export id a handle keeps its meaning over a restart of the server; what the
//! key inside means is the store's affair. A handle that fails the check was not made here:
//! `NFS3ERR_BADHANDLE`. One that passes and whose file is gone: `NFS3ERR_STALE`, which the store says.
//!
//! Handles belong to an *epoch*, which is part of the code: [`Handles::expire`] begins another, in which those of all
//! others are stale and every file has a new handle. The epoch of the start, 0, is the one that outlives the server;
//! [`Handles::renew`] brings it back.

use proto::nfs3::{NFS3_FHSIZE, Nfsstat3};
use siphasher::sip128::SipHasher24;
use std::cell::RefCell;
use std::fmt;
use std::sync::atomic::AtomicU64;
use std::sync::atomic::Ordering::Relaxed;

const EXPORT_LEN: usize = 4;
const MAC_LEN: usize = 16;

/// The longest key a store may give a file, in bytes.
pub const KEY_MAX: usize = NFS3_FHSIZE - EXPORT_LEN - MAC_LEN;

/// A store's name of a file: up to [`KEY_MAX`] bytes that only the store can read.
///
/// memfs writes an inode number and a generation; a store on a real directory has room for what
/// `name_to_handle_at` returns.
#[derive(Clone, Copy, PartialEq, Eq, Hash)]
pub struct FileKey {
    len: u8,
    bytes: [u8; KEY_MAX],
}

impl FileKey {
    /// A key of these bytes; none if they are more than [`KEY_MAX`].
    pub fn new(bytes: &[u8]) -> Option<FileKey> {
        let mut key = FileKey {
            len: u8::try_from(bytes.len()).ok()?,
            bytes: [0; KEY_MAX],
        };
        key.bytes.get_mut(..bytes.len())?.copy_from_slice(bytes);
        Some(key)
    }

    /// A key of two numbers.
    pub fn pair(a: u64, b: u64) -> FileKey {
        let mut bytes = [0; KEY_MAX];
        for (slot, byte) in bytes
            .iter_mut()
            .zip(a.to_be_bytes().into_iter().chain(b.to_be_bytes()))
        {
            *slot = byte;
        }
        FileKey { len: 16, bytes }
    }

    /// The two numbers of [`pair`](Self::pair).
    pub fn as_pair(&self) -> Option<(u64, u64)> {
        let (a, rest) = self.as_bytes().split_first_chunk::<8>()?;
        let b = rest.try_into().ok()?;
        Some((u64::from_be_bytes(*a), u64::from_be_bytes(b)))
    }

    /// The bytes.
    pub fn as_bytes(&self) -> &[u8] {
        self.bytes.get(..usize::from(self.len)).unwrap_or_default()
    }
}

impl fmt::Debug for FileKey {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        for byte in self.as_bytes() {
            write!(f, "{byte:02x}")?;
        }
        Ok(())
    }
}

/// A file handle ready to be sent.
#[derive(Clone, Copy, PartialEq, Eq, Hash)]
pub struct Handle {
    len: u8,
    bytes: [u8; NFS3_FHSIZE],
}

impl Handle {
    pub(crate) fn new(handle: &[u8]) -> Option<Handle> {
        let mut bytes = [0; NFS3_FHSIZE];
        bytes.get_mut(..handle.len())?.copy_from_slice(handle);
        Some(Handle {
            len: handle.len() as u8,
            bytes,
        })
    }

    /// The bytes that go on the wire.
    pub fn as_bytes(&self) -> &[u8] {
        self.bytes.get(..usize::from(self.len)).unwrap_or_default()
    }

    /// Whether it is this one. How long that takes tells nothing of where their codes differ.
    pub(crate) fn is(&self, handle: &[u8]) -> bool {
        let split = <[u8]>::split_last_chunk::<MAC_LEN>;
        match (split(self.as_bytes()), split(handle)) {
            (Some((body, code)), Some((other, its_code))) => body == other && is_same_code(code, its_code),
            _ => false,
        }
    }
}

impl fmt::Debug for Handle {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        for byte in self.as_bytes() {
            write!(f, "{byte:02x}")?;
        }
        Ok(())
    }
}

/// How many epochs back a handle is known to have been made here. One from before is `NFS3ERR_BADHANDLE`.
pub const EPOCHS_KNOWN: u32 = 256;

/// A handle that was opened before.
struct Opened {
    by: By,
    handle: Handle,
    found: (u32, FileKey, bool),
}

/// By which handles another was opened, and in which epochs.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(crate) struct By {
    handles: u64,
    epochs: u64,
}

thread_local! {
    /// The handle that was opened last in this thread. Most calls are about the same file as the one before, and to find
    /// a handle's code takes longer than to find its file.
    static LATEST: RefCell<Option<Opened>> = const { RefCell::new(None) };
}

/// By one comparison, whose time tells nothing of where they differ.
fn is_same_code(a: &[u8; MAC_LEN], b: &[u8; MAC_LEN]) -> bool {
    u128::from_be_bytes(*a) ^ u128::from_be_bytes(*b) == 0
}

/// Makes and verifies handles with one key.
pub struct Handles {
    /// Which of all in this process.
    number: u64,
    /// That of epoch 0.
    keyed: SipHasher24,
    epochs: AtomicU64,
}

/// The epoch that handles are made in, and the latest that there ever was.
#[derive(Clone, Copy)]
struct Epochs {
    now: u32,
    last: u32,
}

impl From<u64> for Epochs {
    fn from(both: u64) -> Epochs {
        Epochs {
            now: both as u32,
            last: (both >> 32) as u32,
        }
    }
}

impl From<Epochs> for u64 {
    fn from(epochs: Epochs) -> u64 {
        u64::from(epochs.last) << 32 | u64::from(epochs.now)
    }
}

impl fmt::Debug for Handles {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str("Handles")
    }
}

impl Handles {
    /// With this key. Whoever knows it can forge handles; a fixed one keeps handles over a restart.
    pub fn new(key: &[u8; 16]) -> Handles {
        static NEXT: AtomicU64 = AtomicU64::new(0);
        Handles {
            number: NEXT.fetch_add(1, Relaxed),
            keyed: SipHasher24::new_with_key(key),
            epochs: AtomicU64::new(0),
        }
    }

    /// What a handle means is the same for as long as this is.
    pub(crate) fn by(&self) -> By {
        By {
            handles: self.number,
            epochs: self.epochs.load(Relaxed),
        }
    }

    /// From now on every handle that was made is stale. Returns the number of the new epoch.
    pub fn expire(&self) -> u32 {
        let next = |both: u64| {
            let last = Epochs::from(both).last.saturating_add(1);
            Epochs { now: last, last }.into()
        };
        let before = self
            .epochs
            .fetch_update(Relaxed, Relaxed, |both| Some(next(both)));
        before.map_or(0, |both| Epochs::from(next(both)).now)
    }

    /// From now on the handles from before the first [`expire`](Self::expire) are good again, and those made since are
    /// stale.
    pub fn renew(&self) {
        let first = |both: u64| {
            let last = Epochs::from(both).last;
            Some(Epochs { now: 0, last }.into())
        };
        let _ = self.epochs.fetch_update(Relaxed, Relaxed, first);
    }

    /// The same if that epoch goes on still: false if there was another [`expire`](Self::expire) or a
    /// [`renew`](Self::renew) meanwhile.
    pub fn renew_after(&self, epoch: u32) -> bool {
        let first = |both: u64| {
            let Epochs { now, last } = both.into();
            (now == epoch).then(|| Epochs { now: 0, last }.into())
        };
        self.epochs.fetch_update(Relaxed, Relaxed, first).is_ok()
    }

    fn epochs(&self) -> Epochs {
        self.epochs.load(Relaxed).into()
    }

    fn mac(&self, epoch: u32, body: &[u8]) -> [u8; MAC_LEN] {
        let code = match epoch {
            0 => self.keyed.hash(body),
            // Each has a key of its own: the code of its number with one byte before it. No handle's body is that code's
            // input, since a store's keys are longer than one byte.
            _ => {
                let [a, b, c, d] = epoch.to_be_bytes();
                let key = self.keyed.hash(&[0xe0, a, b, c, d]);
                SipHasher24::new_with_key(&key.as_u128().to_be_bytes()).hash(body)
            }
        };
        code.as_u128().to_be_bytes()
    }

    /// The handle of `file` in the export with the id `export`.
    pub fn seal(&self, export: u32, file: &FileKey) -> Handle {
        let mut bytes = [0; NFS3_FHSIZE];
        let body_len = EXPORT_LEN + usize::from(file.len);
        if let Some((id, rest)) = bytes.split_first_chunk_mut::<EXPORT_LEN>() {
            *id = export.to_be_bytes();
            // The whole array, not its used part: a copy of constant size costs no call.
            if let Some(slot) = rest.first_chunk_mut::<KEY_MAX>() {
                *slot = file.bytes;
            }
        }
        let mac = self.mac(self.epochs().now, bytes.get(..body_len).unwrap_or_default());
        if let Some(slot) = bytes.get_mut(body_len..body_len + MAC_LEN) {
            slot.copy_from_slice(&mac);
        }
        Handle {
            len: (body_len + MAC_LEN) as u8,
            bytes,
        }
    }

    /// The export's id as the handle says it, true or not.
    pub fn claimed_export(handle: &[u8]) -> Option<u32> {
        handle.first_chunk().copied().map(u32::from_be_bytes)
    }

    /// The export's id and the file's key, or `NFS3ERR_BADHANDLE` if the handle was not made with this key,
    /// `NFS3ERR_STALE` if it is of another epoch.
    pub fn open(&self, handle: &[u8]) -> Result<(u32, FileKey), Nfsstat3> {
        match self.open_in_any_epoch(handle)? {
            (id, file, true) => Ok((id, file)),
            (_, _, false) => Err(Nfsstat3::NFS3ERR_STALE),
        }
    }

    /// The same of a handle of any epoch, with whether it is good; otherwise it is stale.
    pub fn open_in_any_epoch(&self, handle: &[u8]) -> Result<(u32, FileKey, bool), Nfsstat3> {
        let by = self.by();
        LATEST.with_borrow_mut(|latest| {
            if let Some(known) = latest
                && known.by == by
                && known.handle.is(handle)
            {
                return Ok(known.found);
            }
            let found = self.verify(handle, by.epochs.into())?;
            *latest = Handle::new(handle).map(|handle| Opened { by, handle, found });
            Ok(found)
        })
    }

    fn verify(&self, handle: &[u8], epochs: Epochs) -> Result<(u32, FileKey, bool), Nfsstat3> {
        const BAD: Nfsstat3 = Nfsstat3::NFS3ERR_BADHANDLE;
        let (body, mac) = handle.split_last_chunk::<MAC_LEN>().ok_or(BAD)?;
        let (export, key) = body.split_first_chunk::<EXPORT_LEN>().ok_or(BAD)?;
        let file = FileKey::new(key).ok_or(BAD)?;
        let is_of = |epoch: u32| is_same_code(mac, &self.mac(epoch, body));
        let Epochs { now, last } = epochs;
        let good = is_of(now);
        if !good {
            let oldest = last.saturating_sub(EPOCHS_KNOWN);
            let mut others = (oldest..=last).rev().filter(|epoch| *epoch != now);
            // The first is asked however long ago it was: most handles that anybody has are of it.
            if !others.any(is_of) && !is_of(0) {
                return Err(BAD);
            }
        }
        Ok((u32::from_be_bytes(*export), file, good))
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use proptest::prelude::*;

    #[test]
    fn every_flipped_bit_every_cut_and_every_other_key_is_noticed() {
        let handles = Handles::new(&[7; 16]);
        let file = FileKey::pair(42, u64::MAX);
        let handle = handles.seal(3, &file);
        assert_eq!(handle.as_bytes().len(), 36);
        assert_eq!(handles.open(handle.as_bytes()), Ok((3, file)));
        assert_eq!(file.as_pair(), Some((42, u64::MAX)));
        for bit in 0..handle.as_bytes().len() * 8 {
            let mut bytes = handle.as_bytes().to_vec();
            bytes[bit / 8] ^= 1 << (bit % 8);
            assert_eq!(
                handles.open(&bytes),
                Err(Nfsstat3::NFS3ERR_BADHANDLE),
                "bit {bit}"
            );
        }
        for len in 0..handle.as_bytes().len() {
            assert!(handles.open(&handle.as_bytes()[..len]).is_err());
        }
        let mut longer = handle.as_bytes().to_vec();
        longer.push(0);
        assert!(handles.open(&longer).is_err());
        assert!(Handles::new(&[8; 16]).open(handle.as_bytes()).is_err());
    }

    #[test]
    fn a_key_may_fill_the_handle_but_not_burst_it() {
        let handles = Handles::new(&[0; 16]);
        let longest = FileKey::new(&[9; KEY_MAX]).unwrap();
        let handle = handles.seal(1, &longest);
        assert_eq!(handle.as_bytes().len(), NFS3_FHSIZE);
        assert_eq!(handles.open(handle.as_bytes()), Ok((1, longest)));
        assert_eq!(FileKey::new(&[9; KEY_MAX + 1]), None);
        assert_eq!(FileKey::new(&[]).unwrap().as_pair(), None);
    }

    #[test]
    fn a_new_epoch_makes_every_handle_stale_until_the_first_is_back() {
        const STALE: Result<(u32, FileKey), Nfsstat3> = Err(Nfsstat3::NFS3ERR_STALE);
        let handles = Handles::new(&[7; 16]);
        let file = FileKey::pair(42, 1);
        let first = handles.seal(3, &file);
        assert_eq!(handles.expire(), 1);
        let second = handles.seal(3, &file);
        assert_ne!(first, second);
        assert_eq!(handles.open(first.as_bytes()), STALE);
        assert_eq!(handles.open(second.as_bytes()), Ok((3, file)));
        assert_eq!(handles.open_in_any_epoch(first.as_bytes()), Ok((3, file, false)));
        handles.renew();
        assert_eq!(handles.open(first.as_bytes()), Ok((3, file)));
        assert_eq!(handles.open(second.as_bytes()), STALE);
        assert_eq!(
            handles.seal(3, &file),
            first,
            "a restart of the server changes nothing"
        );
        assert_eq!(handles.expire(), 2, "an epoch does not come again");
        assert!(!handles.renew_after(1), "another has begun");
        assert_eq!(handles.open(first.as_bytes()), STALE);
        assert!(handles.renew_after(2));
        assert_eq!(handles.open(first.as_bytes()), Ok((3, file)));
        assert!(!handles.renew_after(2), "it has ended");
        assert_eq!(handles.expire(), 3);
        assert_eq!(handles.open(second.as_bytes()), STALE);
        let mut changed = second.as_bytes().to_vec();
        changed[5] ^= 1;
        assert_eq!(handles.open(&changed), Err(Nfsstat3::NFS3ERR_BADHANDLE));
        (0..2 * EPOCHS_KNOWN).for_each(|_| assert!(handles.expire() > 2));
        assert_eq!(handles.open(first.as_bytes()), STALE);
        assert_eq!(handles.open(second.as_bytes()), Err(Nfsstat3::NFS3ERR_BADHANDLE));
    }

    proptest! {
        #[test]
        fn junk_is_never_a_handle(bytes in prop::collection::vec(any::<u8>(), 0..80)) {
            prop_assert_eq!(Handles::new(&[1; 16]).open(&bytes), Err(Nfsstat3::NFS3ERR_BADHANDLE));
        }
    }
}

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

use proto::nfs3::{NFS3_FHSIZE, Nfsstat3};
use siphasher::sip128::SipHasher24;
use std::fmt;

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
    /// The bytes that go on the wire.
    pub fn as_bytes(&self) -> &[u8] {
        self.bytes.get(..usize::from(self.len)).unwrap_or_default()
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

/// Makes and verifies handles with one key.
#[derive(Clone)]
pub struct Handles {
    keyed: SipHasher24,
}

impl fmt::Debug for Handles {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str("Handles")
    }
}

impl Handles {
    /// With this key. Whoever knows it can forge handles; a fixed one keeps handles over a restart.
    pub fn new(key: &[u8; 16]) -> Handles {
        Handles {
            keyed: SipHasher24::new_with_key(key),
        }
    }

    fn mac(&self, body: &[u8]) -> [u8; MAC_LEN] {
        let mut bytes = [0; MAC_LEN];
        let code = self.keyed.hash(body).as_u128();
        bytes.copy_from_slice(&code.to_be_bytes());
        bytes
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
        let mac = self.mac(bytes.get(..body_len).unwrap_or_default());
        if let Some(slot) = bytes.get_mut(body_len..body_len + MAC_LEN) {
            slot.copy_from_slice(&mac);
        }
        Handle {
            len: (body_len + MAC_LEN) as u8,
            bytes,
        }
    }

    /// The export's id and the file's key, or `NFS3ERR_BADHANDLE` if the handle was not made with this key.
    pub fn open(&self, handle: &[u8]) -> Result<(u32, FileKey), Nfsstat3> {
        const BAD: Nfsstat3 = Nfsstat3::NFS3ERR_BADHANDLE;
        let (body, mac) = handle.split_last_chunk::<MAC_LEN>().ok_or(BAD)?;
        let (export, key) = body.split_first_chunk::<EXPORT_LEN>().ok_or(BAD)?;
        let file = FileKey::new(key).ok_or(BAD)?;
        // Compared as numbers: one comparison, whose time tells nothing of where they differ.
        if u128::from_be_bytes(*mac) ^ u128::from_be_bytes(self.mac(body)) != 0 {
            return Err(BAD);
        }
        Ok((u32::from_be_bytes(*export), file))
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

    proptest! {
        #[test]
        fn junk_is_never_a_handle(bytes in prop::collection::vec(any::<u8>(), 0..80)) {
            prop_assert_eq!(Handles::new(&[1; 16]).open(&bytes), Err(Nfsstat3::NFS3ERR_BADHANDLE));
        }
    }
}

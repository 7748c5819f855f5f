//! The messages of `<linux/fuse.h>` (ABI 7.40) as far as they are looked at here. Integers are in host order.

use bytes::{Buf, BufMut, TryGetError};

pub(super) const FUSE_LOOKUP: u32 = 1;
pub(super) const FUSE_FORGET: u32 = 2;
pub(super) const FUSE_SYMLINK: u32 = 6;
pub(super) const FUSE_MKNOD: u32 = 8;
pub(super) const FUSE_MKDIR: u32 = 9;
pub(super) const FUSE_LINK: u32 = 13;
pub(super) const FUSE_OPEN: u32 = 14;
pub(super) const FUSE_READ: u32 = 15;
pub(super) const FUSE_WRITE: u32 = 16;
pub(super) const FUSE_INIT: u32 = 26;
pub(super) const FUSE_OPENDIR: u32 = 27;
pub(super) const FUSE_READDIR: u32 = 28;
pub(super) const FUSE_GETLK: u32 = 31;
pub(super) const FUSE_SETLK: u32 = 32;
pub(super) const FUSE_SETLKW: u32 = 33;
pub(super) const FUSE_CREATE: u32 = 35;
pub(super) const FUSE_INTERRUPT: u32 = 36;
pub(super) const FUSE_DESTROY: u32 = 38;
pub(super) const FUSE_NOTIFY_REPLY: u32 = 41;
pub(super) const FUSE_BATCH_FORGET: u32 = 42;
pub(super) const FUSE_READDIRPLUS: u32 = 44;

/// `fuse_lk_in.lk_flags`: the lock is flock(2)'s, not fcntl(2)'s.
pub(super) const FUSE_LK_FLOCK: u32 = 1 << 0;
/// `fuse_read_in.read_flags`: `lock_owner` is valid.
pub(super) const FUSE_READ_LOCKOWNER: u32 = 1 << 1;
/// `fuse_write_in.write_flags`: a page of the page cache is written back; whose, nobody knows.
pub(super) const FUSE_WRITE_CACHE: u32 = 1 << 0;
/// `fuse_write_in.write_flags`: `lock_owner` is valid.
pub(super) const FUSE_WRITE_LOCKOWNER: u32 = 1 << 1;
/// `fuse_write_in.write_flags`: set-user-id and set-group-id are to be cleared.
pub(super) const FUSE_WRITE_KILL_SUIDGID: u32 = 1 << 2;

/// `fuse_out_header.error` of a message with `unique` 0: a notification's code.
pub(super) const FUSE_NOTIFY_INVAL_INODE: i32 = 2;
/// As [`FUSE_NOTIFY_INVAL_INODE`], for a name in a directory.
pub(super) const FUSE_NOTIFY_INVAL_ENTRY: i32 = 3;

/// `sizeof(struct fuse_in_header)`.
pub(super) const IN_HEADER: usize = 40;
/// `sizeof(struct fuse_out_header)`.
pub(super) const OUT_HEADER: usize = 16;
/// `sizeof(struct fuse_write_in)`: a WRITE's data begins after it.
pub(super) const WRITE_IN: usize = 40;
/// `sizeof(struct fuse_forget_one)`.
pub(super) const FORGET_ONE: usize = 16;
/// Where `size` is in a READDIR or READDIRPLUS (`fuse_read_in`: fh, offset, size), from the message's beginning.
pub(super) const READDIR_SIZE_AT: usize = IN_HEADER + 16;
/// `sizeof(struct fuse_attr)`.
const ATTR: usize = 88;
/// What follows the first eight bytes (`nodeid`) in `struct fuse_entry_out`.
const ENTRY_REST: usize = 32 + ATTR;

/// `struct fuse_in_header`.
#[derive(Clone, Copy, Debug)]
pub(super) struct InHeader {
    /// `FUSE_…`.
    pub(super) opcode: u32,
    /// Names the request until it is answered; never used twice in a mount's life.
    pub(super) unique: u64,
    pub(super) nodeid: u64,
    pub(super) uid: u32,
    pub(super) gid: u32,
    /// The asking thread's id in the mounter's pid namespace; 0 if it has none there, or nobody asks (readahead).
    pub(super) pid: u32,
}

impl InHeader {
    /// The header and what follows it.
    pub(super) fn parse(mut message: &[u8]) -> Result<(InHeader, &[u8]), TryGetError> {
        let m = &mut message;
        let _len = m.try_get_u32_ne()?;
        let header = InHeader {
            opcode: m.try_get_u32_ne()?,
            unique: m.try_get_u64_ne()?,
            nodeid: m.try_get_u64_ne()?,
            uid: m.try_get_u32_ne()?,
            gid: m.try_get_u32_ne()?,
            pid: m.try_get_u32_ne()?,
        };
        let _total_extlen_and_padding = m.try_get_u32_ne()?;
        Ok((header, message))
    }

    /// A message with this header; `body` is what follows it.
    pub(super) fn message(&self, body: &[u8]) -> Vec<u8> {
        let len = IN_HEADER + body.len();
        let mut message = Vec::with_capacity(len);
        message.put_u32_ne(u32::try_from(len).unwrap_or(u32::MAX));
        message.put_u32_ne(self.opcode);
        message.put_u64_ne(self.unique);
        message.put_u64_ne(self.nodeid);
        message.put_u32_ne(self.uid);
        message.put_u32_ne(self.gid);
        message.put_u32_ne(self.pid);
        message.put_u32_ne(0);
        message.put_slice(body);
        message
    }
}

/// `struct fuse_out_header` of a message of `len` bytes (the header's included).
pub(super) fn out_header(len: usize, error: i32, unique: u64) -> [u8; OUT_HEADER] {
    let mut header = [0; OUT_HEADER];
    let mut h = header.as_mut_slice();
    h.put_u32_ne(u32::try_from(len).unwrap_or(u32::MAX));
    h.put_i32_ne(error);
    h.put_u64_ne(unique);
    header
}

/// `error` and `unique` of a `struct fuse_out_header`, and what follows it.
pub(super) fn parse_out(mut message: &[u8]) -> Result<(i32, u64, &[u8]), TryGetError> {
    let m = &mut message;
    let _len = m.try_get_u32_ne()?;
    let error = m.try_get_i32_ne()?;
    let unique = m.try_get_u64_ne()?;
    Ok((error, unique, message))
}

/// `struct fuse_read_in`.
pub(super) struct ReadIn {
    pub(super) fh: u64,
    pub(super) offset: u64,
    pub(super) size: u32,
    pub(super) read_flags: u32,
    pub(super) lock_owner: u64,
    pub(super) flags: u32,
}

impl ReadIn {
    pub(super) fn parse(mut m: &[u8]) -> Result<ReadIn, TryGetError> {
        Ok(ReadIn {
            fh: m.try_get_u64_ne()?,
            offset: m.try_get_u64_ne()?,
            size: m.try_get_u32_ne()?,
            read_flags: m.try_get_u32_ne()?,
            lock_owner: m.try_get_u64_ne()?,
            flags: m.try_get_u32_ne()?,
        })
    }
}

/// `struct fuse_lk_in`.
pub(super) struct LkIn {
    pub(super) fh: u64,
    pub(super) owner: u64,
    pub(super) start: u64,
    pub(super) end: u64,
    pub(super) kind: u32,
    pub(super) pid: u32,
    pub(super) lk_flags: u32,
}

impl LkIn {
    pub(super) fn parse(mut m: &[u8]) -> Result<LkIn, TryGetError> {
        Ok(LkIn {
            fh: m.try_get_u64_ne()?,
            owner: m.try_get_u64_ne()?,
            start: m.try_get_u64_ne()?,
            end: m.try_get_u64_ne()?,
            kind: m.try_get_u32_ne()?,
            pid: m.try_get_u32_ne()?,
            lk_flags: m.try_get_u32_ne()?,
        })
    }
}

/// What `struct fuse_init_out` agreed on: the kernel's offer, cut down by the file system.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Negotiated {
    /// The ABI's minor version that `fuser` speaks; the major one is 7.
    pub minor: u32,
    /// In bytes. What the kernel reads ahead at most, unless the bdi says less.
    pub max_readahead: u32,
    /// `FUSE_INIT` flags, those of `flags2` in the upper half; [`fuser::InitFlags`] names them.
    pub flags: u64,
    /// In bytes: what one WRITE carries at most.
    pub max_write: u32,
    /// In pages: what one READ or WRITE carries at most. The kernel cuts it down to fs.fuse.max_pages_limit.
    pub max_pages: u16,
}

impl Negotiated {
    pub(super) fn parse(mut m: &[u8]) -> Result<Negotiated, TryGetError> {
        let _major = m.try_get_u32_ne()?;
        let minor = m.try_get_u32_ne()?;
        let max_readahead = m.try_get_u32_ne()?;
        let flags = m.try_get_u32_ne()?;
        let _max_background = m.try_get_u16_ne()?;
        let _congestion_threshold = m.try_get_u16_ne()?;
        let max_write = m.try_get_u32_ne()?;
        // Kernels before 7.23 (Linux 3.15) are answered shorter.
        let _time_gran = m.try_get_u32_ne().unwrap_or(1);
        let max_pages = m.try_get_u16_ne().unwrap_or(0);
        let _map_alignment = m.try_get_u16_ne().unwrap_or(0);
        let flags2 = m.try_get_u32_ne().unwrap_or(0);
        Ok(Negotiated {
            minor,
            max_readahead,
            flags: u64::from(flags) | u64::from(flags2) << 32,
            max_write,
            max_pages,
        })
    }
}

/// What an answer gave the kernel a hold of, in the order it stands there.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(super) enum Given {
    /// One lookup of this node.
    Node(u64),
    /// An open file: node and fh.
    File(u64, u64),
    /// An open directory: node and fh.
    Directory(u64, u64),
}

/// What a successful answer to `opcode`, asked about `nodeid`, gives the kernel; `body` follows the out header.
pub(super) fn given(opcode: u32, nodeid: u64, body: &[u8]) -> Vec<Given> {
    match opcode {
        FUSE_LOOKUP | FUSE_MKNOD | FUSE_MKDIR | FUSE_SYMLINK | FUSE_LINK => match nodeid_of(body) {
            // A LOOKUP may be answered with node 0: a name known not to exist.
            Ok(node) if node != 0 => vec![Given::Node(node)],
            _ => Vec::new(),
        },
        FUSE_CREATE => {
            let mut m = body;
            match (
                nodeid_of(body),
                skip(&mut m, 8 + ENTRY_REST).and_then(|()| m.try_get_u64_ne()),
            ) {
                (Ok(node), Ok(fh)) => vec![Given::Node(node), Given::File(node, fh)],
                _ => Vec::new(),
            }
        }
        FUSE_OPEN => nodeid_of(body)
            .map(|fh| vec![Given::File(nodeid, fh)])
            .unwrap_or_default(),
        FUSE_OPENDIR => nodeid_of(body)
            .map(|fh| vec![Given::Directory(nodeid, fh)])
            .unwrap_or_default(),
        FUSE_READDIRPLUS => {
            let mut m = body;
            let mut given = Vec::new();
            while let Ok((node, name)) = direntplus(&mut m) {
                // The kernel does not count "." and ".." (fs/fuse/readdir.c, fuse_direntplus_link).
                if node != 0 && name != b"." && name != b".." {
                    given.push(Given::Node(node));
                }
            }
            given
        }
        _ => Vec::new(),
    }
}

/// The first field of `fuse_entry_out` (nodeid) and of `fuse_open_out` (fh).
fn nodeid_of(mut body: &[u8]) -> Result<u64, TryGetError> {
    body.try_get_u64_ne()
}

fn skip(m: &mut &[u8], bytes: usize) -> Result<(), TryGetError> {
    match m.split_at_checked(bytes) {
        Some((_, rest)) => {
            *m = rest;
            Ok(())
        }
        None => Err(TryGetError {
            requested: bytes,
            available: m.len(),
        }),
    }
}

/// Takes one `struct fuse_direntplus` with its name and its padding to eight bytes.
fn direntplus<'a>(m: &mut &'a [u8]) -> Result<(u64, &'a [u8]), TryGetError> {
    let node = m.try_get_u64_ne()?;
    skip(m, ENTRY_REST)?;
    let _ino = m.try_get_u64_ne()?;
    let _off = m.try_get_u64_ne()?;
    let namelen = m.try_get_u32_ne()? as usize;
    let _type = m.try_get_u32_ne()?;
    let (name, rest) = m.split_at_checked(namelen).ok_or(TryGetError {
        requested: namelen,
        available: m.len(),
    })?;
    *m = rest;
    let padding = namelen.next_multiple_of(8) - namelen;
    // The last entry of a listing may come without its padding.
    skip(m, padding.min(m.len()))?;
    Ok((node, name))
}

#[cfg(test)]
mod tests {
    use super::*;

    fn entry(node: u64) -> Vec<u8> {
        let mut out = node.to_ne_bytes().to_vec();
        out.resize(128, 0);
        out
    }

    #[test]
    fn an_answer_gives_what_the_kernel_would_count() {
        assert_eq!(given(FUSE_LOOKUP, 1, &entry(7)), [Given::Node(7)]);
        assert_eq!(given(FUSE_LOOKUP, 1, &entry(0)), []);
        let mut created = entry(8);
        created.extend(99u64.to_ne_bytes());
        created.extend([0; 8]);
        assert_eq!(
            given(FUSE_CREATE, 1, &created),
            [Given::Node(8), Given::File(8, 99)]
        );
        assert_eq!(
            given(FUSE_OPEN, 5, &[&3u64.to_ne_bytes()[..], &[0; 8]].concat()),
            [Given::File(5, 3)]
        );
        let mut listing = Vec::new();
        for (node, name) in [
            (1, "."),
            (9, ".."),
            (10, "abc"),
            (0, "unlooked"),
            (11, "0123456789"),
        ] {
            listing.extend(entry(node));
            listing.extend([0; 16]);
            listing.extend(u32::try_from(name.len()).unwrap().to_ne_bytes());
            listing.extend([0; 4]);
            listing.extend(name.as_bytes());
            listing.resize(listing.len().next_multiple_of(8), 0);
        }
        assert_eq!(
            given(FUSE_READDIRPLUS, 1, &listing),
            [Given::Node(10), Given::Node(11)]
        );
    }

    #[test]
    fn a_message_cut_anywhere_is_an_error_and_no_panic() {
        let header = InHeader {
            opcode: FUSE_READ,
            unique: 2,
            nodeid: 3,
            uid: 4,
            gid: 5,
            pid: 6,
        }
        .message(&[1; 40]);
        for end in 0..header.len() {
            let parsed = InHeader::parse(&header[..end]);
            assert_eq!(parsed.is_ok(), end >= IN_HEADER, "{end}");
            if let Ok((parsed, body)) = parsed {
                assert_eq!((parsed.opcode, parsed.unique, parsed.pid), (FUSE_READ, 2, 6));
                assert_eq!(ReadIn::parse(body).is_ok(), body.len() >= 36);
                let _ = LkIn::parse(body).map(|_| ());
                for opcode in 0..60 {
                    let _ = given(opcode, 1, body);
                }
            }
        }
    }
}

//! READDIR and READDIRPLUS: entries straight from the store into the reply, up to the client's limits.
//!
//! `count` and `maxcount` limit the bytes of `READDIR3resok` with everything in it, as the RFC says. An entry
//! that does not fit ends the reply; if it is the first, the reply is `NFS3ERR_TOOSMALL`. `dircount` limits the
//! bytes of names, numbers and cookies. It is a hint, so the first entry is given whatever it says, and 0 (some
//! clients') means no limit.

use super::{Nfs3, put};
use crate::cx::Cx;
use crate::export::{Export, Exports};
use crate::handle::FileKey;
use crate::vfs::{DirEntry, DirPosition, DirSink};
use proto::nfs3::{Fattr3, Filename3, NfsFh3, Nfsstat3, Readdir3Args, Readdir3Res, Readdirplus3Args};
use rpc::xdr::{Encode, Mark, Writer, pad};

/// Bytes of what follows the entries: no further entry, and `eof`.
const TAIL: usize = 8;

/// Writes entries while they fit.
struct Reply<'a> {
    w: &'a mut Writer,
    exports: &'a Exports,
    export: &'a Export,
    /// Where `READDIR3resok` begins.
    start: Mark,
    /// Limit of the whole.
    max_bytes: usize,
    /// Limit of names, numbers and cookies.
    max_dir_bytes: usize,
    dir_bytes: usize,
    entries: usize,
    plus: bool,
    cut_short: bool,
}

impl Reply<'_> {
    fn put_plus(&mut self, plus: Option<&(FileKey, Fattr3)>) {
        let handle = plus.map(|(file, _)| self.exports.seal(self.export, file));
        plus.map(|(_, attr)| attr).encode(self.w);
        handle.as_ref().map(|h| NfsFh3::from(h.as_bytes())).encode(self.w);
    }
}

impl DirSink for Reply<'_> {
    fn start(&mut self, dir_attr: &Fattr3, verifier: u64) {
        Some(dir_attr).encode(self.w);
        self.w.u64(verifier);
    }

    fn entry(&mut self, entry: &DirEntry<'_>) -> bool {
        let before = self.w.mark();
        self.w.bool(true);
        self.w.u64(entry.fileid);
        Filename3::from(entry.name).encode(self.w);
        self.w.u64(entry.cookie);
        if self.plus {
            self.put_plus(entry.plus.as_ref());
        }
        self.dir_bytes += 8 + 4 + entry.name.len() + pad(entry.name.len()) + 8;
        let fits = self.w.since(self.start) + TAIL <= self.max_bytes;
        let hint = self.entries == 0 || self.dir_bytes <= self.max_dir_bytes;
        if !fits || !hint {
            self.w.rewind(before);
            self.cut_short = true;
            return false;
        }
        self.entries += 1;
        true
    }
}

/// What READDIR and READDIRPLUS ask.
struct Request<'a> {
    dir: NfsFh3<'a>,
    from: DirPosition,
    max_bytes: u32,
    max_dir_bytes: u32,
    plus: bool,
}

impl Nfs3 {
    /// READDIR (RFC 1813, section 3.3.16). Writes a `READDIR3res`.
    pub fn readdir(&self, cx: &Cx<'_>, args: &Readdir3Args<'_>, w: &mut Writer) -> Nfsstat3 {
        let request = Request {
            dir: args.dir,
            from: DirPosition {
                cookie: args.cookie,
                verifier: u64::from_be_bytes(args.cookieverf),
            },
            max_bytes: args.count,
            max_dir_bytes: u32::MAX,
            plus: false,
        };
        self.list(cx, &request, w)
    }

    /// READDIRPLUS (RFC 1813, section 3.3.17). Writes a `READDIRPLUS3res`.
    pub fn readdirplus(&self, cx: &Cx<'_>, args: &Readdirplus3Args<'_>, w: &mut Writer) -> Nfsstat3 {
        let request = Request {
            dir: args.dir,
            from: DirPosition {
                cookie: args.cookie,
                verifier: u64::from_be_bytes(args.cookieverf),
            },
            max_bytes: args.maxcount,
            max_dir_bytes: match args.dircount {
                0 => u32::MAX,
                n => n,
            },
            plus: true,
        };
        self.list(cx, &request, w)
    }

    fn list(&self, cx: &Cx<'_>, request: &Request<'_>, w: &mut Writer) -> Nfsstat3 {
        let dir = match self.open(cx, &request.dir) {
            Ok(dir) => dir,
            Err(status) => return put(w, &Readdir3Res::Err(status, None)),
        };
        let begin = w.mark();
        Nfsstat3::NFS3_OK.encode(w);
        let mut reply = Reply {
            start: w.mark(),
            w,
            exports: &self.exports,
            export: dir.target.export,
            max_bytes: request.max_bytes.min(cx.max_payload) as usize,
            max_dir_bytes: request.max_dir_bytes as usize,
            dir_bytes: 0,
            entries: 0,
            plus: request.plus,
            cut_short: false,
        };
        let listed = dir
            .store()
            .readdir(&dir.cx(), dir.file(), request.from, request.plus, &mut reply);
        let nothing_fits = reply.cut_short && reply.entries == 0;
        let too_long = reply.w.since(reply.start) + TAIL > reply.max_bytes;
        let eof = match listed {
            Ok(_) if nothing_fits || too_long => Err(Nfsstat3::NFS3ERR_TOOSMALL),
            other => other,
        };
        match eof {
            Ok(eof) => {
                w.bool(false);
                w.bool(eof);
                Nfsstat3::NFS3_OK
            }
            Err(status) => {
                w.rewind(begin);
                put(w, &Readdir3Res::Err(status, dir.attr()))
            }
        }
    }
}

//! The answers of NFS version 3 (RFC 1813, section 3.3).

use super::{Teller, shown};
use proto::nfs3::{Ftype3, Nfsstat3, StableHow};
use rpc::xdr::{Reader, Result};
use std::fmt::Write;

impl Teller<'_> {
    pub(super) fn nfs(&mut self, procedure: u32) -> Result<()> {
        let status = Nfsstat3(self.word()?);
        self.say(status);
        if status != Nfsstat3::NFS3_OK {
            return match procedure {
                1 => Ok(()),
                2 | 7..=13 | 21 => self.wcc(""),
                14 => self.wcc("from:").and_then(|()| self.wcc("to:")),
                15 => self.after("").and_then(|()| self.wcc("dir:")),
                _ => self.after(""),
            };
        }
        match procedure {
            1 => self.attributes(""),
            2 | 12 | 13 => self.wcc(""),
            3 => {
                self.handle()?;
                self.after("")?;
                self.after("dir:")
            }
            4 => {
                self.after("")?;
                let access = self.word()?;
                self.say(format!("access={access:#04x}"));
                Ok(())
            }
            5 => {
                self.after("")?;
                self.opaque("text").map(|_| ())
            }
            6 => {
                self.after("")?;
                self.number("count")?;
                self.number("eof")?;
                self.opaque("data").map(|_| ())
            }
            7 => {
                self.wcc("")?;
                self.number("count")?;
                let committed = StableHow(self.word()?);
                self.say(committed);
                self.verifier()
            }
            8..=11 => {
                if self.there()? {
                    self.handle()?;
                } else {
                    self.say("fh:-");
                }
                self.after("")?;
                self.wcc("dir:")
            }
            14 => self.wcc("from:").and_then(|()| self.wcc("to:")),
            15 => self.after("").and_then(|()| self.wcc("dir:")),
            16 | 17 => self.listing(procedure == 17),
            18 => {
                self.after("")?;
                self.r.take("space", 48)?;
                self.number("invarsec").map(|_| ())
            }
            19 => {
                self.after("")?;
                for name in ["rtmax", "rtpref", "rtmult", "wtmax", "wtpref", "wtmult", "dtpref"] {
                    self.number(name)?;
                }
                self.long("maxfilesize")?;
                let (seconds, nanos) = (self.word()?, self.word()?);
                self.say(format!("delta={seconds}.{nanos}"));
                let properties = self.word()?;
                self.say(format!("properties={properties:#x}"));
                Ok(())
            }
            20 => {
                self.after("")?;
                for name in [
                    "linkmax",
                    "name_max",
                    "no_trunc",
                    "chown_restricted",
                    "case_insensitive",
                    "case_preserving",
                ] {
                    self.number(name)?;
                }
                Ok(())
            }
            21 => {
                self.wcc("")?;
                self.verifier()
            }
            _ => Ok(()),
        }
    }

    pub(super) fn handle(&mut self) -> Result<()> {
        let handle = self.r.opaque("handle", 64)?;
        self.bring("", handle);
        self.say(if handle.is_empty() { "fh:EMPTY" } else { "fh" });
        Ok(())
    }

    fn verifier(&mut self) -> Result<()> {
        let verifier = self.r.take("verifier", 8)?;
        self.bring("verf", verifier);
        Ok(())
    }

    /// `post_op_attr`
    fn after(&mut self, whose: &str) -> Result<()> {
        if self.there()? {
            self.attributes(whose)
        } else {
            self.say(format!("{whose}attr:-"));
            Ok(())
        }
    }

    /// `wcc_data`
    fn wcc(&mut self, whose: &str) -> Result<()> {
        if self.there()? {
            let before = self.r.take("wcc_attr", 24)?;
            self.bring("before", before);
            self.say(format!("{whose}before"));
        } else {
            self.say(format!("{whose}before:-"));
        }
        self.after(whose)
    }

    /// `fattr3`
    pub(super) fn attributes(&mut self, whose: &str) -> Result<()> {
        let ftype = Ftype3(self.word()?);
        let (mode, nlink, uid, gid) = (self.word()?, self.word()?, self.word()?, self.word()?);
        let size = self.r.u64("size")?;
        let _used = self.r.u64("used")?;
        let (major, minor) = (self.word()?, self.word()?);
        let (_fsid, fileid) = (self.r.take("fsid", 8)?, self.r.take("fileid", 8)?);
        self.bring("fileid", fileid);
        // One word, so that it is compared as a whole.
        let mut text = format!("[{ftype}/{mode:04o}/n{nlink}/{uid}:{gid}");
        if ftype != Ftype3::NF3DIR {
            let _ = write!(text, "/{size}B");
        }
        if matches!(ftype, Ftype3::NF3BLK | Ftype3::NF3CHR) {
            let _ = write!(text, "/{major},{minor}");
        }
        for name in ["atime", "mtime", "ctime"] {
            let time = self.r.take("time", 8)?;
            self.bring(name, time);
            let mut halves = Reader::new(time);
            let (seconds, nanos) = (halves.u32("s")?, halves.u32("ns")?);
            /// What a case sets is before this day of 2001; what a server's clock says is not.
            const CHOSEN: u32 = 1_000_000_000;
            if seconds < CHOSEN || seconds > i32::MAX as u32 {
                let _ = write!(text, "/{name}={seconds}.{nanos}");
            }
        }
        self.say(format!("{whose}{text}]"));
        Ok(())
    }

    /// The names of a directory, sorted: the order is the server's.
    fn listing(&mut self, plus: bool) -> Result<()> {
        self.after("")?;
        self.verifier()?;
        let mut names = Vec::new();
        while self.there()? {
            let _fileid = self.r.u64("fileid")?;
            let name = shown(self.r.opaque("name", 1024)?);
            let cookie = self.r.take("cookie", 8)?;
            self.bring("cookie", cookie);
            self.told.brought.insert("last".into(), cookie.to_vec());
            let mut entry = name;
            if plus {
                let outer = std::mem::take(&mut self.told.text);
                self.after("")?;
                let attributes = std::mem::replace(&mut self.told.text, outer);
                let handle = self.there()?;
                if handle {
                    self.r.opaque("handle", 64)?;
                }
                let _ = write!(entry, " {attributes} {}", if handle { "fh" } else { "fh:-" });
            }
            names.push(entry);
        }
        names.sort();
        self.say(format!("{{{}}}", names.join(", ")));
        self.number("eof").map(|_| ())
    }
}

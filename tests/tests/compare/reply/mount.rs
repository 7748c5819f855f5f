//! The answers of MOUNT, versions 1 to 3 (RFC 1813, appendix I).

use super::{Teller, shown};
use proto::mount::Mountstat3;
use rpc::xdr::Result;
use std::fmt::Write;

impl Teller<'_> {
    pub(super) fn mount(&mut self, version: u32, procedure: u32) -> Result<()> {
        match (version, procedure) {
            (3, 1) => {
                let status = Mountstat3(self.word()?);
                self.say(status);
                if status.0 == 0 {
                    self.handle()?;
                    let flavors = self.words()?;
                    self.say(format!("flavors={flavors:?}"));
                }
            }
            (_, 1) => {
                let status = self.number("status")?;
                if status == 0 {
                    let handle = self.r.take("handle", 32)?;
                    self.bring("", handle);
                    self.say("fh");
                }
            }
            (_, 2) => {
                let mut all = Vec::new();
                while self.there()? {
                    let host = shown(self.r.opaque("host", 255)?);
                    all.push(format!("{host} {}", shown(self.r.opaque("directory", 1024)?)));
                }
                all.sort();
                self.say(format!("mounted={all:?}"));
            }
            (_, 3 | 4) => self.say("void"),
            (_, 5 | 6) => {
                let mut all = Vec::new();
                while self.there()? {
                    let mut line = shown(self.r.opaque("directory", 1024)?);
                    while self.there()? {
                        let _ = write!(line, " {}", shown(self.r.opaque("group", 255)?));
                    }
                    all.push(line);
                }
                all.sort();
                self.say(format!("exports={all:?}"));
            }
            (2, 7) => {
                for name in [
                    "link_max",
                    "max_canon",
                    "max_input",
                    "name_max",
                    "path_max",
                    "pipe_buf",
                    "vdisable",
                    "mask_low",
                    "mask_high",
                ] {
                    self.number(name)?;
                }
            }
            _ => {}
        }
        Ok(())
    }

    fn words(&mut self) -> Result<Vec<u32>> {
        let count = self.word()?;
        (0..count.min(64)).map(|_| self.word()).collect()
    }
}

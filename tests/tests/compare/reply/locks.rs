//! The answers of NLM, and the calls that a lock manager makes to its clients.

use super::Teller;
use proto::nlm::{Nlm4Stat, v3::NlmStats};
use rpc::xdr::Result;

impl Teller<'_> {
    pub(super) fn nlm(&mut self, version: u32, procedure: u32) -> Result<()> {
        match procedure {
            1 => self.test_result(version),
            2..=5 | 22 => self.lock_result(version),
            20 | 21 => {
                self.lock_result(version)?;
                self.number("sequence").map(|_| ())
            }
            _ => self.done("void"),
        }
    }

    fn cookie(&mut self) -> Result<()> {
        let cookie = self.opaque("cookie")?;
        self.bring("", cookie);
        Ok(())
    }

    fn lock_result(&mut self, version: u32) -> Result<()> {
        self.cookie()?;
        let status = self.word()?;
        match version {
            4 => self.say(Nlm4Stat(status)),
            _ => self.say(NlmStats(status)),
        }
        Ok(())
    }

    fn test_result(&mut self, version: u32) -> Result<()> {
        self.lock_result(version)?;
        if self.told.text.ends_with("_DENIED") {
            self.number("exclusive")?;
            // Whose process it is is the server's own affair: Linux answers with lockd's.
            self.word()?;
            self.opaque("oh")?;
            self.range(version)?;
        }
        Ok(())
    }

    fn range(&mut self, version: u32) -> Result<()> {
        for name in ["offset", "len"] {
            match version {
                4 => drop(self.long(name)?),
                _ => drop(self.number(name)?),
            }
        }
        Ok(())
    }

    pub(super) fn callback(&mut self, version: u32, procedure: u32) -> Result<()> {
        let name = proto::nlm::NlmProc(procedure);
        self.say(format!("{name} of version {version}:"));
        match procedure {
            11 => self.test_result(version),
            12..=15 => self.lock_result(version),
            5 | 10 => {
                // The cookie is the server's choice.
                let cookie = self.r.opaque("cookie", 1024)?;
                self.bring("", cookie);
                self.number("exclusive")?;
                self.opaque("caller_name")?;
                self.r.opaque("fh", 1024)?;
                self.opaque("oh")?;
                self.number("svid")?;
                self.range(version)
            }
            _ => Ok(()),
        }
    }
}

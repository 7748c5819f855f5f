//! From a reply to a line of text: what must agree is in it, what may differ between two servers is not.
//!
//! Left out: handles, file ids, verifiers, times that the server chose, free space, the size and the space of
//! directories (RFC 1813 leaves it to the server), ports. What stands for something left out is a word such as
//! `fh`, so that its presence is compared.

mod locks;
mod mount;
mod nfs;
mod small;

use crate::words::Variables;
use rpc::xdr::{Reader, Result};
use std::fmt::Write;

/// A reply as text, and what variables may take of it.
#[derive(Debug, Default, Clone)]
pub struct Told {
    /// What is compared.
    pub text: String,
    /// What a variable `$x` takes: `""` is `$x` itself, `"verf"` is `$x.verf`.
    pub brought: Variables,
}

/// What a server sent, as text: the answer to a call of this procedure.
pub fn tell(program: u32, version: u32, procedure: u32, message: &[u8]) -> Told {
    let mut teller = Teller::new(message);
    if let Err(error) = teller.reply((program, version, procedure)) {
        teller.say(format!("CANNOT BE READ ({error})"));
    }
    teller.finish()
}

/// A call that a server made to us, as text: only of the lock protocol.
pub fn tell_callback(version: u32, procedure: u32, args: &[u8]) -> Told {
    let mut teller = Teller::new(args);
    if let Err(error) = teller.callback(version, procedure) {
        teller.say(format!("CANNOT BE READ ({error})"));
    }
    teller.finish()
}

struct Teller<'a> {
    r: Reader<'a>,
    told: Told,
}

impl<'a> Teller<'a> {
    fn new(bytes: &'a [u8]) -> Self {
        Teller {
            r: Reader::new(bytes),
            told: Told::default(),
        }
    }

    fn finish(mut self) -> Told {
        if !self.r.rest().is_empty() {
            let left = self.r.rest().len();
            self.say(format!("({left} bytes are left over)"));
        }
        self.told
    }

    fn say(&mut self, word: impl std::fmt::Display) {
        let gap = if self.told.text.is_empty() { "" } else { " " };
        let _ = write!(self.told.text, "{gap}{word}");
    }

    /// [`say`](Self::say) as the end of a branch.
    fn done(&mut self, word: impl std::fmt::Display) -> Result<()> {
        self.say(word);
        Ok(())
    }

    fn bring(&mut self, field: &str, bytes: &[u8]) {
        self.told
            .brought
            .entry(field.to_owned())
            .or_insert(bytes.to_vec());
    }

    fn word(&mut self) -> Result<u32> {
        self.r.u32("a word")
    }

    /// `name=WORD`
    fn number(&mut self, name: &str) -> Result<u32> {
        let value = self.word()?;
        self.say(format!("{name}={value}"));
        Ok(value)
    }

    fn long(&mut self, name: &str) -> Result<u64> {
        let value = self.r.u64("a long word")?;
        self.say(format!("{name}={value}"));
        Ok(value)
    }

    fn opaque(&mut self, name: &str) -> Result<&'a [u8]> {
        let value = self.r.opaque("an opaque", usize::MAX)?;
        self.say(format!("{name}={}", shown(value)));
        Ok(value)
    }

    fn there(&mut self) -> Result<bool> {
        self.r.bool("whether it is there")
    }

    /// The head of a reply (RFC 5531, section 9), then its body.
    fn reply(&mut self, (program, version, procedure): (u32, u32, u32)) -> Result<()> {
        let (_xid, _reply) = (self.word()?, self.word()?);
        if self.word()? == 1 {
            return match self.word()? {
                0 => {
                    let (low, high) = (self.word()?, self.word()?);
                    self.say(format!("RPC_MISMATCH {low} to {high}"));
                    Ok(())
                }
                _ => {
                    let why = self.word()?;
                    self.say(format!("AUTH_ERROR {why}"));
                    Ok(())
                }
            };
        }
        let (_flavor, _verf) = (self.word()?, self.r.opaque("verifier", 400)?);
        match self.word()? {
            0 => {}
            1 => return self.done("PROG_UNAVAIL"),
            2 => {
                let (low, high) = (self.word()?, self.word()?);
                return self.done(format!("PROG_MISMATCH {low} to {high}"));
            }
            3 => return self.done("PROC_UNAVAIL"),
            4 => return self.done("GARBAGE_ARGS"),
            5 => return self.done("SYSTEM_ERR"),
            other => return self.done(format!("accept_stat {other}")),
        }
        match (program, version, procedure) {
            (_, _, 0) => self.done("void"),
            (proto::nfs3::PROGRAM, 3, _) => self.nfs(procedure),
            (proto::mount::PROGRAM, ..) => self.mount(version, procedure),
            (proto::nlm::PROGRAM, ..) => self.nlm(version, procedure),
            (proto::nsm::PROGRAM, ..) => self.nsm(procedure),
            (proto::portmap::PROGRAM, 2, _) => self.pmap(procedure),
            (proto::portmap::PROGRAM, ..) => self.rpcb(procedure),
            _ => Ok(()),
        }
    }
}

/// Bytes as text; long ones by length and what they begin with.
fn shown(bytes: &[u8]) -> String {
    const MOST: usize = 40;
    let head = bytes.get(..MOST).unwrap_or(bytes).escape_ascii();
    match bytes.len() {
        len if len > MOST => format!("'{head}'…({len} bytes)"),
        _ => format!("'{head}'"),
    }
}

//! The answers of NSM and of the port mapper.

use super::{Teller, shown};
use rpc::xdr::Result;

impl Teller<'_> {
    pub(super) fn nsm(&mut self, procedure: u32) -> Result<()> {
        match procedure {
            1 | 2 => {
                let status = self.word()?;
                let state = self.word()?;
                self.say(if status == 0 { "STAT_SUCC" } else { "STAT_FAIL" });
                self.say(state_word(state));
            }
            3 | 4 => {
                let state = self.word()?;
                self.say(state_word(state));
            }
            _ => self.say("void"),
        }
        Ok(())
    }

    pub(super) fn pmap(&mut self, procedure: u32) -> Result<()> {
        match procedure {
            1 | 2 => drop(self.number("done")?),
            3 => {
                let port = self.word()?;
                self.say(port_word(port));
            }
            4 => {
                let mut all = Vec::new();
                while self.there()? {
                    let (program, version, protocol) = (self.word()?, self.word()?, self.word()?);
                    let port = self.word()?;
                    all.push(format!("{program}/{version}/{protocol}:{}", port_word(port)));
                }
                all.sort();
                self.say(all.join(" "));
            }
            _ => {
                let port = self.word()?;
                self.say(port_word(port));
                self.opaque("result")?;
            }
        }
        Ok(())
    }

    pub(super) fn rpcb(&mut self, procedure: u32) -> Result<()> {
        match procedure {
            1 | 2 => drop(self.number("done")?),
            3 | 9 => {
                let address = self.r.opaque("address", 1024)?;
                self.say(address_word(address));
            }
            8 => drop(self.opaque("uaddr")?),
            4 => {
                let mut all = Vec::new();
                while self.there()? {
                    let (program, version) = (self.word()?, self.word()?);
                    let [netid, address, _owner] = [(); 3].map(|()| self.r.opaque("text", 1024));
                    let (netid, _) = (shown(netid?), address?);
                    all.push(format!("{program}/{version}/{netid}"));
                }
                all.sort();
                self.say(all.join(" "));
            }
            6 => {
                self.word()?;
                self.say("time");
            }
            7 => {
                self.number("maxlen")?;
                self.opaque("taddr")?;
            }
            11 => {
                let mut all = Vec::new();
                while self.there()? {
                    let address = self.r.opaque("address", 1024)?;
                    let netid = shown(self.r.opaque("netid", 1024)?);
                    let semantics = self.word()?;
                    let family = shown(self.r.opaque("family", 1024)?);
                    let protocol = shown(self.r.opaque("protocol", 1024)?);
                    let address = address_word(address);
                    all.push(format!("{address} {netid} {semantics} {family} {protocol}"));
                }
                all.sort();
                self.say(format!("{all:?}"));
            }
            12 => {
                let len = self.r.rest().len();
                self.r.take("statistics", len)?;
                self.say("statistics");
            }
            _ => {
                let address = self.r.opaque("address", 1024)?;
                self.say(address_word(address));
                self.opaque("result")?;
            }
        }
        Ok(())
    }
}

/// A state number counts reboots; only whether it says "up" is the same everywhere.
fn state_word(state: u32) -> &'static str {
    match state {
        u32::MAX => "state=-1",
        state if state % 2 == 1 => "state=up",
        _ => "state=down",
    }
}

fn port_word(port: u32) -> String {
    match port {
        0 | 111 | 2049 => port.to_string(),
        _ => "port".into(),
    }
}

/// `10.77.0.2.8.1` without what differs: the host.
fn address_word(address: &[u8]) -> String {
    match address.iter().filter(|b| **b == b'.').count() {
        5 => "HOST.PORT".into(),
        _ => shown(address),
    }
}

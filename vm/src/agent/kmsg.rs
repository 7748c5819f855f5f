//! The kernel's log, line by line, from its beginning.

use std::fs::File;
use std::io::{self, Read};
use std::sync::Arc;
use std::thread;

use super::Agent;
use crate::protocol::Message;

impl Agent {
    /// Sends every line of the kernel's log, past and future.
    pub(super) fn stream_kernel_log(self: Arc<Self>) -> io::Result<()> {
        let mut log = File::open("/dev/kmsg")?;
        thread::Builder::new().name("kmsg".into()).spawn(move || {
            let mut buffer = vec![0; 8192];
            loop {
                match log.read(&mut buffer) {
                    Ok(0) => return,
                    Ok(count) => {
                        let record = String::from_utf8_lossy(buffer.get(..count).unwrap_or_default());
                        if let Some(message) = parse(&record) {
                            self.link.send(&message);
                        }
                    }
                    // Lines were overwritten before we read them; go on with
                    // the oldest there is.
                    Err(e) if e.raw_os_error() == Some(libc::EPIPE) => {}
                    Err(e) if e.kind() == io::ErrorKind::Interrupted => {}
                    Err(_) => return,
                }
            }
        })?;
        Ok(())
    }
}

/// `PRIORITY,SEQUENCE,MICROSECONDS,FLAGS;text`, then lines of properties.
fn parse(record: &str) -> Option<Message> {
    let (head, text) = record.split_once(';')?;
    let mut fields = head.split(',');
    let priority: u32 = fields.next()?.parse().ok()?;
    let boot_us = fields.nth(1)?.parse().ok()?;
    let line = text.lines().next().unwrap_or_default().to_owned();
    Some(Message::Kernel {
        boot_us,
        level: (priority & 7) as u8,
        line,
    })
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_record_is_a_line() {
        let record = "5,812,61500123,-;lockd: server 10.77.0.1 not responding, still trying\n SUBSYSTEM=x\n";
        match parse(record) {
            Some(Message::Kernel {
                boot_us: 61_500_123,
                level: 5,
                line,
            }) => {
                assert_eq!(line, "lockd: server 10.77.0.1 not responding, still trying");
            }
            other => panic!("{other:?}"),
        }
        for junk in ["", ";", "x,y,z;a", "5,1;a"] {
            assert!(parse(junk).is_none(), "{junk}");
        }
    }
}

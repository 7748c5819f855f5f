//! `--pcap`: every RPC message as pcapng, readable by any dissector.
//!
//! The packets are made from the messages, not sniffed: this needs no privilege, survives any transport, and
//! lets each packet bear a comment that says what was done to it. A TCP connection is shown with its
//! handshake and gapless sequence numbers; segments may be as large as IPv4 allows.
//!
//! Framing is `pcap-file`'s, headers and checksums are `etherparse`'s.

use bytes::Bytes;
use etherparse::PacketBuilder;
use parking_lot::Mutex;
use pcap_file::DataLink;
use pcap_file::pcapng::PcapNgWriter;
use pcap_file::pcapng::blocks::enhanced_packet::{EnhancedPacketBlock, EnhancedPacketOption};
use pcap_file::pcapng::blocks::interface_description::{
    InterfaceDescriptionBlock, InterfaceDescriptionOption,
};
use rpc::client::Tap;
use rpc::msg::Transport;
use std::borrow::Cow;
use std::collections::BTreeMap;
use std::fs::File;
use std::io::{BufWriter, Write};
use std::net::{IpAddr, SocketAddr};
use std::path::Path;
use std::time::{SystemTime, UNIX_EPOCH};

/// Largest TCP payload in one packet, in bytes; with its headers it must stay below 65,536.
const SEGMENT: usize = 60_000;
const WINDOW: u16 = 65_535;
/// `if_tsresol`: a time stamp counts units of 10 to the minus this.
const NANOSECONDS: u8 = 9;

/// A capture file being written.
pub struct Capture {
    inner: Mutex<Inner>,
}

struct Inner {
    file: PcapNgWriter<BufWriter<File>>,
    /// Next sequence number of each direction of each connection: (from, to).
    streams: BTreeMap<(SocketAddr, SocketAddr), u32>,
    failed: bool,
}

impl Capture {
    /// Starts a capture file.
    ///
    /// # Errors
    /// Those of creating and writing it.
    pub fn create(path: &Path) -> anyhow::Result<Capture> {
        let mut file = PcapNgWriter::new(BufWriter::new(File::create(path)?))?;
        let interface = InterfaceDescriptionBlock {
            linktype: DataLink::RAW,
            snaplen: 0,
            options: vec![InterfaceDescriptionOption::IfTsResol(NANOSECONDS)],
        };
        file.write_pcapng_block(interface)?;
        let inner = Inner {
            file,
            streams: BTreeMap::new(),
            failed: false,
        };
        Ok(Capture {
            inner: Mutex::new(inner),
        })
    }

    /// Records one RPC message, without its record mark, and what was done to it.
    pub fn record(
        &self,
        transport: Transport,
        from: SocketAddr,
        to: SocketAddr,
        message: &[u8],
        comment: Option<&str>,
    ) {
        let mut inner = self.inner.lock();
        if inner.failed {
            return;
        }
        let written = match transport {
            Transport::Udp => inner.datagram(from, to, message, comment),
            Transport::Tcp => inner.segments(from, to, message, comment),
        };
        if let Err(error) = written {
            tracing::error!(%error, "the capture ends here");
            inner.failed = true;
        }
    }

    /// Writes out what is still in memory.
    ///
    /// # Errors
    /// Those of writing the file.
    pub fn flush(&self) -> std::io::Result<()> {
        self.inner.lock().file.get_mut().flush()
    }
}

impl Tap for Capture {
    fn message(&self, transport: Transport, from: SocketAddr, to: SocketAddr, message: &Bytes) {
        self.record(
            transport,
            from,
            to,
            message,
            Some("callback by nfslab, or the answer to one"),
        );
    }
}

impl Inner {
    fn datagram(
        &mut self,
        from: SocketAddr,
        to: SocketAddr,
        payload: &[u8],
        comment: Option<&str>,
    ) -> anyhow::Result<()> {
        let builder = match (from.ip(), to.ip()) {
            (IpAddr::V4(a), IpAddr::V4(b)) => PacketBuilder::ipv4(a.octets(), b.octets(), 64),
            (a, b) => PacketBuilder::ipv6(v6(a), v6(b), 64),
        }
        .udp(from.port(), to.port());
        let mut packet = Vec::with_capacity(builder.size(payload.len()));
        builder.write(&mut packet, payload)?;
        self.packet(packet, comment)
    }

    fn segments(
        &mut self,
        from: SocketAddr,
        to: SocketAddr,
        message: &[u8],
        comment: Option<&str>,
    ) -> anyhow::Result<()> {
        if !self.streams.contains_key(&(from, to)) {
            self.handshake(from, to)?;
        }
        let mark = rpc::record::LAST_FRAGMENT | message.len() as u32;
        let record = [&mark.to_be_bytes(), message].concat();
        for (i, chunk) in record.chunks(SEGMENT).enumerate() {
            self.segment(from, to, false, chunk, if i == 0 { comment } else { None })?;
        }
        Ok(())
    }

    fn handshake(&mut self, from: SocketAddr, to: SocketAddr) -> anyhow::Result<()> {
        self.streams.insert((from, to), 0);
        self.streams.insert((to, from), 0);
        self.segment(from, to, true, &[], None)?;
        self.segment(to, from, true, &[], None)?;
        self.segment(from, to, false, &[], None)
    }

    fn segment(
        &mut self,
        from: SocketAddr,
        to: SocketAddr,
        syn: bool,
        payload: &[u8],
        comment: Option<&str>,
    ) -> anyhow::Result<()> {
        let sequence = self.streams.get(&(from, to)).copied().unwrap_or_default();
        let acknowledged = self.streams.get(&(to, from)).copied().unwrap_or_default();
        let ip = match (from.ip(), to.ip()) {
            (IpAddr::V4(a), IpAddr::V4(b)) => PacketBuilder::ipv4(a.octets(), b.octets(), 64),
            (a, b) => PacketBuilder::ipv6(v6(a), v6(b), 64),
        };
        let mut builder = ip.tcp(from.port(), to.port(), sequence, WINDOW);
        if syn {
            builder = builder.syn();
        }
        // Only the very first segment has nothing to acknowledge.
        if !syn || acknowledged > 0 {
            builder = builder.ack(acknowledged);
        }
        let mut packet = Vec::with_capacity(builder.size(payload.len()));
        builder.write(&mut packet, payload)?;
        let next = sequence.wrapping_add(payload.len() as u32 + u32::from(syn));
        self.streams.insert((from, to), next);
        self.packet(packet, comment)
    }

    fn packet(&mut self, packet: Vec<u8>, comment: Option<&str>) -> anyhow::Result<()> {
        let options = comment
            .map(|text| EnhancedPacketOption::Comment(Cow::Borrowed(text)))
            .into_iter()
            .collect();
        let timestamp = SystemTime::now().duration_since(UNIX_EPOCH).unwrap_or_default();
        self.file.write_pcapng_block(EnhancedPacketBlock {
            interface_id: 0,
            timestamp,
            original_len: packet.len() as u32,
            data: Cow::Owned(packet),
            options,
        })?;
        Ok(())
    }
}

fn v6(address: IpAddr) -> [u8; 16] {
    match address {
        IpAddr::V4(v4) => v4.to_ipv6_mapped().octets(),
        IpAddr::V6(v6) => v6.octets(),
    }
}

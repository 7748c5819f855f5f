//! RPC calls, word by word (RFC 5531, section 9). Every field can be wrong, and nothing is checked.

use crate::programs::Procedure;
use bytes::Bytes;

/// A credential or verifier: its flavour, and its body without padding.
pub type Auth = (u32, Vec<u8>);

/// Bytes in front of the credential: xid, message type, RPC version, program, version, procedure.
pub const CRED_AT: usize = 24;

/// A call. [`Call::new`] makes a right one.
#[derive(Debug, Clone)]
pub struct Call {
    /// Chosen by the caller.
    pub xid: u32,
    /// 0 is a call.
    pub message_type: u32,
    /// 2 is the only one.
    pub rpc_version: u32,
    /// Program number.
    pub program: u32,
    /// Its version.
    pub version: u32,
    /// Its procedure.
    pub procedure: u32,
    /// Who asks.
    pub cred: Auth,
    /// Proof of that.
    pub verf: Auth,
    /// The arguments, encoded.
    pub args: Bytes,
}

impl Call {
    /// A call as root, with AUTH_SYS.
    pub fn new(xid: u32, procedure: &Procedure, args: Bytes) -> Call {
        Call {
            xid,
            message_type: 0,
            rpc_version: 2,
            program: procedure.program,
            version: procedure.version,
            procedure: procedure.number,
            cred: (1, auth_sys(b"hostile", &[])),
            verf: (0, Vec::new()),
            args,
        }
    }

    /// A call of a program's procedure 0, which every program has, without a credential.
    pub fn null(xid: u32, program: u32, version: u32) -> Call {
        Call {
            xid,
            message_type: 0,
            rpc_version: 2,
            program,
            version,
            procedure: 0,
            cred: (0, Vec::new()),
            verf: (0, Vec::new()),
            args: Bytes::new(),
        }
    }

    /// The whole message.
    pub fn message(&self) -> Vec<u8> {
        let mut message = words(&[
            self.xid,
            self.message_type,
            self.rpc_version,
            self.program,
            self.version,
            self.procedure,
        ]);
        for (flavor, body) in [&self.cred, &self.verf] {
            message.extend(flavor.to_be_bytes());
            opaque(&mut message, body);
        }
        message.extend(&self.args);
        message
    }

    /// Where in [`message`](Self::message) the verifier begins.
    pub fn verf_at(&self) -> usize {
        CRED_AT + 8 + self.cred.1.len().next_multiple_of(4)
    }

    /// Where in [`message`](Self::message) the arguments begin.
    pub fn args_at(&self) -> usize {
        self.verf_at() + 8 + self.verf.1.len().next_multiple_of(4)
    }
}

/// The body of an AUTH_SYS credential for root.
pub fn auth_sys(machine_name: &[u8], groups: &[u32]) -> Vec<u8> {
    let mut body = words(&[0]);
    opaque(&mut body, machine_name);
    body.extend(words(&[0, 0, groups.len() as u32]));
    body.extend(words(groups));
    body
}

/// The bytes of some words.
pub fn words(words: &[u32]) -> Vec<u8> {
    words.iter().flat_map(|word| word.to_be_bytes()).collect()
}

fn opaque(message: &mut Vec<u8>, body: &[u8]) {
    message.extend((body.len() as u32).to_be_bytes());
    message.extend(body);
    message.resize(message.len().next_multiple_of(4), 0);
}

/// A message as one record of one fragment.
pub fn record(message: &[u8]) -> Vec<u8> {
    fragments(message, message.len().max(1))
}

/// A message as one record in fragments of at most `size` bytes.
pub fn fragments(message: &[u8], size: usize) -> Vec<u8> {
    let mut stream = Vec::new();
    let mut rest = message;
    loop {
        let (head, tail) = rest.split_at(size.min(rest.len()));
        let last = if tail.is_empty() { 1 << 31 } else { 0 };
        stream.extend((head.len() as u32 | last).to_be_bytes());
        stream.extend(head);
        if tail.is_empty() {
            return stream;
        }
        rest = tail;
    }
}

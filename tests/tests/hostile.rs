//! Hostile bytes: whatever a peer sends, it gets the answer that RFC 5531 names or a closed connection, the
//! server allocates nothing on its word, and everyone else is served as before.
//!
//! Every test has a server of its own ([`Lab`]), and on each service's port somebody who was connected
//! before the attack ([`Lab::check_unharmed`] calls on all their connections, on new ones, and by UDP).
//! After every attack a NULL call follows on the same connection: its answer shows that the server is done
//! with what came before, so nothing here waits for silence.
//!
//! Expected answers are written as words, not by the code under test.

#![allow(clippy::indexing_slicing, reason = "a panic is how a test fails")]

use bytes::Bytes;
use faults::Service;
use nfslab::server::{Config, Ports, Server};
use nfslab_tests::call::{CRED_AT, Call, auth_sys, fragments, record, words};
use nfslab_tests::programs::{PROCEDURES, PROGRAMS, Procedure, Program};
use nfslab_tests::wire::{Connection, Datagrams, Received};
use proptest::prelude::*;
use proptest::test_runner::{FileFailurePersistence, TestRunner};
use std::alloc::{GlobalAlloc, Layout, System};
use std::cell::{Cell, RefCell};
use std::fmt::Debug;
use std::net::{Ipv4Addr, SocketAddr};
use std::sync::Once;
use std::sync::atomic::{AtomicUsize, Ordering::Relaxed};
use tokio::runtime::Runtime;

// --- memory -----------------------------------------------------------------------------------------

/// Remembers the largest single allocation of the servers' threads, and how much is allocated in all.
struct Watched;

thread_local! {
    /// Whether this thread is one of a server's runtime.
    static OF_SERVER: Cell<bool> = const { Cell::new(false) };
}

static LARGEST: AtomicUsize = AtomicUsize::new(0);
static ALLOCATED: AtomicUsize = AtomicUsize::new(0);

/// No single allocation may exceed this: a record is 1 MiB at most, and a buffer grows by doubling.
const LARGEST_ALLOWED: usize = 4 << 20;

#[global_allocator]
static WATCHED: Watched = Watched;

// SAFETY: every call goes to the system's allocator unchanged.
unsafe impl GlobalAlloc for Watched {
    unsafe fn alloc(&self, layout: Layout) -> *mut u8 {
        note(layout.size());
        // SAFETY: as the caller promised us.
        unsafe { System.alloc(layout) }
    }

    unsafe fn alloc_zeroed(&self, layout: Layout) -> *mut u8 {
        note(layout.size());
        // SAFETY: as the caller promised us.
        unsafe { System.alloc_zeroed(layout) }
    }

    unsafe fn dealloc(&self, ptr: *mut u8, layout: Layout) {
        ALLOCATED.fetch_sub(layout.size(), Relaxed);
        // SAFETY: as the caller promised us.
        unsafe { System.dealloc(ptr, layout) }
    }
}

fn note(size: usize) {
    ALLOCATED.fetch_add(size, Relaxed);
    if OF_SERVER.try_with(Cell::get).unwrap_or_default() {
        LARGEST.fetch_max(size, Relaxed);
    }
}

// --- the server and its neighbours ------------------------------------------------------------------

static SERVER_PANICS: AtomicUsize = AtomicUsize::new(0);

/// A panic in a task only closes a connection, which looks like an orderly refusal: count them.
fn count_server_panics() {
    static ONCE: Once = Once::new();
    ONCE.call_once(|| {
        let report = std::panic::take_hook();
        std::panic::set_hook(Box::new(move |info| {
            if OF_SERVER.get() {
                SERVER_PANICS.fetch_add(1, Relaxed);
            }
            report(info);
        }));
    });
}

/// What the answers to NULL calls bear, so that no attack's answer is taken for one.
const PROBE_XID: u32 = 0x6e75_6c6c;
const XID: u32 = 0x7e57_0001;

/// A server, and those who must not notice the attack.
struct Lab {
    server: Server,
    runtime: Runtime,
    bystanders: Vec<Connection>,
    /// The handle of the export's root.
    root: Vec<u8>,
}

/// What came of a message.
#[derive(Debug, Clone, PartialEq, Eq)]
enum Outcome {
    Answer(Bytes),
    Closed,
    Silence,
}

/// The attacker's sockets on one service.
struct Attacker {
    service: Service,
    to: SocketAddr,
    connection: Option<Connection>,
    datagrams: Datagrams,
}

impl Lab {
    fn start() -> Lab {
        count_server_panics();
        let runtime = tokio::runtime::Builder::new_multi_thread()
            .worker_threads(2)
            .on_thread_start(|| OF_SERVER.set(true))
            .enable_all()
            .build()
            .expect("a runtime");
        let config = Config {
            ports: Ports::AUTO,
            ..Config::default()
        };
        let server = runtime
            .block_on(Server::start(config))
            .expect("the server starts");
        let mut lab = Lab {
            server,
            runtime,
            bystanders: Vec::new(),
            root: Vec::new(),
        };
        lab.bystanders = Service::ALL.map(|service| lab.connect(service)).into();
        lab.root = lab.mount();
        lab.check_unharmed();
        lab
    }

    fn address(&self, service: Service) -> SocketAddr {
        (Ipv4Addr::LOCALHOST, self.server.port(service)).into()
    }

    fn connect(&self, service: Service) -> Connection {
        Connection::open(self.address(service)).expect("the server accepts connections")
    }

    fn attacker(&self, service: Service) -> Attacker {
        let to = self.address(service);
        Attacker {
            service,
            to,
            connection: None,
            datagrams: Datagrams::open(to).expect("a UDP socket"),
        }
    }

    fn mount(&self) -> Vec<u8> {
        let mnt = PROCEDURES
            .iter()
            .find(|p| p.name == "MOUNTPROC3_MNT")
            .expect("MNT is there");
        let answer = self.attacker(Service::Mount).by_tcp(&valid(mnt, &[]));
        let Outcome::Answer(answer) = answer else {
            panic!("MNT brings {answer:?}")
        };
        assert_eq!(answer[24..28], [0; 4], "MNT3_OK");
        let len = u32::from_be_bytes(answer[28..32].try_into().expect("four bytes")) as usize;
        answer[32..32 + len].to_vec()
    }

    /// Connections from before the attack are served, and new ones, and UDP; nothing panicked; no
    /// allocation was large.
    fn check_unharmed(&mut self) {
        for (service, bystander) in Service::ALL.into_iter().zip(&mut self.bystanders) {
            let expected = Received::Message(null_answer());
            bystander
                .send(&record(&null_call(service)))
                .expect("an old connection takes a call");
            assert_eq!(
                bystander.receive().expect("and answers it"),
                expected,
                "{service}"
            );
        }
        for service in Service::ALL {
            let mut new = self.attacker(service);
            assert_eq!(
                new.by_tcp(&null_call(service)),
                Outcome::Answer(null_answer()),
                "{service}"
            );
            assert_eq!(
                new.by_udp(&null_call(service)),
                Outcome::Answer(null_answer()),
                "{service}"
            );
        }
        assert_eq!(
            SERVER_PANICS.load(Relaxed),
            0,
            "a task of a server panicked, of this test or another"
        );
        let largest = LARGEST.load(Relaxed);
        assert!(
            largest < LARGEST_ALLOWED,
            "{largest} bytes were allocated at once"
        );
    }

    fn finish(mut self) {
        self.check_unharmed();
        self.bystanders.clear();
        self.runtime.block_on(self.server.stop());
    }
}

impl Attacker {
    fn open(&mut self) -> &mut Connection {
        self.connection
            .get_or_insert_with(|| Connection::open(self.to).expect("the server accepts connections"))
    }

    /// Sends a message in a record of its own and finds out what comes of it.
    fn by_tcp(&mut self, message: &[u8]) -> Outcome {
        self.by_stream(&record(message))
    }

    /// Sends bytes that end with a record's end.
    fn by_stream(&mut self, stream: &[u8]) -> Outcome {
        let mut probe = null_call(self.service);
        probe[..4].copy_from_slice(&PROBE_XID.to_be_bytes());
        let bytes = [stream, &record(&probe)].concat();
        let slow = self.service == Service::Lockd;
        let connection = self.open();
        // A server that has closed already shows in what is received.
        let _ = connection.send(&bytes);
        let mut receive = || {
            connection
                .receive()
                .expect("an answer or a closed connection in time")
        };
        let outcome = match receive() {
            Received::Message(probe) if is_probe(&probe) && slow => match receive() {
                // The lock service may answer later than in turn.
                Received::Message(answer) => Outcome::Answer(answer),
                Received::Closed => Outcome::Closed,
            },
            Received::Message(probe) if is_probe(&probe) => Outcome::Silence,
            Received::Message(answer) => match receive() {
                Received::Message(probe) if is_probe(&probe) => Outcome::Answer(answer),
                other => panic!("after the answer {answer:?} came {other:?}"),
            },
            Received::Closed => Outcome::Closed,
        };
        if outcome == Outcome::Closed {
            self.connection = None;
        }
        outcome
    }

    /// Sends a message as a datagram.
    fn by_udp(&mut self, message: &[u8]) -> Outcome {
        let mut probe = null_call(self.service);
        probe[..4].copy_from_slice(&PROBE_XID.to_be_bytes());
        self.datagrams.send(message).expect("a datagram is sent");
        self.datagrams.send(&probe).expect("a datagram is sent");
        let receive = || self.datagrams.receive().expect("a datagram in time");
        let first = receive();
        if !is_probe(&first) {
            let probe = receive();
            assert!(is_probe(&probe), "two answers: {first:?} and {probe:?}");
            return Outcome::Answer(first);
        }
        Outcome::Silence
    }

    /// By TCP and by UDP: the same answer, where silence is what a closed connection is to TCP.
    fn by_both(&mut self, message: &[u8]) -> Outcome {
        let tcp = self.by_tcp(message);
        let udp = match self.by_udp(message) {
            Outcome::Silence if tcp == Outcome::Closed => Outcome::Closed,
            udp => udp,
        };
        assert_eq!(tcp, udp, "TCP and UDP differ");
        tcp
    }
}

fn is_probe(answer: &[u8]) -> bool {
    answer.starts_with(&PROBE_XID.to_be_bytes())
}

fn program(service: Service) -> Program {
    let at = Service::ALL
        .iter()
        .position(|s| *s == service)
        .expect("every service is one of all");
    PROGRAMS[at]
}

fn service_of(procedure: &Procedure) -> Service {
    let at = PROGRAMS
        .iter()
        .position(|p| p.number == procedure.program)
        .expect("a program of ours");
    Service::ALL[at]
}

fn procedures(service: Service) -> impl Iterator<Item = &'static Procedure> {
    PROCEDURES.iter().filter(move |p| service_of(p) == service)
}

fn null(service: Service) -> Call {
    let Program { number, low, .. } = program(service);
    Call::null(XID, number, low)
}

fn null_call(service: Service) -> Vec<u8> {
    null(service).message()
}

fn null_answer() -> Bytes {
    accepted(&[0])
}

fn valid(procedure: &Procedure, fh: &[u8]) -> Vec<u8> {
    Call::new(XID, procedure, (procedure.example)(fh)).message()
}

// --- expected answers -------------------------------------------------------------------------------

/// MSG_ACCEPTED, an empty verifier, then `rest`: `accept_stat` and what follows it.
fn accepted(rest: &[u32]) -> Bytes {
    words(&[&[XID, 1, 0, 0, 0], rest].concat()).into()
}

/// MSG_DENIED, then `rest`: `reject_stat` and what follows it.
fn denied(rest: &[u32]) -> Bytes {
    words(&[&[XID, 1, 1], rest].concat()).into()
}

const PROG_UNAVAIL: u32 = 1;
const PROG_MISMATCH: u32 = 2;
const PROC_UNAVAIL: u32 = 3;
const GARBAGE_ARGS: u32 = 4;
const SYSTEM_ERR: u32 = 5;
const AUTH_BADCRED: u32 = 1;
const AUTH_BADVERF: u32 = 3;

fn rpc_mismatch() -> Outcome {
    Outcome::Answer(denied(&[0, 2, 2]))
}

fn auth_error(stat: u32) -> Outcome {
    Outcome::Answer(denied(&[1, stat]))
}

fn refused(stat: u32) -> Outcome {
    Outcome::Answer(accepted(&[stat]))
}

/// The call was executed; the result is the program's affair.
fn is_success(outcome: &Outcome) -> bool {
    matches!(outcome, Outcome::Answer(answer) if answer.starts_with(&accepted(&[0])))
}

/// What may be said to a call whose header is right, whatever its arguments are.
fn may_answer(procedure: &Procedure, outcome: &Outcome) -> bool {
    is_success(outcome)
        || *outcome == refused(GARBAGE_ARGS)
        || (!procedure.answered
            && [Outcome::Silence, refused(PROC_UNAVAIL), refused(SYSTEM_ERR)].contains(outcome))
}

// --- calls that no program takes --------------------------------------------------------------------

#[test]
fn what_is_not_served_gets_the_refusal_that_rfc_5531_names() {
    let mut lab = Lab::start();
    for service in Service::ALL {
        let mut attacker = lab.attacker(service);
        let Program {
            number,
            low,
            high,
            beyond,
        } = program(service);
        let mismatch = Outcome::Answer(accepted(&[PROG_MISMATCH, low, high]));
        let with = |change: &dyn Fn(&mut Call)| {
            let mut call = null(service);
            change(&mut call);
            call.message()
        };
        for program in [0, 1, number - 1, number + 1, 99_999, 400_000, u32::MAX] {
            let call = with(&|call| call.program = program);
            assert_eq!(
                attacker.by_both(&call),
                refused(PROG_UNAVAIL),
                "program {program} on {service}"
            );
        }
        for version in [0, low - 1, high + 1, u32::MAX] {
            let call = with(&|call| call.version = version);
            assert_eq!(
                attacker.by_both(&call),
                mismatch,
                "version {version} of {service}"
            );
        }
        for procedure in [beyond, beyond + 1, 1000, u32::MAX] {
            let call = with(&|call| call.procedure = procedure);
            assert_eq!(
                attacker.by_both(&call),
                refused(PROC_UNAVAIL),
                "procedure {procedure} of {service}"
            );
        }
        for rpc_version in [0, 1, 3, u32::MAX] {
            let call = with(&|call| call.rpc_version = rpc_version);
            assert_eq!(
                attacker.by_both(&call),
                rpc_mismatch(),
                "RPC version {rpc_version} on {service}"
            );
        }
        for message_type in [1, 2, u32::MAX] {
            let call = with(&|call| call.message_type = message_type);
            assert_eq!(
                attacker.by_both(&call),
                Outcome::Closed,
                "message type {message_type} on {service}"
            );
        }
        lab.check_unharmed();
    }
    lab.finish();
}

#[test]
fn a_reply_sent_to_a_server_closes_the_connection() {
    let lab = Lab::start();
    for service in Service::ALL {
        let mut attacker = lab.attacker(service);
        for reply in [
            null_answer(),
            accepted(&[PROG_MISMATCH, 2, 4]),
            denied(&[0, 2, 2]),
        ] {
            assert_eq!(attacker.by_both(&reply), Outcome::Closed, "{service}");
        }
    }
    lab.finish();
}

#[test]
fn a_credential_that_cannot_be_read_is_auth_badcred() {
    let lab = Lab::start();
    let mut long_name = auth_sys(&[b'x'; 256], &[]);
    let good = auth_sys(b"web1", &[4, 24]);
    let mut four_gib_name = good.clone();
    four_gib_name[4..8].fill(0xff);
    let mut four_gib_groups = auth_sys(b"web1", &[]);
    let end = four_gib_groups.len();
    four_gib_groups[end - 4..].fill(0xff);
    let bad: &[(&str, u32, Vec<u8>)] = &[
        ("AUTH_SHORT", 2, vec![1; 8]),
        ("AUTH_DH", 3, vec![1; 8]),
        ("RPCSEC_GSS", 6, vec![0; 20]),
        ("unknown flavour 77", 77, vec![]),
        ("unknown flavour 2^32-1", u32::MAX, good.clone()),
        ("AUTH_SYS without a body", 1, vec![]),
        ("AUTH_SYS cut off", 1, good[..good.len() - 4].to_vec()),
        ("17 groups", 1, auth_sys(b"web1", &[7; 17])),
        ("4 Gi groups", 1, four_gib_groups),
        ("machine name of 256 bytes", 1, std::mem::take(&mut long_name)),
        ("machine name of 4 GiB", 1, four_gib_name),
        (
            "AUTH_SYS body of 401 bytes",
            1,
            [&good[..], &[0; 401]].concat()[..401].to_vec(),
        ),
        ("AUTH_NONE body of 401 bytes", 0, vec![0; 401]),
    ];
    let taken: &[(&str, u32, Vec<u8>)] = &[
        ("AUTH_NONE", 0, vec![]),
        ("16 groups", 1, auth_sys(b"web1", &[7; 16])),
        ("machine name of 255 bytes", 1, auth_sys(&[b'x'; 255], &[])),
        ("no machine name", 1, auth_sys(b"", &[])),
        ("AUTH_NONE body of 400 bytes", 0, vec![0; 400]),
    ];
    for service in Service::ALL {
        let mut attacker = lab.attacker(service);
        let mut ask = |flavor: u32, body: &[u8]| {
            let mut call = null(service);
            call.cred = (flavor, body.to_vec());
            attacker.by_both(&call.message())
        };
        for (what, flavor, body) in bad {
            assert_eq!(
                ask(*flavor, body),
                auth_error(AUTH_BADCRED),
                "{what} to {service}"
            );
        }
        for (what, flavor, body) in taken {
            assert_eq!(
                ask(*flavor, body),
                Outcome::Answer(null_answer()),
                "{what} to {service}"
            );
        }
        let mut call = null(service);
        call.verf = (0, vec![0; 401]);
        assert_eq!(
            attacker.by_both(&call.message()),
            auth_error(AUTH_BADVERF),
            "verifier to {service}"
        );
    }
    lab.finish();
}

// --- one word wrong ---------------------------------------------------------------------------------

/// What a length is overwritten with: 4 GiB, 2 GiB, and as many as fit no message but do fit in an `i32`
/// after rounding up.
const ABSURD: [u32; 3] = [u32::MAX, i32::MAX as u32, 0x7fff_fffc];

/// The words of these arguments that announce a length: those from which the decoder wants as many bytes
/// or items as they say. Checked against the number that the table of procedures has by hand.
fn length_words(procedure: &Procedure, args: &[u8]) -> Vec<usize> {
    (0..args.len() / 4)
        .filter(|word| {
            let mut absurd = args.to_vec();
            absurd[word * 4..][..4].fill(0xff);
            (procedure.decode)(&absurd).is_err_and(|error| {
                use rpc::xdr::DecodeErrorKind::{TooLong, Truncated};
                let huge = u32::MAX as usize;
                matches!(error.kind, TooLong { len, .. } | Truncated { need: len, .. } if len == huge)
            })
        })
        .collect()
}

#[test]
fn a_length_of_four_gib_is_refused_in_every_place_of_every_procedure() {
    let mut lab = Lab::start();
    let (mut sent, mut lengths) = (0, 0);
    for service in Service::ALL {
        let mut attacker = lab.attacker(service);
        for procedure in procedures(service) {
            let args = (procedure.example)(&lab.root);
            let length_words = length_words(procedure, &args);
            assert_eq!(
                length_words.len(),
                procedure.lengths,
                "lengths in the arguments of {}",
                procedure.name
            );
            for (word, absurd) in (0..args.len() / 4).flat_map(|word| ABSURD.map(|absurd| (word, absurd))) {
                let mut changed = args.to_vec();
                changed[word * 4..][..4].copy_from_slice(&absurd.to_be_bytes());
                let message = Call::new(XID, procedure, changed.into()).message();
                for (by, outcome) in [
                    ("tcp", attacker.by_tcp(&message)),
                    ("udp", attacker.by_udp(&message)),
                ] {
                    let place = || {
                        format!(
                            "{} by {by}, word {word} is {absurd:#x}: {outcome:?}",
                            procedure.name
                        )
                    };
                    if length_words.contains(&word) {
                        assert_eq!(outcome, refused(GARBAGE_ARGS), "{}", place());
                        lengths += 1;
                    } else {
                        assert!(may_answer(procedure, &outcome), "{}", place());
                    }
                    sent += 1;
                }
            }
        }
        lab.check_unharmed();
    }
    println!("{sent} calls with one absurd word, {lengths} of them in a length");
    lab.finish();
}

#[test]
fn any_word_of_the_header_can_be_absurd() {
    let lab = Lab::start();
    for service in Service::ALL {
        let mut attacker = lab.attacker(service);
        let mut call = null(service);
        call.cred = (1, auth_sys(b"web1", &[4, 24, 27]));
        let message = call.message();
        for word in 0..message.len() / 4 {
            for absurd in ABSURD {
                let mut changed = message.clone();
                changed[word * 4..][..4].copy_from_slice(&absurd.to_be_bytes());
                let outcome = attacker.by_both(&changed);
                match word {
                    1 => assert_eq!(outcome, Outcome::Closed, "message type {absurd:#x}"),
                    // The name, uid and gid can be anything; so can the flavour of the verifier.
                    _ => assert!(matches!(outcome, Outcome::Answer(_)), "word {word}: {outcome:?}"),
                }
            }
        }
    }
    lab.finish();
}

// --- truncation -------------------------------------------------------------------------------------

#[test]
fn a_call_cut_off_at_any_byte_is_refused() {
    let mut lab = Lab::start();
    let mut sent = 0;
    for service in Service::ALL {
        let mut attacker = lab.attacker(service);
        for procedure in procedures(service) {
            let call = Call::new(XID, procedure, (procedure.example)(&lab.root));
            let message = call.message();
            // The header is the same for every procedure.
            let from = if procedure.number <= 1 { 1 } else { call.args_at() };
            for cut in from..message.len() {
                let expected = match cut {
                    _ if cut < CRED_AT => Outcome::Closed,
                    _ if cut < call.verf_at() => auth_error(AUTH_BADCRED),
                    _ if cut < call.args_at() => auth_error(AUTH_BADVERF),
                    _ => refused(GARBAGE_ARGS),
                };
                let outcome = attacker.by_both(&message[..cut]);
                assert_eq!(outcome, expected, "{} cut off after {cut} bytes", procedure.name);
                sent += 1;
            }
        }
        lab.check_unharmed();
    }
    println!("{sent} truncated calls by TCP and as many by UDP");
    lab.finish();
}

#[test]
fn a_stream_that_ends_within_a_record_is_closed() {
    let lab = Lab::start();
    for service in Service::ALL {
        let stream = record(&null_call(service));
        for cut in 0..stream.len() {
            let mut connection = lab.connect(service);
            connection
                .send(&stream[..cut])
                .expect("the beginning of a call is sent");
            connection.finish().expect("and no more");
            assert_eq!(
                connection.receive().expect("an end in time"),
                Received::Closed,
                "{cut} bytes"
            );
        }
    }
    lab.finish();
}

// --- record marks and fragments ---------------------------------------------------------------------

#[test]
fn a_record_mark_beyond_the_limit_closes_the_connection() {
    let lab = Lab::start();
    let limit = rpc::record::MAX_RECORD as u32;
    for service in Service::ALL {
        for mark in [
            u32::MAX,
            i32::MAX as u32,
            1 << 30,
            (1 << 31) | (limit + 1),
            limit + 1,
        ] {
            let mut connection = lab.connect(service);
            connection.send(&words(&[mark])).expect("a mark is sent");
            assert_eq!(
                connection.receive().expect("an end in time"),
                Received::Closed,
                "mark {mark:#x}"
            );
            // With a call in front, that one is answered.
            let mut attacker = lab.attacker(service);
            let stream = [record(&null_call(service)), words(&[mark])].concat();
            attacker.open().send(&stream).expect("a call and a mark are sent");
            let answer = attacker.open().receive().expect("an answer or an end in time");
            assert!(
                [Received::Message(null_answer()), Received::Closed].contains(&answer),
                "{answer:?}"
            );
        }
    }
    lab.finish();
}

#[test]
fn fragments_that_add_up_beyond_the_limit_close_the_connection() {
    let lab = Lab::start();
    for fragment in [64 << 10, 1 << 20] {
        let mut connection = lab.connect(Service::Nfs);
        let bytes = [words(&[fragment as u32]), vec![0; fragment]].concat();
        // The server takes as many as fit; then it closes, perhaps before we have sent all.
        let all_sent = (0..=rpc::record::MAX_RECORD / fragment).all(|_| connection.send(&bytes).is_ok());
        let end = connection.receive().expect("an end in time");
        assert_eq!(
            end,
            Received::Closed,
            "fragments of {fragment} bytes, all sent: {all_sent}"
        );
    }
    lab.finish();
}

#[test]
fn announcements_cost_no_memory() {
    const CONNECTIONS: usize = 300;
    let mut lab = Lab::start();
    let announced = rpc::record::MAX_RECORD as u32;
    let before = ALLOCATED.load(Relaxed);
    let mut open = Vec::new();
    for last in [0, 1 << 31].into_iter().cycle().take(CONNECTIONS) {
        let mut connection = lab.connect(Service::Nfs);
        connection
            .send(&words(&[announced | last, 0]))
            .expect("a mark and four bytes are sent");
        open.push(connection);
    }
    // Whatever the server does about an announcement, it has done before it answers a later call.
    lab.check_unharmed();
    let grown = ALLOCATED.load(Relaxed).saturating_sub(before);
    let allowed = CONNECTIONS * 64 * 1024;
    assert!(
        grown < allowed,
        "{CONNECTIONS} times {announced} bytes announced: {grown} bytes allocated"
    );
    for mut connection in open {
        connection.finish().expect("the connection is there still");
        assert_eq!(connection.receive().expect("an end in time"), Received::Closed);
    }
    lab.finish();
}

#[test]
fn a_fragment_that_never_ends_holds_up_nobody() {
    let mut lab = Lab::start();
    let mut slow = Vec::new();
    for service in Service::ALL {
        let mut connection = lab.connect(service);
        connection.send(&words(&[1 << 20])).expect("a mark is sent");
        slow.push(connection);
    }
    for _ in 0..20 {
        for connection in &mut slow {
            connection
                .send(&[0; 100])
                .expect("some bytes of the fragment are sent");
        }
        lab.check_unharmed();
    }
    lab.finish();
}

#[test]
fn a_call_may_come_in_fragments_of_any_size() {
    let lab = Lab::start();
    for service in Service::ALL {
        let mut attacker = lab.attacker(service);
        for procedure in procedures(service).filter(|p| p.answered) {
            let message = valid(procedure, &lab.root);
            for size in [1, 2, 3, 4, 5, 31] {
                let outcome = attacker.by_stream(&fragments(&message, size));
                assert!(
                    is_success(&outcome),
                    "{} by {size} bytes: {outcome:?}",
                    procedure.name
                );
            }
        }
        // Every byte in a segment of its own.
        for byte in fragments(&null_call(service), 1) {
            attacker.open().send(&[byte]).expect("a byte is sent");
        }
        let answer = attacker.open().receive().expect("an answer in time");
        assert_eq!(answer, Received::Message(null_answer()), "{service}");
    }
    lab.finish();
}

#[test]
fn fragments_of_no_bytes_are_skipped() {
    let lab = Lab::start();
    let nothing = [0; 64 * 1024];
    for service in Service::ALL {
        let mut attacker = lab.attacker(service);
        let mut stream = nothing.to_vec();
        for byte in null_call(service) {
            stream.extend(words(&[0, 1]));
            stream.push(byte);
        }
        stream.extend(&nothing);
        stream.extend(words(&[1 << 31]));
        assert_eq!(
            attacker.by_stream(&stream),
            Outcome::Answer(null_answer()),
            "{service}"
        );
        // A record of no bytes is no message: no xid to answer.
        assert_eq!(
            attacker.by_stream(&words(&[1 << 31])),
            Outcome::Closed,
            "{service}"
        );
        assert_eq!(
            attacker.by_stream(&words(&[0, 0, 1 << 31])),
            Outcome::Closed,
            "{service}"
        );
    }
    lab.finish();
}

// --- junk -------------------------------------------------------------------------------------------

/// Checks that `check` is true for random inputs. A failing one is printed in its simplest form, and its seed
/// goes to a file from which every later run repeats it.
fn for_each<T: Debug>(cases: u32, input: impl Strategy<Value = T>, check: impl Fn(T) -> bool) {
    let kept = concat!(env!("CARGO_MANIFEST_DIR"), "/tests/regressions/hostile.txt");
    let failure_persistence = Some(Box::new(FileFailurePersistence::Direct(kept)) as _);
    let mut runner = TestRunner::new(ProptestConfig {
        cases,
        failure_persistence,
        ..ProptestConfig::default()
    });
    let property = |input| {
        prop_assert!(check(input), "neither an answer nor a closed connection");
        Ok(())
    };
    if let Err(failed) = runner.run(&input, property) {
        panic!("{failed}");
    }
}

fn junk(longest: usize) -> impl Strategy<Value = Vec<u8>> {
    prop::collection::vec(
        prop_oneof![2 => any::<u8>(), 1 => Just(0), 1 => Just(0xff)],
        0..longest,
    )
}

fn service() -> impl Strategy<Value = Service> {
    prop::sample::select(&Service::ALL[..])
}

#[test]
fn a_stream_of_junk_is_closed() {
    let lab = Lab::start();
    for_each(200, (service(), junk(300)), |(service, junk)| {
        let mut connection = lab.connect(service);
        let _ = connection.send(&junk);
        let _ = connection.finish();
        // Junk may even be answered; then comes the end.
        (0..100).any(|_| connection.receive().expect("an end in time") == Received::Closed)
    });
    lab.finish();
}

#[test]
fn junk_in_a_record_or_a_datagram_is_closed_or_refused() {
    let lab = Lab::start();
    let attackers = RefCell::new(Service::ALL.map(|service| lab.attacker(service)));
    for_each(500, (0..5_usize, junk(200)), |(service, junk)| {
        let attacker = &mut attackers.borrow_mut()[service];
        let outcome = attacker.by_tcp(&junk);
        attacker.by_udp(&junk);
        outcome != Outcome::Silence
    });
    lab.finish();
}

#[test]
fn junk_as_arguments_is_answered() {
    let lab = Lab::start();
    let attackers = RefCell::new(Service::ALL.map(|service| lab.attacker(service)));
    let input = (
        prop::sample::select(PROCEDURES),
        junk(120),
        any::<prop::sample::Index>(),
    );
    for_each(1500, input, |(procedure, junk, keep)| {
        // Junk alone is rarely more than a bad first length: put it behind some of the right arguments.
        let right = (procedure.example)(&lab.root);
        let args = [&right[..keep.index(right.len() + 1) & !3], &junk].concat();
        let service = service_of(&procedure);
        let at = Service::ALL
            .iter()
            .position(|s| *s == service)
            .expect("every service is one of all");
        let attacker = &mut attackers.borrow_mut()[at];
        let message = Call::new(XID, &procedure, args.into()).message();
        may_answer(&procedure, &attacker.by_tcp(&message))
            && may_answer(&procedure, &attacker.by_udp(&message))
    });
    lab.finish();
}

//! What each fuzz target does with its input: decode, and check what must hold of whatever was decoded.
//! A panic is a finding. The targets in `fuzz/` and the replay of the seeds in `tests/tests/corpus.rs` both
//! call these functions.

use crate::lock_model::pair::Pair;
use crate::lock_model::step::Step;
use crate::programs::{PROCEDURES, Procedure};
use bytes::{Buf, Bytes, BytesMut};
use rpc::msg::{self, AuthSys, CallHeader, Credential, NotACall, Reply, RpcError};
use rpc::record::{RecordReader, TooLong};
use rpc::xdr::{self, Reader, Writer};

/// A target's name and its function.
pub type Target = (&'static str, fn(&[u8]));

/// Every target.
pub const TARGETS: &[Target] = &[
    ("record_reader", record_reader),
    ("call_header", call_header),
    ("reply_header", reply_header),
    ("auth_sys", auth_sys),
    ("arguments", arguments),
    ("lock_service", lock_service),
];

/// The limit that [`record_reader`] sets: small, so that the fuzzer reaches it.
pub const RECORD_LIMIT: usize = 256;

/// The first byte says in how many bytes at a time the rest, a TCP stream, arrives. The records that come
/// out must be those that a few obvious lines cut out of the whole stream, and no buffer may grow beyond
/// what has arrived or the limit allows.
///
/// # Panics
/// If not.
pub fn record_reader(data: &[u8]) {
    let Some((&step, stream)) = data.split_first() else {
        return;
    };
    let step = usize::from(step).max(1);
    let expected = cut(stream);
    let one_by_one = arriving(stream, step, |reader, buffer, records| {
        let record = reader.next(buffer)?;
        records.extend(record.clone());
        Ok(record.is_some())
    });
    assert_eq!(one_by_one, expected);
    let several = arriving(stream, step, |reader, buffer, records| {
        let Some(several) = reader.several(buffer)? else {
            return Ok(false);
        };
        records.extend(several.iter().map(|record| several.buffer().slice_ref(record)));
        Ok(true)
    });
    assert_eq!(several, expected);
}

/// What comes out of a stream that arrives `step` bytes at a time; `take` takes out what it can have, and says whether
/// that was anything.
fn arriving(
    stream: &[u8],
    step: usize,
    take: impl Fn(&mut RecordReader, &mut BytesMut, &mut Vec<Bytes>) -> Result<bool, TooLong>,
) -> (Vec<Bytes>, Option<TooLong>) {
    let mut reader = RecordReader::new(RECORD_LIMIT);
    let (mut buffer, mut records) = (BytesMut::new(), Vec::new());
    for piece in stream.chunks(step) {
        reader.reserve(&mut buffer);
        let room = buffer.capacity();
        assert!(
            room <= 8 * rpc::record::FIRST_BUFFER + 2 * stream.len(),
            "a buffer of {room} bytes"
        );
        buffer.extend_from_slice(piece);
        loop {
            match take(&mut reader, &mut buffer, &mut records) {
                Ok(true) => {}
                Ok(false) => break,
                Err(too_long) => return (records, Some(too_long)),
            }
        }
    }
    (records, None)
}

/// RFC 5531, section 11, without a thought for partial reads.
fn cut(mut stream: &[u8]) -> (Vec<Bytes>, Option<TooLong>) {
    let (mut records, mut record) = (Vec::new(), Vec::new());
    while let Ok(mark) = stream.try_get_u32() {
        let (last, len) = (mark >> 31 == 1, (mark & 0x7fff_ffff) as usize);
        let announced = record.len() + len;
        if announced > RECORD_LIMIT {
            return (
                records,
                Some(TooLong {
                    announced,
                    limit: RECORD_LIMIT,
                }),
            );
        }
        let Some((fragment, rest)) = stream.split_at_checked(len) else {
            break;
        };
        record.extend_from_slice(fragment);
        stream = rest;
        if last {
            records.push(std::mem::take(&mut record).into());
        }
    }
    (records, None)
}

/// A call's header and credential: what can be read is written again as the same bytes, and what is refused
/// can be answered.
///
/// # Panics
/// If not.
pub fn call_header(data: &[u8]) {
    let mut r = Reader::new(data);
    match CallHeader::read(&mut r) {
        Ok(header) => {
            let again = xdr::to_bytes(&header);
            assert_eq!(again.len(), r.offset());
            assert_eq!(CallHeader::read(&mut Reader::new(&again)), Ok(header));
            if let Ok(Credential::Sys(sys)) = Credential::parse(&header.cred) {
                assert_auth_sys(&sys);
            }
        }
        Err(NotACall::Refused { xid, error }) => assert_refusal(xid, error),
        Err(NotACall::Hopeless(error)) => assert!(error.offset <= data.len(), "{error}"),
    }
}

/// A reply, as our outgoing calls read it: a refusal that can be read can be written, and a result is the
/// end of the message.
///
/// # Panics
/// If not.
pub fn reply_header(data: &[u8]) {
    let message = Bytes::copy_from_slice(data);
    match Reply::read(&message) {
        Ok(Reply {
            result: Ok(result), ..
        }) => assert!(message.ends_with(&result)),
        Ok(Reply {
            xid,
            result: Err(error),
        }) => assert_refusal(xid, error),
        Err(error) => assert!(error.offset <= data.len(), "{error}"),
    }
}

/// The body of an AUTH_SYS credential.
///
/// # Panics
/// If what can be read is not written again as the same.
pub fn auth_sys(data: &[u8]) {
    if let Ok(sys) = xdr::from_bytes::<AuthSys<'_>>(data) {
        assert_eq!(xdr::to_bytes(&sys).len(), data.len());
        assert_auth_sys(&sys);
    }
}

/// The first byte chooses a procedure, the rest are its arguments.
///
/// # Panics
/// If what can be read is not written again as the same.
pub fn arguments(data: &[u8]) {
    let Some((&choice, args)) = data.split_first() else {
        return;
    };
    let Some(procedure) = PROCEDURES.get(usize::from(choice) % PROCEDURES.len()) else {
        return;
    };
    if let Err(error) = (procedure.decode)(args) {
        assert!(error.offset <= args.len(), "{}: {error}", procedure.name);
    }
}

/// Four bytes are a transition of the lock service, and its model must agree with it after each. The first
/// byte says what becomes of a grant that the client denies.
///
/// # Panics
/// If it does not.
pub fn lock_service(data: &[u8]) {
    let Some((&first, steps)) = data.split_first() else {
        return;
    };
    let steps = steps.as_chunks().0.iter().map(|four| Step::decode(*four));
    if let Err(story) = Pair::new(first % 2 == 1).play(steps) {
        panic!("{story}");
    }
}

fn assert_auth_sys(sys: &AuthSys<'_>) {
    assert_eq!(xdr::from_bytes(&xdr::to_bytes(sys)), Ok(*sys));
    assert!(sys.gids.len() <= msg::MAX_GIDS);
    assert!(sys.machine_name.len() <= msg::MAX_MACHINE_NAME);
}

fn assert_refusal(xid: u32, error: RpcError) {
    let mut w = Writer::new();
    msg::refused(&mut w, xid, error);
    assert_eq!(
        Reply::read(&w.into_bytes()),
        Ok(Reply {
            xid,
            result: Err(error)
        })
    );
}

/// The seeds of a target: valid input, one of each kind. They lie in `fuzz/seeds`.
pub fn seeds(target: &str) -> Vec<(String, Vec<u8>)> {
    use crate::call::{Call, auth_sys, fragments, words};
    let calls = || {
        PROCEDURES
            .iter()
            .map(|p| (p, Call::new(7, p, (p.example)(&[0x5a; 28])).message()))
    };
    let named = |name: &str, bytes: Vec<u8>| (name.to_owned(), bytes);
    match target {
        "record_reader" => {
            let message = [b'x'; 9];
            let two = [fragments(&message, 9), fragments(&message, 4)].concat();
            let step = |n: u8, stream: &[u8]| [&[n], stream].concat();
            vec![
                named("whole", step(255, &two)),
                named("byte-by-byte", step(1, &two)),
                named("one-byte-fragments", step(3, &fragments(&message, 1))),
                named("empty-fragments", step(4, &words(&[0, 0, 1 << 31, 0, 0]))),
                named("two-gib", step(4, &words(&[u32::MAX]))),
                named("never-ends", step(8, &words(&[256, 1, 2]))),
                named(
                    "adds-up-to-the-limit",
                    step(64, &fragments(&[b'x'; RECORD_LIMIT], 200)),
                ),
                named(
                    "adds-up-to-too-much",
                    step(64, &fragments(&[b'x'; RECORD_LIMIT + 1], 200)),
                ),
            ]
        }
        "call_header" => {
            let mut seeds = vec![named("null", Call::null(7, 100_003, 3).message())];
            seeds.extend(calls().take(2).map(|(p, message)| named(p.name, message)));
            let mut call = Call::null(7, 100_021, 4);
            call.cred = (1, auth_sys(b"web1", &[4, 24, 27]));
            seeds.push(named("three-groups", call.message()));
            call.rpc_version = 3;
            seeds.push(named("rpc-version-3", call.message()));
            seeds
        }
        "reply_header" => {
            let mut seeds = vec![named("success", words(&[7, 1, 0, 0, 0, 0, 42]))];
            for stat in 1..6 {
                seeds.push(named(
                    &format!("accept-stat-{stat}"),
                    words(&[7, 1, 0, 0, 0, stat, 2, 4]),
                ));
            }
            seeds.push(named("rpc-mismatch", words(&[7, 1, 1, 0, 2, 2])));
            seeds.push(named("auth-error", words(&[7, 1, 1, 1, 1])));
            seeds
        }
        "auth_sys" => vec![
            named("root", auth_sys(b"web1", &[])),
            named("sixteen-groups", auth_sys(b"web1.example.org", &[1; 16])),
            named("seventeen-groups", auth_sys(b"", &[1; 17])),
        ],
        "arguments" => (0u8..)
            .zip(PROCEDURES)
            .map(|(i, p)| (seed_name(p), [&[i], &(p.example)(&[0x5a; 28])[..]].concat()))
            .collect(),
        "lock_service" => lock_sequences(),
        _ => Vec::new(),
    }
}

/// Sequences of transitions; see [`Step::decode`] for what the bytes say.
fn lock_sequences() -> Vec<(String, Vec<u8>)> {
    const LOCK: u8 = 0;
    const UNLOCK: u8 = 12;
    const CANCEL: u8 = 18;
    const ANSWER: u8 = 21;
    const UNREACHABLE: [u8; 4] = [25, 0, 0, 1];
    const REBOOT: u8 = 26;
    const FREE_ALL: u8 = 27;
    const RESTART: u8 = 28;
    const RECLAIM: u8 = 29;
    const MINUTE: [u8; 4] = [30, 0, 60, 0];
    // Bits of the last byte.
    const EXCLUSIVE: u8 = 1;
    const BLOCK: u8 = 2;
    const OTHER_FILE: u8 = 0x18;
    // Owners: peer 1, 2 and 3, and a second one on the first.
    let [one, two, three, second] = [0, 1, 2, 3];
    let bytes = |first: u8, last: u8| last * 8 + first;
    let whole = bytes(0, 7);
    let wait = EXCLUSIVE | BLOCK;
    let contended = [
        [LOCK, one, whole, wait],
        [LOCK, two, whole, wait],
        [UNLOCK, one, whole, 0],
    ];
    let sequence = |name: &str, steps: &[&[[u8; 4]]]| {
        let steps: Vec<u8> = steps.concat().concat();
        [0, 1].map(|personality| {
            let name = if personality == 0 {
                name.to_owned()
            } else {
                format!("{name}-given-back")
            };
            (name, [&[personality], &steps[..]].concat())
        })
    };
    [
        sequence("granted", &[&contended, &[[ANSWER, 0, 0, 0]]]),
        sequence(
            "denied",
            &[&contended, &[[ANSWER, 0, 0, 2], [LOCK, three, whole, EXCLUSIVE]]],
        ),
        sequence(
            "told-again",
            &[&[UNREACHABLE], &contended, &[MINUTE, [ANSWER, 0, 0, 3], MINUTE]],
        ),
        sequence(
            "cancelled-too-late",
            &[
                &contended,
                &[[CANCEL, two, whole, EXCLUSIVE], [UNLOCK, two, whole, 0]],
            ],
        ),
        sequence(
            "given-up-in-part",
            &[
                &contended,
                &[
                    [UNLOCK, two, bytes(0, 1), 0],
                    [LOCK, three, bytes(0, 1), EXCLUSIVE],
                    [LOCK, two, whole, wait],
                    [ANSWER, 0, 0, 0],
                    [UNLOCK, three, whole, 0],
                ],
            ],
        ),
        sequence(
            "split-and-merged",
            &[&[
                [LOCK, one, whole, EXCLUSIVE],
                [LOCK, two, bytes(3, 4), BLOCK],
                [LOCK, three, bytes(2, 5), wait],
                [UNLOCK, one, bytes(3, 4), 0],
                [ANSWER, 0, 0, 0],
                [LOCK, one, bytes(2, 5), 0],
                [UNLOCK, two, whole, 0],
                [UNLOCK, one, whole, 0],
            ]],
        ),
        sequence(
            "deadlock-over-two-files",
            &[&[
                [LOCK, one, whole, EXCLUSIVE],
                [LOCK, two, whole, EXCLUSIVE | OTHER_FILE],
                [LOCK, two, whole, wait],
                [LOCK, one, whole, wait | OTHER_FILE],
                [CANCEL, two, whole, EXCLUSIVE],
                [LOCK, one, whole, wait | OTHER_FILE],
            ]],
        ),
        sequence(
            "reboots",
            &[&[
                [LOCK, one, bytes(0, 1), EXCLUSIVE],
                [LOCK, second, bytes(4, 5), EXCLUSIVE],
                [LOCK, two, bytes(4, 5), wait],
                [LOCK, three, whole, wait],
                [REBOOT, one, 0, 0],
                [FREE_ALL, two, 0, 0],
                [RESTART, 0, 0, 9],
                [RECLAIM, three, whole, EXCLUSIVE],
                [RECLAIM, two, bytes(1, 1), wait],
                [LOCK, one, whole, BLOCK],
                MINUTE,
                [LOCK, one, whole, BLOCK],
            ]],
        ),
    ]
    .concat()
}

/// The procedure's name, with the version where another version has a procedure of the same name.
fn seed_name(procedure: &Procedure) -> String {
    let same = PROCEDURES.iter().filter(|p| p.name == procedure.name);
    if same.count() > 1 {
        format!("{}-{}", procedure.name, procedure.version)
    } else {
        procedure.name.to_owned()
    }
}

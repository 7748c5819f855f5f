//! The lock table and the lock service alone, without sockets: a LOCK and its UNLOCK beside locks that others hold
//! on the same file; a conflict found among them.
//!
//! What is asked for is that the rate does not fall with what is held: the three sizes of each group belong together.

#![allow(clippy::unwrap_used, reason = "a benchmark that panics has failed")]

use criterion::{BenchmarkId, Criterion, criterion_group, criterion_main};
use nlm::effect::Effects;
use nlm::hosts::{HostKey, Transport};
use nlm::personality::Personality;
use nlm::range::{Kind, Range};
use nlm::request::{Call, CallId, Reply, Request};
use nlm::service::{FileCheck, LockService};
use nlm::table::{Fh, LockTable, OwnerId};
use proto::nlm::{LockArgs, Nlm4Lock, Nlm4Stat, UnlockArgs};
use std::hint::black_box;
use std::time::Duration;

const FH: &[u8] = b"a file handle of thirty-two byte";
const HELD: [u32; 3] = [0, 10_000, 1_000_000];
/// Everybody who holds locks beside the one that is measured.
const HOLDERS: u32 = 1000;

/// Where the n-th of the held locks lies: far apart and in no order, with a hole behind each.
fn place(n: u32, held: u32) -> u64 {
    u64::from(n) * 7_368_787 % u64::from(held.max(1)) * 100
}

fn range(start: u64, len: u64) -> Range {
    Range::from_wire(start, len).unwrap()
}

fn table(held: u32) -> LockTable {
    let fh = Fh::new(FH).unwrap();
    let mut table = LockTable::new();
    for n in 0..held {
        let owner = OwnerId::from(1 + n % HOLDERS);
        let _change = table.set(
            fh,
            owner,
            range(place(n, held), 50),
            Kind::Exclusive,
            Duration::ZERO,
        );
    }
    table
}

fn bench_table(c: &mut Criterion) {
    let fh = Fh::new(FH).unwrap();
    let me = OwnerId::from(0);
    let mut group = c.benchmark_group("table: lock and unlock at random places");
    for held in HELD {
        let mut table = table(held);
        let mut n = 0u32;
        group.bench_function(BenchmarkId::from_parameter(held), |b| {
            b.iter(|| {
                n = n.wrapping_add(31);
                let range = range(place(n % held.max(64), held.max(64)) + 60, 10);
                let _change = table
                    .lock(fh, me, range, Kind::Exclusive, Duration::ZERO)
                    .unwrap();
                table.unset(fh, me, range)
            });
        });
        // Nothing is taken in this one, so that the table stays as it is.
        assert_eq!(table.len(), held as usize);
    }
    group.finish();
    let mut group = c.benchmark_group("table: find who is in the way");
    for held in HELD {
        let table = table(held);
        let mut n = 0u32;
        group.bench_function(BenchmarkId::from_parameter(held), |b| {
            b.iter(|| {
                n = n.wrapping_add(31);
                let wanted = range(place(n % held.max(64), held.max(64)) + 10, 10);
                black_box(table.conflict(fh, me, wanted, Kind::Shared))
            });
        });
    }
    group.finish();
}

fn alock(svid: i32, offset: u64, len: u64) -> Nlm4Lock<'static> {
    Nlm4Lock {
        caller_name: "client1".into(),
        fh: FH.into(),
        oh: "17@client1".into(),
        svid,
        l_offset: offset,
        l_len: len,
    }
}

/// The service, and a client whose calls it answers.
struct Client {
    service: LockService,
    fx: Effects,
    from: HostKey,
}

impl Client {
    fn new(held: u32) -> Client {
        let localhost = [127, 0, 0, 1].into();
        let from = HostKey {
            peer: localhost,
            server: localhost,
            transport: Transport::Tcp,
            version: 4,
        };
        let service = LockService::new(Personality::default());
        let fx = Effects::new();
        let mut client = Client { service, fx, from };
        for n in 0..held {
            client.lock(alock(1_000_000 + (n % HOLDERS) as i32, place(n, held), 50));
        }
        client
    }

    fn call(&mut self, request: Request<'_>) {
        let call = Call {
            id: CallId(1),
            from: self.from,
            request: &request,
            permitted: true,
        };
        let files = |_: &[u8], _: Kind| FileCheck::Ok;
        let reply = self.service.call(Duration::ZERO, call, &files, &mut self.fx);
        assert_eq!(reply, Some(Reply::Stat(Nlm4Stat::NLM4_GRANTED)));
    }

    fn lock(&mut self, alock: Nlm4Lock<'_>) {
        // A lock that is not monitored: who monitors is another question.
        self.call(Request::NmLock(LockArgs {
            cookie: [0, 0, 0, 7][..].into(),
            block: false,
            exclusive: true,
            alock,
            reclaim: false,
            state: 3,
        }));
    }

    fn unlock(&mut self, alock: Nlm4Lock<'_>) {
        self.call(Request::Unlock(UnlockArgs {
            cookie: [0, 0, 0, 7][..].into(),
            alock,
        }));
    }
}

fn bench_service(c: &mut Criterion) {
    let mut group = c.benchmark_group("service: NM_LOCK and UNLOCK");
    for held in HELD {
        let mut client = Client::new(held);
        let mut n = 0u32;
        group.bench_function(BenchmarkId::from_parameter(held), |b| {
            b.iter(|| {
                n = n.wrapping_add(31);
                let place = place(n % held.max(64), held.max(64)) + 60;
                let wanted = alock((n % 64) as i32, place, 10);
                client.lock(wanted);
                client.unlock(wanted);
            });
        });
    }
    group.finish();
}

fn quick() -> Criterion {
    Criterion::default()
        .sample_size(30)
        .warm_up_time(Duration::from_millis(500))
        .measurement_time(Duration::from_secs(2))
}

criterion_group! {
    name = benches;
    config = quick();
    targets = bench_table, bench_service
}
criterion_main!(benches);

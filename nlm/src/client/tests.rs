//! One test for each rule. The driver here is the test: it sees calls and gives replies.

mod network;

use super::*;
use proto::nlm::Netobj;
use std::collections::BTreeMap;

const GRANTED: Nlm4Stat = Nlm4Stat::NLM4_GRANTED;
const DENIED: Nlm4Stat = Nlm4Stat::NLM4_DENIED;
const NOLOCKS: Nlm4Stat = Nlm4Stat::NLM4_DENIED_NOLOCKS;
const BLOCKED: Nlm4Stat = Nlm4Stat::NLM4_BLOCKED;
const GRACE: Nlm4Stat = Nlm4Stat::NLM4_DENIED_GRACE_PERIOD;
const DONE: Result<Answered, Refused> = Ok(Answered::Done);
const FH: &[u8] = b"file";

use proto::nlm::Nlm4Stat;

fn r(start: u64, last: u64) -> Range {
    Range::new(start, last).unwrap()
}

fn posix(number: u64) -> Holder {
    Holder {
        number,
        api: Api::Posix,
    }
}

/// A client, and what came out of it.
struct Desk {
    client: LockClient,
    fx: Effects,
    now: Duration,
    /// Calls that have no reply, oldest first.
    calls: Vec<(CallId, Call)>,
    answers: BTreeMap<RequestId, Result<Answered, Refused>>,
    events: Vec<Event>,
}

impl Desk {
    fn new() -> Self {
        Desk::with(Config::new("client1"))
    }

    fn with(config: Config) -> Self {
        Desk {
            client: LockClient::new(config),
            fx: Effects::new(),
            now: Duration::ZERO,
            calls: Vec::new(),
            answers: BTreeMap::new(),
            events: Vec::new(),
        }
    }

    fn settle(&mut self) {
        for effect in self.fx.drain() {
            match effect {
                Effect::Call { id, call } => self.calls.push((id, *call)),
                Effect::Answer { request, result } => {
                    assert_eq!(self.answers.insert(request, result), None, "answered twice");
                }
                Effect::Event(event) => {
                    assert!(!event.to_string().is_empty());
                    self.events.push(event);
                }
            }
        }
    }

    fn lock(&mut self, number: u64, range: Range, exclusive: bool, wait: bool) -> RequestId {
        let (now, holder) = (self.now, posix(number));
        let id = self
            .client
            .lock(now, FH, holder, range, exclusive, wait, &mut self.fx);
        self.settle();
        id
    }

    fn unlock(&mut self, number: u64, range: Range) -> RequestId {
        let id = self.client.unlock(FH, posix(number), range, &mut self.fx);
        self.settle();
        id
    }

    fn interrupt(&mut self, request: RequestId) {
        self.client.interrupt(request, &mut self.fx);
        self.settle();
    }

    fn reboot(&mut self) {
        self.client.server_rebooted(&mut self.fx);
        self.settle();
    }

    /// Lets so many seconds pass, stopping wherever the client wants to wake.
    fn pass(&mut self, secs: u64) {
        let end = self.now + Duration::from_secs(secs);
        while let Some(at) = self.client.next_wakeup().filter(|at| *at <= end) {
            self.now = self.now.max(at);
            self.client.tick(self.now, &mut self.fx);
            self.settle();
        }
        self.now = end;
    }

    /// The calls under way, in short.
    fn shown(&self) -> Vec<String> {
        self.calls.iter().map(|(_, call)| short(call)).collect()
    }

    #[track_caller]
    fn reply_with(&mut self, what: &str, reply: Result<Reply, Failure>) {
        let place = self.calls.iter().position(|(_, call)| short(call) == what);
        let (id, _) = self
            .calls
            .remove(place.unwrap_or_else(|| panic!("no {what} in {:?}", self.shown())));
        self.client.replied(self.now, id, reply, &mut self.fx);
        self.settle();
    }

    /// Replies to the first call that looks so.
    #[track_caller]
    fn reply(&mut self, what: &str, stat: Nlm4Stat) {
        self.reply_with(what, Ok(Reply::Stat(stat)));
    }

    /// Replies to the only call.
    #[track_caller]
    fn only(&mut self, what: &str, stat: Nlm4Stat) {
        assert_eq!(self.shown(), [what]);
        self.reply(what, stat);
    }

    fn granted(&mut self, svid: i32, range: Range, exclusive: bool) -> bool {
        let (l_offset, l_len) = range.to_wire();
        let alock = Nlm4Lock {
            caller_name: "client1".into(),
            fh: FH.into(),
            oh: Netobj::default(),
            svid,
            l_offset,
            l_len,
        };
        let answer = self.client.granted(self.now, &alock, exclusive, &mut self.fx);
        self.settle();
        answer
    }

    fn held(&self) -> Vec<String> {
        let shown = |l: Shown| {
            let kind = if l.kind.is_exclusive() { 'X' } else { 'S' };
            format!("{} {kind} {:?}", l.svid, l.range)
        };
        self.client.held().map(shown).collect()
    }

    #[track_caller]
    fn answer(&self, id: RequestId) -> Result<Answered, Refused> {
        self.answers.get(&id).expect("not answered").clone()
    }

    fn is_answered(&self, id: RequestId) -> bool {
        self.answers.contains_key(&id)
    }

    /// Takes a lock that the server grants.
    #[track_caller]
    fn hold(&mut self, number: u64, range: Range, exclusive: bool) {
        let id = self.lock(number, range, exclusive, false);
        let what = self.shown().pop().unwrap();
        self.reply(&what, GRANTED);
        assert_eq!(self.answer(id), DONE);
    }

    #[track_caller]
    fn is_over(&self) {
        assert_eq!(self.shown(), [""; 0]);
        assert!(self.client.is_idle());
        assert_eq!(self.client.lanes.len() + self.client.jobs, 0);
        assert_eq!(self.client.by_svid.len() + self.client.by_holder.len(), 0);
    }
}

fn short(call: &Call) -> String {
    let kind = if call.kind.is_exclusive() { 'X' } else { 'S' };
    let (svid, range) = (call.svid, call.range);
    match call.procedure {
        Procedure::Test => format!("TEST {svid} {kind} {range:?}"),
        Procedure::Lock { reclaim: true, .. } => format!("RECLAIM {svid} {kind} {range:?}"),
        Procedure::Lock { block: true, .. } => format!("LOCKW {svid} {kind} {range:?}"),
        Procedure::Lock { block: false, .. } => format!("LOCK {svid} {kind} {range:?}"),
        Procedure::Cancel { .. } => format!("CANCEL {svid} {kind} {range:?}"),
        Procedure::Unlock => format!("UNLOCK {svid} {range:?}"),
    }
}

#[test]
fn a_lock_is_taken_and_given_back_with_a_number_that_is_never_used_again() {
    let mut d = Desk::new();
    d.client.set_state(7);
    let id = d.lock(0xabc, r(0, 9), true, false);
    let call = d.calls[0].1.clone();
    assert_eq!(
        (call.svid, call.oh.as_slice(), call.state),
        (0, &b"0@client1"[..], 7)
    );
    d.only("LOCK 0 X 0..=9", GRANTED);
    assert_eq!((d.answer(id), d.held()), (DONE, vec!["0 X 0..=9".to_owned()]));
    let id = d.unlock(0xabc, r(0, 9));
    assert_eq!(d.held(), [""; 0], "off the record before the call");
    d.only("UNLOCK 0 0..=9", GRANTED);
    assert_eq!(d.answer(id), DONE);
    d.is_over();
    d.lock(0xabc, r(0, 9), true, false);
    d.only("LOCK 1 X 0..=9", GRANTED);
}

#[test]
fn the_same_number_by_fcntl_and_by_flock_are_two_owners() {
    let mut d = Desk::new();
    d.hold(5, r(0, 0), true);
    let flock = Holder {
        number: 5,
        api: Api::Flock,
    };
    d.client
        .lock(d.now, FH, flock, Range::WHOLE_FILE, true, false, &mut d.fx);
    d.settle();
    assert_eq!(d.shown(), ["LOCK 1 X 0..=9223372036854775807"]);
}

#[test]
fn nothing_held_means_no_unlock() {
    let mut d = Desk::new();
    let id = d.unlock(1, r(0, 9));
    assert_eq!(d.answer(id), DONE);
    d.hold(1, r(0, 9), true);
    let id = d.unlock(1, r(20, 29));
    assert_eq!((d.answer(id), d.calls.len()), (DONE, 0));
}

#[test]
fn release_gives_back_all_of_a_file_in_one_call() {
    let mut d = Desk::new();
    d.hold(1, r(0, 9), true);
    d.hold(1, r(20, 29), false);
    d.client.release(FH, posix(1), &mut d.fx);
    d.settle();
    d.only("UNLOCK 0 0..=9223372036854775807", GRANTED);
    d.is_over();
}

#[test]
fn statuses_become_the_errors_that_linux_makes_of_them() {
    use Refused::*;
    let cases = [
        (1, WouldBlock, NoLocks),
        (2, NoLocks, NoLocks),
        (5, Deadlock, Deadlock),
        (6, ReadOnly, ReadOnly),
        (7, Stale, Stale),
        (8, TooBig, TooBig),
        (9, NoLocks, NoLocks),
        (10, Io, Io),
        (77, Io, Io),
    ];
    for (stat, at_once, waiting) in cases {
        for (wait, refused) in [(false, at_once), (true, waiting)] {
            let mut d = Desk::new();
            let id = d.lock(1, r(0, 9), true, wait);
            let what = d.shown().pop().unwrap();
            d.reply(&what, Nlm4Stat(stat));
            assert_eq!(d.answer(id), Err(refused), "{stat} {wait}");
            assert_eq!(d.held(), [""; 0]);
            if wait || stat > 9 {
                // An earlier copy may wait or have been granted.
                d.only("CANCEL 0 X 0..=9", GRANTED);
                d.only("UNLOCK 0 0..=9", GRANTED);
            }
            d.is_over();
        }
    }
    let errnos = [
        WouldBlock,
        NoLocks,
        Deadlock,
        ReadOnly,
        Stale,
        TooBig,
        Interrupted,
        Io,
        Access,
    ]
    .map(Refused::errno);
    assert_eq!(errnos, [11, 37, 35, 30, 116, 75, 4, 5, 13]);
}

#[test]
fn an_rpc_error_is_answered_and_the_lock_undone_for_it_may_be_there() {
    for (failure, refused) in [(Failure::Io, Refused::Io), (Failure::Access, Refused::Access)] {
        let mut d = Desk::new();
        let id = d.lock(1, r(0, 9), true, false);
        d.reply_with("LOCK 0 X 0..=9", Err(failure));
        assert_eq!(d.answer(id), Err(refused));
        d.only("CANCEL 0 X 0..=9", DENIED);
        d.only("UNLOCK 0 0..=9", GRANTED);
        d.is_over();
    }
}

#[test]
fn in_the_grace_period_everything_is_asked_again_after_five_seconds_for_ever() {
    let mut d = Desk::new();
    let id = d.lock(1, r(0, 9), true, false);
    for _ in 0..10 {
        d.only("LOCK 0 X 0..=9", GRACE);
        d.pass(4);
        assert_eq!(d.shown(), [""; 0]);
        d.pass(1);
    }
    d.only("LOCK 0 X 0..=9", GRANTED);
    assert_eq!(d.answer(id), DONE);
    let id = d.unlock(1, r(0, 9));
    d.only("UNLOCK 0 0..=9", GRACE);
    assert!(!d.is_answered(id));
    d.pass(5);
    d.only("UNLOCK 0 0..=9", GRANTED);
    assert_eq!(d.answer(id), DONE);
}

#[test]
fn blocked_waits_for_granted() {
    let mut d = Desk::new();
    let id = d.lock(1, r(0, 9), true, true);
    d.only("LOCKW 0 X 0..=9", BLOCKED);
    assert_eq!(d.client.waiting().count(), 1);
    d.pass(29);
    assert_eq!((d.shown(), d.is_answered(id)), (vec![], false));
    assert!(d.granted(0, r(0, 9), true));
    assert_eq!((d.answer(id), d.held().len()), (DONE, 1));
    assert_eq!(d.client.waiting().count(), 0);
    assert!(d.granted(0, r(0, 9), true), "a repetition of what is held");
    d.pass(100);
    assert_eq!(d.shown(), [""; 0]);
}

#[test]
fn blocked_is_polled_every_thirty_seconds() {
    let mut d = Desk::new();
    let id = d.lock(1, r(0, 9), true, true);
    for _ in 0..5 {
        d.only("LOCKW 0 X 0..=9", BLOCKED);
        d.pass(29);
        assert_eq!(d.shown(), [""; 0]);
        d.pass(1);
    }
    d.only("LOCKW 0 X 0..=9", GRANTED);
    assert_eq!(d.answer(id), DONE);
}

#[test]
fn granted_may_come_before_blocked() {
    for late in [BLOCKED, GRANTED, GRACE] {
        let mut d = Desk::new();
        let id = d.lock(1, r(0, 9), true, true);
        assert!(d.granted(0, r(0, 9), true));
        assert_eq!(d.answer(id), DONE);
        // What comes next for this owner waits for the reply.
        let unlock = d.unlock(1, r(0, 9));
        d.only("LOCKW 0 X 0..=9", late);
        d.only("UNLOCK 0 0..=9", GRANTED);
        assert_eq!(d.answer(unlock), DONE);
        d.is_over();
    }
}

#[test]
fn granted_for_what_nobody_waits_for_is_denied_and_leaves_nothing() {
    let mut d = Desk::new();
    assert!(!d.granted(0, r(0, 9), true));
    d.is_over();
    d.lock(1, r(0, 9), true, true);
    assert!(!d.granted(0, r(10, 19), true));
    assert!(!d.granted(1, r(0, 9), true));
    assert!(
        d.granted(0, r(0, 8), true),
        "a denial could take away what the LOCK under way has got"
    );
    d.only("LOCKW 0 X 0..=9", BLOCKED);
    assert!(!d.granted(0, r(0, 8), true));
    assert!(!d.granted(0, r(0, 9), false));
    assert!(!d.granted(0, r(1, 9), true));
}

#[test]
fn granted_that_may_be_stale_has_the_lock_asked_for_again() {
    let mut d = Desk::new();
    d.hold(1, r(90, 99), true);
    // The first wait is believed, the second of the same owner is not: GRANTED may be a copy of the first.
    let first = d.lock(1, r(0, 9), true, true);
    d.only("LOCKW 0 X 0..=9", BLOCKED);
    assert!(d.granted(0, r(0, 9), true));
    assert_eq!(d.answer(first), DONE);
    d.unlock(1, r(0, 9));
    d.only("UNLOCK 0 0..=9", GRANTED);
    let second = d.lock(1, r(0, 9), true, true);
    assert!(d.granted(0, r(0, 9), true));
    assert!(!d.is_answered(second));
    d.only("LOCKW 0 X 0..=9", BLOCKED);
    d.only("LOCKW 0 X 0..=9", BLOCKED);
    assert!(d.granted(0, r(0, 9), true));
    d.only("LOCKW 0 X 0..=9", GRANTED);
    assert_eq!(d.answer(second), DONE);
}

#[test]
fn blocked_to_a_request_that_was_not_to_wait_is_cancelled() {
    let mut d = Desk::new();
    let id = d.lock(1, r(0, 9), true, false);
    d.only("LOCK 0 X 0..=9", BLOCKED);
    assert_eq!(d.answer(id), Err(Refused::WouldBlock));
    assert!(matches!(d.events[..], [Event::UnexpectedBlocked { .. }]));
    d.only("CANCEL 0 X 0..=9", GRANTED);
    d.only("UNLOCK 0 0..=9", GRANTED);
    d.is_over();
}

#[test]
fn an_interrupted_wait_is_cancelled_then_unlocked() {
    let mut d = Desk::new();
    let id = d.lock(1, r(0, 9), true, true);
    d.only("LOCKW 0 X 0..=9", BLOCKED);
    d.interrupt(id);
    assert_eq!(d.answer(id), Err(Refused::Interrupted));
    assert!(!d.granted(0, r(0, 9), true), "given up");
    d.only("CANCEL 0 X 0..=9", GRANTED);
    d.only("UNLOCK 0 0..=9", GRANTED);
    d.is_over();
}

#[test]
fn cancel_overtakes_a_lock_that_has_no_reply_and_unlock_waits_for_both() {
    // The LOCK reached the server first and was granted.
    let mut d = Desk::new();
    let id = d.lock(1, r(0, 9), true, true);
    d.interrupt(id);
    assert_eq!(d.answer(id), Err(Refused::Interrupted));
    assert_eq!(d.shown(), ["LOCKW 0 X 0..=9", "CANCEL 0 X 0..=9"]);
    d.reply("CANCEL 0 X 0..=9", DENIED);
    d.only("LOCKW 0 X 0..=9", GRANTED);
    d.only("UNLOCK 0 0..=9", GRANTED);
    d.is_over();
    // In the other order.
    let id = d.lock(1, r(0, 9), true, true);
    d.interrupt(id);
    d.reply("LOCKW 1 X 0..=9", GRANTED);
    d.only("CANCEL 1 X 0..=9", GRANTED);
    d.only("UNLOCK 1 0..=9", GRANTED);
    d.is_over();
    // CANCEL reached the server first: the LOCK waits there, so it is cancelled once more.
    for lock_first in [true, false] {
        let mut d = Desk::new();
        let id = d.lock(1, r(0, 9), true, true);
        d.interrupt(id);
        let mut replies = [("LOCKW 0 X 0..=9", BLOCKED), ("CANCEL 0 X 0..=9", GRANTED)];
        if !lock_first {
            replies.reverse();
        }
        for (what, stat) in replies {
            d.reply(what, stat);
        }
        d.only("CANCEL 0 X 0..=9", GRANTED);
        d.only("UNLOCK 0 0..=9", GRANTED);
        d.is_over();
    }
}

#[test]
fn an_interrupted_upgrade_leaves_what_was_held_before() {
    let mut d = Desk::new();
    d.hold(1, r(10, 19), false);
    d.hold(1, r(30, 39), true);
    let id = d.lock(1, r(0, 99), true, true);
    d.only("LOCKW 0 X 0..=99", BLOCKED);
    d.interrupt(id);
    assert!(
        d.granted(0, r(0, 99), true),
        "a denial could take away what is held"
    );
    d.only("CANCEL 0 X 0..=99", DENIED);
    d.only("UNLOCK 0 0..=9", GRANTED);
    d.only("LOCK 0 S 10..=19", GRANTED);
    d.only("UNLOCK 0 20..=29", GRANTED);
    d.only("UNLOCK 0 40..=99", GRANTED);
    assert_eq!(d.held(), ["0 S 10..=19", "0 X 30..=39"]);
    assert_eq!(d.shown(), [""; 0]);
}

#[test]
fn an_interrupted_downgrade_is_made_good_or_told() {
    for (stat, held) in [(GRANTED, "0 X 0..=9"), (DENIED, "0 S 0..=9")] {
        let mut d = Desk::new();
        d.hold(1, r(0, 9), true);
        let id = d.lock(1, r(0, 9), false, false);
        d.interrupt(id);
        d.reply("LOCK 0 S 0..=9", GRANTED);
        d.only("CANCEL 0 S 0..=9", GRANTED);
        d.only("LOCK 0 X 0..=9", stat);
        assert_eq!(d.held(), [held]);
        let lost = matches!(
            d.events[..],
            [Event::Lost {
                why: LostWhy::Weakened,
                ..
            }]
        );
        assert_eq!(lost, stat == DENIED);
    }
}

#[test]
fn cancel_is_repeated_three_times_thirty_seconds_apart_and_after_the_grace_period() {
    let mut d = Desk::new();
    let id = d.lock(1, r(0, 9), true, true);
    d.only("LOCKW 0 X 0..=9", BLOCKED);
    d.interrupt(id);
    d.only("CANCEL 0 X 0..=9", GRACE);
    d.pass(5);
    d.only("CANCEL 0 X 0..=9", NOLOCKS);
    for failure in [true, false, true] {
        d.pass(29);
        assert_eq!(d.shown(), [""; 0]);
        d.pass(1);
        assert_eq!(d.shown(), ["CANCEL 0 X 0..=9"]);
        if failure {
            d.reply_with("CANCEL 0 X 0..=9", Err(Failure::Io));
        } else {
            d.reply("CANCEL 0 X 0..=9", NOLOCKS);
        }
    }
    assert!(matches!(d.events[..], [Event::CancelGivenUp { .. }]));
    d.only("UNLOCK 0 0..=9", GRANTED);
    d.is_over();
}

#[test]
fn calls_of_one_owner_on_one_file_do_not_pass_each_other_and_others_do() {
    let mut d = Desk::new();
    d.lock(1, r(0, 9), true, false);
    d.lock(1, r(5, 14), false, false);
    d.unlock(1, r(0, 4));
    d.lock(2, r(50, 59), true, false);
    assert_eq!(d.shown(), ["LOCK 0 X 0..=9", "LOCK 1 X 50..=59"]);
    d.reply("LOCK 0 X 0..=9", GRANTED);
    d.reply("LOCK 1 X 50..=59", GRANTED);
    d.only("LOCK 0 S 5..=14", GRANTED);
    d.only("UNLOCK 0 0..=4", GRANTED);
    assert_eq!(d.held(), ["0 S 5..=14", "1 X 50..=59"]);
}

#[test]
fn another_thread_can_unlock_while_one_waits_and_the_wait_is_renewed() {
    let mut d = Desk::new();
    d.hold(1, r(0, 9), false);
    let wait = d.lock(1, r(0, 9), true, true);
    d.only("LOCKW 0 X 0..=9", BLOCKED);
    d.unlock(1, r(0, 9));
    // It cannot be known whether the server granted before or after it executed the UNLOCK.
    assert!(d.granted(0, r(0, 9), true));
    assert!(!d.is_answered(wait));
    d.only("UNLOCK 0 0..=9", GRANTED);
    d.only("LOCKW 0 X 0..=9", GRANTED);
    assert_eq!((d.answer(wait), d.held()), (DONE, vec!["0 X 0..=9".to_owned()]));
}

#[test]
fn an_interrupted_request_that_was_not_sent_costs_no_call() {
    let mut d = Desk::new();
    d.lock(1, r(0, 9), true, false);
    let id = d.lock(1, r(20, 29), true, true);
    let unlock = d.unlock(1, r(0, 9));
    d.interrupt(id);
    d.interrupt(unlock);
    for id in [id, unlock] {
        assert_eq!(d.answer(id), Err(Refused::Interrupted));
    }
    d.only("LOCK 0 X 0..=9", GRANTED);
    // An UNLOCK goes on whoever waits for it.
    d.only("UNLOCK 0 0..=9", GRANTED);
    d.is_over();
}

#[test]
fn an_unlock_that_fails_is_sent_again_and_one_that_is_refused_is_told() {
    let mut d = Desk::new();
    d.hold(1, r(0, 9), true);
    let id = d.unlock(1, r(0, 9));
    d.reply_with("UNLOCK 0 0..=9", Err(Failure::Io));
    assert_eq!(d.shown(), [""; 0]);
    d.pass(5);
    d.only("UNLOCK 0 0..=9", Nlm4Stat::NLM4_STALE_FH);
    assert_eq!(d.answer(id), Err(Refused::NoLocks));
    assert!(matches!(d.events[..], [Event::UnexpectedUnlockStatus { .. }]));
    d.is_over();
}

#[test]
fn test_says_who_is_in_the_way() {
    let mut d = Desk::new();
    let holder = crate::request::Holder {
        kind: Kind::Shared,
        svid: 1,
        oh: ShortBytes::EMPTY,
        range: r(3, 4),
    };
    let test = |stat, holder| Ok(Reply::Test(crate::request::TestReply { stat, holder }));
    for (reply, answer) in [
        (test(GRANTED, None), Ok(Answered::Tested(None))),
        (
            test(DENIED, Some(holder.clone())),
            Ok(Answered::Tested(Some(holder))),
        ),
        (test(Nlm4Stat::NLM4_STALE_FH, None), Err(Refused::Stale)),
        (Err(Failure::Access), Err(Refused::Access)),
        (Ok(Reply::Stat(GRANTED)), Err(Refused::Io)),
    ] {
        let id = d.client.test(FH, posix(1), r(0, 9), true, &mut d.fx);
        d.settle();
        let what = d.shown().pop().unwrap();
        d.reply_with(&what, test(GRACE, None));
        d.pass(5);
        d.reply_with(&what, reply);
        assert_eq!(d.answer(id), answer);
        d.is_over();
    }
    let id = d.client.test(FH, posix(1), r(0, 9), true, &mut d.fx);
    d.settle();
    d.interrupt(id);
    let (call, _) = d.calls.pop().unwrap();
    d.client.replied(d.now, call, test(GRANTED, None), &mut d.fx);
    d.settle();
    d.is_over();
}

#[test]
fn after_a_reboot_what_is_held_is_reclaimed_then_waits_are_renewed_then_new_requests_go() {
    let mut d = Desk::new();
    d.hold(1, r(0, 9), true);
    d.hold(2, r(20, 29), false);
    d.lock(3, r(0, 9), true, true);
    d.only("LOCKW 2 X 0..=9", BLOCKED);
    d.reboot();
    let new = d.lock(4, r(50, 59), true, false);
    assert_eq!(d.shown(), ["RECLAIM 0 X 0..=9", "RECLAIM 1 S 20..=29"]);
    d.reply("RECLAIM 0 X 0..=9", GRANTED);
    assert!(d.client.is_reclaiming());
    d.only("RECLAIM 1 S 20..=29", GRANTED);
    assert_eq!(d.shown(), ["LOCKW 2 X 0..=9", "LOCK 3 X 50..=59"]);
    d.reply("LOCK 3 X 50..=59", GRANTED);
    assert_eq!(d.answer(new), DONE);
    assert_eq!(d.held().len(), 3);
}

#[test]
fn a_refused_reclaim_is_a_lost_lock() {
    for reply in [Ok(Reply::Stat(GRACE)), Ok(Reply::Stat(DENIED)), Err(Failure::Io)] {
        let mut d = Desk::new();
        d.hold(1, r(0, 9), true);
        d.reboot();
        d.reply_with("RECLAIM 0 X 0..=9", reply);
        assert_eq!(d.held(), [""; 0]);
        let lost = |e: &Event| {
            matches!(
                e,
                Event::Lost {
                    why: LostWhy::NotReclaimed(_),
                    ..
                }
            )
        };
        assert_eq!(d.events.iter().filter(|e| lost(e)).count(), 1);
        // A copy of the reclaim may have been granted.
        d.only("UNLOCK 0 0..=9", GRANTED);
        d.is_over();
    }
}

#[test]
fn a_second_reboot_begins_the_reclaim_anew() {
    let mut d = Desk::new();
    d.hold(1, r(0, 9), true);
    d.reboot();
    let (old, _) = d.calls.pop().unwrap();
    d.reboot();
    assert_eq!(d.shown(), ["RECLAIM 0 X 0..=9"]);
    d.client.replied(d.now, old, Ok(Reply::Stat(DENIED)), &mut d.fx);
    d.settle();
    assert_eq!(
        d.held(),
        ["0 X 0..=9"],
        "the answer of the server before says nothing"
    );
    d.only("RECLAIM 0 X 0..=9", GRANTED);
    assert!(!d.client.is_reclaiming());
}

#[test]
fn what_is_being_unlocked_is_not_reclaimed() {
    let mut d = Desk::new();
    d.hold(1, r(0, 9), true);
    d.hold(2, r(20, 29), true);
    let under_way = d.unlock(1, r(0, 4));
    d.unlock(1, r(8, 9));
    d.reboot();
    assert_eq!(
        d.shown(),
        ["UNLOCK 0 0..=4", "RECLAIM 0 X 5..=7", "RECLAIM 1 X 20..=29"]
    );
    d.unlock(2, r(20, 24));
    assert_eq!(d.held(), ["0 X 5..=7", "1 X 25..=29"]);
    d.reply("UNLOCK 0 0..=4", GRACE);
    d.reply("RECLAIM 0 X 5..=7", GRANTED);
    d.reply("RECLAIM 1 X 20..=29", GRANTED);
    // This was taken off the record early, but may have been reclaimed.
    d.only("UNLOCK 1 20..=24", GRANTED);
    d.pass(5);
    d.only("UNLOCK 0 0..=4", GRANTED);
    assert_eq!(d.answer(under_way), DONE);
    d.only("UNLOCK 0 8..=9", GRANTED);
}

#[test]
fn a_lock_granted_before_the_reboot_is_asked_for_again() {
    for before in [GRANTED, BLOCKED] {
        let mut d = Desk::new();
        let id = d.lock(1, r(0, 9), true, true);
        d.reboot();
        d.only("LOCKW 0 X 0..=9", before);
        assert!(!d.is_answered(id));
        assert!(d.granted(0, r(0, 9), true), "awaited, but it may be from before");
        assert!(!d.is_answered(id));
        d.only("LOCKW 0 X 0..=9", GRANTED);
        assert_eq!(d.answer(id), DONE);
    }
}

#[test]
fn a_lock_that_was_asked_for_again_and_refused_is_undone() {
    // The first LOCK may have been executed after the reboot: then only a part of it was taken since.
    let mut d = Desk::new();
    let id = d.lock(1, r(0, 9), true, false);
    d.reboot();
    d.only("LOCK 0 X 0..=9", GRANTED);
    d.only("LOCK 0 X 0..=9", DENIED);
    assert_eq!(d.answer(id), Err(Refused::WouldBlock));
    d.only("CANCEL 0 X 0..=9", GRANTED);
    d.only("UNLOCK 0 0..=9", GRANTED);
    d.is_over();
}

#[test]
fn a_lost_lock_does_not_come_back_with_a_late_reply() {
    let mut d = Desk::new();
    d.lock(1, r(0, 9), true, true);
    assert!(d.granted(0, r(0, 9), true));
    d.reboot();
    d.reply("RECLAIM 0 X 0..=9", DENIED);
    d.only("LOCKW 0 X 0..=9", GRANTED);
    d.only("UNLOCK 0 0..=9", GRANTED);
    // Twice: once for the LOCK, once for the reclaim.
    d.only("UNLOCK 0 0..=9", GRANTED);
    d.is_over();
}

#[test]
fn there_are_limits() {
    let mut d = Desk::with(Config {
        max_requests: 2,
        max_held: 1,
        ..Config::new("client1")
    });
    d.lock(1, r(0, 9), true, true);
    d.lock(2, r(0, 9), true, true);
    let full = d.lock(3, r(0, 9), true, false);
    let test = d.client.test(FH, posix(1), r(0, 9), true, &mut d.fx);
    d.settle();
    for id in [full, test] {
        assert_eq!(d.answer(id), Err(Refused::NoLocks));
    }
    let unlock = d.unlock(1, r(0, 9));
    assert!(!d.is_answered(unlock), "there is more room for UNLOCK");
    d.unlock(1, r(0, 9));
    let unlock = d.unlock(1, r(0, 9));
    assert_eq!(d.answer(unlock), Err(Refused::NoLocks));
    let long = d
        .client
        .lock(d.now, &[0; 65], posix(9), r(0, 9), true, true, &mut d.fx);
    d.settle();
    assert_eq!(d.answer(long), Err(Refused::Stale));

    let mut d = Desk::with(Config {
        max_held: 1,
        ..Config::new("client1")
    });
    d.hold(1, r(0, 9), true);
    let id = d.lock(2, r(20, 29), true, false);
    assert_eq!(d.answer(id), Err(Refused::NoLocks));
    assert_eq!(
        Desk::with(Config::new("x".repeat(999))).client.caller_name.len(),
        255
    );
    d.client.next_svid = None;
    d.client.config.max_held = 9;
    let id = d.lock(2, r(20, 29), true, false);
    assert_eq!(d.answer(id), Err(Refused::NoLocks), "no number is left");
}

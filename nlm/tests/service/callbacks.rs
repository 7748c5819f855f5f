//! GRANTED: when it is sent, when again, and what can come between.

use crate::lab::*;
use nfslab_nlm::effect::Event;
use nfslab_nlm::service::Lockd;
use nfslab_nlm::waiters::BlockState;

/// Client 2 holds file "f", client 3 waits for it.
fn contended() -> Lab {
    let mut lab = Lab::new("linux-6.1");
    assert_eq!(lab.lock(asker(2, 1)), GRANTED);
    assert_eq!(
        lab.lock(Asker {
            oh: "4@client3",
            ..asker(3, 4)
        }),
        BLOCKED
    );
    lab
}

fn times(lab: &Lab) -> Vec<f64> {
    lab.callbacks.iter().map(|(at, _)| at.as_secs_f64()).collect()
}

#[test]
fn the_lock_is_taken_before_the_client_is_told() {
    let mut lab = contended();
    lab.callbacks_sent = None;
    lab.unlock(asker(2, 1));
    assert_eq!(lab.held(), ["3/4 X the whole file"]);
    let callback = &lab.callbacks[0].1;
    let args = callback.args();
    assert_eq!((callback.host, args.alock.svid), (asker(3, 4).host(), 4));
    assert_eq!(
        (args.alock.oh.0, args.alock.fh.0, args.alock.caller_name.0),
        (&b"4@client3"[..], &b"f"[..], &b"client"[..])
    );
    assert_eq!(
        (
            args.exclusive,
            args.alock.l_offset,
            args.alock.l_len,
            args.cookie.len()
        ),
        (true, 0, 0, 4)
    );
    lab.run_until(1000.0);
    assert_eq!(
        times(&lab),
        [0.0],
        "nothing is repeated while it is still being sent"
    );
}

#[test]
fn an_unanswered_grant_is_repeated_every_minute() {
    let mut lab = contended();
    lab.unlock(asker(2, 1));
    lab.run_until(150.0);
    assert_eq!(times(&lab), [0.0, 60.0, 120.0]);
    assert!(
        lab.callbacks
            .iter()
            .all(|(_, c)| c.cookie == lab.callbacks[0].1.cookie)
    );
    lab.granted_res(2, GRANTED);
    lab.run_until(500.0);
    assert_eq!((times(&lab).len(), lab.service.waiting()), (3, 0));
    assert_eq!(lab.held(), ["3/4 X the whole file"]);
}

#[test]
fn a_grant_that_could_not_be_sent_is_repeated_every_ten_seconds() {
    let mut lab = contended();
    lab.callbacks_sent = Some(false);
    lab.unlock(asker(2, 1));
    lab.run_until(25.0);
    assert_eq!(times(&lab), [0.0, 10.0, 20.0]);
    let BlockState::Granting {
        attempts,
        last,
        again,
    } = lab.service.waiters(None, 1)[0].state
    else {
        panic!()
    };
    assert_eq!(
        (attempts, last, again),
        (3, Some((secs(20.0), false)), Some(secs(30.0)))
    );
    lab.callbacks_sent = Some(true);
    lab.run_until(100.0);
    assert_eq!(times(&lab), [0.0, 10.0, 20.0, 30.0, 90.0]);
}

#[test]
fn a_client_in_its_grace_period_is_told_again_after_ten_seconds() {
    let mut lab = contended();
    lab.unlock(asker(2, 1));
    lab.run_until(1.0);
    lab.granted_res(0, GRACE);
    lab.run_until(20.0);
    assert_eq!(times(&lab), [0.0, 11.0]);
}

#[test]
fn a_repeated_lock_of_a_granted_request_is_granted() {
    let mut lab = contended();
    lab.unlock(asker(2, 1));
    assert_eq!(lab.lock(asker(3, 4)), GRANTED);
    assert_eq!(lab.service.waiting(), 1, "until the GRANTED is answered, too");
    lab.granted_res(0, GRANTED);
    assert_eq!((lab.service.waiting(), lab.service.locks_held()), (0, 1));
    assert_eq!(lab.callbacks.len(), 1);
}

#[test]
fn those_who_wait_are_served_in_the_order_in_which_they_came() {
    let mut lab = contended();
    for svid in [7, 5, 6] {
        assert_eq!(lab.lock(asker(4, svid)), BLOCKED);
    }
    let mut order = Vec::new();
    lab.unlock(asker(2, 1));
    while let Some((_, callback)) = lab.callbacks.get(order.len()).cloned() {
        lab.granted_res(order.len(), GRANTED);
        order.push(callback.svid);
        let client = if callback.svid == 4 { 3 } else { 4 };
        lab.unlock(asker(client, callback.svid));
    }
    assert_eq!(order, [4, 7, 5, 6]);
    assert_eq!((lab.service.waiting(), lab.service.locks_held()), (0, 0));
}

#[test]
fn a_reboot_frees_everything_before_the_first_of_those_who_wait_is_tried() {
    let mut lab = Lab::new("linux-6.1");
    lab.lock(asker(2, 1).bytes(0, 10));
    lab.lock(asker(2, 1).bytes(20, 10));
    assert_eq!(lab.lock(asker(3, 1).bytes(20, 10)), BLOCKED);
    assert_eq!(lab.lock(asker(4, 1)), BLOCKED, "later, and wants both");
    lab.send(2, nfslab_nlm::request::Request::FreeAll);
    assert_eq!(lab.held(), ["3/1 X bytes 20 to 29"]);
}

#[test]
fn one_unlock_lets_in_everyone_who_fits() {
    let mut lab = contended();
    lab.lock(asker(4, 1).shared());
    lab.lock(asker(4, 2).bytes(100, 10));
    lab.lock(asker(4, 3).shared().bytes(0, 50));
    lab.cancel(asker(3, 4));
    lab.unlock(asker(2, 1));
    assert_eq!(lab.held(), ["4/1 S the whole file", "4/3 S bytes 0 to 49"]);
    assert_eq!(
        lab.service
            .waiters(None, 9)
            .iter()
            .filter(|w| w.state == BlockState::Waiting)
            .count(),
        1
    );
}

#[test]
fn a_downgrade_lets_readers_in() {
    let mut lab = Lab::new("linux-6.1");
    lab.lock(asker(2, 1));
    assert_eq!(lab.lock(asker(3, 1).shared()), BLOCKED);
    assert_eq!(lab.lock(asker(2, 1).shared()), GRANTED);
    assert_eq!(lab.held().len(), 2);
    assert_eq!(lab.callbacks.len(), 1);
}

#[test]
fn a_granted_downgrade_lets_further_readers_in() {
    // Owner 3/1 holds the head exclusively and waits to share all of it; when it gets that, 4/1 can share too.
    let mut lab = Lab::new("linux-6.1");
    lab.lock(asker(2, 1).bytes(10, 10));
    lab.lock(asker(3, 1).bytes(0, 10));
    assert_eq!(lab.lock(asker(4, 1).shared().bytes(0, 10)), BLOCKED);
    assert_eq!(lab.lock(asker(3, 1).shared().bytes(0, 20)), BLOCKED);
    lab.unlock(asker(2, 1).bytes(10, 10));
    assert_eq!(lab.held(), ["3/1 S bytes 0 to 19", "4/1 S bytes 0 to 9"]);
}

#[test]
fn cancel_of_what_waits_of_what_is_granted_and_of_nothing() {
    let mut lab = contended();
    assert_eq!(lab.cancel(asker(3, 9)), GRANTED, "nothing");
    assert_eq!(lab.cancel(asker(3, 4).shared()), GRANTED, "another kind: nothing");
    assert_eq!(
        lab.cancel(asker(3, 4).bytes(0, 5)),
        GRANTED,
        "another range: nothing"
    );
    assert_eq!(lab.service.waiting(), 1);
    assert_eq!(lab.cancel(asker(3, 4)), GRANTED);
    assert_eq!(lab.service.waiting(), 0);
    lab.unlock(asker(2, 1));
    assert_eq!((lab.callbacks.len(), lab.service.locks_held()), (0, 0));

    let mut lab = contended();
    lab.unlock(asker(2, 1));
    assert_eq!(lab.cancel(asker(3, 4)), DENIED, "too late: it is granted");
    assert_eq!(
        (lab.service.waiting(), lab.held()),
        (0, vec!["3/4 X the whole file".to_owned()])
    );
    lab.granted_res(0, DENIED);
    assert_eq!(
        lab.service.locks_held(),
        1,
        "the answer to a dropped block changes nothing"
    );
    assert_eq!(lab.unlock(asker(3, 4)), GRANTED);
    assert_eq!(lab.service.locks_held(), 0);
}

#[test]
fn an_unlock_cancels_what_its_owner_waits_for() {
    let mut lab = contended();
    assert_eq!(lab.unlock(asker(3, 4).shared()), GRANTED, "whatever the kind");
    assert_eq!((lab.service.waiting(), lab.service.locks_held()), (0, 1));
    let mut lab = contended();
    assert_eq!(lab.unlock(asker(3, 4).bytes(0, 9)), GRANTED);
    assert_eq!(lab.service.waiting(), 1, "another range is another request");
}

#[test]
fn a_lock_that_is_free_may_be_had_before_those_who_were_told_to_wait_for_more() {
    let mut lab = Lab::new("linux-6.1");
    lab.lock(asker(2, 1).bytes(0, 10));
    assert_eq!(lab.lock(asker(3, 1)), BLOCKED);
    assert_eq!(lab.lock(asker(4, 1).bytes(20, 10)), GRANTED, "as in Linux");
    lab.unlock(asker(2, 1).bytes(0, 10));
    assert_eq!(lab.callbacks.len(), 0);
    lab.unlock(asker(4, 1).bytes(20, 10));
    assert_eq!(lab.callbacks.len(), 1);
}

#[test]
fn a_leaked_lock_stands_in_everyones_way() {
    let mut lab = contended();
    lab.unlock(asker(2, 1));
    lab.granted_res(0, DENIED);
    assert_eq!(lab.count(|e| matches!(e, Event::Leaked { .. })), 1);
    assert_eq!(lab.lock(asker(2, 1).nb()), DENIED);
}

#[test]
fn an_answer_with_an_unknown_cookie_changes_nothing() {
    let mut lab = contended();
    lab.unlock(asker(2, 1));
    for cookie in [&b""[..], &b"\0\0\0\x63"[..], &b"\0\0\0\x01\0"[..]] {
        let res = proto::nlm::Res {
            cookie: cookie.into(),
            stat: GRANTED,
        };
        lab.send(3, nfslab_nlm::request::Request::GrantedRes(res));
    }
    assert_eq!(lab.service.waiting(), 1);
}

#[test]
fn a_grant_given_up_in_part_and_asked_for_again_waits_again() {
    let mut lab = contended();
    lab.unlock(asker(2, 1));
    lab.unlock(asker(3, 4).bytes(0, 10));
    assert_eq!(lab.lock(asker(4, 1).bytes(0, 10)), GRANTED);
    assert_eq!(lab.lock(asker(3, 4)), BLOCKED);
    lab.granted_res(0, GRANTED);
    assert_eq!(
        lab.service.waiting(),
        1,
        "the answer to the first grant does not end the second wait"
    );
    lab.unlock(asker(4, 1).bytes(0, 10));
    assert_eq!(lab.held(), ["3/4 X the whole file"]);
}

#[test]
fn grants_are_not_repeated_while_the_worker_is_kept() {
    let mut lab = contended();
    lab.unlock(asker(2, 1));
    lab.run_until(50.0);
    lab.lockd(Lockd::Hung);
    lab.run_until(100.0);
    assert_eq!(times(&lab), [0.0]);
    lab.lockd(Lockd::Ok);
    assert_eq!(times(&lab), [0.0, 100.0]);
}

#[test]
fn the_whole_story_can_be_told_in_sentences() {
    let mut lab = contended();
    lab.run_until(2.0);
    lab.unlock(asker(2, 1));
    lab.granted_res(0, GRANTED);
    let story: Vec<String> = lab.events.iter().map(|(_, e)| e.to_string()).collect();
    assert_eq!(
        story,
        [
            "first lock of client (10.77.0.2): the lock service stops to have it monitored by statd",
            "the lock service goes on after 0.0 s: 10.77.0.2: statd monitors it",
            "10.77.0.2 is monitored",
            "first lock of client (10.77.0.3): the lock service stops to have it monitored by statd",
            "the lock service goes on after 0.0 s: 10.77.0.3: statd monitors it",
            "10.77.0.3 is monitored",
            "client (10.77.0.3) owner 4 waits for an exclusive lock on the whole file of file 66, \
             held by client (10.77.0.2) owner 1",
            "client (10.77.0.3) owner 4 is granted an exclusive lock on the whole file of file 66 after 2.000 s",
            "GRANTED sent to client (10.77.0.3) owner 4",
            "client (10.77.0.3) owner 4 knows that it has the lock",
        ]
    );
}

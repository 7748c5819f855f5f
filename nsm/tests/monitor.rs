//! The status monitor in virtual time.

#![allow(clippy::unwrap_used, clippy::indexing_slicing)]

use nfslab_nsm::monitor::Tell;
use nfslab_nsm::names::NoNames;
use nfslab_nsm::notify::Notified;
use nfslab_nsm::{Caller, Effect, Effects, Event, HostName, Kept, Monitor, Now, Saved};
use proptest::prelude::*;
use proto::nsm::{Mon, MonId, MyId, SmRes, StatChge};
use std::collections::BTreeMap;
use std::net::IpAddr;
use std::time::Duration;

const NOW: Now = Duration::ZERO;
const PRIVATE: [u8; 16] = *b"private to lockd";

fn local() -> Caller {
    Caller {
        address: [127, 0, 0, 1].into(),
        port: 700,
    }
}

fn remote(last: u8) -> Caller {
    Caller {
        address: [10, 77, 0, last].into(),
        port: 700,
    }
}

fn lockd() -> MyId<'static> {
    MyId {
        my_name: "server".into(),
        my_prog: 100_021,
        my_vers: 3,
        my_proc: 16,
    }
}

fn mon(name: &str) -> Mon<'_> {
    Mon {
        mon_id: MonId {
            mon_name: name.into(),
            my_id: lockd(),
        },
        private: PRIVATE,
    }
}

fn secs(s: u64) -> Duration {
    Duration::from_secs(s)
}

/// Watches these hosts, without a name service.
fn watching(hosts: &[&str]) -> (Monitor, Effects) {
    let (mut monitor, mut fx) = (Monitor::new("server.lab"), Effects::new());
    for host in hosts {
        let res = monitor.mon(NOW, local(), &mon(host), &NoNames, &mut fx);
        assert_eq!((res.res_stat, res.state), (SmRes::STAT_SUCC, 1), "{host}");
    }
    fx.drain().for_each(drop);
    (monitor, fx)
}

fn rebooted(fx: &mut Effects) -> Vec<String> {
    fx.drain()
        .filter_map(|e| match e {
            Effect::Rebooted(r) => {
                assert_eq!((r.private, r.call.procedure), (PRIVATE, 16));
                Some(format!("{} {}", r.mon_name, r.state))
            }
            _ => None,
        })
        .collect()
}

/// Who is sent what: `host name state attempt`.
fn sent(fx: &mut Effects) -> Vec<String> {
    fx.drain()
        .filter_map(|e| match e {
            Effect::Notify(n) => Some(format!("{} {} {} {}", n.host, n.mon_name, n.state, n.attempt)),
            _ => None,
        })
        .collect()
}

fn tell(monitor: &mut Monitor, fx: &mut Effects, caller: Caller, name: &str, state: i32) -> Vec<String> {
    monitor.notify(
        caller,
        &StatChge {
            mon_name: name.into(),
            state,
        },
        &NoNames,
        fx,
    );
    rebooted(fx)
}

#[test]
fn watching_is_for_the_lock_manager_of_this_host() {
    let (mut monitor, mut fx) = watching(&["10.77.0.2"]);
    let mut fails = |caller, mon: Mon<'_>| {
        let res = monitor.mon(NOW, caller, &mon, &NoNames, &mut fx);
        assert_eq!((res.res_stat, res.state), (SmRes::STAT_FAIL, -1), "{mon:?}");
        let refused = |e: Effect| matches!(e, Effect::Event(Event::Refused { .. }));
        assert!(fx.drain().all(refused));
    };
    fails(remote(2), mon("10.77.0.3"));
    fails(local(), mon("../etc/passwd"));
    fails(local(), mon(".hidden"));
    fails(local(), mon(""));
    fails(local(), mon("unknown-name"));
    let other = MyId {
        my_prog: 100_003,
        ..lockd()
    };
    fails(
        local(),
        Mon {
            mon_id: MonId {
                my_id: other,
                ..mon("10.77.0.3").mon_id
            },
            private: PRIVATE,
        },
    );
    let other = MyId {
        my_proc: 17,
        ..lockd()
    };
    fails(
        local(),
        Mon {
            mon_id: MonId {
                my_id: other,
                ..mon("10.77.0.3").mon_id
            },
            private: PRIVATE,
        },
    );
    assert_eq!(monitor.records().count(), 1);
}

#[test]
fn a_v4_address_in_v6_clothes_is_local_too() {
    let mut monitor = Monitor::new("server");
    let caller = Caller {
        address: "::ffff:127.0.0.1".parse().unwrap(),
        port: 1,
    };
    let res = monitor.mon(NOW, caller, &mon("10.77.0.2"), &NoNames, &mut Effects::new());
    assert_eq!(res.res_stat, SmRes::STAT_SUCC);
}

#[test]
fn watching_twice_is_watching_once_with_the_latest_private_data() {
    let (mut monitor, mut fx) = watching(&["10.77.0.2"]);
    let again = Mon {
        private: [7; 16],
        ..mon("10.77.0.2")
    };
    assert_eq!(
        monitor.mon(NOW, local(), &again, &NoNames, &mut fx).res_stat,
        SmRes::STAT_SUCC
    );
    let records: Vec<_> = monitor.records().collect();
    assert_eq!((records.len(), records[0].private), (1, [7; 16]));
}

#[test]
fn stat_says_whether_the_name_means_anything() {
    let monitor = Monitor::with_state("server", 8);
    let dns = |name: &[u8]| {
        if name == b"client1" {
            vec![IpAddr::from([10, 77, 0, 2])]
        } else {
            Vec::new()
        }
    };
    let stat = |name: &str| monitor.stat(name.as_bytes(), &dns);
    assert_eq!(
        (stat("client1").res_stat, stat("client1").state),
        (SmRes::STAT_SUCC, 9)
    );
    assert_eq!(stat("10.1.2.3").res_stat, SmRes::STAT_SUCC);
    assert_eq!(
        (stat("client2").res_stat, stat("client2").state),
        (SmRes::STAT_FAIL, 9)
    );
}

#[test]
fn unwatching_answers_with_the_state_known_or_not() {
    let (mut monitor, mut fx) = watching(&["10.77.0.2", "10.77.0.3", "10.77.0.4"]);
    let id = |name| MonId {
        mon_name: name,
        my_id: lockd(),
    };
    assert_eq!(monitor.unmon(local(), &id("10.77.0.2".into()), &mut fx).state, 1);
    assert_eq!(monitor.unmon(local(), &id("10.77.0.2".into()), &mut fx).state, 1);
    assert_eq!(
        monitor.unmon(remote(3), &id("10.77.0.3".into()), &mut fx).state,
        1
    );
    assert_eq!(monitor.records().count(), 2);
    let other = MyId {
        my_vers: 4,
        ..lockd()
    };
    monitor.unmon_all(local(), &other, &mut fx);
    monitor.unmon_all(remote(3), &lockd(), &mut fx);
    assert_eq!(monitor.records().count(), 2);
    assert_eq!(monitor.unmon_all(local(), &lockd(), &mut fx).state, 1);
    assert_eq!(monitor.records().count(), 0);
}

#[test]
fn news_of_a_reboot_is_matched_by_name_or_by_address() {
    let (mut monitor, mut fx) = watching(&["10.77.0.2", "10.77.0.3"]);
    assert_eq!(
        tell(&mut monitor, &mut fx, remote(2), "client1", 5),
        ["10.77.0.2 5"],
        "by its address"
    );
    assert_eq!(
        tell(&mut monitor, &mut fx, remote(9), "10.77.0.3", 5),
        ["10.77.0.3 5"],
        "by its name"
    );
    let nobody: [&str; 0] = [];
    assert_eq!(tell(&mut monitor, &mut fx, remote(9), "client9", 5), nobody);
    let both = ["10.77.0.2 7", "10.77.0.3 7"];
    assert_eq!(
        tell(&mut monitor, &mut fx, remote(2), "10.77.0.3", 7),
        both,
        "anyone is believed"
    );
}

#[test]
fn news_is_heard_once_and_even_numbers_count() {
    let (mut monitor, mut fx) = watching(&["10.77.0.2"]);
    for (state, acts) in [
        (5, true),
        (5, false),
        (6, true),
        (5, true),
        (-1, true),
        (-1, false),
    ] {
        assert_eq!(
            tell(&mut monitor, &mut fx, remote(2), "client1", state).len(),
            usize::from(acts),
            "{state}"
        );
    }
    assert_eq!(monitor.records().count(), 1, "it stays watched");
    monitor.notify(
        remote(2),
        &StatChge {
            mon_name: "client1".into(),
            state: -1,
        },
        &NoNames,
        &mut fx,
    );
    let told: Vec<Effect> = fx.drain().collect();
    let [Effect::Event(event)] = &told[..] else {
        panic!("{told:?}")
    };
    assert_eq!(
        event.to_string(),
        "statd ignores that client1 (10.77.0.2) says it rebooted (state -1): this state is known"
    );
}

#[test]
fn after_a_restart_those_who_were_watched_are_told_under_both_names() {
    let (mut monitor, mut fx) = watching(&["10.77.0.3", "10.77.0.2"]);
    monitor.restart(NOW, &mut fx);
    assert_eq!(monitor.state(), 3);
    assert_eq!(
        sent(&mut fx),
        ["10.77.0.2 server.lab 3 1", "10.77.0.3 server.lab 3 1"]
    );
    assert_eq!(monitor.records().count(), 0);
    let host = HostName::from("10.77.0.2");
    monitor.notified(secs(1), &host, Notified::Answered, &mut fx);
    assert_eq!(sent(&mut fx), ["10.77.0.2 server 3 1"]);
    monitor.notified(secs(1), &host, Notified::Answered, &mut fx);
    assert_eq!(
        monitor.to_tell().collect::<Vec<_>>(),
        [&HostName::from("10.77.0.3")]
    );
    monitor.notified(secs(1), &host, Notified::Answered, &mut fx);
    // A second restart in the middle: the other one is told of that instead.
    monitor.restart(secs(1), &mut fx);
    assert_eq!(sent(&mut fx), ["10.77.0.3 server.lab 5 1"]);
}

#[test]
fn an_address_has_no_short_name() {
    let mut monitor = Monitor::new("10.77.0.1");
    let mut fx = Effects::new();
    monitor.mon(NOW, local(), &mon("10.77.0.2"), &NoNames, &mut fx);
    monitor.restart(NOW, &mut fx);
    monitor.notified(NOW, &"10.77.0.2".into(), Notified::Answered, &mut fx);
    assert_eq!(monitor.to_tell().count(), 0);
}

#[test]
fn whoever_does_not_answer_is_told_again_ever_more_rarely_and_given_up() {
    let (mut monitor, mut fx) = watching(&["10.77.0.2"]);
    monitor.restart(NOW, &mut fx);
    let mut times = Vec::new();
    let mut gave_up = None;
    let mut now = NOW;
    loop {
        for effect in fx.drain() {
            match effect {
                Effect::Notify(n) => times.push((now.as_secs(), n.look_up)),
                Effect::Event(Event::GaveUp { attempts, .. }) => gave_up = Some((now.as_secs(), attempts)),
                _ => {}
            }
        }
        let Some(at) = monitor.next_wakeup() else { break };
        now = at;
        monitor.tick(now, &mut fx);
    }
    let expected = [0, 2, 6, 14, 30, 62, 126, 246, 366, 486, 606, 726, 846];
    let expected: Vec<_> = expected
        .into_iter()
        .enumerate()
        .map(|(n, at)| (at, n % 4 == 0))
        .collect();
    assert_eq!(times, expected);
    assert_eq!(gave_up, Some((900, 13)));
}

#[test]
fn a_host_without_a_monitor_is_left_alone_for_two_minutes() {
    let (mut monitor, mut fx) = watching(&["10.77.0.2"]);
    monitor.restart(NOW, &mut fx);
    let host = HostName::from("10.77.0.2");
    monitor.notified(secs(1), &host, Notified::NoMonitor, &mut fx);
    assert_eq!(monitor.next_wakeup(), Some(secs(121)));
    monitor.tick(secs(121), &mut fx);
    monitor.notified(secs(121), &host, Notified::Failed, &mut fx);
    assert_eq!(sent(&mut fx).len(), 2);
}

#[test]
fn a_crowd_is_told_ten_at_a_time() {
    let hosts: Vec<String> = (1..=25).map(|n| format!("10.77.1.{n}")).collect();
    let (mut monitor, mut fx) = watching(&hosts.iter().map(String::as_str).collect::<Vec<_>>());
    monitor.restart(NOW, &mut fx);
    assert_eq!(sent(&mut fx).len(), 10);
    assert_eq!(monitor.next_wakeup(), Some(secs(1)));
    monitor.tick(secs(1), &mut fx);
    assert_eq!(sent(&mut fx).len(), 10);
    monitor.tick(secs(2), &mut fx);
    let third = sent(&mut fx);
    let firsts = third.iter().filter(|n| n.ends_with(" 1")).count();
    assert_eq!(
        (third.len(), firsts),
        (10, 5),
        "the last five, and five who have not answered in two seconds"
    );
}

#[test]
fn a_silent_restart_tells_nobody() {
    let (mut monitor, mut fx) = watching(&["10.77.0.2"]);
    monitor.restart_silently(NOW, &mut fx);
    assert_eq!(
        (monitor.state(), sent(&mut fx).len(), monitor.next_wakeup()),
        (3, 0, None)
    );
}

/// Who is told: everyone, nobody (not even who is to be told since before), or everyone under a name that they do not
/// know.
#[test]
fn a_restart_is_told_to_those_who_are_chosen() {
    let (mut monitor, mut fx) = watching(&["10.77.0.2"]);
    monitor.restart_telling(NOW, Tell::All, &mut fx);
    assert_eq!(sent(&mut fx), ["10.77.0.2 server.lab 3 1"]);
    monitor.restart_telling(NOW, Tell::As("other.lab".into()), &mut fx);
    assert_eq!(sent(&mut fx), ["10.77.0.2 other.lab 5 1"]);
    monitor.notified(NOW, &"10.77.0.2".into(), Notified::Answered, &mut fx);
    monitor.tick(NOW, &mut fx);
    assert_eq!(
        sent(&mut fx),
        ["10.77.0.2 other 5 1"],
        "then the short form of it"
    );
    monitor.restart_telling(NOW, Tell::Nobody, &mut fx);
    assert_eq!(fx.take_kept().last(), Some(&Kept::Restarted(7)));
    assert_eq!(
        (sent(&mut fx).len(), monitor.next_wakeup(), monitor.state()),
        (0, None, 7)
    );
    monitor.mon(NOW, local(), &mon("10.77.0.3"), &NoNames, &mut fx);
    monitor.restart(NOW, &mut fx);
    assert_eq!(
        sent(&mut fx),
        ["10.77.0.3 server.lab 9 1"],
        "under its own name again"
    );
}

#[test]
fn a_failing_monitor_refuses_and_forgets_nobody() {
    let (mut monitor, mut fx) = watching(&["10.77.0.2"]);
    monitor.set_failing(true);
    for host in ["10.77.0.2", "10.77.0.3"] {
        let res = monitor.mon(NOW, local(), &mon(host), &NoNames, &mut fx);
        assert_eq!((res.res_stat, res.state), (SmRes::STAT_FAIL, -1), "{host}");
    }
    assert_eq!(monitor.stat(b"10.77.0.3", &NoNames).res_stat, SmRes::STAT_FAIL);
    assert_eq!(monitor.records().count(), 1);
    monitor.set_failing(false);
    let res = monitor.mon(NOW, local(), &mon("10.77.0.3"), &NoNames, &mut fx);
    assert_eq!(res.res_stat, SmRes::STAT_SUCC);
}

#[test]
fn a_simulated_crash_is_for_the_administrator() {
    let (mut monitor, mut fx) = watching(&["10.77.0.2"]);
    monitor.simu_crash(NOW, remote(2), &mut fx);
    monitor.simu_crash(
        NOW,
        Caller {
            port: 1024,
            ..local()
        },
        &mut fx,
    );
    assert_eq!((monitor.state(), sent(&mut fx).len()), (1, 0));
    monitor.simu_crash(NOW, local(), &mut fx);
    assert_eq!((monitor.state(), sent(&mut fx).len()), (3, 1));
}

#[test]
fn the_state_number_is_odd_for_ever() {
    let mut fx = Effects::new();
    assert_eq!(Monitor::with_state("server", 4).state(), 5);
    let mut monitor = Monitor::with_state("server", i32::MAX - 2);
    let mut states = Vec::new();
    for _ in 0..3 {
        states.push(monitor.state());
        monitor.restart(NOW, &mut fx);
    }
    assert_eq!(states, [i32::MAX - 2, i32::MAX, 1]);
}

/// What a monitor left behind is a restart for the next one if anybody cares; the state number is odd and new.
#[test]
fn a_monitor_that_is_restored_tells_those_whom_its_predecessor_left() {
    let restore = |state, watched: &[&str], to_tell: &[&str]| {
        let names = |names: &[&str]| names.iter().map(|name| HostName::from(*name)).collect();
        let saved = Saved {
            state,
            watched: names(watched),
            to_tell: names(to_tell),
        };
        let mut fx = Effects::new();
        let monitor = Monitor::restore(NOW, "server", saved, &mut fx);
        assert_eq!(
            monitor.records().count(),
            0,
            "whoever wants to be watched asks again"
        );
        (monitor.state(), fx.take_kept(), sent(&mut fx))
    };
    let nobody = Vec::<String>::new();
    assert_eq!(restore(None, &[], &[]), (1, vec![Kept::State(1)], nobody.clone()));
    assert_eq!(restore(Some(7), &[], &[]), (7, vec![], nobody.clone()));
    assert_eq!(restore(Some(8), &[], &[]), (9, vec![Kept::State(9)], nobody));
    let told = |state| vec![format!("10.77.0.2 server {state} 1")];
    for (before, after) in [
        (None, 3),
        (Some(7), 9),
        (Some(8), 9),
        (Some(i32::MAX), 1),
        (Some(-1), 1),
    ] {
        let restarted = vec![Kept::Restarted(after)];
        let expected = (after, restarted, told(after));
        assert_eq!(restore(before, &["10.77.0.2"], &[]), expected);
        assert_eq!(restore(before, &[], &["10.77.0.2"]), expected);
        assert_eq!(restore(before, &["10.77.0.2"], &["10.77.0.2"]), expected);
    }
}

#[test]
fn what_must_outlive_the_host_is_kept_once_for_each_host() {
    let (mut monitor, mut fx) = (Monitor::new("server"), Effects::new());
    let host = HostName::from("10.77.0.2");
    let other = MyId {
        my_vers: 4,
        ..lockd()
    };
    let asks = [lockd(), other].map(|my_id| Mon {
        mon_id: MonId {
            my_id,
            ..mon("10.77.0.2").mon_id
        },
        ..mon("10.77.0.2")
    });
    for ask in asks.iter().chain(&asks) {
        monitor.mon(NOW, local(), ask, &NoNames, &mut fx);
    }
    assert_eq!(fx.take_kept(), [Kept::Watched(host.clone())]);
    assert!(
        fx.drain().all(|effect| matches!(effect, Effect::Event(_))),
        "the rest stays"
    );
    monitor.unmon(local(), &asks[0].mon_id, &mut fx);
    assert_eq!(fx.take_kept(), [], "the other one still wants it");
    monitor.unmon_all(local(), &other, &mut fx);
    assert_eq!(fx.take_kept(), [Kept::Unwatched(host.clone())]);
    monitor.mon(NOW, local(), &asks[0], &NoNames, &mut fx);
    monitor.restart(NOW, &mut fx);
    monitor.notified(NOW, &host, Notified::Answered, &mut fx);
    let kept = [
        Kept::Watched(host.clone()),
        Kept::Restarted(3),
        Kept::Told(host.clone()),
    ];
    assert_eq!(fx.take_kept(), kept);
    for ask in &asks {
        monitor.mon(NOW, local(), ask, &NoNames, &mut fx);
    }
    monitor.restart_silently(NOW, &mut fx);
    let kept = [
        Kept::Watched(host.clone()),
        Kept::Unwatched(host),
        Kept::Restarted(5),
    ];
    assert_eq!(fx.take_kept(), kept);
    monitor.forget_all(&mut fx);
    assert_eq!(fx.take_kept(), [Kept::Nobody]);
}

#[derive(Debug, Clone)]
enum Step {
    Mon(u8),
    Unmon(u8),
    Notify(u8, i32),
    Restart,
    Answer(u8, bool),
    Wait(u64),
}

fn steps() -> impl Strategy<Value = Step> {
    prop_oneof![
        6 => (2..8_u8).prop_map(Step::Mon),
        2 => (2..8_u8).prop_map(Step::Unmon),
        4 => (2..8_u8, 1..4).prop_map(|(host, state)| Step::Notify(host, state)),
        1 => Just(Step::Restart),
        4 => (2..8_u8, any::<bool>()).prop_map(|(host, yes)| Step::Answer(host, yes)),
        4 => (1..400_u64).prop_map(Step::Wait),
    ]
}

proptest! {
    #![proptest_config(ProptestConfig { cases: 100, failure_persistence: None, ..ProptestConfig::default() })]

    /// Against a model that keeps one number for each watched host, and one deadline for each to be told.
    #[test]
    fn watched_hosts_are_heard_and_told(steps in prop::collection::vec(steps(), 60)) {
        let (mut monitor, mut fx) = (Monitor::new("server"), Effects::new());
        let mut watched: BTreeMap<u8, Option<i32>> = BTreeMap::new();
        let mut untold: BTreeMap<u8, Duration> = BTreeMap::new();
        let mut now = NOW;
        let mut state = 1;
        for step in steps {
            match step {
                Step::Mon(n) => {
                    monitor.mon(now, local(), &mon(&format!("10.77.0.{n}")), &NoNames, &mut fx);
                    watched.entry(n).or_default();
                }
                Step::Unmon(n) => {
                    let name = format!("10.77.0.{n}");
                    monitor.unmon(local(), &mon(&name).mon_id, &mut fx);
                    watched.remove(&n);
                }
                Step::Notify(n, told) => {
                    let acts = watched.get(&n).is_some_and(|seen| *seen != Some(told));
                    prop_assert_eq!(tell(&mut monitor, &mut fx, remote(n), "x", told).len(), usize::from(acts));
                    watched.entry(n).and_modify(|seen| *seen = Some(told));
                }
                Step::Restart => {
                    monitor.restart(now, &mut fx);
                    state += 2;
                    untold.extend(std::mem::take(&mut watched).into_keys().map(|n| (n, now)));
                    untold.values_mut().for_each(|since| *since = now);
                }
                Step::Answer(n, yes) => {
                    let result = if yes { Notified::Answered } else { Notified::Failed };
                    monitor.notified(now, &format!("10.77.0.{n}").as_str().into(), result, &mut fx);
                    if yes {
                        untold.remove(&n);
                    }
                }
                Step::Wait(s) => {
                    let end = now + secs(s);
                    while let Some(at) = monitor.next_wakeup().filter(|at| *at <= end) {
                        prop_assert!(at >= now);
                        now = at;
                        monitor.tick(now, &mut fx);
                        prop_assert!(monitor.next_wakeup() != Some(at), "wants to wake for ever");
                    }
                    now = end;
                    untold.retain(|_, since| now < *since + secs(900));
                }
            }
            prop_assert_eq!(monitor.state(), state);
            prop_assert_eq!(monitor.records().count(), watched.len());
            let hosts: Vec<HostName> = untold.keys().map(|n| format!("10.77.0.{n}").as_str().into()).collect();
            prop_assert_eq!(monitor.to_tell().cloned().collect::<Vec<_>>(), hosts);
            for effect in fx.drain() {
                if let Effect::Notify(n) = effect {
                    prop_assert_eq!(n.state, state);
                }
            }
        }
    }
}

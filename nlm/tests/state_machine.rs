//! The lock service against the model in `model/`: random sequences of transitions, and every short one.
//!
//! `NFSLAB_TRANSITIONS` says how many random transitions there are (20,000 unless set); `make model` runs
//! more than a million. A failure is shrunk, and shown as a line for each step with what it brought.

#![allow(clippy::unwrap_used, clippy::indexing_slicing)]

// As the other user of the model calls it.
extern crate nfslab_nlm as nlm;

mod model;

use model::pair::Pair;
use model::step::{Answer, BYTES, Owner, Span, Step, Want};
use proptest::prelude::*;
use proptest::test_runner::{Config, TestError, TestRunner};
use std::cell::Cell;

/// Steps in one sequence, on average.
const LENGTH: usize = 200;

fn transitions_wanted() -> usize {
    #[expect(
        clippy::disallowed_methods,
        reason = "a setting of the test, not of the crate"
    )]
    let set = std::env::var("NFSLAB_TRANSITIONS");
    match set {
        Ok(text) => text.parse().expect("NFSLAB_TRANSITIONS is a number"),
        Err(_) => 20_000,
    }
}

#[test]
fn the_service_agrees_with_the_model() {
    let wanted = transitions_wanted();
    let config = Config {
        cases: wanted.div_ceil(LENGTH).try_into().unwrap(),
        failure_persistence: None,
        ..Config::default()
    };
    let step = any::<[u8; Step::ENCODED]>().prop_map(Step::decode);
    let steps = (prop::collection::vec(step, 1..2 * LENGTH), any::<bool>());
    let done = Cell::new(0);
    while done.get() < wanted {
        let result = TestRunner::new(config.clone()).run(&steps, |(steps, give_back)| {
            let mut pair = Pair::new(give_back);
            let played = pair.play(steps);
            done.set(done.get() + pair.steps());
            played.map_err(TestCaseError::fail)
        });
        match result {
            Err(TestError::Fail(story, _)) => panic!("{story}"),
            Err(other) => panic!("{other}"),
            Ok(()) => {}
        }
    }
    println!("{} transitions", done.get());
    assert!(done.get() >= wanted);
}

/// Plays every sequence of up to `length` steps that begins with one of `first`. What leads up to the last step has
/// been looked at as a shorter sequence.
fn every_sequence(first: &[Step], alphabet: &[Step], length: usize) {
    let mut played = 0;
    let mut starts: Vec<Vec<Step>> = vec![Vec::new()];
    for n in 1..=length {
        let mut longer = Vec::new();
        for start in &starts {
            for step in if n == 1 { first } else { alphabet } {
                let denies = |step: &Step| matches!(step, Step::Answer(_, Answer::Denied));
                for give_back in [false, true] {
                    // Only a denied grant tells the two personalities apart.
                    if give_back && !start.iter().chain([step]).any(denies) {
                        continue;
                    }
                    let mut pair = Pair::new(give_back);
                    let led_up = pair.replay(start.iter().copied());
                    if let Err(story) = led_up.and_then(|()| pair.play([*step])) {
                        panic!("{story}");
                    }
                    played += 1;
                }
                if n < length {
                    longer.push([&start[..], &[*step]].concat());
                }
            }
        }
        starts = longer;
    }
    println!("{played} sequences of up to {length} of {} steps", alphabet.len());
}

fn owner(peer: u8, svid: u8) -> Owner {
    Owner { peer, svid }
}

fn span(who: Owner, first: u8, last: u8) -> Span {
    let file = 0;
    Span {
        who,
        file,
        first,
        last,
    }
}

/// The steps of `owners` on `ranges`.
fn alphabet(owners: &[Owner], ranges: &[(u8, u8)]) -> Vec<Step> {
    let mut all = Vec::new();
    for who in owners {
        for (first, last) in ranges {
            let span = span(*who, *first, *last);
            for exclusive in [true, false] {
                let want = Want { span, exclusive };
                let (block, reclaim) = (true, false);
                all.push(Step::Lock { want, block, reclaim });
                all.push(Step::Cancel(want));
            }
            all.push(Step::Unlock(span));
        }
        all.push(Step::Reboot(who.peer));
    }
    all.extend([Answer::Granted, Answer::Denied].map(|answer| Step::Answer(0, answer)));
    all.sort_by_key(|step| format!("{step:?}"));
    all.dedup();
    all
}

/// By symmetry the first step can be a lock of the first owner.
fn locks_of_first(alphabet: &[Step]) -> Vec<Step> {
    let is_first =
        |step: &&Step| matches!(step, Step::Lock { want, block: true, .. } if want.span.who == owner(1, 1));
    alphabet.iter().filter(is_first).copied().collect()
}

/// Three owners on two peers, all ranges of three bytes.
#[test]
fn every_sequence_of_three_steps_on_three_bytes() {
    let owners = [owner(1, 1), owner(1, 2), owner(2, 1)];
    let ranges = [(0, 0), (0, 1), (0, 2), (1, 1), (1, 2), (2, 2)];
    let alphabet = alphabet(&owners, &ranges);
    every_sequence(&locks_of_first(&alphabet), &alphabet, 3);
}

/// Longer ones, in which a grant is answered or not and its lock given back in part.
#[test]
fn every_sequence_of_four_steps_on_a_file_and_its_head() {
    let alphabet = alphabet(&[owner(1, 1), owner(2, 1)], &[(0, BYTES - 1), (0, 1)]);
    every_sequence(&locks_of_first(&alphabet), &alphabet, 4);
}

/// One byte, three owners, five steps.
#[test]
fn every_sequence_of_five_steps_on_a_byte() {
    let owners = [owner(1, 1), owner(1, 2), owner(2, 1)];
    let alphabet: Vec<Step> = alphabet(&owners, &[(3, 3)])
        .into_iter()
        .filter(|step| !matches!(step, Step::Cancel(want) if !want.exclusive))
        .collect();
    every_sequence(&locks_of_first(&alphabet), &alphabet, 5);
}

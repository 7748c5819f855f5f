//! The fuzz targets on a stable toolchain: they compile, and hold for the seeds in `fuzz/seeds`, for every
//! seed cut off anywhere, and for every seed with one byte changed.

#![allow(clippy::indexing_slicing, reason = "a panic is how a test fails")]

use nfslab_tests::fuzz::{TARGETS, seeds};
use std::fs;
use std::path::{Path, PathBuf};

fn folder(target: &str) -> PathBuf {
    PathBuf::from(env!("CARGO_MANIFEST_DIR"))
        .join("../fuzz/seeds")
        .join(target)
}

/// What long runs have found, one input for each way through the code.
const KEPT: &str = concat!(env!("CARGO_MANIFEST_DIR"), "/../fuzz/kept");

/// The seeds as they lie there: those that [`seeds`] makes, and findings that were kept.
fn committed(target: &str) -> Vec<(String, Vec<u8>)> {
    files(&folder(target))
}

fn files(folder: &Path) -> Vec<(String, Vec<u8>)> {
    let entries = fs::read_dir(folder).unwrap_or_else(|error| panic!("{}: {error}", folder.display()));
    let mut seeds: Vec<_> = entries
        .map(|entry| {
            let path = entry.expect("a folder can be listed").path();
            let name = path
                .file_name()
                .unwrap_or_default()
                .to_string_lossy()
                .into_owned();
            (name, fs::read(&path).expect("a seed can be read"))
        })
        .collect();
    seeds.sort();
    seeds
}

#[test]
fn the_seeds_are_those_of_the_table_of_procedures() {
    for (target, _) in TARGETS {
        if std::env::var_os("NFSLAB_WRITE_SEEDS").is_some() {
            fs::create_dir_all(folder(target)).expect("a folder for the seeds");
            for (name, bytes) in seeds(target) {
                fs::write(folder(target).join(name), bytes).expect("a seed can be written");
            }
        }
        let committed = committed(target);
        let made = seeds(target);
        assert!(!made.is_empty(), "{target} has no seeds");
        for seed in made {
            assert!(
                committed.contains(&seed),
                "fuzz/seeds/{target}/{} is missing or old: \
                 NFSLAB_WRITE_SEEDS=1 cargo test -p nfslab-tests --test corpus the_seeds",
                seed.0
            );
        }
    }
}

#[test]
fn every_target_holds_for_its_seeds() {
    for (target, run) in TARGETS {
        for (name, seed) in committed(target) {
            println!("{target}: {name}");
            run(&seed);
        }
    }
}

#[test]
fn every_target_holds_for_what_fuzzing_has_found() {
    let mut runs = 0;
    for target in fs::read_dir(KEPT).expect("fuzz/kept") {
        let path = target.expect("a folder can be listed").path();
        let name = path
            .file_name()
            .and_then(|name| name.to_str())
            .unwrap_or_default();
        let (_, run) = TARGETS
            .iter()
            .find(|(target, _)| *target == name)
            .expect("a target");
        for (_, input) in files(&path) {
            run(&input);
            runs += 1;
        }
    }
    assert!(runs > 500, "only {runs} inputs: what was kept is gone");
}

#[test]
fn every_target_holds_for_seeds_cut_off_or_changed() {
    let mut runs = 0;
    for (target, run) in TARGETS {
        for (name, mut seed) in committed(target) {
            println!("{target}: {name}");
            for at in 0..seed.len() {
                run(&seed[..at]);
                let right = seed[at];
                for wrong in [0, 1, 2, 0x7f, 0x80, 0xff, right ^ 1, right.wrapping_add(1)] {
                    seed[at] = wrong;
                    run(&seed);
                }
                seed[at] = right;
                runs += 9;
            }
        }
    }
    assert!(runs > 10_000, "only {runs} runs: the seeds are gone");
}

//! The commands on rules, gates and expectations, and `serve --rules --journal --replay`, as a user types them.

use crate::kit::*;
use faults::Service;
use faults::journal::Journal;
use nfslab_tests::nfslab_binary;
use nfslab_tests::wire::Connection;
use serde_json::{Value, json};
use std::io::Read;
use std::path::Path;
use std::process::{Child, Command, Output, Stdio};
use std::time::Instant;

struct Serving {
    child: Child,
    folder: tempfile::TempDir,
}

impl Serving {
    fn start(more: &[&str]) -> Serving {
        let folder = tempfile::tempdir().unwrap();
        let child = serve(folder.path(), more).spawn().unwrap();
        let mut serving = Serving { child, folder };
        let deadline = Instant::now() + PATIENCE;
        while !serving.folder.path().join("ready").exists() {
            let ended = serving.child.try_wait().unwrap();
            assert!(
                ended.is_none() && Instant::now() < deadline,
                "not ready: {ended:?}"
            );
            std::thread::yield_now();
        }
        serving
    }

    fn command(&self, args: &[&str]) -> Output {
        let control = format!("unix:{}", self.folder.path().join("control").display());
        let mut command = Command::new(nfslab_binary());
        command
            .args(args)
            .env("NFSLAB_CONTROL", control)
            .output()
            .unwrap()
    }

    /// Exit code, standard output and standard error.
    fn ask(&self, args: &[&str]) -> (i32, String, String) {
        let output = self.command(args);
        let text = |bytes| String::from_utf8(bytes).unwrap();
        (
            output.status.code().unwrap(),
            text(output.stdout),
            text(output.stderr),
        )
    }

    fn json(&self, args: &[&str]) -> (i32, Value) {
        let output = self.command(&[args, &["--output", "json"]].concat());
        let value = serde_json::from_slice(&output.stdout);
        let said = String::from_utf8_lossy(&output.stderr).into_owned();
        (
            output.status.code().unwrap(),
            value.unwrap_or_else(|_| panic!("{said}")),
        )
    }

    fn dial(&self, service: Service) -> Wire {
        let ready = std::fs::read(self.folder.path().join("ready")).unwrap();
        let ready: Value = serde_json::from_slice(&ready).unwrap();
        let port = ready["ports"][service.name()].as_u64().unwrap() as u16;
        Wire::Tcp(service, Connection::open(([127, 0, 0, 1], port).into()).unwrap())
    }

    /// Its exit code when it is told to stop.
    fn end(mut self) -> i32 {
        let pid = self.child.id().to_string();
        assert!(Command::new("kill").arg(pid).status().unwrap().success());
        self.child.wait().unwrap().code().unwrap()
    }
}

impl Drop for Serving {
    /// A test that fails leaves nothing behind.
    fn drop(&mut self) {
        let _ = self.child.kill();
        let _ = self.child.wait();
    }
}

fn serve(folder: &Path, more: &[&str]) -> Command {
    let mut command = Command::new(nfslab_binary());
    command
        .args(["serve", "--ports", "auto", "--control"])
        .arg(format!("unix:{}", folder.join("control").display()))
        .arg("--ready-file")
        .arg(folder.join("ready"))
        .args(more)
        .stderr(Stdio::piped());
    command
}

#[test]
fn rules_are_set_listed_explained_and_cleared() {
    let serving = Serving::start(&[]);
    let set = [
        "rule",
        "set",
        "nfs.null nth=2 -> refuse SYSTEM_ERR",
        "gone: nlm.lock -> drop",
    ];
    let (code, rules) = serving.json(&set);
    assert_eq!((code, rules.as_array().unwrap().len()), (0, 2));
    let mut wire = serving.dial(Service::Nfs);
    wire.ask(&null(1, Service::Nfs)).unwrap();
    wire.ask(&null(2, Service::Nfs)).unwrap_err();
    let (code, rules) = serving.json(&["rule", "list"]);
    let expected = json!({
        "name": "nfs.null nth=2 -> refuse SYSTEM_ERR", "rule": "nfs.null nth=2 -> refuse SYSTEM_ERR",
        "counted": 2, "fired": 1, "ended": false, "optional": false,
    });
    assert_eq!((code, &rules[0]), (0, &expected));
    let (code, text, _) = serving.ask(&["rule", "list"]);
    assert!(
        code == 0 && text.contains("COUNTED") && text.contains("gone: nlm.lock -> drop"),
        "{text}"
    );
    let (code, why) = serving.json(&["rule", "explain", "nlm.lock owner=3"]);
    assert_eq!(
        (code, &why[0]["acts"], &why[1]["acts"]),
        (0, &json!(false), &json!(true))
    );
    let (code, text, _) = serving.ask(&["rule", "explain", "nlm.unlock"]);
    assert!(
        code == 0 && !text.contains("ACTS") && text.contains("nlm.unlock"),
        "{text}"
    );
    let (code, text, _) = serving.ask(&["rule", "clear"]);
    assert!(code == 0 && !text.contains("gone"), "{text}");
    assert_eq!(serving.json(&["rule", "list"]), (0, json!([])));
    assert_eq!(serving.end(), 0);
}

#[test]
fn a_mistake_in_rules_is_named_with_what_would_be_right_and_changes_nothing() {
    let serving = Serving::start(&[]);
    serving.json(&["rule", "set", "first: nlm.lock -> drop"]);
    let file = serving.folder.path().join("bad.toml");
    let name = file.display().to_string();
    for (text, expected) in [
        (
            "rules = [\n 'nlm.lock -> drop',\n 'nlm.lock -> dorp',\n]\n",
            ["line 3", "dorp", "drop-reply"],
        ),
        (
            "[[rule]]\ndo = 'drop'\nmatch = { call = 'nlm.lock', exclusiv = true }\n",
            ["line 3", "exclusiv", "reclaim"],
        ),
        (
            "[[rule]]\nname = 'a'\ndo = 'drop'\nwhen = { p = 3.0 }\n",
            ["line 4: when of [[rule]] \"a\"", "p = 3", "from 0 to 1"],
        ),
        ("rule = 5", ["line 1", "rule", "sequence"]),
        ("rules = ['nlm.lock -> drop'", ["line 1", "array", "]"]),
    ] {
        std::fs::write(&file, text).unwrap();
        let (code, _, said) = serving.ask(&["rule", "set", "--file", &name]);
        assert_eq!(code, 2, "{said}");
        for part in expected.iter().chain([&&*name]) {
            assert!(said.contains(part), "{part} is not in: {said}");
        }
    }
    let missing = serving.ask(&["rule", "set", "--file", "/nowhere.toml"]);
    assert!(
        missing.0 == 2 && missing.2.contains("/nowhere.toml"),
        "{missing:?}"
    );
    for (line, part) in [
        ("nlm.lok -> drop", "unlock"),
        ("nlm.lock color=red -> drop", "exclusive"),
        ("nfs.read -> answer NLM4_DENIED", "no status of nfs.read"),
        ("nlm.lock -> hold", "gate"),
    ] {
        let (code, _, said) = serving.ask(&["rule", "set", line]);
        assert!(code == 2 && said.contains(part), "{code} {said}");
    }
    let (code, _, said) = serving.ask(&["rule", "set", "nlm.lock -> drop", "nlm.lock -> drop"]);
    assert!(code == 2 && said.contains("a name of its own"), "{said}");
    let (code, _, said) = serving.ask(&["rule", "explain", "nlm.*"]);
    assert!(code == 2 && said.contains("one procedure"), "{said}");
    assert_eq!(serving.ask(&["rule", "set"]).0, 2);
    let (_, rules) = serving.json(&["rule", "list"]);
    assert_eq!(rules[0]["name"], "first");
    std::fs::write(&file, "rules = ['second: nlm.lock -> drop']").unwrap();
    let (code, rules) = serving.json(&["rule", "set", "--file", &name]);
    assert_eq!((code, &rules[0]["name"]), (0, &json!("second")));
    serving.end();
}

#[test]
fn gates_are_waited_for_released_opened_and_closed() {
    let serving = Serving::start(&[]);
    serving.json(&["rule", "set", "nfs.null -> hold g"]);
    assert_eq!(serving.json(&["gate", "list"]), (0, json!([])));
    let mut wire = serving.dial(Service::Nfs);
    for xid in 1..4 {
        wire.send(&null(xid, Service::Nfs));
    }
    let (code, gates) = serving.json(&["gate", "wait", "g", "--held", "3"]);
    let gate = if gates.is_array() { &gates[0] } else { &gates };
    assert_eq!((code, gate["held"].as_array().unwrap().len()), (0, 3), "{gates}");
    let id = gate["held"][1]["id"].to_string();
    let (code, text, _) = serving.ask(&["gate", "list"]);
    assert!(
        code == 0 && text.contains("nfs.null") && text.contains("closed"),
        "{text}"
    );
    let (code, _, said) = serving.ask(&["gate", "wait", "g", "--held", "4", "--within", "1ms"]);
    assert!(
        code == 1 && said.contains("3 of 4 calls wait at gate g"),
        "{said}"
    );
    assert_eq!(
        serving.json(&["gate", "release", "g", "--id", &id]),
        (0, json!({ "released": 1 }))
    );
    assert_eq!(wire.reply().0, 2);
    let (code, _, said) = serving.ask(&["gate", "release", "g", "--id", &id]);
    assert!(code == 1 && said.contains(&format!("no call {id}")), "{said}");
    let (code, text, _) = serving.ask(&["gate", "release", "g", "--count", "1", "--as", "drop"]);
    assert_eq!((code, &*text), (0, "1 released\n"));
    assert_eq!(
        serving.json(&["gate", "open", "g"]),
        (0, json!({ "released": 0 }))
    );
    assert_eq!(wire.reply().0, 3);
    wire.is_silent();
    assert_eq!(serving.ask(&["gate", "close", "g"]).0, 0);
    wire.send(&null(9, Service::Nfs));
    assert_eq!(serving.ask(&["gate", "wait", "g"]).0, 0);
    for (args, code, part) in [
        (&["gate", "release", "h"][..], 1, "[g]"),
        (
            &["gate", "release", "g", "--as", "later"],
            2,
            "go, drop or answer",
        ),
        (
            &["gate", "release", "g", "--as", "answer NLM"],
            2,
            "NLM4_DENIED_NOLOCKS",
        ),
        (&["gate", "wait", "g", "--within", "soon"], 2, "10s"),
        (
            &["gate", "release", "g", "--id", "1", "--count", "1"],
            2,
            "--count",
        ),
    ] {
        let (got, _, said) = serving.ask(args);
        assert!(got == code && said.contains(part), "{args:?}: {got} {said}");
    }
    serving.end();
}

#[test]
fn what_is_expected_is_verified() {
    let serving = Serving::start(&[]);
    assert_eq!(
        serving.ask(&["verify"]),
        (
            0,
            "✓ every rule was done, and no call waits at a gate\n".to_owned(),
            String::new()
        )
    );
    serving.json(&["rule", "set", "once: nlm.null nth=1 -> pass", "nlm.lock -> drop"]);
    serving
        .dial(Service::Lockd)
        .ask(&null(1, Service::Lockd))
        .unwrap();
    let (code, text, _) = serving.ask(&["verify", "1 of nlm.null", "never nlm.lock"]);
    assert_eq!(code, 1, "{text}");
    let lines: Vec<&str> = text.lines().collect();
    assert!(
        lines[0].starts_with("✓ 1 of nlm.null") && lines[1].starts_with("✓ never nlm.lock"),
        "{text}"
    );
    assert!(
        lines[2].starts_with("✗ rule nlm.lock -> drop") && lines[2].contains("optional=true"),
        "{text}"
    );
    let (code, verified) = serving.json(&["verify", "--only", "rule once 1 times", "at least 1 of nlm.*"]);
    assert_eq!((code, &verified["passed"]), (0, &json!(true)), "{verified}");
    let (code, verified) = serving.json(&["verify", "--only", "2 of nlm.null", "--within", "1ms"]);
    assert_eq!(
        (code, &verified["checks"][0]["passed"]),
        (1, &json!(false)),
        "{verified}"
    );
    let (code, text, _) = serving.ask(&["verify", "--only", "never nfs.remove"]);
    assert!(
        code == 1 && text.contains("nfs.remove optional=true -> pass"),
        "{text}"
    );
    for args in [
        &["verify", "sometimes nlm.lock"][..],
        &["verify", "never nlm.lok"],
        &["verify", "--within", "soon"],
    ] {
        let (code, _, said) = serving.ask(args);
        assert!(
            code == 2 && said.contains("expected") | said.contains("10s"),
            "{args:?}: {code} {said}"
        );
    }
    serving.end();
}

#[test]
fn a_server_does_not_start_with_rules_that_are_wrong() {
    let folder = tempfile::tempdir().unwrap();
    let file = folder.path().join("bad.toml");
    let name = file.display().to_string();
    std::fs::write(
        &file,
        "rules = [\n 'nlm.lock -> drop',\n 'nlm.lock -> dorp',\n]\n",
    )
    .unwrap();
    let output = serve(folder.path(), &["--rules", &name]).output().unwrap();
    let said = String::from_utf8(output.stderr).unwrap();
    assert_eq!(output.status.code(), Some(2), "{said}");
    for part in [&*name, "line 3", "dorp", "drop-reply"] {
        assert!(said.contains(part), "{part} is not in: {said}");
    }
    std::fs::write(&file, "{\"journal\":7}").unwrap();
    let output = serve(folder.path(), &["--replay", &name]).output().unwrap();
    let said = String::from_utf8(output.stderr).unwrap();
    assert!(
        output.status.code() == Some(2) && said.contains(&name) && said.contains("line 1"),
        "{said}"
    );
    assert!(!folder.path().join("ready").exists());
}

#[test]
fn a_replay_stops_loudly_at_the_first_call_that_differs() {
    let folder = tempfile::tempdir().unwrap();
    let path = |name: &str| folder.path().join(name).display().to_string();
    let (rules, journal) = (path("rules.toml"), path("journal"));
    std::fs::write(
        &rules,
        "rules = ['chance: nlm.*|nfs.* p=0.5 -> refuse SYSTEM_ERR']".replace("nlm.*|nfs.*", "*"),
    )
    .unwrap();
    let first = Serving::start(&["--rules", &rules, "--journal", &journal, "--seed", "1"]);
    let run = |serving: &Serving| -> Vec<bool> {
        let mut wire = serving.dial(Service::Lockd);
        (1..20)
            .map(|xid| wire.ask(&null(xid, Service::Lockd)).is_err())
            .collect()
    };
    let refused = run(&first);
    assert_eq!(first.end(), 0);
    assert!(refused.contains(&true) && refused.contains(&false));
    let written = Journal::parse(&std::fs::read_to_string(&journal).unwrap()).unwrap();
    assert_eq!((written.header.seed, written.entries.len()), (1, 19));
    let mut again = Serving::start(&["--rules", &rules, "--replay", &journal, "--seed", "99"]);
    assert_eq!(run(&again), refused);
    assert_eq!(again.json(&["verify"]).0, 0);
    // The twentieth call, and another one.
    let mut wire = again.dial(Service::Nfs);
    wire.send(&null(7, Service::Nfs));
    assert_eq!(again.child.wait().unwrap().code(), Some(1));
    let mut said = String::new();
    again
        .child
        .stderr
        .take()
        .unwrap()
        .read_to_string(&mut said)
        .unwrap();
    for part in [
        "not as in the journal",
        "rule \"chance\", call 20",
        "only 19",
        "nfs.null",
    ] {
        assert!(said.contains(part), "{part} is not in: {said}");
    }
}

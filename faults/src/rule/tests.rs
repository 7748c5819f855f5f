//! What rules may say, and what is said to those that may not.

use super::*;

fn error(text: &str) -> String {
    text.parse::<Rule>().unwrap_err()
}

#[test]
fn rules_are_written_as_they_are_read() {
    for text in [
        "nlm.lock exclusive=true nth=2 -> hold g1",
        "lost: callback nlm.granted_msg peer=10.77.0.2 count=1 -> drop",
        "* -> delay 5s",
        "nfs.write path='/lab/a b*' every=3 per=client ttl=30s -> answer NFS3ERR_JUKEBOX",
        "nlm.lock caller=web? owner=7 bytes=0..100 block=false reclaim=true transmission=1-3 -> drop",
        "nlm.unlock after=rule/lost held=2 p=0.25 until=lockd/* optional=true -> drop at before-reply",
    ] {
        let rule: Rule = text.parse().unwrap();
        assert_eq!(rule.to_string(), text);
        let toml = toml::to_string(&rule).unwrap();
        let again: Rule = toml::from_str(&toml).unwrap();
        assert_eq!(again.checked().unwrap(), rule, "{toml}");
    }
}

#[test]
fn what_is_wrong_in_a_line_is_named() {
    assert!(error("nlm.lock").contains("->"));
    assert!(
        error("nlm.lok -> drop").contains("unlock"),
        "{}",
        error("nlm.lok -> drop")
    );
    assert!(error("nlm.lock color=red -> drop").contains("exclusive"));
    assert!(
        error("nlm.lock nth=two -> drop").starts_with("when.nth: invalid type"),
        "{}",
        error("nlm.lock nth=two -> drop")
    );
    assert!(error("nlm.lock nth=2 nth=3 -> drop").contains("twice"));
    assert!(error("nlm.lock nth -> drop").contains("no value"));
    assert!(error("nth=2 nlm.lock -> drop").contains("nlm.lock"));
}

#[test]
fn impossible_combinations_are_refused() {
    assert!(error("nfs.write exclusive=true -> drop").contains("nlm"));
    assert!(error("nlm.unlock exclusive=true -> drop").contains("UNLOCK"));
    assert!(error("nlm.lock nth=1 every=2 -> drop").contains("at most one"));
    assert!(error("nlm.lock p=2 -> drop").contains("from 0 to 1"));
    assert!(error("nlm.lock every=0 -> drop").contains("counted from 1"));
    assert!(error("nlm.lock -> answer NFS3ERR_IO").contains("no status of nlm.lock"));
    assert!(error("* -> answer 7").contains("program"));
    assert!(error("nfs.read -> acknowledge").contains("remove"));
    assert!(error("callback nlm.granted_msg -> twice").contains("callback"));
    assert!(error("callback nlm.lock -> drop").contains("granted_msg"));
    assert!(error("nlm.lock -> drop at before-callback").contains("calls"));
    assert!(error("nlm.lock -> set svid=3").contains("svid"));
    assert!(error("nfs.read -> set cookie=3").contains("cookie"));
    assert!(error("callback nlm.granted_msg -> set state=3").contains("nsm.notify"));
    assert!(error("callback nsm.notify -> set svid=3").contains("nlm.granted_msg"));
    assert!(error("callback nlm.lock_res -> set len=3").contains("nlm.granted_msg"));
    assert!(error("nlm.lock|lock_msg -> answer NLM4_DENIED").contains("nlm.lock_msg has no status"));
    assert!(error("mount.umnt -> answer MNT3ERR_IO").contains("no status"));
    assert!(error("nsm.mon path=/x -> drop").contains("no file"));
    assert!(error("nlm.lock handle=xyz -> drop").contains("hexadecimal"));
}

#[test]
fn a_file_says_where_it_is_wrong() {
    let wrong = RuleFile::parse("rules = [\n 'nlm.lock -> drop',\n 'nlm.lock -> dorp',\n]\n").unwrap_err();
    assert!(
        wrong.contains("line 3") && wrong.contains("dorp") && wrong.contains("drop-reply"),
        "{wrong}"
    );
    let wrong = RuleFile::parse("[[rule]]\ndo = 'drop'\nmatch = { call = 'nlm.lock', exclusiv = true }\n")
        .unwrap_err();
    assert!(
        wrong.contains("line 3") && wrong.contains("exclusiv") && wrong.contains("reclaim"),
        "{wrong}"
    );
    let wrong = RuleFile::parse("rules = []\n[[rule]]\nmatch = { call = 'nlm.lock' }\n").unwrap_err();
    assert!(
        wrong.contains("line 2") && wrong.contains("`do`") && wrong.contains("hold GATE"),
        "{wrong}"
    );
    let wrong = serde_json::from_str::<RuleFile>(r#"{ "rule": [{ "do": null }] }"#).unwrap_err();
    assert!(wrong.to_string().contains("drop-reply"), "{wrong}");
    let wrong = RuleFile::parse("[[rules]]\ndo = 'drop'\n").unwrap_err();
    assert!(wrong.contains("line 1") && wrong.contains("[[rule]]"), "{wrong}");
    let wrong = RuleFile::parse("rules = [\n 'nlm.lock nth=two -> drop']").unwrap_err();
    assert!(wrong.contains("line 2") && wrong.contains("nth"), "{wrong}");
}

/// What is wrong only as a whole has a place in the file as well.
#[test]
fn a_file_says_where_it_cannot_be() {
    let head = "rules = [\n 'nfs.read -> drop',\n]\n[[rule]]\ndo = 'drop'\n\n";
    for (rest, line, parts) in [
        (
            "[[rule]]\nname = 'a'\ndo = 'hold g'\nwhen = { p = 7.0 }\n",
            10,
            ["when of [[rule]] \"a\"", "from 0 to 1"],
        ),
        (
            "[[rule]]\ndo = 'drop'\nmatch.call = 'nfs.read'\nmatch.owner = 7\n",
            9,
            ["match of [[rule]] 2", "nlm.lock"],
        ),
        (
            "[[rule]]\ndo = 'drop'\n[rule.until]\ncount = 0\n",
            9,
            ["until of", "count = 0"],
        ),
        (
            "[[rule]]\nmatch = { call = 'nlm.lock' }\n# no\ndo = 'answer NFS3ERR_IO'\n",
            10,
            ["do of", "NLM4_DENIED_NOLOCKS"],
        ),
        (
            "[[rule]]\nmatch = { call = 'nfs.read' }\ndo = 'drop'\n",
            7,
            ["name of", "a name of its own"],
        ),
        (
            "[[rule]]\nmatch = { call = 'nlm.lock', direction = 'callback' }\ndo = 'drop'\n",
            8,
            ["match of", "granted_msg"],
        ),
    ] {
        let text = format!("{head}{rest}");
        let wrong = RuleFile::parse(&text).unwrap_err();
        assert!(wrong.starts_with(&format!("line {line}: ")), "{wrong}\n{text}");
        for part in parts {
            assert!(wrong.contains(part), "{part} is not in: {wrong}");
        }
        let file: RuleFile = toml::from_str(&text).unwrap();
        assert!(wrong.ends_with(&file.into_rules().unwrap_err()), "{wrong}");
    }
    let wrong = RuleFile::parse("rules = [\n 'nlm.lock -> drop',\n 'nlm.lock -> drop']").unwrap_err();
    assert!(wrong.starts_with("line 3: two rules are called"), "{wrong}");
}

#[test]
fn ranges_touch() {
    let bytes: Bytes = "100..200".parse().unwrap();
    assert!(bytes.touch((0, 0)) && bytes.touch((199, 1)) && bytes.touch((0, 101)));
    assert!(!bytes.touch((0, 100)) && !bytes.touch((200, 0)));
    assert!("9..9".parse::<Bytes>().is_err() && "..".parse::<Bytes>().is_err());
}

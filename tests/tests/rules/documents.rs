//! What is written about rules is about the rules that there are.

use faults::rule::RuleFile;
use schemars::schema_for;
use serde_json::Value;
use std::path::PathBuf;

fn read(name: &str) -> String {
    let path = path(name);
    std::fs::read_to_string(&path).unwrap_or_else(|error| panic!("{}: {error}", path.display()))
}

fn path(name: &str) -> PathBuf {
    PathBuf::from(env!("CARGO_MANIFEST_DIR")).join("..").join(name)
}

/// The words in the list that an error message gives, as `expected a, b or c`.
fn listed(error: &str) -> Vec<String> {
    let (_, list) = error.rsplit_once("expected ").unwrap();
    let list = list.split(", as ").next().unwrap().replace(", or ", ", ");
    let words = list.split(", ").flat_map(|word| word.split(" or "));
    words
        .filter_map(|word| word.split_whitespace().next())
        .map(|word| word.trim_end_matches(['…', ';']).to_owned())
        .filter(|word| !["", "a", "an", "each"].contains(&word.as_str()))
        .collect()
}

fn complaint(line: &str) -> String {
    line.parse::<faults::rule::Rule>().unwrap_err()
}

/// Code between backquotes, and between fences.
fn code(text: &str) -> String {
    let fenced: String = text.split("```").skip(1).step_by(2).collect();
    let spans: Vec<&str> = text.split('`').skip(1).step_by(2).collect();
    format!("{fenced}\n{}", spans.join("\n"))
}

#[test]
fn every_action_key_point_and_field_is_in_the_document() {
    let code = code(&read("docs/faults.md"));
    let words: Vec<&str> = code
        .split(|c: char| !(c.is_alphanumeric() || c == '-' || c == '_'))
        .collect();
    let lists = [
        ("actions", complaint("nlm.lock -> frobnicate"), 14),
        ("keys", complaint("nlm.lock frobnicate=1 -> drop"), 20),
        ("points", complaint("nlm.lock -> drop at home"), 5),
        ("fields", complaint("nlm.lock -> set frobnicate=1"), 9),
        ("RPC errors", complaint("nlm.lock -> refuse frobnicate"), 6),
        ("programs", complaint("frobnicate -> drop"), 5),
    ];
    for (what, error, least) in lists {
        let list = listed(&error);
        assert!(list.len() >= least, "{what}: {list:?} of {error}");
        for word in list {
            let word = word.trim_end_matches(":N");
            assert!(
                words.contains(&word),
                "docs/faults.md has nothing on {word} ({what})"
            );
        }
    }
}

#[test]
fn every_key_of_the_toml_form_is_in_the_document() {
    let code = code(&read("docs/faults.md"));
    let schema = serde_json::to_value(schema_for!(RuleFile)).unwrap();
    let mut keys = 0;
    for (group, definition) in schema["$defs"].as_object().unwrap() {
        let properties = definition["properties"].as_object();
        for key in properties.into_iter().flat_map(|properties| properties.keys()) {
            keys += 1;
            assert!(
                code.contains(key),
                "docs/faults.md has nothing on {key} of {group}"
            );
        }
    }
    assert!(keys > 25, "{keys}");
}

/// Examples that do not work are worse than none.
#[test]
fn every_rule_and_expectation_in_the_document_can_be_read() {
    let text = read("docs/faults.md");
    let (mut rules, mut files) = (0, 0);
    for block in text.split("\n```").skip(1).step_by(2) {
        let (language, body) = block.split_once('\n').unwrap();
        match language {
            "rules" => {
                for line in body.lines().filter(|line| !line.trim().is_empty()) {
                    rules += 1;
                    line.parse::<faults::rule::Rule>()
                        .unwrap_or_else(|error| panic!("{line}: {error}"));
                }
            }
            "toml" => {
                files += 1;
                let file = RuleFile::parse(body).unwrap_or_else(|error| panic!("{error}\n{body}"));
                file.into_rules()
                    .unwrap_or_else(|error| panic!("{error}\n{body}"));
            }
            "expectations" => {
                for line in body.lines() {
                    line.parse::<faults::verify::Expectation>()
                        .unwrap_or_else(|error| panic!("{line}: {error}"));
                }
            }
            "sh" | "text" | "json" => {}
            other => panic!("a block in {other:?}: expected rules, toml, expectations, sh, text or json"),
        }
    }
    // The tables have an example in each line, in their last column.
    for row in text.lines().filter(|line| line.starts_with("| `")) {
        let example = row
            .trim_end_matches(['|', ' '])
            .rsplit_once(" | ")
            .map(|(_, cell)| cell);
        let example = example.and_then(|cell| cell.strip_prefix('`')?.strip_suffix('`'));
        if let Some(line) = example.filter(|line| line.contains("->")) {
            rules += 1;
            let line = line.replace("\\|", "|");
            line.parse::<faults::rule::Rule>()
                .unwrap_or_else(|error| panic!("{line}: {error}"));
        }
    }
    assert!(rules > 40 && files > 0, "{rules} rules, {files} files");
}

/// To refresh them: `REFRESH=1 cargo test -p nfslab-tests --test rules schema`.
#[test]
fn the_schemas_of_rule_files_and_scenarios_are_current() {
    let schemas = [
        ("docs/rules.schema.json", schema_for!(RuleFile)),
        (
            "docs/scenario.schema.json",
            schema_for!(nfslab::scenario::file::Scenario),
        ),
    ];
    for (name, schema) in schemas {
        let schema = serde_json::to_string_pretty(&schema).unwrap() + "\n";
        let path = path(name);
        if std::env::var_os("REFRESH").is_some() {
            std::fs::write(&path, &schema).unwrap();
        }
        let published = std::fs::read_to_string(&path).unwrap_or_default();
        assert!(
            published == schema,
            "{name} is not what the code says: `REFRESH=1 cargo test -p nfslab-tests --test rules schema` writes it"
        );
        let schema: Value = serde_json::from_str(&published).unwrap();
        assert_eq!(schema["additionalProperties"], false, "{name}");
    }
}

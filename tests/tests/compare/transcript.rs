//! A transcript: calls as text, one on a line, each a case of its own.
//!
//! ```text
//! # A comment.
//! let lk(fh svid off len) = "peer" fh "owner" svid off len
//! a name that is not there: LOOKUP $dir "absent"
//! as somebody else: @uid:1000 CREATE $dir "f" 0 sattr(mode=0600) -> $f
//! ```
//!
//! A case is its name, who calls and how (`@…`), the procedure, the words of its arguments, and the variable
//! that takes what the reply brings (a handle, a cookie). See docs/compare.md for the whole language; how words
//! become bytes is in [`super::words`].

use nfslab_tests::programs::{PROCEDURES, Procedure};
use std::collections::BTreeMap;

/// Who makes a call, and how.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Caller {
    /// Its credential.
    pub cred: Cred,
    /// Over UDP rather than TCP.
    pub udp: bool,
    /// From a port above 1023.
    pub unprivileged: bool,
    /// The RPC version it claims to speak.
    pub rpc_version: u32,
    /// How long an answer is waited for, in seconds.
    pub patience: u64,
}

/// A credential.
#[derive(Debug, Clone, PartialEq, Eq)]
pub enum Cred {
    /// AUTH_SYS: user, group, further groups.
    Sys(u32, u32, Vec<u32>),
    /// Any flavour, with a body of so many zero bytes.
    Other(u32, usize),
}

/// What is done.
#[derive(Debug, Clone, PartialEq, Eq)]
pub enum Action {
    /// A call: program, version, procedure.
    Call(u32, u32, u32),
    /// The next call that the server makes to us is waited for.
    Callback,
}

/// One line.
#[derive(Debug, Clone)]
pub struct Case {
    /// What it is called, unique in its transcript.
    pub name: String,
    /// What is done.
    pub action: Action,
    /// By whom.
    pub caller: Caller,
    /// The arguments, word by word.
    pub words: Vec<String>,
    /// The variable that takes what the reply brings.
    pub into: Option<String>,
}

/// A file of cases.
#[derive(Debug, Clone)]
pub struct Transcript {
    /// The file's name without its ending.
    pub name: String,
    /// Its lines in order.
    pub cases: Vec<Case>,
}

/// What `let` defined.
type Macros = BTreeMap<String, Macro>;

/// The names of its parameters, and its words.
type Macro = (Vec<String>, Vec<String>);

impl Transcript {
    /// Reads a file's text.
    pub fn parse(name: &str, text: &str) -> Result<Transcript, String> {
        let mut macros = Macros::new();
        let mut cases: Vec<Case> = Vec::new();
        for (number, line) in (1..).zip(text.lines().map(str::trim)) {
            let wrong = |problem: String| format!("{name}.txt:{number}: {problem}");
            if line.is_empty() || line.starts_with('#') {
                continue;
            }
            if let Some(definition) = line.strip_prefix("let ") {
                let (name, value) = define(definition).map_err(wrong)?;
                macros.insert(name, value);
                continue;
            }
            let case = case(line, &macros).map_err(wrong)?;
            if cases.iter().any(|other| other.name == case.name) {
                return Err(wrong(format!("a second case '{}'", case.name)));
            }
            cases.push(case);
        }
        Ok(Transcript {
            name: name.to_owned(),
            cases,
        })
    }
}

fn define(text: &str) -> Result<(String, Macro), String> {
    let (head, body) = text
        .split_once(" = ")
        .ok_or("expected let NAME(PARAMETERS) = WORDS")?;
    let (name, parameters) = head.trim().split_once('(').unwrap_or((head.trim(), ""));
    let parameters = parameters
        .trim_end_matches(')')
        .split_whitespace()
        .map(str::to_owned);
    Ok((name.to_owned(), (parameters.collect(), split(body)?)))
}

fn case(line: &str, macros: &Macros) -> Result<Case, String> {
    let (name, rest) = line.split_once(": ").ok_or("expected NAME: PROCEDURE WORDS")?;
    let mut words = split(rest)?;
    let mut into = None;
    if let [.., arrow, variable] = words.as_slice()
        && arrow == "->"
    {
        into = Some(variable.trim_start_matches('$').to_owned());
        words.truncate(words.len() - 2);
    }
    let mut words = words.into_iter().peekable();
    let mut caller = Caller {
        cred: Cred::Sys(0, 0, Vec::new()),
        udp: false,
        unprivileged: false,
        rpc_version: 2,
        patience: 20,
    };
    while let Some(word) = words.next_if(|word| word.starts_with('@')) {
        modify(&mut caller, &word)?;
    }
    let action = action(&words.next().ok_or("no procedure")?)?;
    let mut expanded = Vec::new();
    words.try_for_each(|word| expand(&word, macros, &mut expanded))?;
    Ok(Case {
        name: name.trim().to_owned(),
        action,
        caller,
        words: expanded,
        into,
    })
}

fn modify(caller: &mut Caller, word: &str) -> Result<(), String> {
    let mut parts = word.trim_start_matches('@').split(':');
    let what = parts.next().unwrap_or_default();
    let mut number = || -> Result<u32, String> {
        let text = parts.next().ok_or(format!("{word} lacks a number"))?;
        text.parse()
            .map_err(|_| format!("{word}: expected a number, got {text}"))
    };
    match what {
        "udp" => caller.udp = true,
        "unprivileged" => caller.unprivileged = true,
        "wait" => caller.patience = number()?.into(),
        "rpc" => caller.rpc_version = number()?,
        "none" => caller.cred = Cred::Other(0, 0),
        "cred" => caller.cred = Cred::Other(number()?, number()? as usize),
        // @uid:UID[:GID[:FIRST GROUP:HOW MANY]]
        "uid" => {
            let uid = number()?;
            let gid = number().unwrap_or(uid);
            let groups = match (number(), number()) {
                (Ok(first), Ok(count)) => (first..first + count).collect(),
                _ => Vec::new(),
            };
            caller.cred = Cred::Sys(uid, gid, groups);
        }
        _ => return Err(format!("no modifier {word}")),
    }
    Ok(())
}

/// `LOOKUP`, `NLM4.TEST`, `RPC/100003/9/0`.
fn action(word: &str) -> Result<Action, String> {
    if word == "CALLBACK" {
        return Ok(Action::Callback);
    }
    if let Some(numbers) = word.strip_prefix("RPC/") {
        let numbers: Vec<u32> = numbers.split('/').filter_map(|n| n.parse().ok()).collect();
        return match numbers.as_slice() {
            [program, version, procedure] => Ok(Action::Call(*program, *version, *procedure)),
            _ => Err(format!("{word}: expected RPC/PROGRAM/VERSION/PROCEDURE")),
        };
    }
    let found = PROCEDURES.iter().find(|p| short(p) == word);
    found
        .map(|p| Action::Call(p.program, p.version, p.number))
        .ok_or_else(|| format!("no procedure {word}"))
}

/// A procedure as transcripts call it.
fn short(procedure: &Procedure) -> String {
    let Procedure { name, version, .. } = procedure;
    let (program, name) = match procedure.program {
        proto::nfs3::PROGRAM => return name.trim_start_matches("NFSPROC3_").to_owned(),
        proto::mount::PROGRAM => (
            "MOUNT",
            name.trim_start_matches("MOUNTPROC3_")
                .trim_start_matches("MOUNTPROC_"),
        ),
        proto::nlm::PROGRAM => ("NLM", name.trim_start_matches("NLM_")),
        proto::nsm::PROGRAM => ("SM", name.trim_start_matches("SM_")),
        _ if *version == 2 => ("PMAP", name.trim_start_matches("PMAPPROC_")),
        _ => ("RPCB", name.trim_start_matches("RPCBPROC_")),
    };
    format!("{program}{version}.{name}")
}

fn expand(word: &str, macros: &Macros, out: &mut Vec<String>) -> Result<(), String> {
    let (name, arguments) = match word.split_once('(') {
        Some((name, rest)) if macros.contains_key(name) => (name, split(rest.trim_end_matches(')'))?),
        _ => (word, Vec::new()),
    };
    let Some((parameters, body)) = macros.get(name) else {
        out.push(word.to_owned());
        return Ok(());
    };
    if parameters.len() != arguments.len() {
        return Err(format!(
            "{name} takes {} words, got {}",
            parameters.len(),
            arguments.len()
        ));
    }
    for word in body {
        let argument = parameters
            .iter()
            .position(|p| p == word)
            .and_then(|at| arguments.get(at));
        expand(argument.unwrap_or(word), macros, out)?;
    }
    Ok(())
}

/// Words are separated by blanks, but for those in quotes and in parentheses.
fn split(text: &str) -> Result<Vec<String>, String> {
    let (mut words, mut word) = (Vec::new(), String::new());
    let (mut quote, mut depth, mut escaped) = (None, 0u32, false);
    for c in text.chars() {
        match (quote, c) {
            (Some(_), _) if escaped => escaped = false,
            (Some(_), '\\') => escaped = true,
            (Some(q), c) if q == c => quote = None,
            (None, '"' | '\'') => quote = Some(c),
            (None, '(') => depth += 1,
            (None, ')') => depth = depth.saturating_sub(1),
            (None, c) if c.is_whitespace() && depth == 0 => {
                if !word.is_empty() {
                    words.push(std::mem::take(&mut word));
                }
                continue;
            }
            _ => {}
        }
        word.push(c);
    }
    if quote.is_some() || depth > 0 {
        return Err(format!("a quote or parenthesis is not closed: {text}"));
    }
    words.extend((!word.is_empty()).then_some(word));
    Ok(words)
}

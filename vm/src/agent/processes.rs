//! The state of processes, read from `/proc` in ways that cannot hang.
//!
//! `stat`, `wchan` and `stack` never wait for the process they describe.
//! `cmdline` may: it takes the process's memory lock, which a page fault on a
//! hung mount holds. So it is read aside, and given up after a moment.

use std::collections::BTreeMap;
use std::fs;
use std::sync::mpsc::channel;
use std::thread;
use std::time::Duration;

use super::Agent;
use crate::protocol::Process;

/// How long a command line is waited for.
const PATIENCE: Duration = Duration::from_millis(200);

/// What `/proc/PID/stat` says.
#[derive(Debug, PartialEq, Eq)]
struct Stat {
    pid: i32,
    comm: String,
    state: char,
    ppid: i32,
    group: i32,
}

impl Agent {
    /// Every process that was started under a label, or descends from one.
    pub(super) fn processes(&self) -> Vec<Process> {
        let labels = self.children.labels();
        let stats: BTreeMap<i32, Stat> = all().into_iter().map(|s| (s.pid, s)).collect();
        let label_of = |pid: i32| {
            let mut at = stats.get(&pid);
            for _ in 0..64 {
                let stat = at?;
                // By group too: a descendant whose parent ended is ours now.
                if let Some((label, _)) = labels.iter().find(|(_, p)| **p == stat.pid || **p == stat.group) {
                    return Some(label.clone());
                }
                at = stats.get(&stat.ppid);
            }
            None
        };
        stats
            .values()
            .filter_map(|stat| Some(describe(label_of(stat.pid)?, stat)))
            .collect()
    }
}

fn describe(label: String, stat: &Stat) -> Process {
    let read = |what: &str| fs::read_to_string(format!("/proc/{}/{what}", stat.pid)).unwrap_or_default();
    Process {
        label,
        pid: stat.pid,
        ppid: stat.ppid,
        comm: stat.comm.clone(),
        cmdline: cmdline(stat.pid),
        state: stat.state,
        wchan: match read("wchan").trim() {
            "0" => String::new(),
            function => function.to_owned(),
        },
        stack: stack(&read("stack")),
    }
}

fn all() -> Vec<Stat> {
    let Ok(entries) = fs::read_dir("/proc") else {
        return Vec::new();
    };
    let pids = entries
        .flatten()
        .filter_map(|e| e.file_name().to_str()?.parse::<i32>().ok());
    pids.filter_map(|pid| parse_stat(&fs::read_to_string(format!("/proc/{pid}/stat")).ok()?))
        .collect()
}

/// `PID (NAME) STATE PPID GROUP …`; the name may hold blanks and parentheses.
fn parse_stat(text: &str) -> Option<Stat> {
    let (pid, rest) = text.split_once(" (")?;
    let (comm, rest) = rest.rsplit_once(") ")?;
    let mut fields = rest.split(' ');
    Some(Stat {
        pid: pid.parse().ok()?,
        comm: comm.to_owned(),
        state: fields.next()?.chars().next()?,
        ppid: fields.next()?.parse().ok()?,
        group: fields.next()?.parse().ok()?,
    })
}

/// `[<0>] nlmclnt_call+0x1a2/0x3c0 [lockd]` → `nlmclnt_call`
fn stack(text: &str) -> Vec<String> {
    let function = |line: &str| {
        let frame = line
            .strip_prefix("[<")
            .and_then(|l| l.split_once(">] "))
            .map_or(line, |(_, frame)| frame);
        frame
            .split(['+', ' '])
            .next()
            .filter(|f| !f.is_empty())
            .map(str::to_owned)
    };
    text.lines().filter_map(function).collect()
}

fn cmdline(pid: i32) -> Vec<String> {
    let (tell, told) = channel();
    let reader = move || tell.send(fs::read(format!("/proc/{pid}/cmdline")).unwrap_or_default());
    if thread::Builder::new().spawn(reader).is_err() {
        return Vec::new();
    }
    let bytes = told.recv_timeout(PATIENCE).unwrap_or_default();
    let words = bytes.split(|b| *b == 0).filter(|w| !w.is_empty());
    words.map(|w| String::from_utf8_lossy(w).into_owned()).collect()
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn names_with_parentheses_do_not_confuse() {
        let stat = parse_stat("42 (a) b (c) D 7 42 42 0 -1").unwrap();
        assert_eq!(
            stat,
            Stat {
                pid: 42,
                comm: "a) b (c".into(),
                state: 'D',
                ppid: 7,
                group: 42
            }
        );
        assert_eq!(parse_stat("nonsense"), None);
    }

    #[test]
    fn a_stack_is_its_functions() {
        let text = "[<0>] rpc_wait_bit_killable+0x1e/0xb0 [sunrpc]\n[<0>] nlmclnt_call+0xa2/0x2c0 [lockd]\n\
                    [<0>] do_syscall_64+0x58/0xc0\n";
        assert_eq!(
            stack(text),
            ["rpc_wait_bit_killable", "nlmclnt_call", "do_syscall_64"]
        );
        assert!(stack("").is_empty());
    }

    #[test]
    fn we_see_ourselves() {
        let me = std::process::id().cast_signed();
        assert!(all().iter().any(|s| s.pid == me));
        assert!(!cmdline(me).is_empty());
    }
}

//! From the words of a transcript to the bytes of arguments. Nothing is checked: a wrong argument is what
//! many cases are about.
//!
//! | word | bytes |
//! |---|---|
//! | `7`, `-1`, `0x10` | four |
//! | `7L` | eight |
//! | `"abc"`, `"x"*255` | an opaque or a string: its length, the bytes (`\0`, `\xff`), the padding |
//! | `'12345678'` | these bytes alone |
//! | `$fh` | an opaque out of a variable; `$fh:20` the first 20 bytes of it, `$fh+4` with 4 zeros behind it, `$fh=32` made 32 bytes long so if it is shorter, `$fh^-1` with its last byte inverted |
//! | `$fh.raw` | a variable's bytes alone; `$x.verf` and other fields likewise |
//! | `sattr(mode=0644 uid=1 gid=2 size=3 atime=server mtime=5.6)` | a `sattr3` |

use std::collections::BTreeMap;

/// What replies have brought.
pub type Variables = BTreeMap<String, Vec<u8>>;

/// The bytes of some words.
pub fn bytes(words: &[String], variables: &Variables) -> Result<Vec<u8>, String> {
    let mut out = Vec::new();
    for word in words {
        add(word, variables, &mut out).map_err(|problem| format!("{word}: {problem}"))?;
    }
    Ok(out)
}

fn add(word: &str, variables: &Variables, out: &mut Vec<u8>) -> Result<(), String> {
    if let Some(variable) = word.strip_prefix('$') {
        let end = variable.find([':', '+', '=', '^']).unwrap_or(variable.len());
        let (name, change) = variable.split_at(end);
        if let Some(value) = variables.get(name) {
            if name.contains('.') {
                out.extend(value);
            } else {
                opaque(&changed(value, change)?, out);
            }
            return Ok(());
        }
        let plain = name.strip_suffix(".raw").and_then(|name| variables.get(name));
        out.extend(plain.ok_or("no reply has brought it")?);
        return Ok(());
    }
    if let Some(rest) = word.strip_prefix('"') {
        let (text, times) = rest.rsplit_once('"').ok_or("no closing quote")?;
        let times = times.strip_prefix('*').map_or(Ok(1), str::parse);
        let text = unescape(text)?.repeat(times.map_err(|_| "expected \"TEXT\"*NUMBER")?);
        opaque(&text, out);
        return Ok(());
    }
    if let Some(text) = word.strip_prefix('\'') {
        out.extend(unescape(text.trim_end_matches('\''))?);
        return Ok(());
    }
    if let Some(fields) = word.strip_prefix("sattr(") {
        return sattr(fields.trim_end_matches(')'), out);
    }
    match word.strip_suffix('L') {
        Some(long) => out.extend((number(long)? as u64).to_be_bytes()),
        None => out.extend((number(word)? as u32).to_be_bytes()),
    }
    Ok(())
}

/// Decimal, hexadecimal, or octal with a leading zero.
fn number(text: &str) -> Result<i128, String> {
    let parsed = match text.strip_prefix("0x") {
        Some(hex) => i128::from_str_radix(hex, 16),
        None if text.len() > 1 && text.starts_with('0') => i128::from_str_radix(text, 8),
        None => text.parse(),
    };
    parsed.map_err(|_| "no such word".into())
}

fn opaque(bytes: &[u8], out: &mut Vec<u8>) {
    out.extend((bytes.len() as u32).to_be_bytes());
    out.extend(bytes);
    out.resize(out.len().next_multiple_of(4), 0);
}

fn changed(value: &[u8], change: &str) -> Result<Vec<u8>, String> {
    let mut value = value.to_vec();
    let Some(amount) = change.get(1..) else {
        return Ok(value);
    };
    let amount: i64 = amount
        .parse()
        .map_err(|_| "expected a number behind :, +, = or ^")?;
    let len = value.len();
    match change.chars().next() {
        Some(':') => value.truncate(amount as usize),
        Some('=') => value.resize(len.max(amount as usize), 0),
        Some('+') => value.resize(len + amount as usize, 0),
        _ => {
            let at = if amount < 0 { len as i64 + amount } else { amount };
            *value.get_mut(at as usize).ok_or("there is no such byte")? ^= 0xff;
        }
    }
    Ok(value)
}

fn unescape(text: &str) -> Result<Vec<u8>, String> {
    let (mut out, mut rest) = (Vec::new(), text.bytes());
    while let Some(byte) = rest.next() {
        match (byte, byte == b'\\') {
            (byte, false) => out.push(byte),
            _ => match rest.next() {
                Some(b'0') => out.push(0),
                Some(b'n') => out.push(b'\n'),
                Some(b'x') => {
                    let digits = [rest.next(), rest.next()].map(|d| d.unwrap_or_default() as char);
                    let digits: String = digits.iter().collect();
                    out.push(u8::from_str_radix(&digits, 16).map_err(|_| "expected \\xHH")?);
                }
                Some(other) => out.push(other),
                None => return Err("ends in a backslash".into()),
            },
        }
    }
    Ok(out)
}

fn sattr(fields: &str, out: &mut Vec<u8>) -> Result<(), String> {
    let fields: BTreeMap<&str, &str> = fields
        .split_whitespace()
        .filter_map(|f| f.split_once('='))
        .collect();
    for name in ["mode", "uid", "gid", "size", "atime", "mtime"] {
        let value = fields.get(name).copied();
        match (name, value) {
            (_, None) => out.extend(0u32.to_be_bytes()),
            ("atime" | "mtime", Some("server")) => out.extend(1u32.to_be_bytes()),
            ("atime" | "mtime", Some(time)) => {
                let (seconds, nanos) = time.split_once('.').unwrap_or((time, "0"));
                out.extend(2u32.to_be_bytes());
                out.extend((number(seconds)? as u32).to_be_bytes());
                out.extend((number(nanos)? as u32).to_be_bytes());
            }
            ("size", Some(size)) => {
                out.extend(1u32.to_be_bytes());
                out.extend((number(size)? as u64).to_be_bytes());
            }
            (_, Some(value)) => {
                out.extend(1u32.to_be_bytes());
                out.extend((number(value)? as u32).to_be_bytes());
            }
        }
    }
    Ok(())
}

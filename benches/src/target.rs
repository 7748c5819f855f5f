//! The two servers that are measured, each a process of its own that ends with this one.

use crate::floor::Answer;
use anyhow::{Context, Result, ensure};
use serde_json::Value;
use std::io::{BufRead, BufReader};
use std::net::{Ipv4Addr, SocketAddr};
use std::path::Path;
use std::process::{Child, Command, Stdio};
use tempfile::TempDir;

/// A server's process.
pub struct Target {
    child: Child,
    /// Port of each service; one for all of them where there is no name.
    ports: Vec<(String, u16)>,
    folder: TempDir,
}

impl Target {
    /// `nfslab serve` on free ports, with these rules.
    pub async fn server(program: &Path, arguments: &str, rules: &[String]) -> Result<Target> {
        let folder = tempfile::tempdir()?;
        let rule_file = folder.path().join("rules.toml");
        std::fs::write(&rule_file, format!("rules = {rules:?}\n"))?;
        let ready = folder.path().join("ready");
        let mut child = Command::new(program)
            .args([
                "serve",
                "--ports=auto",
                "--export=/lab=mem,max_bytes=8G,max_files=100000000",
            ])
            .arg(format!("--control={}", control(&folder)))
            .arg(format!("--rules={}", rule_file.display()))
            .arg(format!("--ready-file={}", ready.display()))
            .args(arguments.split_whitespace())
            .stderr(Stdio::piped())
            .spawn()
            .with_context(|| format!("cannot start {}: `make bench` builds it", program.display()))?;
        let stderr = child.stderr.take().context("no standard error")?;
        let mut target = Target {
            child,
            ports: Vec::new(),
            folder,
        };
        // It says that it serves after the ready file is there.
        let mut greeting = String::new();
        let mut lines = BufReader::new(stderr);
        lines.read_line(&mut greeting)?;
        ensure!(
            greeting.starts_with("nfslab serves"),
            "nfslab serve says: {greeting}"
        );
        std::thread::spawn(move || {
            lines
                .lines()
                .map_while(Result::ok)
                .for_each(|line| eprintln!("server: {line}"))
        });
        let ready: Value = serde_json::from_slice(&std::fs::read(ready)?)?;
        let ports = ready
            .get("ports")
            .and_then(Value::as_object)
            .context("no ports")?;
        let port = |value: &Value| value.as_u64().and_then(|n| u16::try_from(n).ok());
        target.ports = ports
            .iter()
            .filter_map(|(name, p)| Some((name.clone(), port(p)?)))
            .collect();
        Ok(target)
    }

    /// The responder that does nothing.
    pub async fn floor(answers: &[Answer]) -> Result<Target> {
        let folder = tempfile::tempdir()?;
        let file = folder.path().join("answers");
        std::fs::write(&file, serde_json::to_vec(answers)?)?;
        let mut child = Command::new(std::env::current_exe()?)
            .arg("floor")
            .arg(file)
            .stdout(Stdio::piped())
            .spawn()?;
        let stdout = child.stdout.take().context("no standard output")?;
        let mut target = Target {
            child,
            ports: Vec::new(),
            folder,
        };
        let mut line = String::new();
        BufReader::new(stdout).read_line(&mut line)?;
        target.ports.push((
            String::new(),
            line.trim().parse().context("the floor names no port")?,
        ));
        Ok(target)
    }

    /// Where a service is.
    pub fn address(&self, service: &str) -> Result<SocketAddr> {
        let port = self
            .ports
            .iter()
            .find(|(name, _)| name == service || name.is_empty());
        let (_, port) = port.with_context(|| format!("no port for {service} in {:?}", self.ports))?;
        Ok((Ipv4Addr::LOCALHOST, *port).into())
    }

    /// What a command on the server prints, as JSON.
    pub fn command(&self, program: &Path, arguments: &[&str]) -> Result<Value> {
        let mut command = Command::new(program);
        command
            .args(arguments)
            .args(["--output", "json", "--control", &control(&self.folder)]);
        let output = command.stderr(Stdio::inherit()).output()?;
        ensure!(output.status.success(), "{command:?}: {}", output.status);
        Ok(serde_json::from_slice(&output.stdout)?)
    }

    /// Its resident memory in bytes.
    pub fn resident(&self) -> Result<u64> {
        let status = std::fs::read_to_string(format!("/proc/{}/status", self.child.id()))?;
        let line = status.lines().find_map(|line| line.strip_prefix("VmRSS:"));
        let kib = line.and_then(|rest| rest.split_whitespace().next()?.parse::<u64>().ok());
        Ok(kib.context("no VmRSS")? * 1024)
    }
}

fn control(folder: &TempDir) -> String {
    format!("unix:{}", folder.path().join("control").display())
}

impl Drop for Target {
    fn drop(&mut self) {
        let _ = self.child.kill();
        let _ = self.child.wait();
    }
}

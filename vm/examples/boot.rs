//! Boots a kernel by hand, runs a script in it and prints how long that took:
//!
//! ```text
//! cargo build -p nfslab-vm            # the small agent
//! cargo run -p nfslab-vm --example boot -- 6.1 'uname -a'
//! … -- 6.1 'cd /mnt && flock f date' --server target/debug/nfslab --mount /lab
//! ```
//!
//! `--server PROGRAM` starts `PROGRAM serve` in the namespace, `--mount EXPORT`
//! mounts it, `--append WORDS` go to the kernel.

use std::process::{Child, Command};
use std::time::Duration;

use anyhow::{Context as _, Result};
use vm::{Cache, Extras, Guest, GuestConfig, Mount, Series, Stderr, Userland, kernels, net};

fn main() -> Result<()> {
    let mut arguments = std::env::args().skip(1);
    let series: Series = arguments.next().unwrap_or_else(|| "6.1".into()).parse()?;
    let script = arguments
        .next()
        .unwrap_or_else(|| "uname -a; dmesg | tail -3".into());
    let options: Vec<String> = arguments.collect();
    let option = |name: &str| options.iter().skip_while(|a| *a != name).nth(1).cloned();
    let export = option("--mount");

    let cache = Cache::open()?;
    let kernel = kernels::fetch(&cache, series, &Stderr)?;
    let userland = Userland::fetch(&cache, &Extras::default(), &Stderr)?;
    let mut config = GuestConfig::new("client1", 1, kernel, userland);
    let here = std::env::current_exe()?;
    config.agent = here
        .parent()
        .and_then(|p| p.parent())
        .map(|p| p.join("nfslab-guest"));
    config.console_log = Some(std::env::temp_dir().join("nfslab-console.log"));
    config.kernel_args = option("--append").unwrap_or_default();
    config.network = Some(net::enter_namespace()?);
    config
        .mounts
        .extend(export.map(|e| Mount::v3(format!("{}:{e}", net::SERVER), "/mnt")));

    let mut server = option("--server").map(serve).transpose()?;

    let result = tokio::runtime::Runtime::new()?.block_on(async {
        let guest = Guest::boot(config, &cache).await.context("booting")?;
        println!("booted: {:?}", guest.booted());
        let output = guest.exec(&script, Duration::from_secs(60)).await?;
        print!("{}{}", output.stdout, output.stderr);
        println!("{}", output.status);
        guest.shutdown().await?;
        Ok(())
    });
    if let Some(server) = &mut server {
        server.kill()?;
        server.wait()?;
    }
    result
}

/// Starts a server on 10.77.0.1 and waits until it listens.
fn serve(program: String) -> Result<Child> {
    let mut server = Command::new(program)
        .args(["serve", "--bind", &net::SERVER.to_string()])
        .spawn()?;
    while std::net::TcpStream::connect((net::SERVER, 2049)).is_err() {
        if let Some(status) = server.try_wait()? {
            anyhow::bail!("the server ended: {status}");
        }
        std::thread::yield_now();
    }
    Ok(server)
}

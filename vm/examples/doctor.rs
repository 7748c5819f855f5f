//! Prints what this machine lacks for a kernel lab, and the kernels in the
//! cache: `cargo run -p nfslab-vm --example doctor`.

fn main() -> anyhow::Result<()> {
    let cache = vm::Cache::open()?;
    for finding in vm::doctor::examine(&cache) {
        println!(
            "{} {}: {}",
            if finding.ok { "ok  " } else { "LACK" },
            finding.what,
            finding.detail
        );
        if let Some(mend) = finding.mend {
            println!("       mend: {mend}");
        }
    }
    for listed in vm::kernels::list_remote(&cache, &vm::Stderr)? {
        let cached = listed.cached.map_or("not cached".to_owned(), |k| k.release);
        println!(
            "{}: {cached}; newest {}",
            listed.series,
            listed.newest.unwrap_or_default()
        );
    }
    Ok(())
}

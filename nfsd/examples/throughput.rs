//! Calls per second through `Nfs3::call` on memfs: no sockets, decoding and encoding included.
//!
//! `cargo run --release -p nfslab-nfsd --example throughput`

#![allow(
    clippy::disallowed_methods,
    clippy::unwrap_used,
    clippy::indexing_slicing,
    reason = "it measures, and may fail loudly"
)]

use bytes::Bytes;
use nfslab_nfsd::tree::Tree;
use nfslab_nfsd::{Caller, Cx, Export, Exports, MemConfig, MemFs, Nfs3};
use proto::nfs3::*;
use rpc::xdr::{Encode, Writer, to_bytes};
use std::sync::Arc;
use std::time::Instant;

const NOW: Nfstime3 = Nfstime3 {
    seconds: 1_700_000_000,
    nseconds: 0,
};

fn call(nfs: &Nfs3, proc: Nfs3Proc, args: &Bytes, w: &mut Writer) {
    w.clear();
    let status = nfs.call(&Cx::local(Caller::ROOT, NOW), proc.0, args, args, w);
    assert_eq!(status, Ok(Nfsstat3::NFS3_OK), "{proc}");
}

/// Runs `work(thread)` on `threads` threads and prints the time per operation.
fn measure(what: &str, threads: u64, ops: u64, bytes_per_op: u64, work: impl Fn(u64) + Sync) {
    let start = Instant::now();
    std::thread::scope(|scope| {
        for thread in 0..threads {
            let work = &work;
            scope.spawn(move || work(thread));
        }
    });
    let elapsed = start.elapsed().as_secs_f64();
    let total = (ops * threads) as f64;
    print!(
        "{what:<28} {threads} thread(s): {:>10.0} calls/s {:>9.0} ns each",
        total / elapsed,
        elapsed * 1e9 / ops as f64
    );
    match bytes_per_op {
        0 => println!(),
        n => println!(" {:>7.1} GiB/s", total * n as f64 / elapsed / (1u64 << 30) as f64),
    }
}

fn lab() -> (Nfs3, Arc<MemFs>, Vec<u8>) {
    let fs = Arc::new(MemFs::new(&MemConfig {
        max_files: 1 << 23,
        ..MemConfig::default()
    }));
    let list = vec![Export::new(1, "/lab", fs.clone())];
    let exports = Arc::new(Exports::new(&[1; 16], list).unwrap());
    let root = exports.root_handle("/lab").unwrap().as_bytes().to_vec();
    (Nfs3::new(exports, *b"verifier"), fs, root)
}

fn main() {
    const MIB: u64 = 1 << 20;
    for threads in [1, 2] {
        let (nfs, fs, root) = lab();
        let seal = |path: &str| {
            let exports = nfs.exports();
            exports
                .seal(&exports.list()[0], &fs.at(path).unwrap())
                .as_bytes()
                .to_vec()
        };
        for thread in 0..threads {
            fs.write_file(&format!("d{thread}/f"), vec![1; MIB as usize], NOW)
                .unwrap();
        }
        let (file_of, dir_of) = (
            |thread: u64| seal(&format!("d{thread}/f")),
            |thread: u64| seal(&format!("d{thread}")),
        );
        let repeat = |proc: Nfs3Proc, args: Bytes, n: u64| {
            let mut w = Writer::new();
            for _ in 0..n {
                call(&nfs, proc, &args, &mut w);
            }
        };

        let n = 3_000_000;
        measure("GETATTR, a file each", threads, n, 0, |thread| {
            repeat(
                Nfs3Proc::NFSPROC3_GETATTR,
                to_bytes(&NfsFh3::from(&file_of(thread)[..])),
                n,
            );
        });
        measure("GETATTR, the same file", threads, n, 0, |_| {
            repeat(Nfs3Proc::NFSPROC3_GETATTR, to_bytes(&NfsFh3::from(&root[..])), n);
        });
        let n = 1_000_000;
        measure("LOOKUP", threads, n, 0, |thread| {
            let (dir, name) = (dir_of(thread), b"f");
            let args = Diropargs3 {
                dir: NfsFh3::from(&dir[..]),
                name: name[..].into(),
            };
            repeat(Nfs3Proc::NFSPROC3_LOOKUP, to_bytes(&args), n);
        });
        let n = 300_000;
        let create = |dir: &[u8], thread: u64| {
            let mut w = Writer::new();
            for i in 0..n {
                let name = format!("file-{thread}-{i}");
                let args = Create3Args {
                    where_: Diropargs3 {
                        dir: dir.into(),
                        name: name.as_str().into(),
                    },
                    how: CreateHow3::Guarded(Sattr3 {
                        mode: Some(0o644),
                        ..Sattr3::default()
                    }),
                };
                call(&nfs, Nfs3Proc::NFSPROC3_CREATE, &to_bytes(&args), &mut w);
            }
        };
        measure("CREATE, a directory each", threads, n, 0, |thread| {
            create(&dir_of(thread), thread)
        });
        measure("CREATE, one directory", threads, n, 0, |thread| {
            create(&root, thread)
        });
        measure("REMOVE", threads, n, 0, |thread| {
            let mut w = Writer::new();
            for i in 0..n {
                let name = format!("file-{thread}-{i}");
                let args = Diropargs3 {
                    dir: NfsFh3::from(&root[..]),
                    name: name.as_str().into(),
                };
                call(&nfs, Nfs3Proc::NFSPROC3_REMOVE, &to_bytes(&args), &mut w);
            }
        });
        for (what, count) in [("4 KiB", 4096), ("1 MiB", MIB)] {
            let n = if count == MIB { 50_000 } else { 1_000_000 };
            measure(&format!("READ {what}"), threads, n, count, |thread| {
                let file = file_of(thread);
                let args = Read3Args {
                    file: NfsFh3::from(&file[..]),
                    offset: 0,
                    count: count as u32,
                };
                repeat(Nfs3Proc::NFSPROC3_READ, to_bytes(&args), n);
            });
            let n = if count == MIB { 5_000 } else { 1_000_000 };
            measure(&format!("WRITE {what}"), threads, n, count, |thread| {
                write(&nfs, &file_of(thread), count as usize, n);
            });
        }
        println!();
    }
}

/// Each WRITE has a receive buffer of its own, as from a socket; filling that is in the time.
fn write(nfs: &Nfs3, file: &[u8], count: usize, n: u64) {
    let mut w = Writer::new();
    for i in 0..n {
        let mut buffer = Writer::new();
        let header = Write3Args {
            file: file.into(),
            offset: if count == 4096 { (i % 256) * 4096 } else { 0 },
            count: count as u32,
            stable: StableHow::UNSTABLE,
            data: b""[..].into(),
        };
        header.encode(&mut buffer);
        let header = buffer.into_bytes();
        let mut args = Vec::with_capacity(header.len() + count);
        args.extend_from_slice(&header[..header.len() - 4]);
        args.extend_from_slice(&(count as u32).to_be_bytes());
        args.resize(header.len() + count, i as u8);
        call(nfs, Nfs3Proc::NFSPROC3_WRITE, &Bytes::from(args), &mut w);
    }
}

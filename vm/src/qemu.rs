//! QEMU as a child process: its command line, its life, its end.

use std::os::fd::OwnedFd;
use std::path::{Path, PathBuf};
use std::process::Command;

use crate::agent::MARKER;
use crate::child::{self, LINK_FD, Running};
use crate::error::{Result, find_program};

/// How the processor is run, once that is known.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) enum Engine {
    Kvm,
    Tcg,
}

/// The descriptors that QEMU gets beside the link, by number.
const CONSOLE_FD: i32 = 3;
const NETWORK_FD: i32 = 5;

/// A machine to switch on.
pub(crate) struct Machine {
    pub(crate) engine: Engine,
    pub(crate) memory_mib: u32,
    pub(crate) kernel: PathBuf,
    pub(crate) initramfs: PathBuf,
    /// Further words for the kernel.
    pub(crate) append: String,
    /// The TAP device, and the last byte of the card's address.
    pub(crate) network: Option<(OwnedFd, u8)>,
}

/// Finds QEMU.
pub(crate) fn program() -> Result<PathBuf> {
    find_program("qemu-system-x86_64", "qemu-system-x86")
}

/// The kernel's command line. What is there for speed: `no_timer_check`,
/// `tsc=reliable` and `nowatchdog` skip measurements that an emulated machine
/// makes long, `cryptomgr.notests` skips 0.4 s of self-tests, and
/// `mitigations=off` guards nothing here and costs.
fn kernel_words(append: &str) -> String {
    let words = [
        "console=ttyS0",
        "quiet",
        // A panic ends the machine at once; so does an oops, which is never
        // what a test wants to go on after.
        "panic=-1",
        "oops=panic",
        "no_timer_check",
        "tsc=reliable",
        "nowatchdog",
        "cryptomgr.notests",
        "mitigations=off",
        "random.trust_cpu=on",
        "ipv6.disable=1",
        "net.ifnames=0",
    ];
    format!("{} {MARKER}=1 {append}", words.join(" "))
        .trim_end()
        .to_owned()
}

fn arguments(machine: &Machine) -> Vec<String> {
    let path = |p: &Path| p.display().to_string();
    let mut words: Vec<String> = Vec::new();
    let mut add = |parts: &[&str]| words.extend(parts.iter().map(|p| (*p).to_owned()));
    add(&[
        "-nodefaults",
        "-no-user-config",
        "-no-reboot",
        "-display",
        "none",
        "-smp",
        "1",
    ]);
    add(match machine.engine {
        Engine::Kvm => &["-accel", "kvm", "-cpu", "host"],
        // Without five-level page tables: emulated, each level costs.
        Engine::Tcg => &["-accel", "tcg,thread=multi", "-cpu", "max,-la57"],
    });
    add(&["-m", &machine.memory_mib.to_string()]);
    add(&[
        "-chardev",
        &format!("socket,id=console,fd={CONSOLE_FD}"),
        "-serial",
        "chardev:console",
    ]);
    add(&[
        "-chardev",
        &format!("socket,id=link,fd={LINK_FD}"),
        "-device",
        "virtio-serial-pci,max_ports=2",
    ]);
    add(&["-device", "virtserialport,chardev=link,name=nfslab"]);
    if let Some((_, last_byte)) = &machine.network {
        add(&["-netdev", &format!("tap,id=net,fd={NETWORK_FD}")]);
        // No boot ROM: nothing boots from the network here.
        add(&[
            "-device",
            &format!("virtio-net-pci,netdev=net,romfile=,mac=52:54:00:0a:4d:{last_byte:02x}"),
        ]);
    }
    add(&[
        "-kernel",
        &path(&machine.kernel),
        "-initrd",
        &path(&machine.initramfs),
    ]);
    add(&["-append", &kernel_words(&machine.append)]);
    words
}

/// Switches a machine on. Needs no runtime, but one must exist to await its
/// end.
pub(crate) fn start(name: &str, machine: Machine) -> Result<Running> {
    let mut command = Command::new(program()?);
    command.args(arguments(&machine));
    let network = machine.network.map(|(fd, _)| (fd, NETWORK_FD));
    child::start(name, "QEMU", command, |console| {
        let console = (console.into(), CONSOLE_FD);
        Ok([Some(console), network].into_iter().flatten().collect())
    })
}

#[cfg(test)]
mod tests {
    use super::*;
    use std::fs::File;

    fn machine(engine: Engine) -> Machine {
        Machine {
            engine,
            memory_mib: 512,
            kernel: "/k".into(),
            initramfs: "/i".into(),
            append: "extra=1".into(),
            network: None,
        }
    }

    #[test]
    fn the_command_line_says_what_was_asked() {
        let words = arguments(&machine(Engine::Tcg)).join(" ");
        for part in [
            "-accel tcg,thread=multi -cpu max,-la57",
            "-m 512",
            "-kernel /k -initrd /i",
            "-no-reboot",
        ] {
            assert!(words.contains(part), "{part} is not in {words}");
        }
        assert!(words.ends_with("NFSLAB_GUEST=1 extra=1"), "{words}");
        assert!(!words.contains("-netdev"));
        assert!(
            arguments(&machine(Engine::Kvm))
                .join(" ")
                .contains("-accel kvm -cpu host")
        );
    }

    #[test]
    fn each_guest_has_a_card_of_its_own() {
        let tap = File::open("/dev/null").unwrap().into();
        let words = arguments(&Machine {
            network: Some((tap, 17)),
            ..machine(Engine::Tcg)
        })
        .join(" ");
        assert!(words.contains("mac=52:54:00:0a:4d:11"), "{words}");
    }
}

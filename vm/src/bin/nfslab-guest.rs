//! The guest agent alone, for tests and experiments. It is process 1 of a
//! guest; anywhere else it does nothing but say so.

fn main() {
    if vm::agent::is_guest_init() {
        vm::agent::main();
    }
    eprintln!("nfslab-guest: this is process 1 of a guest; the host side starts it");
    std::process::exit(2);
}

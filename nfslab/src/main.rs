//! The `nfslab` binary. In a guest it is process 1, for a client without a machine it makes the namespaces; everywhere
//! else it is the command line.

fn main() -> std::process::ExitCode {
    if vm::agent::is_guest_init() {
        vm::agent::main();
    }
    if vm::agent::is_client() {
        vm::agent::start_client();
    }
    nfslab::cli::main()
}

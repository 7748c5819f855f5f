//! The `nfslab` binary. In a guest it is process 1; everywhere else it is the command line.

fn main() -> std::process::ExitCode {
    if vm::agent::is_guest_init() {
        vm::agent::main();
    }
    nfslab::cli::main()
}

//! The `kvfs` command.

fn main() -> std::process::ExitCode {
    kvfs::cli::main()
}

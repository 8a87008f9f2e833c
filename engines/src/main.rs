//! The `kvfs` command with engines of others.

fn main() -> std::process::ExitCode {
    kvfs_engines::register();
    kvfs::cli::main()
}

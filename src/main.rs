//! The `kvfs` command.

fn main() {}

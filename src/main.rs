//! The command.

use std::process::ExitCode;

fn main() -> ExitCode {
    remap_guardian::cli::main()
}

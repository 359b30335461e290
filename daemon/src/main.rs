//! goumemd, the program. All of it is in the library, so that goumemctl can become the daemon too
//! without looking for another file.

use std::process::ExitCode;

fn main() -> ExitCode {
    goumemd::cli_main(std::env::args_os())
}

//! The `foghorn` command.

use std::process::ExitCode;

fn main() -> ExitCode {
    let mut args = std::env::args_os().skip(1);
    // An agent is made by a hub and stays small: nothing of the command line, and no runtime, comes before it.
    if args.next().is_some_and(|verb| verb == "agent") {
        return foghorn::agent::main(std::env::args().skip(2));
    }
    foghorn::cli::main()
}

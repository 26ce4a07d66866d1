//! `foghorn completions`: what a shell needs to complete arguments.

use clap::{Args, CommandFactory};
use clap_complete::Shell;

use super::failure::Failure;
use super::output::print_as_is;

/// The arguments of `completions`.
#[derive(Args)]
pub struct CompletionsArgs {
    /// The shell
    #[arg(value_enum)]
    pub shell: Shell,
}

/// Prints them.
///
/// # Errors
/// Where they cannot be written.
pub fn run(args: &CompletionsArgs) -> Result<u8, Failure> {
    let mut text = Vec::new();
    clap_complete::generate(args.shell, &mut super::Cli::command(), "foghorn", &mut text);
    print_as_is(&String::from_utf8_lossy(&text))?;
    Ok(0)
}

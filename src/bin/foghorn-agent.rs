//! The agent as a program of its own, for places that the whole of Foghorn is not brought to.

fn main() -> std::process::ExitCode {
    foghorn::agent::main(std::env::args().skip(1))
}

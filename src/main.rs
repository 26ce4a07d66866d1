//! The `foghorn` command.
use clap::Parser;
#[derive(Parser)]
struct A {
    #[command(flatten)]
    s: foghorn::config::server::ServeArgs,
}
fn main() -> std::process::ExitCode {
    let mut args = std::env::args().skip(1);
    if args.next().as_deref() == Some("agent") {
        return foghorn::agent::main(args);
    }
    let a = A::parse_from(std::env::args().skip(1));
    foghorn::telemetry::start("info,foghorn=debug");
    let Ok(rt) = tokio::runtime::Runtime::new() else { return 1.into() };
    match rt.block_on(foghorn::server::run(match foghorn::config::server::Server::read(a.s) {
        Ok(s) => s,
        Err(e) => {
            eprintln!("{e}");
            return 1.into();
        }
    })) {
        Ok(()) => 0.into(),
        Err(e) => {
            eprintln!("{e}");
            1.into()
        }
    }
}

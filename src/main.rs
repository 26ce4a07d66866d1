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
    let a = A::parse();
    foghorn::telemetry::start("info,foghorn=debug");
    let rt = tokio::runtime::Runtime::new().unwrap();
    match rt.block_on(foghorn::server::run(foghorn::config::server::Server::read(a.s).unwrap())) {
        Ok(()) => 0.into(),
        Err(e) => {
            eprintln!("{e}");
            1.into()
        }
    }
}

//! `foghorn apps`: which apps there are.

use clap::Args;

use super::failure::Failure;
use super::output::{print, print_json};
use super::{Context, Format};
use crate::protocol::{AppInfo, AppList};
use crate::visible;

/// The arguments of `apps`.
#[derive(Args)]
pub struct AppsArgs {
    /// How; json is an array of apps
    #[arg(short, long, value_enum, default_value_t)]
    pub output: Format,
}

/// Lists them.
///
/// # Errors
/// Where the hub fails.
pub async fn run(context: &Context, args: AppsArgs) -> Result<u8, Failure> {
    let list: AppList = context.api.get("/v1/apps").await?;
    match args.output {
        Format::Json => print_json(&list.apps)?,
        Format::Text => print(&table(&list.apps))?,
    }
    Ok(0)
}

fn table(apps: &[AppInfo]) -> String {
    let row = |app: &AppInfo| {
        let processes: Vec<String> = app.processes.iter().map(|(kind, wanted)| format!("{kind}={wanted}")).collect();
        [app.app.clone(), app.namespace.clone().unwrap_or_else(|| "-".into()), processes.join(" ")]
            .map(|cell| visible::line(&cell).into_owned())
    };
    let head = ["APP", "NAMESPACE", "PROCESSES"].map(ToOwned::to_owned);
    let rows: Vec<_> = std::iter::once(head).chain(apps.iter().map(row)).collect();
    let width = |column: usize| rows.iter().map(|row| row[column].chars().count()).max().unwrap_or(0);
    let (first, second) = (width(0), width(1));
    let line = |[app, namespace, processes]: &[String; 3]| {
        format!("{app:<first$}  {namespace:<second$}  {processes}").trim_end().to_owned() + "\n"
    };
    rows.iter().map(line).collect()
}

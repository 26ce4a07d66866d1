//! `foghorn export`: a session's output, written down.

use std::fs::File;
use std::io::Write;
use std::path::PathBuf;
use std::time::Duration;

use bytes::Bytes;
use clap::{Args, ValueEnum};
use http_body_util::BodyExt;

use super::failure::Failure;
use super::filter::{Filter, Policy};
use super::lines::Lines;
use super::output::{Descriptor, Sink};
use super::piped::{Piped, Shape, Until};
use super::{Context, terminal};
use crate::client::api::session_path;
use crate::client::error::ClientError;
use crate::client::follow::{Ask as Follow, Follower};
use crate::client::http::Ask;
use crate::protocol::{Mode, Role};
use crate::record::{Payload, STATUS_HUB_FAILED, Stream};
use crate::visible;

/// How long the hub is looked for.
const TRY_LIMIT: Duration = Duration::from_secs(15);

/// In which form.
#[derive(Clone, Copy, Debug, PartialEq, Eq, ValueEnum)]
pub enum Form {
    /// An asciicast, version 2, with its timing.
    Cast,
    /// Text without the terminal's control sequences.
    Text,
    /// The bytes of stdout and stderr in their order.
    Raw,
}

/// The arguments of `export`.
#[derive(Args)]
pub struct ExportArgs {
    /// The session's UUID or short name
    pub id: String,
    /// In which form
    #[arg(long, value_enum)]
    pub format: Form,
    /// Into a file instead of stdout
    #[arg(short = 'O', long, value_name = "FILE")]
    pub file: Option<PathBuf>,
}

/// Writes it, up to where the output ends now.
///
/// # Errors
/// Where the hub or the writing fails.
pub async fn run(context: &Context, args: ExportArgs) -> Result<u8, Failure> {
    // Before a file is made: there may be no such session.
    let session = context.api.session(&args.id).await?;
    let target: Box<dyn Write + Send> = match &args.file {
        Some(path) => Box::new(create(path)?),
        None => Box::new(Descriptor::stdout()),
    };
    // A file or a pipe gets every byte.
    let is_terminal = args.file.is_none() && terminal::is_stdout();
    let id = session.id.to_string();
    match args.format {
        Form::Cast => cast(context, &id, target, is_terminal).await,
        Form::Text => records(context, id, target, text()).await,
        Form::Raw if is_terminal => records(context, id, target, filtered(Policy::Shown)).await,
        Form::Raw => records(context, id, target, raw()).await,
    }
}

fn create(path: &PathBuf) -> Result<File, Failure> {
    File::create(path).map_err(|error| Failure::usage(format!("{} cannot be written: {error}", path.display())))
}

async fn cast(
    context: &Context,
    id: &str,
    mut target: Box<dyn Write + Send>,
    is_terminal: bool,
) -> Result<u8, Failure> {
    let ask = Ask { accept: "application/x-asciicast", ..Ask::get(session_path(id, "/recording.cast")) };
    let mut body = context.api.send(&ask, TRY_LIMIT).await?.into_body();
    let mut lines = Lines::default();
    while let Some(frame) = body.frame().await {
        let frame = frame.map_err(|error| ClientError::Broken(error.to_string()))?;
        let Ok(data) = frame.into_data() else { continue };
        if is_terminal {
            let mut shown = String::new();
            lines.push(&data, |line| shown.push_str(&visible::json(&String::from_utf8_lossy(line))));
            target.write_all(shown.as_bytes())?;
        } else {
            target.write_all(&data)?;
        }
    }
    target.flush()?;
    Ok(0)
}

async fn records(context: &Context, id: String, target: Box<dyn Write + Send>, shape: Shape) -> Result<u8, Failure> {
    let ask = Follow { id, mode: Mode::Bytes, role: Role::Watch, from: Some(0), size: None, paces: false };
    let piped = Piped {
        follower: Follower::new(context.hubs(), ask),
        sink: Sink::start(target, Box::new(Descriptor::stderr()))?,
        input: None,
        forward: false,
        stop_if_unread: false,
        until: Until::Head,
        shape: Some(shape),
    };
    let outcome = piped.run().await?;
    Ok(if outcome.gaps { STATUS_HUB_FAILED } else { 0 })
}

fn raw() -> Shape {
    Box::new(|record, _| match &record.payload {
        Payload::Output(_, data) => Some((Stream::Stdout, data.clone())),
        _ => None,
    })
}

fn text() -> Shape {
    filtered(Policy::Text)
}

fn filtered(policy: Policy) -> Shape {
    let mut filters = [policy; 2].map(Filter::new);
    Box::new(move |record, _| {
        let Payload::Output(stream, data) = &record.payload else { return None };
        let mut out = Vec::with_capacity(data.len());
        filters[usize::from(*stream == Stream::Stderr)].feed(data, &mut out);
        Some((Stream::Stdout, Bytes::from(out)))
    })
}

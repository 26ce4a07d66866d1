//! A line of an app's log, and how it is written.

use std::fmt::Write as _;
use std::sync::{Arc, OnceLock};

use bytes::Bytes;

use super::position::Move;
use crate::protocol::LogLine;
use crate::store::Micros;

/// Which output a line is from.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Stream {
    /// Standard output, a terminal's output, or a file.
    Stdout,
    /// Standard error.
    Stderr,
    /// Foghorn itself.
    Hub,
    /// Foghorn itself, of something that was asked for and cannot be read.
    Unread,
}

impl Stream {
    /// Its name, as in [`LogLine::stream`].
    #[must_use]
    pub fn name(self) -> &'static str {
        match self {
            Self::Stdout => "stdout",
            Self::Stderr => "stderr",
            Self::Hub | Self::Unread => "hub",
        }
    }
}

/// Whose a line is, and what is seen of it by those who do not see their session.
#[derive(Clone, Debug, PartialEq)]
pub struct Private {
    /// Whose session it is from.
    pub owner: Arc<str>,
    /// What the line says to others; none: they do not get it.
    pub others: Option<String>,
}

impl Private {
    /// A line that only those get who see this person's session.
    #[must_use]
    pub fn of(owner: &str) -> Self {
        Self { owner: owner.into(), others: None }
    }
}

/// A line as a source gives it: what it says, and where its source stands behind it.
#[derive(Clone, Debug, PartialEq)]
pub struct Entry {
    /// When it was written.
    pub time: Micros,
    /// What wrote it.
    pub process: Arc<str>,
    /// The container that wrote it, where one did.
    pub container: Option<Arc<str>>,
    /// From which output.
    pub stream: Stream,
    /// Whose it is, where it is not for all who read the log: what a terminal was given, and a session's command.
    pub private: Option<Private>,
    /// What it says.
    pub message: String,
    /// Where its source stands behind it.
    pub moved: Move,
}

/// A line as followers get it. Each of its forms is made once, by the first follower that needs it.
#[derive(Debug)]
pub struct Line {
    /// When it was written.
    pub time: Micros,
    /// What wrote it.
    pub process: Arc<str>,
    /// The container that wrote it, where one did.
    pub container: Option<Arc<str>>,
    /// From which output.
    pub stream: Stream,
    /// Whose session it is from, where only those get it who see that.
    pub owner: Option<Arc<str>>,
    /// The line that the others get instead.
    pub others: Option<Arc<Line>>,
    /// What it says.
    pub message: String,
    /// The token that resumes behind it.
    pub resume: String,
    app: Arc<str>,
    text: OnceLock<Bytes>,
    json: OnceLock<Bytes>,
    event: OnceLock<Bytes>,
}

impl Line {
    /// A line of an app, behind which `resume` resumes.
    #[must_use]
    pub fn new(app: Arc<str>, entry: Entry, resume: String) -> Self {
        let Entry { time, process, container, stream, private, message, moved } = entry;
        let (owner, others) = private.map(|Private { owner, others }| (owner, others)).unzip();
        let others = others.flatten().map(|message| {
            let (process, container) = (process.clone(), container.clone());
            let entry = Entry { time, process, container, stream, private: None, message, moved };
            Arc::new(Self::new(app.clone(), entry, resume.clone()))
        });
        Self {
            time,
            process,
            container,
            stream,
            owner,
            others,
            message,
            resume,
            app,
            text: OnceLock::new(),
            json: OnceLock::new(),
            event: OnceLock::new(),
        }
    }

    /// Bytes that it takes in memory, about.
    #[must_use]
    pub fn weight(&self) -> usize {
        // Twice: the written form is kept beside it.
        let others = self.others.as_ref().map_or(0, |line| line.weight());
        2 * (self.message.len() + self.resume.len()) + 256 + others
    }

    /// `2026-11-22T10:00:00.123456+00:00 app[web.1]: message`, with its end.
    pub fn text(&self) -> Bytes {
        let write = || {
            let mut text = String::with_capacity(self.message.len() + 64);
            let origin = if matches!(self.stream, Stream::Hub | Stream::Unread) { "foghorn" } else { "app" };
            let _ = writeln!(text, "{} {origin}[{}]: {}", time(self.time), self.process, self.message);
            text.into()
        };
        self.text.get_or_init(write).clone()
    }

    /// A [`LogLine`] as JSON, with a line's end.
    pub fn json(&self) -> Bytes {
        self.json.get_or_init(|| format!("{}\n", self.object()).into()).clone()
    }

    /// The same object as a server-sent event whose id is the resume token.
    pub fn event(&self) -> Bytes {
        self.event.get_or_init(|| format!("id: {}\ndata: {}\n\n", self.resume, self.object()).into()).clone()
    }

    fn object(&self) -> String {
        let line = LogLine {
            time: time(self.time),
            app: self.app.to_string(),
            process: self.process.to_string(),
            container: self.container.as_deref().map(Into::into),
            stream: self.stream.name().into(),
            message: self.message.clone(),
            unread: self.stream == Stream::Unread,
            resume: Some(self.resume.clone()),
        };
        serde_json::to_string(&line).unwrap_or_default()
    }
}

/// RFC 3339 in UTC, with microseconds.
fn time(at: Micros) -> String {
    let at = jiff::Timestamp::from_microsecond(at).unwrap_or_default();
    at.strftime("%Y-%m-%dT%H:%M:%S%.6f+00:00").to_string()
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::logs::position::Move;

    /// What scripts read: a change here breaks them.
    #[test]
    fn golden_forms() {
        let line = |stream| {
            let entry = Entry {
                time: 1_795_341_600_123_456,
                process: "web.1".into(),
                container: None,
                private: None,
                stream,
                message: "it \"works\"".into(),
                moved: Move::None,
            };
            Line::new("blog".into(), entry, "T0k".into())
        };
        let out = line(Stream::Stdout);
        assert_eq!(out.text(), "2026-11-22T10:00:00.123456+00:00 app[web.1]: it \"works\"\n");
        let json = r#"{"time":"2026-11-22T10:00:00.123456+00:00","app":"blog","process":"web.1","stream":"stdout","message":"it \"works\"","resume":"T0k"}"#;
        assert_eq!(out.json(), format!("{json}\n"));
        assert_eq!(out.event(), format!("id: T0k\ndata: {json}\n\n"));
        let said = "2026-11-22T10:00:00.123456+00:00 foghorn[web.1]: it \"works\"\n";
        assert_eq!((line(Stream::Hub).text(), line(Stream::Unread).text()), (said.into(), said.into()));
        let json = r#"{"time":"2026-11-22T10:00:00.123456+00:00","app":"blog","process":"web.1","stream":"hub","message":"it \"works\"","unread":true,"resume":"T0k"}"#;
        assert_eq!(line(Stream::Unread).json(), format!("{json}\n"));
    }
}

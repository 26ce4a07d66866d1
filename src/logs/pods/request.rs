//! One answer of the log endpoint.

use std::pin::Pin;
use std::time::Duration;

use bytes::Bytes;
use http::{StatusCode, header};
use http_body_util::{BodyExt, Limited};
use k8s_openapi::api::core::v1::Pod;
use k8s_openapi::apimachinery::pkg::apis::meta::v1::Status;
use kube::api::LogParams;
use kube::client::Body;
use kube::core::Request;
use kube::{Client, Resource};
use tokio::time::timeout;

use super::Container;
use crate::kubernetes::error::sentence;

/// How long an answer that does not follow may take to begin, and to go on.
const ANSWER: Duration = Duration::from_secs(15);

/// Bytes of a log that have the time of its first line.
const HEAD: i64 = 64;

/// The most that is read of an error, in bytes.
const MAX_ERROR: usize = 64 << 10;

/// What of a log is asked for. From a time on, or the last lines; not both: what that gives is not told.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum From {
    /// From the start.
    Start,
    /// From a second before this time on, in nanoseconds: a line of another output may be older than the one before it.
    Second(u64),
    /// So many of the last lines. A kubelet counts the parts of long lines.
    Last(usize),
}

/// Which run of a container.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Run {
    /// The newest, to where it is now.
    Newest,
    /// The newest, and what comes.
    Follow,
    /// The one before it.
    Previous,
}

/// Why there is no answer, or no more of it.
#[derive(Clone, Debug, PartialEq, Eq)]
pub enum Failure {
    /// The pod, the container or this run of it has no log any more.
    Gone(String),
    /// The API server does not let this hub read it.
    Refused(String),
    /// Another try may help; not before this time has passed, where one is named.
    Busy(String, Option<Duration>),
}

impl Failure {
    /// What was said.
    #[must_use]
    pub fn reason(&self) -> &str {
        match self {
            Self::Gone(reason) | Self::Refused(reason) | Self::Busy(reason, _) => reason,
        }
    }

    /// A later run's log is given instead.
    #[must_use]
    pub fn replaced() -> Self {
        Self::Gone("the log of a later run has taken its place".into())
    }

    fn busy(reason: impl Into<String>) -> Self {
        Self::Busy(reason.into(), None)
    }
}

/// Asks for a log with times.
///
/// While a container waits for its next run, and from before its pod says so, a kubelet gives the newest run's log as that
/// of the run before it, too: then that one's is gone.
///
/// # Errors
/// [`Failure`].
pub async fn open(client: &Client, container: &Container, run: Run, from: From) -> Result<Answer, Failure> {
    let answer = ask(client, container, run, from, None).await?;
    if run == Run::Previous && is_newest(client, container).await? {
        return Err(Failure::replaced());
    }
    Ok(answer)
}

/// Asks for the time of the first line of a run's log, as it stands there; empty where it has none.
///
/// # Errors
/// [`Failure`].
pub async fn first_time(client: &Client, container: &Container, run: Run) -> Result<Vec<u8>, Failure> {
    let mut answer = ask(client, container, run, From::Start, Some(HEAD)).await?;
    let mut head = Vec::new();
    while let Some(data) = answer.next().await? {
        head.extend_from_slice(&data);
    }
    Ok(head.split(|byte| *byte == b' ').next().unwrap_or_default().to_vec())
}

/// Whether the log of the run before is the newest one's, by the time of its first line.
async fn is_newest(client: &Client, container: &Container) -> Result<bool, Failure> {
    let previous = first_time(client, container, Run::Previous).await?;
    match first_time(client, container, Run::Newest).await {
        Ok(newest) => Ok(newest == previous && !newest.is_empty()),
        Err(Failure::Gone(_)) => Ok(false),
        Err(failure) => Err(failure),
    }
}

async fn ask(
    client: &Client,
    container: &Container,
    run: Run,
    from: From,
    limit: Option<i64>,
) -> Result<Answer, Failure> {
    let since = match from {
        From::Second(time) => jiff::Timestamp::from_second((time / 1_000_000_000) as i64 - 1).ok(),
        From::Start | From::Last(_) => None,
    };
    let params = LogParams {
        container: Some(container.name.to_string()),
        follow: run == Run::Follow,
        previous: run == Run::Previous,
        since_time: since,
        tail_lines: if let From::Last(lines) = from { Some(lines as i64) } else { None },
        timestamps: true,
        limit_bytes: limit,
        ..LogParams::default()
    };
    let request = Request::new(Pod::url_path(&(), Some(&container.pod.namespace))).logs(&container.pod.name, &params);
    let request = request.map_err(|error| Failure::busy(error.to_string()))?;
    let sent = client.send(request.map(Body::from));
    // A log that is followed may have nothing to say, not even that it is there.
    let answer = match run {
        Run::Follow => sent.await,
        _ => timeout(ANSWER, sent).await.map_err(|_| Failure::busy("the API server does not answer"))?,
    };
    let answer = answer.map_err(|error| Failure::busy(sentence(&error)))?;
    if answer.status().is_success() {
        return Ok(Answer { body: answer.into_body(), follows: run == Run::Follow });
    }
    Err(refused(answer).await)
}

async fn refused(answer: http::Response<Body>) -> Failure {
    let status = answer.status();
    let after = answer.headers().get(header::RETRY_AFTER).and_then(|after| after.to_str().ok()?.parse().ok());
    let body = timeout(ANSWER, Limited::new(answer.into_body(), MAX_ERROR).collect()).await;
    let body = body.ok().and_then(Result::ok).map(|body| body.to_bytes()).unwrap_or_default();
    let told = serde_json::from_slice::<Status>(&body).ok().and_then(|status| status.message);
    let reason = told.unwrap_or_else(|| format!("the API server answered {status}"));
    // 400 is what it says of a container that waits, or whose run before left nothing.
    match status {
        StatusCode::NOT_FOUND | StatusCode::BAD_REQUEST | StatusCode::GONE => Failure::Gone(reason),
        StatusCode::UNAUTHORIZED | StatusCode::FORBIDDEN => Failure::Refused(reason),
        _ => Failure::Busy(reason, after.map(Duration::from_secs)),
    }
}

/// An answer, as it comes.
pub struct Answer {
    body: Body,
    follows: bool,
}

/// An answer that follows a log, which may begin only when the log has something to say.
pub struct Following<'a> {
    opening: Pin<Box<dyn Future<Output = Result<Answer, Failure>> + Send + 'a>>,
    answer: Option<Answer>,
}

impl<'a> Following<'a> {
    /// Asks for a log with times, and for what comes.
    #[must_use]
    pub fn new(client: &'a Client, container: &'a Container, from: From) -> Self {
        Self { opening: Box::pin(open(client, container, Run::Follow, from)), answer: None }
    }

    /// What comes next; none at a clean end. Safe to cancel.
    ///
    /// # Errors
    /// [`Failure`].
    pub async fn next(&mut self) -> Result<Option<Bytes>, Failure> {
        match &mut self.answer {
            Some(answer) => answer.next().await,
            None => {
                let answer = (&mut self.opening).await?;
                self.answer.insert(answer).next().await
            }
        }
    }
}

impl Answer {
    /// What comes next; none at a clean end. Safe to cancel.
    ///
    /// # Errors
    /// [`Failure::Busy`] where it broke off.
    pub async fn next(&mut self) -> Result<Option<Bytes>, Failure> {
        loop {
            let frame = match self.follows {
                true => self.body.frame().await,
                false => timeout(ANSWER, self.body.frame()).await.map_err(|_| Failure::busy("the answer stopped"))?,
            };
            match frame {
                Some(Ok(frame)) => {
                    if let Ok(data) = frame.into_data() {
                        return Ok(Some(data));
                    }
                }
                Some(Err(error)) => return Err(Failure::busy(sentence(&error))),
                None => return Ok(None),
            }
        }
    }
}

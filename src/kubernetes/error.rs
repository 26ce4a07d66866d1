//! What the API server says, as a sentence for a person.

use std::time::Duration;

use tokio::time::Instant;

/// How long an API server may take for an answer that is no stream.
pub const LIMIT: Duration = Duration::from_secs(30);

/// An answer that is no stream, or why there is none; an API server that hangs is one of the reasons.
///
/// # Errors
/// [`kube::Error::Service`] with [`Silent`] after [`LIMIT`].
pub async fn in_time<T>(call: impl Future<Output = kube::Result<T>>) -> kube::Result<T> {
    let silent = |_| Err(kube::Error::Service(Box::new(Silent)));
    tokio::time::timeout(LIMIT, call).await.unwrap_or_else(silent)
}

/// How often an API server is asked before that counts as failed, and what passes in between.
const TRIES: (usize, Duration) = (5, Duration::from_millis(300));

/// For how long it is asked again: one that itself waits for somebody would take as long each time.
const TRYING: Duration = Duration::from_secs(5);

/// For how long one is asked again that says that it has too much to do.
const BUSY: Duration = Duration::from_secs(30);

/// The answer to a call that may be made again, also of an API server that is away for a moment.
///
/// # Errors
/// What the last call says, or the first one that is refused.
pub async fn surely<T, F: Future<Output = kube::Result<T>>>(call: impl Fn() -> F) -> kube::Result<T> {
    let (since, mut tries) = (Instant::now(), TRIES.0);
    loop {
        let answer = in_time(call()).await;
        let Err(error) = &answer else { return answer };
        let wait = match later(error) {
            Some(wait) if since.elapsed() + wait < BUSY => wait,
            None if !is_refusal(error) && tries > 1 && since.elapsed() < TRYING => TRIES.1,
            _ => return answer,
        };
        tracing::warn!(error = sentence(error), "the API server does not do what it was asked to; trying again");
        tries -= usize::from(later(error).is_none());
        tokio::time::sleep(wait).await;
    }
}

/// After how long an API server that has too much to do is to be asked again.
fn later(error: &kube::Error) -> Option<Duration> {
    let kube::Error::Api(status) = error else { return None };
    let named = status.details.as_ref().map_or(0, |details| details.retry_after_seconds);
    (status.code == 429).then(|| Duration::from_secs(named.into()).max(Duration::from_secs(1)))
}

/// The API server took a call and gave no answer.
#[derive(Debug, thiserror::Error)]
#[error("it has not answered within {LIMIT:?}")]
pub struct Silent;

/// A sentence of what went wrong between the hub and the API server.
#[must_use]
pub fn sentence(error: &kube::Error) -> String {
    match error {
        kube::Error::Api(status) if !status.message.is_empty() => status.message.clone(),
        kube::Error::Api(status) => format!("the API server answered {} {}", status.code, status.reason),
        error => format!("the API server cannot be reached: {}", root(error)),
    }
}

/// Whether the API server says that there is no such thing.
#[must_use]
pub fn is_not_found(error: &kube::Error) -> bool {
    matches!(error, kube::Error::Api(status) if status.code == 404)
}

/// Whether the API server refuses for good: another try would be refused as well. What was changed by somebody else at
/// the same time (`Conflict`, as a quota is by each pod that is made) is none; what is there already is.
#[must_use]
pub fn is_refusal(error: &kube::Error) -> bool {
    let kube::Error::Api(status) = error else { return false };
    let passes = matches!(status.code, 408 | 429) || (status.code == 409 && status.reason == "Conflict");
    (400..500).contains(&status.code) && !passes
}

/// The innermost error, which tells most.
fn root(error: &kube::Error) -> String {
    let mut inner: &dyn std::error::Error = error;
    while let Some(source) = inner.source() {
        inner = source;
    }
    inner.to_string()
}

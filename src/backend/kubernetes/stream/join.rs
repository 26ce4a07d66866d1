//! How a container's streams are had: opened for an exec, and, for a container that was there before, continued from its
//! log, or from its end.

use std::collections::VecDeque;
use std::pin::pin;
use std::time::Duration;

use futures_util::AsyncReadExt;
use k8s_openapi::api::core::v1::Pod;
use kube::api::{Api, AttachParams, LogParams};
use kube::core::Request;
use kube::{Client, Resource, ResourceExt};
use tokio::select;
use tokio::time::{Instant, sleep, timeout};

use super::super::{Place, start};
use super::splice::{Known, Rest, SURE, cut, of_terminal, only_start_of, overlap, without_returns};
use crate::kubernetes::channel::{self, Frame, Input, Output};
use crate::kubernetes::error::{in_time, is_refusal, sentence};
use crate::record::Cause;

/// How long the API server may take to open streams.
const OPEN: Duration = Duration::from_secs(30);

/// The same for an attach, which is tried again.
const ATTACH: Duration = Duration::from_secs(10);

/// How long the first request for streams is tried again where a kubelet is not ready for it yet.
const TRIES: (usize, Duration) = (5, Duration::from_millis(300));

/// How long a container whose streams have ended may take to be told as ended.
const LINGER: (Duration, Duration) = (Duration::from_secs(10), Duration::from_millis(200));

/// How long what was printed while its log was read may take to come over the streams as well.
const SETTLE: Duration = Duration::from_millis(150);

/// How often the log is read again until it is known where the streams begin in it.
const READS: usize = 5;

/// For how long it is read again.
const READING: Duration = Duration::from_secs(5);

/// Bytes that may come over the streams while the log is read; then they wait in the connection.
const HELD: usize = 1 << 20;

/// How long a log that is about to be whole may take for its next piece, and how often that is waited for.
const STILL: (Duration, usize) = (Duration::from_millis(250), 40);

/// What a kubelet gives as a log that it has no more.
const NO_LOG: &[u8] = b"unable to retrieve container logs for ";

/// The longest log that is read, in bytes. Kubernetes rotates at 10 MiB, unless told otherwise.
const MAX_LOG: usize = 64 << 20;

/// A container to be had.
#[derive(Clone)]
pub(crate) struct Container {
    pub(crate) client: Client,
    pub(crate) place: Place,
    /// Its name.
    pub(crate) name: String,
    /// Whether it has, or the exec is to have, a terminal.
    pub(crate) tty: bool,
    /// Whether it has, or the exec is to have, a stdin.
    pub(crate) stdin: bool,
    /// Its pod's, and how often it had been started again when it was met.
    pub(crate) uid: Option<String>,
    pub(crate) restarts: i32,
}

/// Streams that are open.
pub(super) struct Streams {
    pub(super) output: Output,
    pub(super) input: Input,
    /// What was printed before.
    pub(super) past: Past,
    /// What has come over the streams already.
    pub(super) held: VecDeque<Frame>,
}

/// What a log has that did not come over streams.
#[derive(Debug, Default)]
pub(super) struct Past {
    pub(super) bytes: Vec<u8>,
    /// Whether some before it is gone.
    pub(super) lost: bool,
    /// Whether it could not be read.
    pub(super) unread: bool,
    /// How many bytes before its end the log has more than came, where they can't be told from the others.
    pub(super) missing: u64,
    /// What the people should know.
    pub(super) said: Option<String>,
}

/// How an attach came out.
pub(super) enum Joined {
    /// The container runs.
    Streams(Box<Streams>),
    /// It has ended, with this in its log that had not come.
    Over(Past, Cause),
}

/// Why streams could not be had.
#[derive(Debug)]
pub(super) enum Unjoined {
    /// They are refused for good.
    Refused(String),
    /// They could not be had now.
    Failed(String),
}

impl Container {
    fn pods(&self) -> Api<Pod> {
        Api::namespaced(self.client.clone(), &self.place.namespace)
    }

    fn params(&self, stdin: bool) -> AttachParams {
        let params = AttachParams::default().container(&self.name).stdin(stdin).stdout(true);
        params.stderr(!self.tty).tty(self.tty)
    }

    async fn open(
        &self,
        request: Result<http::Request<Vec<u8>>, kube::core::request::Error>,
        limit: Duration,
    ) -> Opened {
        let request = request.map_err(|error| Unjoined::Refused(error.to_string()))?;
        match timeout(limit, channel::open(&self.client, request)).await {
            Ok(Ok(streams)) => Ok(streams),
            Ok(Err(error)) if is_refusal(&error) => Err(Unjoined::Refused(sentence(&error))),
            Ok(Err(error)) => Err(Unjoined::Failed(sentence(&error))),
            Err(_) => Err(Unjoined::Failed("the API server does not answer".into())),
        }
    }

    /// Starts a command.
    pub(super) async fn exec(self, command: Vec<String>) -> Result<Box<Streams>, Unjoined> {
        let request = Request::new(Pod::url_path(&(), Some(&self.place.namespace)));
        let request = request.exec(&self.place.pod, command, &self.params(self.stdin));
        let (output, input) = self.open(request, OPEN).await?;
        Ok(Box::new(Streams { output, input, past: Past::default(), held: VecDeque::new() }))
    }

    /// Attaches, or finds its end. Streams that have `ended` by themselves leave it a while to be told as ended too.
    pub(super) async fn attach(self, known: Known, stdin: bool, ended: bool) -> Result<Joined, Unjoined> {
        let linger = Instant::now() + if ended { LINGER.0 } else { Duration::ZERO };
        let mut tries = TRIES.0;
        loop {
            if let Some((pod, cause)) = self.end().await? {
                let previous = pod.is_some_and(|pod| start::restarts(&pod, &self.name) > self.restarts);
                return Ok(Joined::Over(self.last(&known, previous, ended).await, cause));
            }
            if Instant::now() < linger {
                sleep(LINGER.1).await;
                continue;
            }
            let request = Request::new(Pod::url_path(&(), Some(&self.place.namespace)));
            let opened = self.open(request.attach(&self.place.pod, &self.params(stdin)), ATTACH).await;
            tries -= 1;
            match opened {
                Ok((output, input)) => return Ok(Joined::Streams(Box::new(self.splice(output, input, &known).await))),
                // A container that has just ended, or has just started, is refused as one that will never be.
                Err(_) if tries > 0 => sleep(TRIES.1).await,
                Err(error) => return Err(error),
            }
        }
    }

    /// Its end, with its pod if that is still there; none while it runs.
    async fn end(&self) -> Result<Option<(Option<Pod>, Cause)>, Unjoined> {
        let pod = in_time(self.pods().get_opt(&self.place.pod)).await;
        let pod = pod.map_err(|error| Unjoined::Failed(sentence(&error)))?;
        Ok(match pod.filter(|pod| self.uid.is_none() || pod.uid() == self.uid) {
            None => Some((None, start::gone())),
            Some(pod) => start::end_of_command(&pod, &self.name, self.restarts).map(|cause| (Some(pod), cause)),
        })
    }

    /// What the log of a container that has ended has behind what is known. Streams that have `ended` by themselves had
    /// all of it, as far as they can be believed.
    async fn last(&self, known: &Known, previous: bool, ended: bool) -> Past {
        let log = self.whole_log(previous).await;
        let mut past = past(&log, known);
        if ended && (log.is_err() || past.lost) {
            return Past::default();
        }
        if let Ok(log) = &log {
            let differs = known.differs(log, &past.bytes).unwrap_or_default();
            past.missing = differs.max(0).unsigned_abs();
            past.said = (differs < 0).then(|| came_twice(differs.unsigned_abs()));
        }
        past
    }

    /// The log of a container that has ended: the runtime may still be writing it.
    async fn whole_log(&self, previous: bool) -> Result<Vec<u8>, Unjoined> {
        let mut log = self.log(previous).await;
        for _ in 0..STILL.1 {
            sleep(STILL.0).await;
            let next = self.log(previous).await;
            match (&log, &next) {
                (Ok(before), Ok(now)) if before.len() == now.len() => break,
                // It was there, and is gone with its pod.
                (Ok(_), Err(_)) => break,
                (Err(_), Err(_)) => return next,
                _ => log = next,
            }
        }
        log
    }

    /// Puts the log before what comes over streams that were opened before it was read.
    ///
    /// Streams may begin some time after they were opened, and be behind the log; and a line may come over the streams
    /// before it is in the log. So the log is read until it ends with what they begin with, or does not grow any more.
    async fn splice(&self, output: Output, input: Input, known: &Known) -> Streams {
        let mut held = Held { output, frames: VecDeque::new(), bytes: 0, open: true };
        let until = Instant::now() + READING;
        let mut log = self.log_beside(&mut held).await;
        while matches!(log, Err(Unjoined::Failed(_))) && Instant::now() < until {
            log = self.log_beside(&mut held).await;
        }
        let first = past(&log, known).bytes.len();
        let (mut tries, until, mut grew, mut had) = (READS, Instant::now() + READING, true, 0);
        loop {
            let (live, mut past) = (held.live(), past(&log, known));
            let logged = without_returns(&past.bytes);
            let (len, same) = (logged.len(), overlap(&logged, &without_returns(&live)));
            let is_over = !held.open && live.is_empty();
            let gives_up = tries == 0 || Instant::now() > until;
            // The streams may still be behind. What came before the log was asked for is in it.
            let begun = without_returns(&live[..had]);
            let inside = if !grew || gives_up { only_start_of(&begun, &logged) } else { None };
            // What has no end is not in a log, and a few bytes may be another line's.
            let is_settled = !grew && (same > 0 || !live.contains(&b'\n'));
            if log.is_err() || same >= SURE || is_over {
                cut(&mut past.bytes, len - same, &live);
            } else if inside.is_some() || is_settled {
                cut(&mut past.bytes, inside.unwrap_or(len - same), &live);
            } else if gives_up {
                // It may have two streams in another order: then little comes twice.
                past.bytes.truncate(first);
            } else {
                (tries, had) = (tries - 1, live.len());
                let next = self.log_beside(&mut held).await;
                // One that is gone since, or rotated, is not better than the one before.
                grew = log.as_ref().is_ok_and(|log| next.as_ref().is_ok_and(|next| next.len() > log.len()));
                match next {
                    Ok(_) if grew => log = next,
                    Ok(_) => {}
                    Err(_) => tries = 0,
                }
                continue;
            }
            return Streams { output: held.output, input, past, held: held.frames };
        }
    }

    /// Reads the log, and leaves the streams a while for what was printed meanwhile.
    async fn log_beside(&self, held: &mut Held) -> Result<Vec<u8>, Unjoined> {
        let log = held.during(timeout(OPEN, self.log(false))).await;
        held.during(sleep(SETTLE)).await;
        log.unwrap_or_else(|_| Err(Unjoined::Failed("the API server does not answer".into())))
    }

    /// Reads the log. Of a terminal it has a CR before each LF, which a runtime may have left out.
    async fn log(&self, previous: bool) -> Result<Vec<u8>, Unjoined> {
        let params = LogParams { container: Some(self.name.clone()), previous, ..LogParams::default() };
        let log = self.pods().log_stream(&self.place.pod, &params).await.map_err(|error| match is_refusal(&error) {
            true => Unjoined::Refused(sentence(&error)),
            false => Unjoined::Failed(sentence(&error)),
        })?;
        let mut bytes = Vec::new();
        let read = log.take(MAX_LOG as u64 + 1).read_to_end(&mut bytes).await;
        read.map_err(|error| Unjoined::Failed(error.to_string()))?;
        if bytes.len() > MAX_LOG {
            return Err(Unjoined::Refused(format!("its log is longer than {} MiB", MAX_LOG >> 20)));
        }
        match bytes.starts_with(NO_LOG) && !bytes.contains(&b'\n') {
            true => Err(Unjoined::Refused(String::from_utf8_lossy(&bytes).into_owned())),
            false if self.tty => Ok(of_terminal(bytes)),
            false => Ok(bytes),
        }
    }
}

type Opened = Result<(Output, Input), Unjoined>;

fn past(log: &Result<Vec<u8>, Unjoined>, known: &Known) -> Past {
    match log {
        Ok(log) => match known.rest(log) {
            Rest::From(at) => Past { bytes: log[at..].to_vec(), ..Past::default() },
            Rest::Lost(at) => Past { bytes: log[at..].to_vec(), lost: true, ..Past::default() },
        },
        Err(Unjoined::Refused(error) | Unjoined::Failed(error)) => Past {
            unread: true,
            said: Some(format!("what it printed while nobody was attached to it is not known: {error}")),
            ..Past::default()
        },
    }
}

fn came_twice(count: u64) -> String {
    format!("{count} bytes of its output came twice where the hub attached to it")
}

/// What comes over streams before it is known what was printed before them.
struct Held {
    output: Output,
    frames: VecDeque<Frame>,
    /// How much output is among these.
    bytes: usize,
    open: bool,
}

impl Held {
    /// Holds what comes meanwhile.
    async fn during<T>(&mut self, work: impl Future<Output = T>) -> T {
        let mut work = pin!(work);
        loop {
            select! {
                frame = self.output.next(), if self.open && self.bytes < HELD => match frame {
                    Ok(Some(frame)) => {
                        self.bytes += if let Frame::Output(_, data) = &frame { data.len() } else { 0 };
                        self.open = !matches!(frame, Frame::Ended(_));
                        self.frames.push_back(frame);
                    }
                    // Whoever reads on is told so.
                    Ok(None) | Err(_) => self.open = false,
                },
                done = &mut work => return done,
            }
        }
    }

    /// The output among it.
    fn live(&self) -> Vec<u8> {
        let data = self.frames.iter().filter_map(|frame| match frame {
            Frame::Output(_, data) => Some(&data[..]),
            _ => None,
        });
        data.flatten().copied().collect()
    }
}

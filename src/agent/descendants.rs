//! Finding and ending what a session's command started.
//!
//! A process belongs to a session when it descends from the session's agent, which is the subreaper of all it starts,
//! or when it carries the session's mark in its environment, which also finds those whose agent was killed.

use std::collections::{HashMap, HashSet};
use std::fs;
use std::time::{Duration, Instant};

use rustix::io::Errno;
use rustix::process::{Pid, Signal, kill_process};

/// The environment variable that marks a session's processes; its value is the session's id. Commands may read it.
pub const MARK: &str = "FOGHORN_SESSION";

/// The environment variable that exempts a hub or an agent, which other sessions need, from the end of a session
/// within which it was started.
pub const EXEMPT: &str = "FOGHORN_KEEP";

/// How often the processes are looked for while they are given time to end.
const LOOK: Duration = Duration::from_millis(20);

/// How long processes are killed that do not die.
const KILL_LIMIT: Duration = Duration::from_secs(10);

/// Which processes are meant.
#[derive(Clone, Debug)]
pub struct Family {
    /// The session's id, as it stands in the mark.
    pub session: String,
    /// The agent whose descendants are meant too; itself never is.
    pub agent: Option<Pid>,
}

impl Family {
    /// The living processes of the family.
    #[must_use]
    pub fn members(&self) -> Vec<Pid> {
        let mark = format!("{MARK}={}", self.session);
        let processes = processes();
        let mut members = Vec::new();
        let mut own: HashSet<i32> = self.agent.iter().map(|pid| pid.as_raw_nonzero().get()).collect();
        let children = children(&processes);
        let mut queue: Vec<i32> = own.iter().copied().collect();
        let marked = processes.iter().filter(|process| !own.contains(&process.pid)).filter(|process| {
            let environment = environment(process.pid);
            has(&environment, &mark) && !has(&environment, &format!("{EXEMPT}=1"))
        });
        let marked: Vec<i32> = marked.map(|process| process.pid).collect();
        members.extend(&marked);
        queue.extend(&marked);
        own.extend(&marked);
        while let Some(parent) = queue.pop() {
            for child in children.get(&parent).into_iter().flatten().copied() {
                if !own.contains(&child) && !has(&environment(child), &format!("{EXEMPT}=1")) {
                    own.insert(child);
                    members.push(child);
                    queue.push(child);
                }
            }
        }
        let alive: HashSet<i32> = processes.iter().filter(|process| process.alive).map(|process| process.pid).collect();
        members.into_iter().filter(|pid| alive.contains(pid)).filter_map(Pid::from_raw).collect()
    }

    /// Sends `signal` to all members, and wakes those that are stopped so that they see it. How many there are that it
    /// may be sent to; one that has taken another user's rights is that user's to end.
    pub fn signal(&self, signal: Signal) -> usize {
        let ours = |pid: &Pid| {
            let sent = kill_process(*pid, signal);
            if signal != Signal::KILL {
                // One that ended since it was listed needs no signal.
                let _ = kill_process(*pid, Signal::CONT);
            }
            sent != Err(Errno::PERM)
        };
        self.members().into_iter().filter(ours).count()
    }

    /// Ends all members: HUP, then after `hup_wait` TERM, then after `term_wait` KILL until none is left, or until
    /// [`KILL_LIMIT`]: a process that waits for a device does not die before the device answers.
    pub async fn end(&self, hup_wait: Duration, term_wait: Duration) {
        for (signal, wait) in [(Signal::HUP, hup_wait), (Signal::TERM, term_wait)] {
            if self.signal(signal) == 0 || self.gone_within(wait).await {
                return;
            }
        }
        let since = Instant::now();
        while self.signal(Signal::KILL) > 0 && since.elapsed() < KILL_LIMIT {
            tokio::time::sleep(LOOK).await;
        }
    }

    /// Waits until no member is left, at most `wait`. Whether none is.
    async fn gone_within(&self, wait: Duration) -> bool {
        let since = Instant::now();
        while since.elapsed() < wait {
            if self.members().is_empty() {
                return true;
            }
            tokio::time::sleep(LOOK).await;
        }
        self.members().is_empty()
    }
}

#[derive(Debug)]
struct Process {
    pid: i32,
    parent: i32,
    alive: bool,
}

/// All processes of the machine that can be seen.
fn processes() -> Vec<Process> {
    let Ok(entries) = fs::read_dir("/proc") else { return Vec::new() };
    let pids = entries.flatten().filter_map(|entry| entry.file_name().to_str()?.parse().ok());
    pids.filter_map(process).collect()
}

/// Reads `/proc/PID/stat` (`man 5 proc`): the name in parentheses may hold anything, the state and the parent follow it.
fn process(pid: i32) -> Option<Process> {
    let stat = fs::read_to_string(format!("/proc/{pid}/stat")).ok()?;
    let mut fields = stat.get(stat.rfind(')')? + 1..)?.split_ascii_whitespace();
    let state = fields.next()?;
    Some(Process { pid, parent: fields.next()?.parse().ok()?, alive: !matches!(state, "Z" | "X") })
}

fn children(processes: &[Process]) -> HashMap<i32, Vec<i32>> {
    let mut children: HashMap<i32, Vec<i32>> = HashMap::new();
    for process in processes {
        children.entry(process.parent).or_default().push(process.pid);
    }
    children
}

/// The environment a process was started with; empty where it is not ours to read.
fn environment(pid: i32) -> Vec<u8> {
    fs::read(format!("/proc/{pid}/environ")).unwrap_or_default()
}

fn has(environment: &[u8], variable: &str) -> bool {
    environment.split(|byte| *byte == 0).any(|entry| entry == variable.as_bytes())
}

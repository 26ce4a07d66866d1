//! The sources that a follower asks for and that are not there, wait for something, or cannot be read: silence must not
//! be taken for a log that has nothing to say.

use std::collections::BTreeSet;
use std::sync::Arc;

use super::files::notice;
use super::follower::{Ask, Filter, Start};
use super::history::Past;
use super::line::{Entry, Stream};
use super::pods::Container;
use super::sessions::{self, PAGE};
use super::{Join, Log};
use crate::store::{SessionFilter, StoreError};

/// The most sessions that are looked through for one of a name.
const MAX_SESSIONS: usize = 1000;

/// The most names of sources that are offered instead of one that is not there.
const MAX_OFFERED: usize = 10;

/// Returns what a follower has to know of the sources that it asks for; nothing where it comes back.
pub(super) async fn told(log: &Log, join: &Join, ask: &Ask) -> Result<Vec<Past>, StoreError> {
    if matches!(ask.start, Start::Resume(_)) {
        return Ok(Vec::new());
    }
    let filter = &ask.filter;
    let is_wanted = |container: &&Arc<Container>| {
        filter.wants_process(&container.process) && filter.wants_container(Some(&container.name))
    };
    let containers: Vec<_> = join.containers.values().filter(is_wanted).collect();
    let is_file = filter.wants_container(None) && join.files.values().any(|file| filter.wants_process(&file.process));
    let is_read = is_file || containers.iter().any(|container| container.has_begun());
    let is_read = is_read || has_session(log, filter).await?;
    let mut told: Vec<_> = join.unread.iter().cloned().map(unread).collect();
    if !is_read && containers.is_empty() {
        if told.is_empty() {
            told.push(nothing(log, join, ask));
        }
        return Ok(told.into_iter().map(Past::said).collect());
    }
    told.extend(waiting(&containers, is_read));
    // Who wants lines of the past is told where they are read.
    if matches!(ask.start, Start::Now) {
        told.extend(containers.iter().filter_map(|container| container.trouble()));
    }
    Ok(told.into_iter().map(Past::said).collect())
}

/// Tells whether the app has a session that is wanted.
async fn has_session(log: &Log, filter: &Filter) -> Result<bool, StoreError> {
    if !filter.wants_container(None) {
        return Ok(false);
    }
    let (mut before, mut seen) = (None, 0);
    loop {
        let asked = SessionFilter { app: Some(log.app().into()), before, limit: PAGE, ..SessionFilter::default() };
        let page = log.registry.store().sessions(&asked).await?;
        if page.rows.iter().any(|row| sessions::is_told(row) && filter.wants_process(&row.name)) {
            return Ok(true);
        }
        (before, seen) = (page.next, seen + page.rows.len());
        if before.is_none() || seen >= MAX_SESSIONS {
            return Ok(false);
        }
    }
}

/// Says that there is nothing of the name that was asked for, and what there is instead.
fn nothing(log: &Log, join: &Join, ask: &Ask) -> Entry {
    let (app, filter) = (log.app(), &ask.filter);
    let mut names = BTreeSet::new();
    let lacks = match (&filter.process, &filter.container) {
        (None, None) => format!("the app {app} has no {}", kinds(log)),
        (process, Some(container)) => {
            let of = process.as_ref().map_or_else(|| format!("the app {app}"), |process| format!("{process} of {app}"));
            let all = join.containers.values().filter(|container| filter.wants_process(&container.process));
            names.extend(all.map(|container| container.name.clone()));
            format!("{of} has no container {container}")
        }
        (Some(process), None) => {
            names.extend(join.containers.values().map(|container| container.process.clone()));
            names.extend(join.files.values().map(|file| file.process.clone()));
            format!("the app {app} has no process {process}")
        }
    };
    let has: Vec<&str> = names.iter().take(MAX_OFFERED).map(|name| &**name).collect();
    let more = if names.len() > MAX_OFFERED { ", …" } else { "" };
    let has = if has.is_empty() { String::new() } else { format!("; it has {}{more}", has.join(", ")) };
    let message = if ask.follow {
        format!("nothing of that name yet; waiting ({lacks}{has})")
    } else {
        format!("nothing of that name: {lacks}{has}")
    };
    unread(message)
}

/// Says that something that was asked for cannot be read.
fn unread(message: String) -> Entry {
    Entry { stream: Stream::Unread, ..notice("log".into(), message) }
}

/// The kinds of sources that the app could have.
fn kinds(log: &Log) -> String {
    let files = (!log.patterns.is_empty()).then(|| format!("file like {}", log.patterns.join(", ")));
    let pods = log.place.as_ref().map(|place| format!("pod with {}", place.where_pods_are()));
    ["session in its log".to_owned()].into_iter().chain(files).chain(pods).collect::<Vec<_>>().join(", no ")
}

/// Says what containers wait for that have not begun. That is no failure where others can be read.
fn waiting(containers: &[&Arc<Container>], is_read: bool) -> Vec<Entry> {
    let coming: Vec<_> = containers.iter().filter(|container| !container.has_begun()).collect();
    let mut said = BTreeSet::new();
    let mut told = Vec::new();
    for container in &coming {
        // All containers of a pod wait for the same node.
        if let Some(reason) = container.waits()
            && said.insert((container.pod.name.clone(), reason.clone()))
        {
            told.push(container.notice(format!("Waiting to start: {reason}")));
        }
    }
    if told.is_empty() && !is_read {
        told.extend(coming.iter().map(|container| container.notice("Waiting to start")));
    }
    if !is_read {
        told.iter_mut().for_each(|entry| entry.stream = Stream::Unread);
    }
    told
}

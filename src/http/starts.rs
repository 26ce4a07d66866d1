//! What a start asks for, and whether its caller may.

use std::sync::Arc;

use uuid::Uuid;

use super::Hub;
use super::auth::{Act, Caller, Holder, Role};
use super::error::ApiError;
use crate::protocol::{NewPod, NewSession, NewSource};
use crate::registry::wanted::{Wanted, handed};
use crate::session::Session;

/// What is to be started, for the audit trail.
#[must_use]
pub fn what(new: &NewSession) -> String {
    match &new.source {
        NewSource::Run(run) => run.command.join(" "),
        NewSource::Exec(exec) => format!("{}: {}", exec.pod, exec.command.join(" ")),
        NewSource::Pod(pod) => format!("{}/{}", pod.namespace, pod.pod),
    }
}

/// Starts the session that a caller wants, and may start, or finds the one that the same request started before
/// (`false`).
///
/// # Errors
/// What is wrong with the request, that the caller may not, and what keeps it from being started.
pub async fn start(hub: &Hub, caller: &Caller, new: NewSession) -> Result<(Arc<Session>, bool), ApiError> {
    let wanted = wanted(hub, caller, new).await?;
    // Who was let in by a ticket owns nothing.
    let owner = caller.owner().ok_or_else(|| ApiError::forbidden("start sessions"))?;
    Ok(hub.registry.start(wanted, owner).await?)
}

async fn wanted(hub: &Hub, caller: &Caller, new: NewSession) -> Result<Wanted, ApiError> {
    match (new.source, new.id) {
        (NewSource::Pod(pod), Some(id)) => pod_of(hub, caller, id, *pod).await,
        (NewSource::Pod(_), None) => Err(ApiError::invalid("a pod is handed over under an id: a UUID of the caller's")),
        (_, Some(_)) => Err(ApiError::invalid("only a pod that is handed over has an id of its caller's")),
        (NewSource::Run(run), None) => {
            may(hub, caller, Act::Run, &run.app).await?;
            Ok(Wanted::run(*run)?)
        }
        (NewSource::Exec(exec), None) => {
            may(hub, caller, Act::Exec, &exec.app).await?;
            Ok(Wanted::exec(*exec)?)
        }
    }
}

async fn may(hub: &Hub, caller: &Caller, act: Act, app: &str) -> Result<(), ApiError> {
    caller.check(hub, act, app, &format!("start sessions of {app}")).await
}

/// A pod that is handed over: by a controller alone, and of an app that it may start sessions of. One that is bound to
/// apps has nothing looked up for it where none of them is.
async fn pod_of(hub: &Hub, caller: &Caller, id: Uuid, pod: NewPod) -> Result<Wanted, ApiError> {
    let Caller::Token(Holder { role: Role::Controller | Role::Admin, apps, name, .. }) = caller else {
        return Err(ApiError::forbidden("hand pods over"));
    };
    if let (Some(cluster), Some(apps)) = (&hub.cluster, apps) {
        let is_there = |app: &String| cluster.home(app).is_ok_and(|home| home.namespace == pod.namespace);
        if !apps.iter().any(is_there) {
            return Err(ApiError::forbidden("hand pods of this namespace over"));
        }
    }
    let whose = hub.registry.whose(id, &handed(pod.clone()), name).await?;
    may(hub, caller, Act::Exec, &whose.app).await?;
    Ok(Wanted::pod(id, pod, whose)?)
}

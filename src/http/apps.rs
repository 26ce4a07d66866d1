//! The door that lists apps.

use std::collections::BTreeMap;
use std::sync::Arc;

use axum::Json;
use axum::extract::State as Shared;
use axum::http::StatusCode;
use futures_util::{StreamExt, stream};

use super::Hub;
use super::auth::{Act, Caller};
use super::error::ApiError;
use crate::kubernetes::error::{is_refusal, sentence};
use crate::protocol::{AppInfo, AppList};

/// For how many apps at once it is asked whether the caller may do something with them.
const AT_ONCE: usize = 16;

/// `GET /v1/apps`.
pub async fn list(Shared(hub): Shared<Arc<Hub>>, caller: Caller) -> Result<Json<AppList>, ApiError> {
    let mut apps: Vec<AppInfo> = match &hub.cluster {
        Some(cluster) => {
            let found = cluster.find_apps().await.map_err(|error| match is_refusal(&error) {
                true => ApiError::backend_refused(sentence(&error)),
                false => ApiError::new(StatusCode::SERVICE_UNAVAILABLE, "backend_unavailable", sentence(&error)),
            })?;
            let shown = found.into_iter();
            shown
                .map(|app| AppInfo { app: app.app, namespace: Some(app.namespace), processes: app.processes })
                .collect()
        }
        None => known(&hub).await?,
    };
    let (hub, caller) = (&*hub, &caller);
    let asked =
        stream::iter(std::mem::take(&mut apps)).map(|app| async move { (any(hub, caller, &app.app).await, app) });
    let mut asked = asked.buffered(AT_ONCE);
    while let Some((may, app)) = asked.next().await {
        if may? {
            apps.push(app);
        }
    }
    Ok(Json(AppList { apps }))
}

/// Whether the caller may do anything with an app.
async fn any(hub: &Hub, caller: &Caller, app: &str) -> Result<bool, ApiError> {
    for act in [Act::Logs, Act::Exec, Act::Run] {
        if caller.may(hub, act, app).await? {
            return Ok(true);
        }
    }
    Ok(false)
}

/// The apps that the settings name, and those of sessions.
async fn known(hub: &Hub) -> Result<Vec<AppInfo>, ApiError> {
    let mut names = hub.store().apps().await?;
    names.extend(hub.apps.iter().cloned());
    names.sort_unstable();
    names.dedup();
    Ok(names.into_iter().map(|app| AppInfo { app, namespace: None, processes: BTreeMap::new() }).collect())
}

//! The door that lists apps.

use std::collections::BTreeMap;
use std::sync::Arc;

use axum::Json;
use axum::extract::State as Shared;
use axum::http::StatusCode;

use super::Hub;
use super::auth::Caller;
use super::error::ApiError;
use crate::kubernetes::error::sentence;
use crate::protocol::{AppInfo, AppList};
use crate::store::SessionFilter;

/// How many of the newest sessions are looked at for the names of their apps, where there is no cluster to be asked.
const SESSIONS: u32 = 1000;

/// `GET /v1/apps`.
pub async fn list(Shared(hub): Shared<Arc<Hub>>, caller: Caller) -> Result<Json<AppList>, ApiError> {
    let mut apps = match &hub.cluster {
        Some(cluster) => {
            let found = cluster.find_apps().await.map_err(|error| {
                ApiError::new(StatusCode::SERVICE_UNAVAILABLE, "backend_unavailable", sentence(&error))
            })?;
            let shown = found.into_iter();
            shown
                .map(|app| AppInfo { app: app.app, namespace: Some(app.namespace), processes: app.processes })
                .collect()
        }
        None => known(&hub).await?,
    };
    apps.retain(|app| caller.may_start(&app.app) || caller.may_read_logs(&app.app));
    Ok(Json(AppList { apps }))
}

/// The apps that the settings name, and those of sessions.
async fn known(hub: &Hub) -> Result<Vec<AppInfo>, ApiError> {
    let filter = SessionFilter { limit: SESSIONS, ..SessionFilter::default() };
    let of_sessions = hub.store().sessions(&filter).await?.into_iter().map(|session| session.app);
    let mut names: Vec<String> = hub.apps.iter().cloned().chain(of_sessions).collect();
    names.sort_unstable();
    names.dedup();
    Ok(names.into_iter().map(|app| AppInfo { app, namespace: None, processes: BTreeMap::new() }).collect())
}

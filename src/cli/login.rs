//! `foghorn login`: be known to a hub by what the cluster knows one by.

use clap::Args;

use super::Context;
use super::failure::{Failure, OTHER};
use super::notice::say;
use crate::client::error::ClientError;
use crate::client::http::Ask;
use crate::client::hubs::Hub;
use crate::client::login::{Login, LoginError, Logins};

/// The arguments of `login`.
#[derive(Args)]
pub struct LoginArgs {
    /// A context of the kubeconfig [default: the current one]
    #[arg(long, value_name = "CONTEXT")]
    pub context: Option<String>,
}

/// Takes the token of a context, shows it to the hubs, and remembers where it came from.
///
/// # Errors
/// Where there is no token, or a hub does not know it.
pub async fn run(context: &Context, args: LoginArgs) -> Result<u8, Failure> {
    let settings = &context.settings;
    if settings.urls.is_empty() {
        return Err(Failure::usage("to which hub? name it with --url or FOGHORN_URL; your own needs no login"));
    }
    let login = Login::find(args.context.as_deref())?;
    let token = login.token(true).await?;
    let mut logins = Logins::read(&settings.home)?;
    for url in &settings.urls {
        context.hubs().check_private(url)?;
        let hub = Hub { url: url.clone(), token: Some(token.clone()), folder: None };
        match context.hubs().http().send(&hub, &Ask::get("/v1/sessions?limit=1")).await {
            Ok(_) => logins.add(url, login.clone()),
            Err(ClientError::Refused { status: 401, .. }) => return Err(Failure::new(OTHER, not_known(url, &login))),
            Err(error) => return Err(error.into()),
        }
    }
    logins.write(&settings.home)?;
    for url in &settings.urls {
        say(&format!("Logged in to {url} with the context {}.", login.context));
    }
    if settings.token.is_some() {
        say("FOGHORN_TOKEN is set, and outranks it.");
    }
    Ok(0)
}

fn not_known(url: &str, login: &Login) -> String {
    format!(
        "the hub at {url} does not know the token of the context {}; is it of the hub's cluster, and has the hub \
         auth = \"kubernetes\" or \"webhook\"?",
        login.context
    )
}

impl From<LoginError> for Failure {
    fn from(error: LoginError) -> Self {
        ClientError::from(error).into()
    }
}

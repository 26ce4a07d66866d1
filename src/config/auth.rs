//! Settings of who is let in besides the holders of static tokens, and by whose word.

use std::path::PathBuf;
use std::time::Duration;

use serde::Deserialize;

use super::ConfigError;
use super::kubernetes::Kubernetes;

/// Who says whose token a token is, and what that person may do.
#[derive(Clone, Debug, Default, PartialEq)]
pub enum Auth {
    /// The tokens' file alone.
    #[default]
    Tokens,
    /// The API server of this cluster.
    Kubernetes(Box<Kubernetes>),
    /// A service of the operator's.
    Webhook(Webhook),
}

/// In which words it is asked what a person may do.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq, Deserialize)]
#[serde(rename_all = "snake_case")]
pub enum Rights {
    /// Kubernetes' own: `pods`, `pods/exec` and `pods/log`.
    #[default]
    Pods,
    /// Verbs on `sessions.foghorn.dev`, for people who have no right on pods.
    Foghorn,
}

/// Who may watch the sessions of others without a ticket.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq, Deserialize)]
#[serde(rename_all = "snake_case")]
pub enum Watch {
    /// Nobody.
    #[default]
    Owner,
    /// Who may exec in the app.
    Exec,
    /// Who may read the app's log.
    Log,
}

/// A service that answers Kubernetes' reviews.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Webhook {
    /// Where they are sent, by POST.
    pub url: String,
    /// The certificates that sign its own, as PEM; none: those of the system.
    pub ca_file: Option<PathBuf>,
    /// The file with the token that it is shown; read each time.
    pub token_file: Option<PathBuf>,
    /// How long it may take.
    pub timeout: Duration,
}

/// How long a webhook may take, and may be told to take at most: a right that is taken away has to be found out within a minute.
const TIMEOUT: Duration = Duration::from_secs(5);

/// `[webhook]` in `foghorn.toml`.
#[derive(Clone, Debug, Default, Deserialize)]
#[serde(default, deny_unknown_fields)]
pub(super) struct File {
    url: Option<String>,
    ca_file: Option<PathBuf>,
    token_file: Option<PathBuf>,
    timeout: Option<String>,
    insecure: bool,
}

impl File {
    fn settings(self) -> Result<Webhook, ConfigError> {
        let url = self.url.unwrap_or_default();
        let parsed = url.parse::<http::Uri>().ok().filter(|uri| uri.host().is_some());
        let scheme = parsed.as_ref().and_then(http::Uri::scheme_str);
        if !matches!(scheme, Some("http" | "https")) {
            return Err(super::not("webhook.url", &url, "a URL such as https://auth.example.com/foghorn"));
        }
        if scheme == Some("http") && !self.insecure && !parsed.as_ref().is_some_and(is_loopback) {
            let what = "https, and people's tokens would go there unencrypted; webhook.insecure = true allows it";
            return Err(super::not("webhook.url", &url, what));
        }
        let timeout = match &self.timeout {
            Some(text) => humantime::parse_duration(text)
                .ok()
                .filter(|timeout| (Duration::from_millis(1)..=TIMEOUT).contains(timeout))
                .ok_or_else(|| super::not("webhook.timeout", text, "a duration of at most 5s"))?,
            None => TIMEOUT,
        };
        Ok(Webhook { url, ca_file: self.ca_file, token_file: self.token_file, timeout })
    }
}

fn is_loopback(uri: &http::Uri) -> bool {
    let host = uri.host().unwrap_or_default().trim_start_matches('[').trim_end_matches(']');
    host == "localhost" || host.parse::<std::net::IpAddr>().is_ok_and(|address| address.is_loopback())
}

impl Auth {
    /// The way of this name.
    pub(super) fn read(
        name: &str,
        webhook: File,
        kubernetes: impl FnOnce() -> Result<Kubernetes, ConfigError>,
    ) -> Result<Self, ConfigError> {
        match name {
            "tokens" => Ok(Self::Tokens),
            "kubernetes" => Ok(Self::Kubernetes(Box::new(kubernetes()?))),
            "webhook" => Ok(Self::Webhook(webhook.settings()?)),
            _ => Err(super::not("auth", name, "known; it can be tokens, kubernetes or webhook")),
        }
    }
}

/// The words of this name.
pub(super) fn rights(name: &str) -> Result<Rights, ConfigError> {
    match name {
        "pods" => Ok(Rights::Pods),
        "foghorn" => Ok(Rights::Foghorn),
        _ => Err(super::not("rights", name, "known; it can be pods or foghorn")),
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn webhook(toml: &str) -> Result<Webhook, ConfigError> {
        toml::from_str::<File>(toml).expect("parses").settings()
    }

    #[test]
    fn a_webhook_is_not_asked_in_the_open() {
        for (toml, fits) in [
            ("url = \"https://auth.example.com/x\"", true),
            ("url = \"http://127.0.0.1:1/x\"", true),
            ("url = \"http://[::1]:1/x\"", true),
            ("url = \"http://auth.example.com/x\"", false),
            ("url = \"http://auth.example.com/x\"\ninsecure = true", true),
            ("url = \"auth.example.com\"", false),
            ("", false),
            ("url = \"https://a\"\ntimeout = \"1m\"", false),
        ] {
            assert_eq!(webhook(toml).is_ok(), fits, "{toml}");
        }
        assert_eq!(webhook("url = \"https://a\"\ntimeout = \"1s\"").expect("reads").timeout, Duration::from_secs(1));
    }
}

//! The names in a wish, and in a place: each becomes a part of an address, so one that nothing in a cluster can have is
//! refused before anything is asked.

use super::Place;
use crate::backend::{BackendError, Handed, What};
use crate::config::names::{is_label, is_subdomain, workload};

/// The longest that people call a pod, in letters.
const MAX_CALLED: usize = 253;

/// Refuses a wish with such a name.
///
/// # Errors
/// [`BackendError::Refused`].
pub(super) fn check(what: &What) -> Result<(), BackendError> {
    match what {
        What::Run(run) => {
            if let Some(from) = &run.from {
                deployment(from).map_err(BackendError::Refused)?;
            }
            container(run.container.as_deref())
        }
        What::Exec(exec) => {
            // A name or a process with its place: labels have more letters than names.
            let letter = |letter: char| letter.is_ascii_alphanumeric() || matches!(letter, '-' | '_' | '.');
            if exec.pod.len() > MAX_CALLED || !exec.pod.chars().all(letter) {
                return refused("pod", &exec.pod);
            }
            container(exec.container.as_deref())
        }
        What::Pod(handed) => check_handed(handed),
    }
}

/// Refuses a pod that is handed over with such a name.
///
/// # Errors
/// [`BackendError::Refused`].
pub(super) fn check_handed(handed: &Handed) -> Result<(), BackendError> {
    if !is_label(&handed.namespace) {
        return refused("namespace", &handed.namespace);
    }
    if !is_subdomain(&handed.pod) {
        return refused("pod", &handed.pod);
    }
    container(handed.container.as_deref())
}

/// The name of the Deployment that a run is made from.
///
/// # Errors
/// A sentence, where it is no Deployment that is named.
pub(super) fn deployment(from: &str) -> Result<&str, String> {
    workload(from).ok_or_else(|| format!("a run is made from deploy/NAME, not from {}", from.escape_debug()))
}

/// Returns whether a place has names that can be asked for: an earlier version may have written others.
pub(super) fn are_good(place: &Place) -> bool {
    is_label(&place.namespace) && is_subdomain(&place.pod) && place.container.as_deref().is_none_or(is_label)
}

fn container(name: Option<&str>) -> Result<(), BackendError> {
    match name {
        Some(name) if !is_label(name) => refused("container", name),
        _ => Ok(()),
    }
}

fn refused(what: &str, name: &str) -> Result<(), BackendError> {
    let shown: String = name.escape_debug().take(64).collect();
    Err(BackendError::Refused(format!(
        "\"{shown}\" is no name of a {what}: names in a cluster have lower-case letters, digits and '-'"
    )))
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::backend::{Exec, Run};

    const ODD: [&str; 10] =
        ["../../shop/pods/s1", "b1?x=y", "b1#", "b1/attach", "x/../b1", "b1%2fexec", "B1/log", "b1 ", "b,c", "b\n"];

    #[test]
    fn a_name_that_is_a_path_is_refused_whatever_it_names() {
        let run = |from: Option<&str>, container: Option<&str>| {
            let (from, container) = (from.map(ToOwned::to_owned), container.map(ToOwned::to_owned));
            What::Run(Box::new(Run { from, container, ..Run::default() }))
        };
        let exec = |pod: &str, container: Option<&str>| {
            What::Exec(Exec { pod: pod.into(), container: container.map(ToOwned::to_owned) })
        };
        let pod = |namespace: &str, pod: &str, container: Option<&str>| {
            let container = container.map(ToOwned::to_owned);
            What::Pod(Handed { namespace: namespace.into(), pod: pod.into(), container, ..Handed::default() })
        };
        for good in [
            run(None, None),
            run(Some("deploy/blog-web"), Some("web")),
            run(Some("deployment/blog.web"), None),
            exec("web.1", Some("web")),
            exec("My_Job.2", None),
            exec("blog-web-7d9f-abcde", None),
            pod("blog", "b1", Some("web")),
            pod("blog", "b1.eu", None),
        ] {
            assert!(check(&good).is_ok(), "{good:?}");
        }
        for odd in ODD {
            for bad in [
                run(Some(&format!("deploy/{odd}")), None),
                run(None, Some(odd)),
                exec(odd, None),
                exec("web.1", Some(odd)),
                pod(odd, "b1", None),
                pod("blog", odd, None),
                pod("blog", "b1", Some(odd)),
            ] {
                assert!(matches!(check(&bad), Err(BackendError::Refused(_))), "{bad:?}");
            }
        }
    }

    #[test]
    fn a_place_from_before_with_such_a_name_leads_nowhere() {
        let good = Place { namespace: "blog".into(), pod: "b1".into(), ..Place::default() };
        assert!(Place::of(&good.value()).is_ok());
        for odd in ODD {
            for bad in [
                Place { namespace: odd.into(), ..good.clone() },
                Place { pod: odd.into(), ..good.clone() },
                Place { container: Some(odd.into()), ..good.clone() },
            ] {
                assert!(matches!(Place::of(&bad.value()), Err(BackendError::NoTrace)), "{bad:?}");
            }
        }
    }
}

//! Names that objects in a cluster can have. They become parts of addresses, so nothing else is asked for.

/// Returns whether a name is a DNS label (RFC 1123), as those of namespaces, containers and apps are.
#[must_use]
pub fn is_label(text: &str) -> bool {
    text.len() <= 63 && is_part(text)
}

/// Whether a name is a DNS subdomain (RFC 1123), as those of pods and workloads are. As in Kubernetes, the whole has a
/// limit, and its parts have none.
#[must_use]
pub fn is_subdomain(text: &str) -> bool {
    text.len() <= 253 && text.split('.').all(is_part)
}

fn is_part(text: &str) -> bool {
    let letter = |letter: u8| letter.is_ascii_lowercase() || letter.is_ascii_digit() || letter == b'-';
    !text.is_empty() && text.bytes().all(letter) && !text.starts_with('-') && !text.ends_with('-')
}

/// The workload's name in `deploy/NAME`.
#[must_use]
pub fn workload(from: &str) -> Option<&str> {
    from.strip_prefix("deploy/").or(from.strip_prefix("deployment/")).filter(|name| is_subdomain(name))
}

#[cfg(test)]
mod tests {
    use super::*;

    /// What is no name anywhere.
    const ODD: [&str; 24] = [
        "",
        ".",
        "..",
        "a/b",
        "/a",
        "../../other/pods/s1",
        "b1?x=y",
        "b1#",
        "b1%2fexec",
        "b1/log",
        "b1?watch=1",
        "B1",
        "-b",
        "b-",
        "b_1",
        "b 1",
        "b\u{0}",
        "b\n",
        "b\u{e9}",
        "b,c=d",
        "b=c",
        "{app}",
        ".b",
        "b..c",
    ];

    #[test]
    fn names_of_namespaces_containers_and_apps() {
        for name in ["blog", "my-app-2", "0", "a".repeat(63).as_str()] {
            assert!(is_label(name), "{name}");
        }
        for name in ODD.into_iter().chain(["a.b", "a".repeat(64).as_str()]) {
            assert!(!is_label(name), "{name:?}");
        }
    }

    #[test]
    fn names_of_pods_and_workloads() {
        for name in ["blog-web-7d9f-abcde", "ip-10-0-0-1.eu.internal", "0", "a".repeat(253).as_str()] {
            assert!(is_subdomain(name), "{name}");
            assert_eq!(workload(&format!("deploy/{name}")), Some(name));
        }
        for name in ODD.into_iter().chain(["a.-b", "a-.b", "a.b.", "a".repeat(254).as_str()]) {
            assert!(!is_subdomain(name), "{name:?}");
            assert_eq!(workload(&format!("deployment/{name}")), None);
        }
        assert_eq!(workload("job/a"), None);
    }
}

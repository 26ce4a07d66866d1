//! Patterns of file names, as a shell has them: `*`, `?`, `[ab]`, `{a,b}`, and `**` for any folders.

/// The most patterns that one with braces stands for.
const MAX_ALTERNATIVES: usize = 256;

/// Returns the patterns without braces that a pattern stands for.
///
/// # Errors
/// The reason why it is no pattern of absolute paths.
pub fn alternatives(pattern: &str) -> Result<Vec<String>, String> {
    if pattern.is_empty() {
        return Err("it is empty".into());
    }
    if pattern.starts_with('~') {
        return Err("~ is not expanded; write the whole path".into());
    }
    let mut found = Vec::new();
    expand(pattern, &mut found)?;
    for one in &found {
        if !one.starts_with('/') {
            return Err("it does not start with /".into());
        }
        glob::Pattern::new(one).map_err(|error| error.msg.to_owned())?;
    }
    Ok(found)
}

/// Replaces the first braces by each of their parts, and goes on with what that gives.
fn expand(pattern: &str, found: &mut Vec<String>) -> Result<(), String> {
    let Some(open) = pattern.find('{') else {
        if pattern.contains('}') {
            return Err("a } has no {".into());
        }
        if found.len() >= MAX_ALTERNATIVES {
            return Err(format!("its braces stand for more than {MAX_ALTERNATIVES} patterns"));
        }
        found.push(pattern.to_owned());
        return Ok(());
    };
    let (before, inner) = (&pattern[..open], &pattern[open + 1..]);
    let (mut depth, mut start, mut parts) = (0_usize, 0, Vec::new());
    for (at, letter) in inner.char_indices() {
        match letter {
            '{' => depth += 1,
            '}' if depth > 0 => depth -= 1,
            ',' if depth == 0 => {
                parts.push(&inner[start..at]);
                start = at + 1;
            }
            '}' => {
                parts.push(&inner[start..at]);
                let after = &inner[at + 1..];
                return parts.iter().try_for_each(|part| expand(&format!("{before}{part}{after}"), found));
            }
            _ => {}
        }
    }
    Err("a { has no }".into())
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn braces_stand_for_several_patterns() {
        let all = |pattern| alternatives(pattern).expect("a pattern");
        assert_eq!(all("/l/*.log"), ["/l/*.log"]);
        assert_eq!(all("/l/{a,b/c}.{log,txt}"), ["/l/a.log", "/l/a.txt", "/l/b/c.log", "/l/b/c.txt"]);
        assert_eq!(all("/l/{a,b{c,d}}"), ["/l/a", "/l/bc", "/l/bd"]);
    }

    #[test]
    fn what_would_never_match_is_refused() {
        for pattern in ["", "~/x.log", "x.log", "./x.log", "/l/{a,b", "/l/a}", "/l/[ab", "/l/a**b", "{/l,m}/x"] {
            assert!(alternatives(pattern).is_err(), "{pattern}");
        }
        assert!(alternatives(&format!("/{}", "{a,b}".repeat(9))).is_err());
    }
}

//! Values that a server accepts: slugs, agent names, parameters, presets, tags. Pure, modules included.

pub mod resources;
pub mod state;
pub mod text;

/// Our version in the form that daemons and agents report to every server.
///
/// The form is a semantic version, because coderd refuses an agent without one. Its first part marks a development
/// build, which coderd's health check does not compare with its own version; our releases are not related to Coder's.
pub const VERSION: &str = concat!("v0.0.0-outpost.", env!("CARGO_PKG_VERSION"));

/// Regular expression for an agent's name, in the words of the reference.
pub const AGENT_NAME: &str = "(?i)^[a-z0-9](-?[a-z0-9])*$";

/// Regular expression for an app's slug, in the words of the reference.
pub const APP_SLUG: &str = "^[a-z0-9](-?[a-z0-9])*$";

/// Returns whether a text is an agent's name: letters and digits with single hyphens between them.
pub fn is_agent_name(text: &str) -> bool {
    is_slug(text, |byte| byte.is_ascii_alphanumeric())
}

/// Returns whether a text is an app's slug: like an agent's name, in lower case.
pub fn is_app_slug(text: &str) -> bool {
    is_slug(text, |byte| {
        byte.is_ascii_digit() || byte.is_ascii_lowercase()
    })
}

fn is_slug(text: &str, is_letter: impl Fn(u8) -> bool) -> bool {
    text.split('-')
        .all(|part| !part.is_empty() && part.bytes().all(&is_letter))
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn names_are_letters_and_digits_with_single_hyphens() {
        for name in ["a", "dev", "a-b-2", "0"] {
            assert!(is_agent_name(name) && is_app_slug(name), "{name}");
        }
        for name in ["", "-a", "a-", "a--b", "a_b", "ä", "a b"] {
            assert!(!is_agent_name(name) && !is_app_slug(name), "{name}");
        }
        assert!(is_agent_name("Dev") && !is_app_slug("Dev"));
    }
}

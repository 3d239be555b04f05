//! Detection in init's output that `coder/coder` is not available.

use serde::Deserialize;

/// Words of errors about a package that exists but must not be trusted or selected.
const NOT_MISSING: [&str; 5] = [
    "checksum",
    "signature",
    "authenticat",
    "does not match configured version constraint",
    "dependency lock file is read-only",
];

/// First words of Terraform's and OpenTofu's errors if they cannot get a provider.
const MISSING: [&str; 9] = [
    "could not retrieve the list of available versions for provider",
    "could not retrieve providers for locking",
    "error while installing",
    "could not resolve provider",
    "failed to query available provider packages",
    "failed to install provider",
    "failed to resolve provider packages",
    "does not offer a terraform provider registry",
    "does not have a package available for your current platform",
];

/// First words of their errors if they cannot get a module, or if another version of the engine is required.
///
/// # Source
/// The texts of `internal/initwd/module_install.go` and `internal/terraform/version_required.go`.
const WANTED: [&str; 8] = [
    "failed to download module",
    "could not download module",
    "module not found",
    "unresolvable module version constraint",
    "error accessing remote module registry",
    "failed to retrieve available versions for module",
    "unsupported terraform core version",
    "unsupported opentofu core version",
];

/// Returns whether one of the errors in `output`, JSON lines or plain text, reports that there is no `coder/coder`.
///
/// # Source
/// The texts of `internal/command/init.go` in Terraform and OpenTofu, which contain the provider's address.
pub(super) fn is_unavailable(output: &str) -> bool {
    errors(output).any(|error| names_coder(&error) && is_missing(&error))
}

/// Returns whether one of the errors in `output` reports that a provider is not available.
pub(super) fn is_any_unavailable(output: &str) -> bool {
    errors(output).any(|error| is_missing(&error))
}

/// Returns whether one of the errors in `output` reports that a provider, a module or another version of the engine
/// is required.
pub(super) fn is_something_unavailable(output: &str) -> bool {
    let is_wanted = |error: &str| WANTED.iter().any(|words| error.contains(words));
    errors(output).any(|error| is_missing(&error) || is_wanted(&error))
}

/// Returns the errors in `output`, in lower case.
fn errors(output: &str) -> impl Iterator<Item = String> {
    let (from_json, plain): (Vec<_>, Vec<_>) = output
        .lines()
        .map(|line| (error_of(line), line))
        .partition(|(parsed, _)| parsed.is_some());
    let plain: Vec<&str> = plain.into_iter().map(|(_, line)| line).collect();
    let from_json = from_json.into_iter().filter_map(|(parsed, _)| parsed);
    let all = from_json.flatten().chain(errors_in_text(&plain));
    all.map(|error| error.to_lowercase())
}

fn is_missing(error: &str) -> bool {
    MISSING.iter().any(|words| error.contains(words))
        && !NOT_MISSING.iter().any(|words| error.contains(words))
}

/// Returns whether a word of `error` is the address `coder/coder`, with or without a registry's host.
fn names_coder(error: &str) -> bool {
    error
        .split(|c: char| c.is_whitespace() || "\"',:;()".contains(c))
        .map(|word| word.trim_end_matches('.'))
        .any(|word| word == "coder/coder" || (word.ends_with("/coder/coder") && word.contains('.')))
}

/// Returns the error in a JSON line; `None` if the line is not JSON, `Some(None)` if it is not an error.
fn error_of(line: &str) -> Option<Option<String>> {
    #[derive(Deserialize)]
    struct Line {
        diagnostic: Option<Diagnostic>,
    }
    #[derive(Deserialize)]
    struct Diagnostic {
        severity: String,
        #[serde(default)]
        summary: String,
        #[serde(default)]
        detail: String,
    }
    if !line.starts_with('{') {
        return None;
    }
    let line: Line = serde_json::from_str(line).ok()?;
    let error = line.diagnostic.filter(|d| d.severity == "error");
    Some(error.map(|d| format!("{} {}", d.summary, d.detail)))
}

/// Returns the errors in text for people: each begins with `Error:`, lines are wrapped and may have a frame.
fn errors_in_text(lines: &[&str]) -> Vec<String> {
    let framed = |c: char| "│╷╵|".contains(c) || c.is_whitespace();
    let mut errors: Vec<String> = Vec::new();
    for line in lines {
        let line = line.trim_matches(framed);
        if let Some(summary) = line.strip_prefix("Error: ") {
            errors.push(summary.to_owned());
        } else if let Some(error) = errors.last_mut() {
            error.push(' ');
            error.push_str(line);
        }
    }
    errors
}

#[cfg(test)]
mod tests {
    use super::*;

    // Output of Terraform 1.11.4 without a network.
    const UNREACHABLE: &str = r#"
Initializing provider plugins...
- Finding latest version of coder/coder...

Error: Failed to query available provider packages

Could not retrieve the list of available versions for provider coder/coder:
could not connect to registry.terraform.io: failed to request discovery
document: Get "https://registry.terraform.io/.well-known/terraform.json":
dial tcp: lookup registry.terraform.io: no such host
"#;

    fn json(severity: &str, summary: &str, detail: &str) -> String {
        serde_json::json!({
            "@level": severity,
            "@message": format!("Error: {summary}"),
            "type": "diagnostic",
            "diagnostic": { "severity": severity, "summary": summary, "detail": detail },
        })
        .to_string()
    }

    fn versions_of(provider: &str, why: &str) -> String {
        let detail = format!(
            "Could not retrieve the list of available versions for provider {provider}: {why}"
        );
        json(
            "error",
            "Failed to query available provider packages",
            &detail,
        )
    }

    #[test]
    fn a_registry_out_of_reach_makes_it_unavailable() {
        assert!(is_unavailable(UNREACHABLE));
        let framed: String = UNREACHABLE.lines().map(|l| format!("│ {l}\n")).collect();
        assert!(is_unavailable(&framed));
        for address in [
            "coder/coder",
            "registry.terraform.io/coder/coder",
            "registry.opentofu.org/coder/coder",
        ] {
            let lines = ["not json {", &versions_of(address, "could not connect")].join("\n");
            assert!(is_unavailable(&lines), "{address}");
        }
    }

    #[test]
    fn a_mirror_without_it_makes_it_unavailable() {
        let none = "no available releases match the given constraints ~> 2.1";
        assert!(is_unavailable(&versions_of("coder/coder", none)));
        let gone = "the previously-selected version 2.19.0 is no longer available";
        assert!(is_unavailable(&versions_of("coder/coder", gone)));
    }

    #[test]
    fn a_download_that_fails_makes_it_unavailable() {
        let detail =
            r#"Error while installing coder/coder v2.20.0: Get "https://example.com": EOF"#;

        assert!(is_unavailable(&json(
            "error",
            "Failed to install provider",
            detail
        )));
    }

    #[test]
    fn a_package_that_is_not_what_it_should_be_is_not_replaced() {
        for why in [
            "the current package for registry.terraform.io/coder/coder 2.20.0 doesn't match any of the checksums \
             previously recorded in the dependency lock file",
            "archive has incorrect checksum zh:1 (expected zh:2)",
            "error checking signature: openpgp: signature expired",
        ] {
            let detail = format!("Error while installing coder/coder v2.20.0: {why}");
            assert!(!is_unavailable(&json(
                "error",
                "Failed to install provider",
                &detail
            )));
        }
        let locked = "locked provider registry.terraform.io/coder/coder 2.0.1 does not match configured version \
                      constraint ~> 2.1; must use terraform init -upgrade to allow selection of new versions";
        assert!(!is_unavailable(&versions_of("coder/coder", locked)));
    }

    #[test]
    fn another_provider_or_a_warning_is_not_its_fault() {
        for address in [
            "kreuzwerker/docker",
            "mycoder/coder",
            "coder/coderd",
            "x/coder/coder",
        ] {
            let output = versions_of(address, "could not connect");
            assert!(!is_unavailable(&output), "{address}");
            assert!(is_any_unavailable(&output), "{address}");
        }
        let warning = json("warning", "Failed to install provider", "coder/coder");
        assert!(!is_unavailable(&warning));
        assert!(!is_something_unavailable(&warning));
        let module = json("error", "Failed to download module", "Could not download");
        assert!(is_something_unavailable(&module) && !is_any_unavailable(&module));
        assert!(is_something_unavailable(UNREACHABLE));
        assert!(!is_something_unavailable("Error: Invalid block"));
        assert!(!is_unavailable(
            "- Finding latest version of coder/coder...\nError: Invalid block"
        ));
    }
}

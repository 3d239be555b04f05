//! Functions that tags and defaults of parameters may call, and further ones for conditions.
//!
//! Compared to Terraform, functions that read files are missing, and those that Coder does not offer here either.

mod args;
mod collections;
mod dates;
mod encoding;
mod formats;
mod further;
mod hashes;
mod networks;
mod numbers;
mod sets;
mod strings;

use serde_json::Value;

use self::args::Args;
use super::{EvalError, Evaluated, Scope};

/// Result of a function; an error is a sentence fragment.
type Called = Result<Value, String>;

/// Terraform's functions that read files, which are not allowed here.
const FORBIDDEN: &[&str] = &[
    "abspath",
    "file",
    "fileexists",
    "fileset",
    "filebase64",
    "filebase64sha256",
    "filebase64sha512",
    "filemd5",
    "filesha1",
    "filesha256",
    "filesha512",
    "pathexpand",
];
/// Functions that Coder offers here and we do not: no tag needs a password hash, a private key or YAML.
const UNSUPPORTED: &[&str] = &["bcrypt", "rsadecrypt", "yamldecode", "yamlencode"];

/// Calls a function with values.
///
/// # Errors
/// If there is no such function, or if it fails.
///
/// # Source
/// coder `provisioner/terraform/tfparse/funcs.go` for the functions that are offered, Terraform's documentation for
/// their behaviour.
pub(super) fn call(name: &str, values: Vec<Value>, scope: &Scope<'_>) -> Evaluated {
    if FORBIDDEN.contains(&name) {
        return Err(failed(
            name,
            &format!("function \"{name}\" may not be used here"),
        ));
    }
    if UNSUPPORTED.contains(&name) {
        return Err(failed(
            name,
            &format!("function \"{name}\" is not supported in tags"),
        ));
    }
    let args = Args::new(values, scope);
    let result = numbers::call(name, &args)
        .or_else(|| strings::call(name, &args))
        .or_else(|| formats::call(name, &args))
        .or_else(|| collections::call(name, &args))
        .or_else(|| sets::call(name, &args))
        .or_else(|| encoding::call(name, &args))
        .or_else(|| hashes::call(name, &args))
        .or_else(|| networks::call(name, &args))
        .or_else(|| dates::call(name, &args))
        .or_else(|| match scope.has_further_functions {
            true => further::call(name, &args),
            false => None,
        });
    match result {
        Some(result) => result.map_err(|reason| failed(name, &reason)),
        None => {
            let detail = format!("There is no function named \"{name}\".");
            Err(EvalError::new("Call to unknown function", detail))
        }
    }
}

pub(super) fn failed(name: &str, reason: &str) -> EvalError {
    let detail = format!("Call to function \"{name}\" failed: {reason}.");
    EvalError::new("Error in function call", detail)
}

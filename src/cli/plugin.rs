//! Hidden command that Terraform starts: the built-in `coder` provider, as a plugin.

use std::{collections::BTreeMap, ffi::OsStr, process::ExitCode};

use anyhow::Context;

use super::exit;
use crate::{
    coder_provider,
    mirror::builtin,
    plugin::{self, Launch},
};

/// Serves the provider if the arguments say so: `terraform-provider-coder`, then the launcher's path.
///
/// Nothing else of the command line counts, and no configuration is read: Terraform starts this several times a
/// build, and an error in a configuration file of ours must not affect it.
pub(super) fn serve_if_asked<'a>(
    mut arguments: impl Iterator<Item = &'a OsStr>,
) -> Option<ExitCode> {
    let is_plugin = arguments.nth(1) == Some(OsStr::new(builtin::COMMAND));
    is_plugin.then(|| exit::report(serve(arguments.next()), None, exit::FAILURE))
}

fn serve(launcher: Option<&OsStr>) -> anyhow::Result<()> {
    // None of our own variables has a value that is not UTF-8.
    let variables: BTreeMap<String, String> = std::env::vars_os()
        .filter_map(|(name, value)| Some((name.into_string().ok()?, value.into_string().ok()?)))
        .collect();
    let launch = Launch::from_environment(&variables)?;
    let version = launcher
        .and_then(builtin::version_of)
        .and_then(|version| version.parse().ok());
    let provider = coder_provider::provider(variables, version.as_ref());
    plugin::serve(provider, &launch).context("the coder provider ended")
}

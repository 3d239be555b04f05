//! Hidden commands that Terraform starts: the built-in `coder` provider and mocks of others, as plugins.

use std::{collections::BTreeMap, ffi::OsStr, path::Path, process::ExitCode};

use anyhow::Context;

use super::exit;
use crate::{
    coder_provider,
    mirror::builtin,
    plugin::{self, Launch},
    template::mock,
};

/// Serves a provider if the arguments say so: `terraform-provider-coder`, then the launcher's path; or
/// `terraform-provider-mock`, then the file with its schema.
///
/// Nothing else of the command line counts, and no configuration is read: Terraform starts this several times a
/// build, and an error in a configuration file of ours must not affect it.
pub(super) fn serve_if_asked<'a>(
    mut arguments: impl Iterator<Item = &'a OsStr>,
) -> Option<ExitCode> {
    let command = arguments.nth(1)?;
    if command == OsStr::new(mock::COMMAND) {
        return Some(exit::report(
            serve_mock(arguments.next()),
            None,
            exit::FAILURE,
        ));
    }
    let is_plugin = command == OsStr::new(builtin::COMMAND);
    is_plugin.then(|| exit::report(serve(arguments.next()), None, exit::FAILURE))
}

fn serve_mock(schema: Option<&OsStr>) -> anyhow::Result<()> {
    let schema = schema.context("a mocked provider needs the file with its schema")?;
    let launch = Launch::from_environment(&variables())?;
    mock::serve(Path::new(schema), &launch).context("the mocked provider ended")
}

/// Returns the environment. None of our own variables has a value that is not UTF-8.
fn variables() -> BTreeMap<String, String> {
    std::env::vars_os()
        .filter_map(|(name, value)| Some((name.into_string().ok()?, value.into_string().ok()?)))
        .collect()
}

fn serve(launcher: Option<&OsStr>) -> anyhow::Result<()> {
    let variables = variables();
    let launch = Launch::from_environment(&variables)?;
    let version = launcher
        .and_then(builtin::version_of)
        .and_then(|version| version.parse().ok());
    let provider = coder_provider::provider(variables, version.as_ref());
    plugin::serve(provider, &launch).context("the coder provider ended")
}

//! Templates that changed, as git tells.

use std::{
    fs,
    path::{Path, PathBuf},
};

use crate::{
    cli::{exit::UsageError, template::git},
    template::check::{Sources, settings},
};

/// Tells whether a file of the template, of a module that it uses, or its settings changed since `since`; files that are not
/// committed count.
///
/// # Errors
/// [`UsageError`] if the directory is in no repository, or `since` names no commit.
pub(super) fn is_changed(directory: &Path, since: &str) -> anyhow::Result<bool> {
    let top = git(directory, &["rev-parse", "--show-toplevel"])?;
    let top = PathBuf::from(top.trim_end_matches('\n'));
    if since.starts_with('-') {
        return Err(UsageError(format!("`{since}` is no commit")).into());
    }
    let commit = format!("{since}^{{commit}}");
    git(directory, &["rev-parse", "--verify", "--quiet", &commit]).map_err(|_| {
        UsageError(format!(
            "`--changed-since {since}`: the repository has no such commit"
        ))
    })?;
    let mut names = git(&top, &["diff", "--name-only", "-z", since])?;
    names.push_str(&git(
        &top,
        &["ls-files", "--others", "--exclude-standard", "-z"],
    )?);
    let changed: Vec<PathBuf> = names
        .split('\0')
        .filter(|name| !name.is_empty())
        .map(|name| top.join(name))
        .collect();
    let roots = directories(directory)?;
    let is_ours = |path: &PathBuf| {
        roots.iter().any(|root| path.starts_with(root))
            || path
                .file_name()
                .is_some_and(|name| name == settings::FILE_NAME)
                && path
                    .parent()
                    .is_some_and(|parent| roots[0].starts_with(parent))
    };
    Ok(changed.iter().any(is_ours))
}

/// The template's directory, and those of local modules elsewhere that it names.
fn directories(directory: &Path) -> anyhow::Result<Vec<PathBuf>> {
    let whole = fs::canonicalize(directory)?;
    let mut roots = vec![whole.clone()];
    if let Ok(sources) = Sources::read(directory, Default::default()) {
        let outside = sources.local_module_sources();
        roots.extend(outside.filter_map(|source| fs::canonicalize(whole.join(source)).ok()));
    }
    Ok(roots)
}

fn git(directory: &Path, arguments: &[&str]) -> anyhow::Result<String> {
    let said = git::git(directory, arguments);
    let said = said.map_err(|error| UsageError(format!("`--changed-since`: {error}")))?;
    Ok(String::from_utf8_lossy(&said).into_owned())
}

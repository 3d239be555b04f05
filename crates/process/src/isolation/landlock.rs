//! Landlock: everything is allowed except hidden paths, entry by entry along the way to them.
//!
//! Rules count for all that is below a path, so a directory above something hidden gets none itself; its other
//! entries get theirs, as they are when the child starts.

use std::{
    fs::{self, File, OpenOptions},
    io,
    os::unix::fs::OpenOptionsExt as _,
    path::Path,
};

use landlock::{
    ABI, Access as _, AccessFs, BitFlags, CompatLevel, Compatible as _, PathBeneath, Ruleset,
    RulesetAttr as _, RulesetCreated, RulesetCreatedAttr as _, RulesetStatus, Scope,
};

use super::{Access, Denied, Policy, capabilities};

/// First version in which a file that may not be written cannot be truncated either: Linux 6.2.
const NEEDED: ABI = ABI::V3;

/// First version that restricts signals: Linux 6.12.
const SCOPED: ABI = ABI::V6;

/// Number of entries in directories above hidden paths; each is a rule that the kernel keeps.
const MAX_RULES: usize = 65_536;

/// Confines this process to a resolved policy.
pub(super) fn apply(policy: &Policy) -> Result<(), Denied> {
    capabilities::drop_dangerous()?;
    let failed = |error| Denied::kernel("use Landlock", io::Error::other(error));
    let ruleset = Ruleset::default()
        .set_compatibility(CompatLevel::HardRequirement)
        .handle_access(AccessFs::from_all(NEEDED))
        .and_then(Ruleset::create)
        .map_err(failed)?;
    let mut rules = Rules {
        policy,
        ruleset: Some(ruleset),
        left: MAX_RULES,
    };
    rules.allow_below(Path::new("/"))?;
    let ruleset = rules.ruleset.take().ok_or(Denied::Arguments)?;
    let status = ruleset.restrict_self().map_err(failed)?;
    match status.ruleset {
        RulesetStatus::FullyEnforced => Ok(()),
        _ => Err(Denied::Leaks("do what Landlock does not enforce")),
    }
}

struct Rules<'a> {
    policy: &'a Policy,
    /// Ruleset, which the crate consumes and returns with each rule.
    ruleset: Option<RulesetCreated>,
    left: usize,
}

impl Rules<'_> {
    fn allow_below(&mut self, path: &Path) -> Result<(), Denied> {
        let access = self.policy.access(path);
        if !self.policy.divides(path) {
            return self.allow(path, access);
        }
        // Access to a directory applies to everything below it.
        if access == Access::ReadOnly && !self.policy.hides_below(path) {
            self.allow(path, access)?;
        }
        let entries = match fs::read_dir(path) {
            Ok(entries) => entries,
            // The child could not list it either, so it must know the names that it needs; we cannot know those.
            Err(_) => return self.allow_rules_below(path),
        };
        for entry in entries.flatten() {
            self.allow_below(&entry.path())?;
        }
        Ok(())
    }

    /// Allows paths with a rule of their own below a directory that cannot be listed.
    fn allow_rules_below(&mut self, dir: &Path) -> Result<(), Denied> {
        let rules = self.policy.rules();
        let below: Vec<_> = rules
            .filter(|(path, _)| path.starts_with(dir) && *path != dir)
            .collect();
        below
            .into_iter()
            .try_for_each(|(path, access)| self.allow(path, access))
    }

    /// Allows one path with everything below it. A link is not followed: it could lead to a hidden path, and other
    /// targets are allowed under their own names.
    fn allow(&mut self, path: &Path, access: Access) -> Result<(), Denied> {
        let rights = match access {
            Access::Open => AccessFs::from_all(NEEDED),
            Access::ReadOnly => AccessFs::from_read(NEEDED),
            Access::Hidden => return Ok(()),
        };
        let failed = |error: io::Error| Denied::kernel(format!("allow {}", path.display()), error);
        // The path may be gone, or be out of reach for the child as well.
        let Ok(file) = open_path(path) else {
            return Ok(());
        };
        let kind = file.metadata().map_err(failed)?.file_type();
        let rights = match (kind.is_symlink(), kind.is_dir()) {
            (true, _) => return Ok(()),
            (false, true) => rights,
            (false, false) => rights & AccessFs::from_file(NEEDED),
        };
        self.left = self.left.checked_sub(1).ok_or_else(|| {
            let text =
                format!("directories with hidden entries have more than {MAX_RULES} other entries");
            failed(io::Error::other(text))
        })?;
        self.add(&file, rights)
            .map_err(|error| failed(io::Error::other(error)))
    }

    fn add(
        &mut self,
        file: &File,
        rights: BitFlags<AccessFs>,
    ) -> Result<(), landlock::RulesetError> {
        if let Some(ruleset) = self.ruleset.take() {
            self.ruleset = Some(ruleset.add_rule(PathBeneath::new(file, rights))?);
        }
        Ok(())
    }
}

fn open_path(path: &Path) -> io::Result<File> {
    OpenOptions::new()
        .read(true)
        .custom_flags(libc::O_PATH | libc::O_NOFOLLOW | libc::O_CLOEXEC)
        .open(path)
}

/// Prevents this process, and everything that it starts, from sending signals to processes outside and from using
/// abstract sockets there. Returns whether the kernel can do that: before Linux 6.12 it cannot, and nothing happens.
pub(super) fn scope() -> Result<bool, Denied> {
    let restricted = Ruleset::default()
        .set_compatibility(CompatLevel::BestEffort)
        .scope(Scope::from_all(SCOPED))
        .and_then(Ruleset::create)
        .and_then(RulesetCreated::restrict_self)
        .map_err(|error| Denied::kernel("limit signals by Landlock", io::Error::other(error)))?;
    Ok(restricted.ruleset == RulesetStatus::FullyEnforced)
}

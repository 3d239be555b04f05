//! Landlock: everything is allowed that is not hidden, entry by entry along the way to what is.
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

/// The first version in which a file that may not be written cannot be truncated either: Linux 6.2.
const NEEDED: ABI = ABI::V3;

/// The first version that knows who may get signals: Linux 6.12.
const SCOPED: ABI = ABI::V6;

/// Entries of directories above what is hidden; each is a rule for the kernel to keep.
const MAX_RULES: usize = 65_536;

/// Holds this process to a resolved policy.
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
    /// The crate takes it and gives it back at each rule.
    ruleset: Option<RulesetCreated>,
    left: usize,
}

impl Rules<'_> {
    fn allow_below(&mut self, path: &Path) -> Result<(), Denied> {
        let access = self.policy.access(path);
        if !self.policy.divides(path) {
            return self.allow(path, access);
        }
        // What is allowed for a directory counts for all below it.
        if access == Access::ReadOnly && !self.policy.hides_below(path) {
            self.allow(path, access)?;
        }
        let entries = match fs::read_dir(path) {
            Ok(entries) => entries,
            // Nor could the child list it, so it must know what it wants; that we cannot know.
            Err(_) => return self.allow_rules_below(path),
        };
        for entry in entries.flatten() {
            self.allow_below(&entry.path())?;
        }
        Ok(())
    }

    /// What has a rule of its own below a directory that cannot be listed.
    fn allow_rules_below(&mut self, dir: &Path) -> Result<(), Denied> {
        let rules = self.policy.rules();
        let below: Vec<_> = rules
            .filter(|(path, _)| path.starts_with(dir) && *path != dir)
            .collect();
        below
            .into_iter()
            .try_for_each(|(path, access)| self.allow(path, access))
    }

    /// Allows one path with all that is below it. A link is not followed: it could lead to what is hidden, and what
    /// it leads to otherwise is allowed under its own name.
    fn allow(&mut self, path: &Path, access: Access) -> Result<(), Denied> {
        let rights = match access {
            Access::Open => AccessFs::from_all(NEEDED),
            Access::ReadOnly => AccessFs::from_read(NEEDED),
            Access::Hidden => return Ok(()),
        };
        let failed = |error: io::Error| Denied::kernel(format!("allow {}", path.display()), error);
        // It may be gone, or be out of reach for the child as well.
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

/// Keeps this process, and all that it starts, from signals to processes outside and from abstract sockets there.
/// Tells whether the kernel can: those before Linux 6.12 know nothing of that, and then nothing happens.
pub(super) fn scope() -> Result<bool, Denied> {
    let restricted = Ruleset::default()
        .set_compatibility(CompatLevel::BestEffort)
        .scope(Scope::from_all(SCOPED))
        .and_then(Ruleset::create)
        .and_then(RulesetCreated::restrict_self)
        .map_err(|error| Denied::kernel("limit signals by Landlock", io::Error::other(error)))?;
    Ok(restricted.ruleset == RulesetStatus::FullyEnforced)
}

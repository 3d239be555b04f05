//! Versions of Coder's APIs that clients ask for.

use std::cmp::Ordering;

use outpost_transport::coder::ApiVersion;

/// Accepts every minor version up to ours.
///
/// # Source
/// coder `apiversion/apiversion.go`; numbers may have a sign, as Go reads them.
pub(super) fn check_version(asked: &str, ours: ApiVersion) -> Result<(), String> {
    if check_major(asked, ours)? > i64::from(ours.minor) {
        return Err(behind(ours, "minor", asked));
    }
    Ok(())
}

fn behind(ours: ApiVersion, part: &str, asked: &str) -> String {
    format!("server is at version {ours}, behind requested {part} version {asked}")
}

/// Accepts every version with our major number, and returns the minor number.
pub(super) fn check_major(asked: &str, ours: ApiVersion) -> Result<i64, String> {
    let invalid = |what: &str| format!("invalid {what}: {asked}");
    let (major, minor) = asked
        .split_once('.')
        .filter(|(_, minor)| !minor.contains('.'))
        .ok_or_else(|| invalid("version string"))?;
    let major: i64 = major.parse().map_err(|_| invalid("major version"))?;
    let minor: i64 = minor.parse().map_err(|_| invalid("minor version"))?;
    match major.cmp(&i64::from(ours.major)) {
        Ordering::Greater => Err(behind(ours, "major", asked)),
        Ordering::Less => Err(format!("version {asked} is no longer supported")),
        Ordering::Equal => Ok(minor),
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_version_up_to_ours_is_accepted_and_others_say_why_not() {
        for accepted in ["1.0", "1.1", "1.18", "1.20", "1.-1"] {
            assert_eq!(
                check_version(accepted, ApiVersion::NEWEST),
                Ok(()),
                "{accepted}"
            );
        }
        let refused = [
            (
                "1.21",
                "server is at version 1.20, behind requested minor version 1.21",
            ),
            (
                "2.0",
                "server is at version 1.20, behind requested major version 2.0",
            ),
            ("0.9", "version 0.9 is no longer supported"),
            ("1", "invalid version string: 1"),
            ("1.2.3", "invalid version string: 1.2.3"),
            ("x.1", "invalid major version: x.1"),
            ("1.x", "invalid minor version: 1.x"),
        ];
        for (asked, why) in refused {
            assert_eq!(
                check_version(asked, ApiVersion::NEWEST),
                Err(why.to_owned()),
                "{asked}"
            );
        }
    }
}

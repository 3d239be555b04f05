//! Build information in a Go program, in any of the formats that Go links.
//!
//! Pure but for the bytes of the program, which are read once, in pieces.

use std::io::{self, Read};

use memchr::memmem;
use semver::{BuildMetadata, Prerelease, Version};

/// Bytes before the build information, as Go's linker writes them.
const MAGIC: &[u8] = b"\xff Go buildinf:";
/// Length of the header before the text.
const HEADER: usize = 32;
/// Flag for text that follows the header directly, as since Go 1.18.
const INLINE: u8 = 2;
/// Length of the markers around the list of modules.
const SENTINEL: usize = 16;
/// Maximum length of the text in bytes.
const LONGEST: usize = 2 << 20;
/// Bytes that are read at a time.
const PIECE: usize = 4 << 20;

/// Modules that a program was built from.
#[derive(Clone, Debug, PartialEq, Eq)]
pub(super) struct Build {
    /// Version of Go, such as `go1.24.2`.
    go: String,
    /// The main module, which often lacks its version.
    main: Option<(String, String)>,
    /// Paths and versions of dependencies, such as `v1.2.3`.
    dependencies: Vec<(String, String)>,
}

impl Build {
    /// Returns the modules whose versions are known. A main module without a version gets that of the program.
    pub(super) fn modules(self, program: &Version) -> Vec<(String, Version)> {
        let stdlib = of_go(&self.go).map(|version| ("stdlib".to_owned(), version));
        let main = self.main.map(|(path, version)| {
            let version = of_module(&version).unwrap_or_else(|| program.clone());
            (path, version)
        });
        let dependencies = self.dependencies.into_iter();
        let dependencies =
            dependencies.filter_map(|(path, version)| Some((path, of_module(&version)?)));
        stdlib.into_iter().chain(main).chain(dependencies).collect()
    }
}

fn of_module(version: &str) -> Option<Version> {
    Version::parse(version.strip_prefix('v')?).ok()
}

/// Parses `go1.24.2`, `go1.24rc1` and `go1.24.2 X:experiment` as versions.
fn of_go(version: &str) -> Option<Version> {
    let version = version.strip_prefix("go")?;
    let version = version.split([' ', '-', '+']).next()?;
    let (numbers, pre) = match version.find(|c: char| c.is_ascii_alphabetic()) {
        Some(at) => version.split_at(at),
        None => (version, ""),
    };
    let mut numbers = numbers.splitn(3, '.').map(str::parse);
    let mut next = || numbers.next().unwrap_or(Ok(0)).ok();
    let (major, minor, patch) = (next()?, next()?, next()?);
    Some(Version {
        major,
        minor,
        patch,
        pre: Prerelease::new(pre).ok()?,
        build: BuildMetadata::EMPTY,
    })
}

/// Finds the build information in `program`; `None` if that is not a Go program.
pub(super) fn read(mut program: impl Read) -> io::Result<Option<Build>> {
    let finder = memmem::Finder::new(MAGIC);
    let mut window = Vec::new();
    loop {
        let wanted = (PIECE + LONGEST).saturating_sub(window.len());
        let count = program
            .by_ref()
            .take(wanted as u64)
            .read_to_end(&mut window)?;
        let is_end = count < wanted;
        // A later match may continue beyond the window.
        let whole = if is_end {
            window.len()
        } else {
            window.len() - LONGEST
        };
        for at in finder.find_iter(&window).take_while(|at| *at < whole) {
            // The bytes may also be a constant in a program that searches for them.
            if let Some(build) = parse(&window[at..]) {
                return Ok(Some(build));
            }
        }
        if is_end {
            return Ok(None);
        }
        window.drain(..whole);
    }
}

fn parse(bytes: &[u8]) -> Option<Build> {
    if bytes.get(MAGIC.len() + 1)? & INLINE == 0 {
        return None;
    }
    let (go, rest) = text(bytes.get(HEADER..)?)?;
    let (modules, _) = text(rest)?;
    let go = str::from_utf8(go).ok()?.to_owned();
    of_go(&go)?;
    let end = modules.len().checked_sub(SENTINEL)?;
    let modules = str::from_utf8(modules.get(SENTINEL..end)?).ok()?;
    let mut build = Build {
        go,
        main: None,
        dependencies: Vec::new(),
    };
    for line in modules.lines() {
        let mut fields = line.split('\t');
        let kind = fields.next()?;
        let module = fields.next().zip(fields.next());
        let module = module.map(|(path, version)| (path.to_owned(), version.to_owned()));
        match (kind, module) {
            ("mod", module) => build.main = module,
            ("dep", Some(module)) => build.dependencies.push(module),
            // A replacement takes the place of the preceding module.
            ("=>", Some(module)) => *build.dependencies.last_mut()? = module,
            _ => {}
        }
    }
    Some(build)
}

/// Returns a text that follows its length, and the rest.
fn text(bytes: &[u8]) -> Option<(&[u8], &[u8])> {
    let mut length = 0_usize;
    for (index, byte) in bytes.iter().enumerate().take(4) {
        length |= usize::from(byte & 0x7f) << (7 * index);
        if byte & 0x80 == 0 {
            return bytes.get(index + 1..)?.split_at_checked(length);
        }
    }
    None
}

#[cfg(test)]
mod tests {
    use super::*;

    fn length(mut length: usize) -> Vec<u8> {
        let mut bytes = Vec::new();
        while length >= 0x80 {
            bytes.push(length as u8 | 0x80);
            length >>= 7;
        }
        bytes.push(length as u8);
        bytes
    }

    /// Returns the bytes in the linker's form.
    fn linked(go: &str, modules: &str) -> Vec<u8> {
        let mut bytes = [MAGIC, &[8, INLINE]].concat();
        bytes.resize(HEADER, 0);
        bytes.extend(length(go.len()));
        bytes.extend(go.as_bytes());
        bytes.extend(length(modules.len() + 2 * SENTINEL));
        bytes.extend([b'<'; SENTINEL]);
        bytes.extend(modules.as_bytes());
        bytes.extend([b'>'; SENTINEL]);
        bytes
    }

    const MODULES: &str = "path\texample.com/tool\nmod\texample.com/tool\t(devel)\t\ndep\texample.com/a\tv1.2.3\th1:x=\n\
        dep\texample.com/b\tv0.0.0-20240102030405-abcdefabcdef\th1:y=\n=>\texample.com/c\tv2.0.0+incompatible\th1:z=\nbuild\tGOOS=linux\n";

    #[test]
    fn modules_are_found_wherever_in_a_program_and_behind_what_only_looks_like_them() {
        for before in [0, 100, PIECE - 5, PIECE + LONGEST - 3, 3 * PIECE] {
            let mut program = vec![0_u8; before];
            program.extend(MAGIC);
            program.extend([0; 64]);
            program.extend(linked("go1.24.2 X:boringcrypto", MODULES));
            program.extend([0; 100]);

            let build = read(&program[..]).unwrap().unwrap();

            let modules = build.modules(&Version::new(1, 11, 4));
            let modules: Vec<_> = modules.iter().map(|(p, v)| format!("{p} {v}")).collect();
            assert_eq!(
                modules,
                [
                    "stdlib 1.24.2",
                    "example.com/tool 1.11.4",
                    "example.com/a 1.2.3",
                    "example.com/c 2.0.0+incompatible"
                ],
                "{before}"
            );
        }
    }

    #[test]
    fn other_programs_and_damaged_texts_have_none() {
        assert_eq!(read(&b"#!/bin/sh"[..]).unwrap(), None);
        let whole = linked("go1.24", MODULES);
        for cut in [14, 20, 33, 40, 60, whole.len() - 1] {
            assert_eq!(read(&whole[..cut]).unwrap(), None, "{cut}");
        }
        assert_eq!(read(&linked("gone", MODULES)[..]).unwrap(), None);
    }

    #[test]
    fn versions_of_go_are_versions() {
        for (go, version) in [
            ("go1.24.2", "1.24.2"),
            ("go1.24", "1.24.0"),
            ("go1.25rc1", "1.25.0-rc1"),
            ("go1.24.2-custom", "1.24.2"),
        ] {
            assert_eq!(of_go(go).unwrap().to_string(), version);
        }
        assert_eq!(of_go("devel"), None);
    }
}

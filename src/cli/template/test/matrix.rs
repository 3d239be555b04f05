//! Engines and versions of providers that scenarios are played with: the product of all of them.

use std::str::FromStr;

use anyhow::Context;
use semver::Version;

use crate::{
    cli::{engine::EngineArgs, template::schemas::Pins},
    registry::{DEFAULT_HOST, ProviderAddr},
    stop::Stop,
    terraform::binary::Kind,
};

/// Versions of one provider: `coder/coder=2.13.0,2.20.0`.
#[derive(Clone, Debug, PartialEq, Eq)]
pub(super) struct ProviderVersions {
    addr: ProviderAddr,
    versions: Vec<Version>,
}

impl FromStr for ProviderVersions {
    type Err = String;

    fn from_str(text: &str) -> Result<Self, Self::Err> {
        let form = || "must be ADDRESS=VERSION,…, such as coder/coder=2.13.0,2.20.0".to_owned();
        let (addr, versions) = text.split_once('=').ok_or_else(form)?;
        let version = |text: &str| {
            let parsed = text.parse::<Version>();
            parsed.map_err(|error| format!("`{text}` is no version: {error}"))
        };
        Ok(Self {
            addr: ProviderAddr::parse(addr, DEFAULT_HOST).map_err(|error| error.to_string())?,
            versions: versions.split(',').map(version).collect::<Result<_, _>>()?,
        })
    }
}

/// An engine and versions of providers.
pub(super) struct Variant {
    pub(super) engine: EngineArgs,
    pub(super) pins: Pins,
    /// Empty for the only one.
    pub(super) name: String,
}

/// All combinations of the engines and the versions of each provider.
///
/// # Errors
/// If one of several engines does not work.
pub(super) async fn variants(
    engines: Vec<EngineArgs>,
    providers: &[ProviderVersions],
    stop: &Stop,
) -> anyhow::Result<Vec<Variant>> {
    let names = match engines.len() {
        1 => vec![String::new()],
        _ => names(&engines, stop).await?,
    };
    let mut variants: Vec<_> = engines
        .into_iter()
        .zip(names)
        .map(|(engine, name)| Variant {
            engine,
            pins: Pins::new(),
            name,
        })
        .collect();
    for provider in providers {
        let with = |variant: &Variant, version: &Version| {
            let mut pins = variant.pins.clone();
            pins.insert(provider.addr.clone(), version.clone());
            let own = format!("{} {version}", provider.addr.short());
            Variant {
                engine: variant.engine.clone(),
                pins,
                name: match variant.name.as_str() {
                    "" => own,
                    name => format!("{name}, {own}"),
                },
            }
        };
        let all = variants
            .iter()
            .flat_map(|variant| provider.versions.iter().map(move |it| with(variant, it)));
        variants = all.collect();
    }
    Ok(variants)
}

/// Products and versions of engines, with their paths where that is not enough.
async fn names(engines: &[EngineArgs], stop: &Stop) -> anyhow::Result<Vec<String>> {
    let mut names: Vec<String> = Vec::new();
    for engine in engines {
        let binary = engine.installed(stop).await?;
        let binary = binary.context("an engine of `--engine` is not installed")?;
        let product = match binary.kind {
            Kind::Terraform => "terraform",
            Kind::OpenTofu => "tofu",
        };
        let name = format!("{product} {}", binary.version);
        names.push(match names.contains(&name) {
            true => format!("{name} {}", binary.path.display()),
            false => name,
        });
    }
    Ok(names)
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn versions_of_a_provider_are_a_list_behind_its_address() {
        let parsed: ProviderVersions = "coder/coder=2.13.0,2.20.0".parse().unwrap();
        assert_eq!(parsed.addr.short(), "coder/coder");
        assert_eq!(parsed.versions.len(), 2);
        for text in [
            "coder/coder",
            "coder/coder=",
            "coder/coder=new",
            "=1.0.0",
            "a b=1.0.0",
        ] {
            assert!(text.parse::<ProviderVersions>().is_err(), "{text}");
        }
    }
}

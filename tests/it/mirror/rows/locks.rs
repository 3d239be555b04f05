//! Lock files as templates bring them along, and each way in which an engine gets its providers.

use outpost::mirror::setup::{Mode, Setup};

use super::*;

/// Of another platform's package.
const FOREIGN_H1: &str = "h1:AAAAAAAAAAAAAAAAAAAAAAAAAAAAAAAAAAAAAAAAAAA=";

#[derive(Clone, Copy, Debug, PartialEq)]
enum Way {
    Registry,
    NetworkMirror,
    Packed,
    Unpacked,
    /// A network mirror, and a plugin cache that has the package.
    PluginCache,
    /// An OCI registry, of which Terraform knows nothing.
    Oci,
}

/// What a lock file may have; in this order, as engines sort them.
#[derive(Clone, Copy, Debug)]
enum Hash {
    Own,
    Foreign,
    Zip,
    Zips,
}
use Hash::{Foreign, Own, Zip, Zips};

/// How one ends: the hashes in the lock file afterwards, and whether the package was fetched over the network.
type End = Option<(&'static [Hash], bool)>;

struct Row {
    /// Nothing: there is no lock file.
    before: Option<&'static [Hash]>,
    registry: End,
    network_mirror: End,
    packed: End,
    unpacked: End,
    plugin_cache: End,
    /// It has nothing but the digest of a package to compare, so `h1` alone is not enough.
    oci: End,
}

const ROWS: [Row; 7] = [
    Row {
        before: None,
        registry: Some((&[Own, Zips], true)),
        network_mirror: Some((&[Own], true)),
        packed: Some((&[Own], false)),
        unpacked: Some((&[Own], false)),
        plugin_cache: Some((&[Own], true)),
        oci: Some((&[Own], true)),
    },
    Row {
        before: Some(&[Own]),
        registry: Some((&[Own, Zips], true)),
        network_mirror: Some((&[Own], true)),
        packed: Some((&[Own], false)),
        unpacked: Some((&[Own], false)),
        plugin_cache: Some((&[Own], false)),
        oci: None,
    },
    Row {
        before: Some(&[Zips]),
        registry: Some((&[Own, Zips], true)),
        network_mirror: Some((&[Own, Zips], true)),
        packed: Some((&[Own, Zips], false)),
        unpacked: Some((&[Own, Zips], false)),
        plugin_cache: Some((&[Own, Zips], true)),
        oci: Some((&[Own, Zips], true)),
    },
    Row {
        before: Some(&[Foreign]),
        registry: None,
        network_mirror: None,
        packed: None,
        unpacked: None,
        plugin_cache: None,
        oci: None,
    },
    Row {
        before: Some(&[Foreign, Zips]),
        registry: Some((&[Foreign, Own, Zips], true)),
        network_mirror: Some((&[Foreign, Own, Zips], true)),
        packed: Some((&[Foreign, Own, Zips], false)),
        unpacked: None,
        plugin_cache: Some((&[Foreign, Own, Zips], true)),
        oci: Some((&[Foreign, Own, Zips], true)),
    },
    Row {
        before: Some(&[Own, Zips]),
        registry: Some((&[Own, Zips], true)),
        network_mirror: Some((&[Own, Zips], true)),
        packed: Some((&[Own, Zips], false)),
        unpacked: Some((&[Own, Zips], false)),
        plugin_cache: Some((&[Own, Zips], false)),
        oci: Some((&[Own, Zips], true)),
    },
    Row {
        before: Some(&[]),
        registry: Some((&[Own, Zips], true)),
        network_mirror: Some((&[Own], true)),
        packed: Some((&[Own], false)),
        unpacked: Some((&[Own], false)),
        plugin_cache: Some((&[Own], true)),
        oci: Some((&[Own], true)),
    },
];

impl Row {
    fn end(&self, way: Way) -> End {
        match way {
            Way::Registry => self.registry,
            Way::NetworkMirror => self.network_mirror,
            Way::Packed => self.packed,
            Way::Unpacked => self.unpacked,
            Way::PluginCache => self.plugin_cache,
            Way::Oci => self.oci,
        }
    }
}

const WAYS: [Way; 6] = [
    Way::Registry,
    Way::NetworkMirror,
    Way::Packed,
    Way::Unpacked,
    Way::PluginCache,
    Way::Oci,
];

const TEMPLATE: &str = "terraform {\n  required_providers {\n    coder = { source = \"registry.example/acme/coder\" }\n  }\n}\n";

fn lock_of(engine: &str, package: &Package, hashes: &[Hash]) -> String {
    let mut all: Vec<_> = hashes
        .iter()
        .flat_map(|hash| match hash {
            Own => vec![package.h1_tree.to_string()],
            Foreign => vec![FOREIGN_H1.to_owned()],
            Zip => vec![package.archive.zh().to_string()],
            Zips => vec![format!("zh:{ELSEWHERE}"), package.archive.zh().to_string()],
        })
        .collect();
    all.sort();
    lock_file(engine, &all)
}

/// A filesystem mirror with the package, as it came or unpacked.
fn filesystem_mirror(site: &Site, is_packed: bool) -> String {
    let root = site.dir.path().join("fs");
    let place = root.join(HOST).join("acme/coder");
    let store = Store::open(&site.dir.path().join("store")).unwrap();
    let archive = store.path(site.package.archive);
    if is_packed {
        fs::create_dir_all(&place).unwrap();
        fs::copy(archive, place.join(&site.package.filename)).unwrap();
    } else {
        let place = place.join(VERSION).join(site.package.platform.to_string());
        fs::create_dir_all(&place).unwrap();
        let mut zip = zip::ZipArchive::new(fs::File::open(archive).unwrap()).unwrap();
        zip.extract(place).unwrap();
    }
    let path = root.display();
    format!("provider_installation {{\n  filesystem_mirror {{\n    path = \"{path}\"\n  }}\n}}\n")
}

async fn run(engine: &'static str, row: &Row, way: Way) -> Result<(), String> {
    if way == Way::Oci && engine == "terraform" {
        return Ok(());
    }
    let site = Site::start(|_| Vec::new(), None).await;
    let config = match way {
        Way::Oci => {
            let url = site.url.parse().unwrap();
            let setup = Setup::new(&url, Mode::Oci, Vec::new(), Vec::new(), None);
            setup.unwrap().rc()
        }
        Way::Registry => site.hosts(),
        Way::NetworkMirror | Way::PluginCache => site.network_mirror("URL/mirror/"),
        Way::Packed => filesystem_mirror(&site, true),
        Way::Unpacked => filesystem_mirror(&site, false),
    };
    let cache = (way == Way::PluginCache).then(|| site.dir.path().join("cache"));
    if let Some(cache) = &cache {
        fs::create_dir(cache).unwrap();
        site.write(TEMPLATE, None);
        let warm = site.init(engine, &config, &[], Some(cache)).await;
        assert!(warm.status.success(), "{}", said(&warm));
    }
    let before = row
        .before
        .map(|hashes| lock_of(engine, &site.package, hashes));
    site.write(TEMPLATE, before.as_deref());

    let output = site.init(engine, &config, &[], cache.as_deref()).await;

    let end = row.end(way);
    let expected = match end {
        // OpenTofu keeps what a mirror vouched for, too.
        Some(([Own], true)) if engine == "tofu" => {
            Some(lock_of(engine, &site.package, &[Own, Zip]))
        }
        Some((hashes, _)) => Some(lock_of(engine, &site.package, hashes)),
        None => before,
    };
    let asked = site.asked(engine);
    let is_fetched = asked.split(' ').any(|it| it == "archive");
    // OpenTofu asks nobody from 1.12 on if its cache has what the lock file wants.
    let is_offline = matches!(way, Way::Packed | Way::Unpacked);
    let may_ask_nobody = way == Way::PluginCache && engine == "tofu" && !is_fetched;
    let is_as_expected = output.status.success() == end.is_some()
        && site.lock() == expected
        && end.is_none_or(|(_, fetched)| fetched == is_fetched)
        && (asked.is_empty() == is_offline || may_ask_nobody);
    match is_as_expected {
        true => Ok(()),
        false => Err(format!(
            "{engine}, {:?} by {way:?}: {}\nsaid: {}\nasked: {asked}\nlock: {}\nnot: {}",
            row.before,
            output.status,
            said(&output),
            site.lock().unwrap_or_default(),
            expected.unwrap_or_default()
        )),
    }
}

#[tokio::test]
async fn every_lock_file_ends_as_it_should_by_every_way() {
    let rows: Vec<_> = ROWS
        .iter()
        .flat_map(|row| WAYS.map(|way| (row, way)))
        .collect();
    all(&rows, |engine, index| {
        let (row, way) = rows[index];
        run(engine, row, way)
    })
    .await;
}

#[tokio::test]
async fn a_lock_file_that_may_not_change_needs_one_hash_that_matches() {
    let site = Site::start(|_| Vec::new(), None).await;
    let config = site.network_mirror("URL/mirror/");
    let zips = lock_of("terraform", &site.package, &[Zips]);
    for (before, succeeds) in [(Some(zips.as_str()), true), (None, false)] {
        site.write(TEMPLATE, before);

        let output = site
            .init("terraform", &config, &["-lockfile=readonly"], None)
            .await;

        assert_eq!(output.status.success(), succeeds, "{}", said(&output));
        assert_eq!(site.lock().as_deref(), before);
    }
}

//! What a list of components says of packages: their names for other programs, their licences, and what they were built from.

use std::{
    fs,
    io::{Cursor, Write as _},
};

use outpost::{
    mirror::{
        Digest, Store,
        generation::{Generation, GitRepository, Module, Tool},
    },
    registry::Platform,
    stop::Stop,
};
use serde_json::{Value, json};
use zip::{ZipWriter, write::SimpleFileOptions};

use super::Site;

const OURS: &str = "Nobody may use this on Sundays.\n";

fn engine(store: &Store) -> Tool {
    let program = fs::read(which::which("terraform").unwrap()).unwrap();
    let mut zip = ZipWriter::new(Cursor::new(Vec::new()));
    let options = SimpleFileOptions::default().unix_permissions(0o755);
    for (name, content) in [
        ("terraform", program.as_slice()),
        ("LICENSE.txt", OURS.as_bytes()),
        ("docs/LICENSE", b"of something else"),
    ] {
        zip.start_file(name, options).unwrap();
        zip.write_all(content).unwrap();
    }
    let content = zip.finish().unwrap().into_inner();
    Tool {
        name: "terraform".to_owned(),
        version: "1.11.4".parse().unwrap(),
        platform: Platform::current(),
        filename: "terraform.zip".to_owned(),
        archive: store.put(&content).unwrap(),
        size: content.len() as u64,
        signed: None,
    }
}

fn module(store: &Store) -> Module {
    let gzip = flate2::write::GzEncoder::new(Vec::new(), flate2::Compression::fast());
    let mut tar = tar::Builder::new(gzip);
    let apache = include_str!("../../../../LICENSE");
    for (name, content) in [
        ("modules/vpc/main.tf", ""),
        ("modules/vpc/LICENSE", apache),
        ("examples/LICENSE", OURS),
    ] {
        let mut header = tar::Header::new_gnu();
        header.set_size(content.len() as u64);
        header.set_mode(0o644);
        header.set_cksum();
        tar.append_data(&mut header, name, content.as_bytes())
            .unwrap();
    }
    let content = tar.into_inner().unwrap().finish().unwrap();
    Module {
        addr: "registry.example/acme/vpc/aws".to_owned(),
        version: "1.2.0".parse().unwrap(),
        archive: store.put(&content).unwrap(),
        size: content.len() as u64,
        origin: String::new(),
        dir: "modules/vpc".to_owned(),
    }
}

fn repository(store: &Store, commit: &str) -> GitRepository {
    GitRepository {
        url: "https://github.com/Acme/Mods.git".to_owned(),
        refs: [("refs/tags/v1".to_owned(), commit.to_owned())].into(),
        head: None,
        pack: store.put(b"pack").unwrap(),
        index: store.put(b"index").unwrap(),
    }
}

#[tokio::test]
async fn components_have_package_urls_the_licences_inside_and_the_go_modules_of_a_real_engine() {
    let site = Site::new();
    let (store, commit) = (site.store(), "0123456789".repeat(4));
    let (engine, module) = (engine(&store), module(&store));
    let lock = store.lock(&Stop::new()).await.unwrap();
    let generation = Generation {
        tools: vec![engine.clone()],
        modules: vec![module.clone()],
        git: vec![repository(&store, &commit)],
        ..Generation::default()
    };
    store.commit(generation, None, &lock).unwrap();
    drop(lock);
    site.done(&["key", "generate", "site"]);
    let bundle = |out: &str, list: &str| {
        site.done(&["bundle", "--key", "site.key", "--out", out, "--sbom", list]);
        fs::read(site.path(list)).unwrap()
    };

    let text = bundle("all", "all.cdx.json");

    assert_eq!(
        bundle("again", "again.cdx.json"),
        text,
        "equal content is equal text"
    );
    let list: Value = serde_json::from_slice(&text).unwrap();
    let components = list["components"].as_array().unwrap();
    let named = |name: &str| components.iter().find(|it| it["name"] == name).unwrap();
    let of_file = |path: &str, content: &str| {
        json!([
            { "name": "outpost:file", "value": path },
            { "name": "outpost:sha256", "value": Digest::of(content.as_bytes()).to_string() },
        ])
    };
    let terraform = named("terraform");
    let purl = format!(
        "pkg:generic/terraform@1.11.4?checksum=sha256:{}",
        engine.archive
    );
    assert_eq!(terraform["purl"], purl);
    let unknown = json!([{ "license": { "name": "LICENSE.txt", "properties": of_file("LICENSE.txt", OURS) } }]);
    assert_eq!(terraform["licenses"], unknown, "nothing is guessed");
    let vpc = named("registry.example/acme/vpc/aws");
    let apache = of_file("modules/vpc/LICENSE", include_str!("../../../../LICENSE"));
    assert_eq!(
        vpc["licenses"],
        json!([{ "license": { "id": "Apache-2.0", "properties": apache } }])
    );
    let mods = named("github.com/Acme/Mods");
    assert_eq!(mods["purl"], "pkg:github/acme/mods");
    assert_eq!(
        mods["components"][0]["purl"],
        format!("pkg:github/acme/mods@{commit}")
    );
    let hcl = named("github.com/hashicorp/hcl/v2");
    let purl = hcl["purl"].as_str().unwrap();
    assert!(
        purl.starts_with("pkg:golang/github.com/hashicorp/hcl/v2@v2."),
        "{purl}"
    );
    let dependencies = list["dependencies"].as_array().unwrap();
    assert_eq!(dependencies.len(), 1, "{dependencies:?}");
    assert_eq!(dependencies[0]["ref"], terraform["bom-ref"]);
    let on = dependencies[0]["dependsOn"].as_array().unwrap();
    assert!(on.contains(&hcl["bom-ref"]), "{on:?}");
    let stdlib = on.iter().filter_map(Value::as_str);
    assert!(
        stdlib
            .clone()
            .any(|it| it.starts_with("pkg:golang/stdlib@1.")),
        "{on:?}"
    );
}

use outpost_base::registry::DEFAULT_HOST;
use outpost_language::lock::Lock;

use super::*;
use crate::{
    Digest,
    generation::{Module, Signed},
    lock::lock,
    scan::tests::tree,
};

const DEMO: &str = "registry.terraform.io/acme/demo";
const PLATFORMS: [&str; 2] = ["linux_amd64", "linux_arm64"];

fn platforms() -> Vec<Platform> {
    PLATFORMS
        .iter()
        .map(|platform| platform.parse().unwrap())
        .collect()
}

fn package(version: &str, platform: &str) -> Package {
    let seed = Digest::of(format!("{version} {platform}").as_bytes());
    Package {
        platform: platform.parse().unwrap(),
        filename: format!("terraform-provider-demo_{version}_{platform}.zip"),
        archive: seed,
        size: 1,
        h1_zip: Hash::H1(seed.0),
        h1_tree: Hash::H1(seed.0),
    }
}

fn generation(store: &Store) -> Generation {
    let provider = |(version, platforms): (&str, &[&str])| Provider {
        addr: DEMO.parse().unwrap(),
        version: version.parse().unwrap(),
        protocols: Vec::new(),
        signed: None,
        packages: platforms
            .iter()
            .map(|platform| package(version, platform))
            .collect(),
    };
    let module = tree(&[
        ("main.tf", "module \"x\" { source = \"./x\" }"),
        ("x/main.tf", ""),
    ]);
    let all: &[&str] = &PLATFORMS;
    Generation {
        providers: [("1.0.0", all), ("1.1.0", &all[..1]), ("2.0.0", all)]
            .map(provider)
            .to_vec(),
        modules: vec![Module {
            addr: "registry.terraform.io/acme/ide/coder".to_owned(),
            version: Version::new(1, 0, 0),
            archive: store.put(&module.pack().unwrap()).unwrap(),
            size: 1,
            origin: String::new(),
            dir: String::new(),
        }],
        ..Generation::default()
    }
}

fn requires(constraint: &str) -> String {
    let demo = format!("demo = {{ source = \"acme/demo\", version = \"{constraint}\" }}");
    format!("terraform {{\n  required_providers {{\n    {demo}\n  }}\n}}\n")
}

async fn items(files: &[(&str, &str)]) -> Vec<String> {
    let dir = tempfile::tempdir().unwrap();
    let store = Store::open(dir.path()).unwrap();
    let generation = generation(&store);
    let closure = closure(&store, &generation, tree(files), DEFAULT_HOST).await;
    let engine = JobEngine {
        name: "terraform",
        versions: vec![Version::new(1, 11, 4)],
    };
    let items = examine(&closure, &generation, &platforms(), &engine);
    items
        .iter()
        .map(|item| format!("{}: {:?}: {}", item.item, item.verdict, item.detail))
        .collect()
}

fn locked(version: &str, hash: &Hash) -> String {
    format!("provider \"{DEMO}\" {{\n  version = \"{version}\"\n  hashes = [\"{hash}\"]\n}}\n")
}

#[tokio::test]
async fn each_item_is_told_with_how_it_stands() {
    let main = format!(
        "{}module \"ide\" {{ source = \"acme/ide/coder\" }}\n\
         module \"old\" {{\n  source  = \"acme/ide/coder\"\n  version = \"~> 0.9\"\n}}\n\
         module \"git\" {{ source = \"git::https://git.example/x.git\" }}\n\
         module \"s3\" {{ source = \"s3::https://bucket.example/x.zip\" }}\n\
         module \"var\" {{ source = var.source }}\n\
         resource \"null_resource\" \"x\" {{}}\n",
        requires("~> 2.0")
    );

    let items = items(&[("main.tf", &main)]).await;

    assert_eq!(
        items,
        [
            "provider registry.terraform.io/acme/demo: Present: 2.0.0, without a publisher's signature: other machines can get it \
             only from the network mirror, over https://",
            "provider registry.terraform.io/hashicorp/null: Missing: not in the mirror",
            "module registry.terraform.io/acme/ide/coder: Present: 1.0.0",
            "main.tf:13: Unclear: the source of module `var` is an expression",
            "module.old: Unsatisfiable: `~> 0.9` is required, but the mirror has 1.0.0",
            "module.git: Missing: the mirror does not have the repository",
            "module.s3: NotMirrorable: it is in a bucket",
        ]
    );
}

#[tokio::test]
async fn a_version_counts_for_every_platform_and_only_if_the_template_accepts_it() {
    let main = requires("~> 1.0");
    let missing = items(&[("main.tf", &main)]).await;
    assert_eq!(
        missing,
        ["provider registry.terraform.io/acme/demo: Missing: 1.1.0 is missing for linux_arm64"]
    );

    let main = requires("~> 3.0");
    let other = items(&[("main.tf", &main)]).await;
    assert!(
        other[0].contains("Unsatisfiable: there is 1.0.0, 1.1.0, 2.0.0"),
        "{other:?}"
    );
}

#[tokio::test]
async fn a_lock_file_decides_about_the_version_and_the_package() {
    let main = requires("~> 1.0");
    let lock = |version: &str, hash: &Hash| {
        vec![
            ("main.tf".to_owned(), main.clone()),
            (".terraform.lock.hcl".to_owned(), locked(version, hash)),
        ]
    };
    let items = |files: Vec<(String, String)>| async move {
        let files: Vec<_> = files
            .iter()
            .map(|(name, text)| (name.as_str(), text.as_str()))
            .collect();
        items(&files).await.remove(0)
    };
    let amd64 = package("1.0.0", "linux_amd64").h1_zip;

    let one = items(lock("1.0.0", &amd64)).await;
    assert!(
        one.contains("LockMismatch") && one.contains("linux_arm64"),
        "{one}"
    );
    let newer = items(lock("1.2.0", &amd64)).await;
    assert!(
        newer.contains("Missing: the newest there is 2.0.0"),
        "{newer}"
    );
    let outside = items(lock("2.0.0", &amd64)).await;
    assert!(
        outside.contains("Unsatisfiable: the lock file has 2.0.0"),
        "{outside}"
    );
}

#[tokio::test]
async fn a_new_lock_file_fits_every_platform_and_keeps_what_was_there() {
    let dir = tempfile::tempdir().unwrap();
    let store = Store::open(dir.path()).unwrap();
    let mut generation = generation(&store);
    let darwin = "0f".repeat(32);
    let sums = format!(
        "{darwin}  terraform-provider-demo_1.0.0_darwin_arm64.zip\n{darwin}  manifest.json\n"
    );
    generation.providers[0].signed = Some(Signed {
        shasums: store.put(sums.as_bytes()).unwrap(),
        signature: Digest::of(b""),
        keys: Vec::new(),
    });
    let foreign = Hash::H1([9; 32]);
    let main = requires("~> 1.0");
    let files = tree(&[
        ("main.tf", &main),
        (".terraform.lock.hcl", &locked("1.0.0", &foreign)),
    ]);
    let closure = closure(&store, &generation, files, DEFAULT_HOST).await;

    let lock = lock(&store, &closure, &generation, &platforms()).unwrap();

    let text = lock.to_string();
    assert!(
        text.contains("constraints = \"~> 1.0\"") && text.contains(&foreign.to_string()),
        "{text}"
    );
    for platform in PLATFORMS {
        let package = package("1.0.0", platform);
        assert!(text.contains(&package.h1_tree.to_string()), "{text}");
        assert!(text.contains(&package.archive.zh().to_string()), "{text}");
    }
    assert_eq!(text.matches(&format!("zh:{darwin}")).count(), 1);
    assert_eq!(Lock::parse(&text).unwrap().to_string(), text);
}

#[tokio::test]
async fn what_engines_refuse_is_not_taken_for_good() {
    let main = "module \"up\" { source = \"../outside\" }\n\
                module \"sign\" {\n  source  = \"acme/ide/coder\"\n  version = \"=> 1\"\n}\n\
                module \"var\" { source = var.source }\n";
    let all = items(&[("main.tf", main)]).await;

    assert!(
        all[0].starts_with("module.up: Invalid: `../outside` does not exist"),
        "{all:?}"
    );
    assert!(all[1].starts_with("module.sign: Invalid: "), "{all:?}");
    assert!(all[2].contains("Unclear"), "{all:?}");
    let broken = items(&[("main.tf", "module {")]).await;
    assert!(broken[0].contains("Invalid"), "{broken:?}");
    for bad in [Verdict::Invalid, Verdict::Unclear, Verdict::Missing] {
        assert!(!bad.is_good(), "{bad:?}");
    }
}

#[tokio::test]
async fn the_engine_must_be_one_that_every_module_accepts() {
    let dir = tempfile::tempdir().unwrap();
    let store = Store::open(dir.path()).unwrap();
    let mut generation = generation(&store);
    let tool = |(version, platform): (&str, &str)| crate::generation::Tool {
        name: "terraform".to_owned(),
        version: version.parse().unwrap(),
        platform: platform.parse().unwrap(),
        filename: String::new(),
        archive: Digest::of(b""),
        size: 0,
        signed: None,
    };
    let files = tree(&[
        (
            "main.tf",
            "terraform {\n  required_version = \">= 1.3\"\n}\nmodule \"a\" { source = \"./a\" }\n",
        ),
        (
            "a/main.tf",
            "terraform {\n  required_version = \"~> 1.9.0\"\n}\n",
        ),
    ]);
    let closure = closure(&store, &generation, files, DEFAULT_HOST).await;
    let examined = |generation: &Generation, versions: &[&str]| {
        let engine = JobEngine {
            name: "terraform",
            versions: versions.iter().map(|it| it.parse().unwrap()).collect(),
        };
        let items = examine(&closure, generation, &platforms(), &engine);
        let engine = items.iter().find(|it| it.item == "engine terraform");
        let engine = engine.unwrap();
        (engine.verdict, engine.detail.clone())
    };

    let (verdict, detail) = examined(&generation, &["1.9.8", "1.11.4"]);
    assert_eq!(verdict, Verdict::Unsatisfiable);
    assert_eq!(detail, "jobs have 1.11.4; module.a requires ~> 1.9.0");
    assert_eq!(examined(&generation, &["1.9.8"]).0, Verdict::Present);
    let (verdict, detail) = examined(&generation, &[]);
    assert_eq!(verdict, Verdict::Missing);
    assert!(detail.contains("--engine-version"), "{detail}");
    // A tool that exists for some platforms only does not count.
    generation.tools = [
        ("1.9.8", "linux_amd64"),
        ("1.11.4", "linux_amd64"),
        ("1.11.4", "linux_arm64"),
    ]
    .map(tool)
    .to_vec();
    let (verdict, detail) = examined(&generation, &[]);
    assert_eq!(verdict, Verdict::Unsatisfiable);
    assert_eq!(detail, "there is 1.11.4; module.a requires ~> 1.9.0");
    generation.tools.push(tool(("1.9.8", "linux_arm64")));
    let (verdict, detail) = examined(&generation, &[]);
    assert_eq!(verdict, Verdict::Present);
    assert!(detail.starts_with("1.9.8; jobs use 1.11.4"), "{detail}");
    // A template without a constraint gets no message about it.
    let any = super::closure(&store, &generation, tree(&[("main.tf", "")]), DEFAULT_HOST).await;
    let engine = JobEngine {
        name: "terraform",
        versions: Vec::new(),
    };
    assert_eq!(examine(&any, &generation, &platforms(), &engine), []);
}

//! A limit for what is pulled: what goes for something new, what never does, and how it comes again.

use std::{
    fs::{self, File},
    process::{Command, Stdio},
    time::{Duration, SystemTime},
};

use nix::{
    sys::signal::{Signal, kill},
    unistd::Pid,
};
use outpost::{
    mirror::{
        Digest, Store,
        pulled::{Known, Ledger, State},
        tend::{self, Wanted},
    },
    registry::Platform,
    stop::Stop,
};
use tokio::time::timeout;

use super::{
    super::origin::{Origin, Publisher},
    DEMO, HOST, Site, download, name, said,
};
use crate::support::small_disk::with_small_disk;

/// Bytes of each package, nearly.
const PADDING: usize = 100_000;
/// Room for two of them.
const TWO: u64 = 250_000;

/// An origin with versions of a provider for this platform.
async fn origin(versions: &[&str], padding: usize) -> (Origin, Publisher) {
    let (origin, publisher) = (Origin::start().await, Publisher::new());
    let here = Platform::current().to_string();
    for version in versions {
        origin.publish(&publisher, DEMO, version, &[&here], padding);
    }
    (origin, publisher)
}

fn digest(origin: &Origin, version: &str) -> Digest {
    Digest::of(&origin.file(&format!("{HOST}/files/{}", name(version))))
}

impl Site {
    async fn limited(origin: &Origin, max_bytes: u64) -> Self {
        Self::with_limit(origin, tempfile::tempdir().unwrap(), Some(max_bytes)).await
    }

    /// Where a document says that the package of a version is.
    async fn place(&self, version: &str) -> String {
        let here = Platform::current().to_string();
        let found = self.json(&download(version, &here)).await;
        let place = found["download_url"].as_str().unwrap();
        place.trim_start_matches('/').to_owned()
    }

    async fn fetch(&self, version: &str) -> (u16, Vec<u8>) {
        let place = self.place(version).await;
        self.get(&place).await
    }

    fn versions(&self) -> Vec<String> {
        let (_, generation) = self.store.newest().unwrap();
        let versions = generation.providers.iter().map(|it| it.version.to_string());
        versions.collect()
    }

    async fn metric(&self, name: &str) -> String {
        let (_, text) = self.get("metrics").await;
        let text = String::from_utf8(text).unwrap();
        let line = text
            .lines()
            .find_map(|line| line.strip_prefix(&format!("{name} ")));
        line.unwrap_or_else(|| panic!("no {name}: {text}"))
            .to_owned()
    }
}

/// Says that an archive was last used so many seconds after the year 2000.
fn used(store: &Store, digest: Digest, seconds: u64) {
    let path = store.dir().join(format!("pulled/{digest}.json"));
    let at = SystemTime::UNIX_EPOCH + Duration::from_secs(946_684_800 + seconds);
    File::open(path).unwrap().set_modified(at).unwrap();
}

fn known(store: &Store, digest: Digest) -> Known {
    Ledger::of(store).all().unwrap()[&digest].clone()
}

/// What `mirror verify` finds.
fn problems(store: &Store) -> Vec<tend::Problem> {
    let wanted = Wanted::default();
    tend::verify(store, &wanted, &Stop::new()).unwrap().problems
}

#[tokio::test]
async fn the_least_recently_used_package_gives_way_and_comes_again_under_the_same_checksums() {
    let (origin, publisher) = origin(&["1.0.0", "1.1.0", "1.2.0"], PADDING).await;
    let site = Site::limited(&origin, TWO).await;
    for version in ["1.0.0", "1.1.0"] {
        assert_eq!(site.fetch(version).await.0, 200);
    }
    let [first, second] = ["1.0.0", "1.1.0"].map(|version| digest(&origin, version));
    used(&site.store, first, 2);
    used(&site.store, second, 1);
    let place = site.place("1.1.0").await;

    assert_eq!(site.fetch("1.2.0").await.0, 200);

    assert_eq!(site.versions(), ["1.0.0", "1.2.0"]);
    assert!(site.store.has(first) && !site.store.has(second));
    assert_eq!(known(&site.store, second).entry.state, State::Gone);
    assert_eq!(
        site.metric("outpost_mirror_evicted_packages_total").await,
        "1"
    );
    assert_eq!(
        site.metric("outpost_mirror_pulled_max_bytes").await,
        TWO.to_string()
    );
    let bytes: u64 = site
        .metric("outpost_mirror_pulled_bytes")
        .await
        .parse()
        .unwrap();
    assert!((2 * PADDING as u64..=TWO).contains(&bytes), "{bytes}");
    assert_eq!(
        problems(&site.store),
        [],
        "generations from before lack it, and that is known"
    );
    // A document from before still leads to it.
    let (status, content) = site.get(&place).await;
    assert_eq!((status, Digest::of(&content)), (200, second));
    assert_eq!(site.versions(), ["1.1.0", "1.2.0"]);

    let here = Platform::current().to_string();
    origin.publish(&publisher, DEMO, "1.0.0", &[&here], PADDING + 1);
    let site = Site::with_limit(&origin, site.dir, Some(TWO)).await;
    let (status, why) = site.get(&download("1.0.0", &here)).await;
    let why = String::from_utf8_lossy(&why).into_owned();
    assert_eq!(status, 502, "{why}");
    assert!(
        why.contains(&first.to_string()),
        "its pin is there still: {why}"
    );
}

#[tokio::test]
async fn a_download_counts_as_a_use_also_after_a_restart() {
    let (origin, _) = origin(&["1.0.0"], 10).await;
    let site = Site::limited(&origin, TWO).await;
    assert_eq!(site.fetch("1.0.0").await.0, 200);
    let digest = digest(&origin, "1.0.0");
    used(&site.store, digest, 1);
    let before = known(&site.store, digest).used;

    let site = Site::with_limit(&origin, site.dir, Some(TWO)).await;
    assert_eq!(site.fetch("1.0.0").await.0, 200);

    let since = known(&site.store, digest)
        .used
        .duration_since(before)
        .unwrap();
    assert!(since > Duration::from_secs(60 * 60), "{since:?}");
}

#[tokio::test]
async fn what_a_client_downloads_stays_until_it_has_it() {
    // More than sockets hold for somebody who does not read.
    let padding = 24 << 20;
    let (origin, _) = origin(&["1.0.0", "1.1.0"], padding).await;
    let site = Site::limited(&origin, padding as u64 + PADDING as u64).await;
    let client = reqwest::Client::builder().no_proxy().build().unwrap();
    let url = format!("{}{}", site.url, site.place("1.0.0").await);
    let slow = client.get(url).send().await.unwrap();
    assert_eq!(slow.status(), 200);

    let (status, why) = site.fetch("1.1.0").await;

    let why = String::from_utf8_lossy(&why).into_owned();
    assert_eq!(status, 507, "{why}");
    assert!(
        why.contains("being downloaded") && why.contains("--pull-through-max-size"),
        "{why}"
    );
    assert!(
        !site.store.has(digest(&origin, "1.1.0")),
        "what found no room is not left there"
    );
    let content = slow.bytes().await.unwrap();
    assert_eq!(Digest::of(&content), digest(&origin, "1.0.0"));
    // The server notices a moment later that the client has it all.
    let evicting = async { while site.fetch("1.1.0").await.0 != 200 {} };
    timeout(Duration::from_secs(30), evicting).await.unwrap();
    assert_eq!(site.versions(), ["1.1.0"]);
}

#[tokio::test]
async fn what_a_sync_brought_or_the_mirror_toml_names_is_never_evicted() {
    let (origin, _) = origin(&["1.0.0", "1.1.0", "1.2.0", "1.3.0"], PADDING).await;
    let dir = tempfile::tempdir().unwrap();
    let entry = |version: &str| {
        format!(
            "{}[[providers]]\nsource = \"{DEMO}\"\nversions = [\"{version}\"]\n",
            origin.host(HOST)
        )
    };
    fs::write(dir.path().join("mirror.toml"), entry("1.0.0")).unwrap();
    let site = Site::with_limit(&origin, dir, Some(TWO)).await;
    for version in ["1.0.0", "1.1.0", "1.2.0"] {
        assert_eq!(site.fetch(version).await.0, 200);
    }
    assert_eq!(
        site.versions(),
        ["1.0.0", "1.2.0"],
        "the oldest is named with its version"
    );

    fs::write(site.dir.path().join("other.toml"), entry("1.2.0")).unwrap();
    let mut sync = Command::new(env!("CARGO_BIN_EXE_outpost"));
    sync.args(["mirror", "sync", "--file", "other.toml", "--mirror-dir"]);
    sync.arg(site.store.dir()).current_dir(site.dir.path());
    let synced = tokio::task::spawn_blocking(move || sync.output().unwrap());
    let synced = synced.await.unwrap();
    assert!(synced.status.success(), "{}", said(&synced));
    for version in ["1.1.0", "1.3.0"] {
        assert_eq!(site.fetch(version).await.0, 200);
    }

    assert_eq!(site.versions(), ["1.0.0", "1.2.0", "1.3.0"]);
    let ledger = Ledger::of(&site.store).all().unwrap();
    assert!(
        !ledger.contains_key(&digest(&origin, "1.2.0")),
        "a sync wants it"
    );
}

#[tokio::test]
async fn a_package_larger_than_the_limit_is_refused_and_nothing_goes_for_it() {
    let (origin, publisher) = origin(&["1.0.0"], 10).await;
    let here = Platform::current().to_string();
    origin.publish(&publisher, DEMO, "2.0.0", &[&here], PADDING);
    let site = Site::limited(&origin, 50_000).await;
    assert_eq!(site.fetch("1.0.0").await.0, 200);

    let (status, why) = site.fetch("2.0.0").await;

    let why = String::from_utf8_lossy(&why).into_owned();
    assert_eq!(status, 507, "{why}");
    assert!(
        why.contains("--pull-through-max-size") && why.contains("50000"),
        "{why}"
    );
    assert_eq!(site.versions(), ["1.0.0"]);
    assert!(!site.store.has(digest(&origin, "2.0.0")));
}

#[tokio::test]
async fn an_eviction_that_was_killed_is_brought_to_its_end_by_the_next() {
    let (origin, _) = origin(&["1.0.0", "1.1.0", "1.2.0"], PADDING).await;
    let site = Site::limited(&origin, TWO).await;
    for version in ["1.0.0", "1.1.0"] {
        assert_eq!(site.fetch(version).await.0, 200);
    }
    let [first, second] = ["1.0.0", "1.1.0"].map(|version| digest(&origin, version));
    let ledger = Ledger::of(&site.store);
    // As after a kill before the generation changed, and after a kill behind that.
    for digest in [first, second] {
        ledger
            .set(digest, &known(&site.store, digest), State::Leaving)
            .unwrap();
    }
    let lock = site.store.lock(&Stop::new()).await.unwrap();
    let (number, mut generation) = site.store.newest().unwrap();
    generation
        .providers
        .retain(|it| it.version.to_string() == "1.0.0");
    site.store.commit(generation, Some(number), &lock).unwrap();
    drop(lock);
    let site = Site::with_limit(&origin, site.dir, Some(TWO)).await;

    assert_eq!(site.fetch("1.2.0").await.0, 200);

    assert_eq!(site.versions(), ["1.0.0", "1.2.0"]);
    assert_eq!(known(&site.store, first).entry.state, State::Here);
    assert_eq!(known(&site.store, second).entry.state, State::Gone);
    assert!(!site.store.has(second));
    assert_eq!(problems(&site.store), []);
}

#[tokio::test]
async fn a_rollback_leaves_out_what_was_evicted_since() {
    let (origin, _) = origin(&["1.0.0", "1.1.0"], PADDING).await;
    let site = Site::limited(&origin, 150_000).await;
    for version in ["1.0.0", "1.1.0"] {
        assert_eq!(site.fetch(version).await.0, 200);
    }
    assert_eq!(site.versions(), ["1.1.0"]);

    let mut rollback = Command::new(env!("CARGO_BIN_EXE_outpost"));
    rollback
        .args(["mirror", "rollback", "1", "--mirror-dir"])
        .arg(site.store.dir());
    let output = rollback.output().unwrap();

    assert!(output.status.success(), "{}", said(&output));
    let (number, generation) = site.store.newest().unwrap();
    assert_eq!((number, generation.providers.len()), (3, 0));
    assert!(said(&output).contains("left out"), "{}", said(&output));
}

#[tokio::test]
async fn a_full_disk_is_a_507_that_says_so_and_the_log_has_the_place() {
    let (origin, _) = origin(&["1.0.0"], 3 << 20).await;
    let dir = tempfile::tempdir().unwrap();
    fs::create_dir(dir.path().join("mirror")).unwrap();
    fs::write(dir.path().join("mirror.toml"), origin.host(HOST)).unwrap();
    let program = env!("CARGO_BIN_EXE_outpost");
    let serve = format!(
        "exec {program} mirror serve --mirror-dir mirror --listen 127.0.0.1:0 --pull-through mirror.toml"
    );
    let Some(mut serving) = with_small_disk(dir.path(), &serve) else {
        return;
    };
    let mut serving = serving.stderr(Stdio::piped()).spawn().unwrap();
    let stderr = std::io::BufReader::new(serving.stderr.take().unwrap());
    let mut lines = std::io::BufRead::lines(stderr).map(Result::unwrap);
    let url = lines.find_map(|line| {
        let (_, url) = line.split_once("Serving the mirror at ")?;
        Some(url.trim().to_owned())
    });
    let url = url.unwrap();
    let client = reqwest::Client::builder().no_proxy().build().unwrap();
    let here = Platform::current().to_string();
    let found = client
        .get(format!("{url}{}", download("1.0.0", &here)))
        .send()
        .await
        .unwrap();
    let found: serde_json::Value = serde_json::from_str(&found.text().await.unwrap()).unwrap();
    let place = found["download_url"]
        .as_str()
        .unwrap()
        .trim_start_matches('/')
        .to_owned();

    let answer = client.get(format!("{url}{place}")).send().await.unwrap();

    assert_eq!(answer.status(), 507);
    let why = answer.text().await.unwrap();
    assert!(why.contains("no space left"), "{why}");
    kill(Pid::from_raw(serving.id().cast_signed()), Signal::SIGTERM).unwrap();
    let log: Vec<_> = lines.collect();
    assert!(serving.wait().unwrap().success());
    let says_where = |line: &&String| line.contains("no space left") && line.contains("incoming");
    assert!(log.iter().any(|line| says_where(&line)), "{log:#?}");
}

//! Providers over the network mirror protocol.

use std::io::Write as _;

use super::*;

const INDEX: &str = "/mirror/registry.example/acme/coder/index.json";
const ARCHIVES: &str = "/mirror/registry.example/acme/coder/2.20.0.json";

/// What an engine asks of a mirror that has all.
const ALL: &str = "index.json 2.20.0.json HEAD:archive archive";

const UNAUTHENTICATED: &str = "(unauthenticated)";

struct Row {
    name: &'static str,
    /// The address in the configuration; `URL/` is the mirror's own.
    base: &'static str,
    answers: fn(&Package) -> Vec<(String, Answer)>,
    held: Option<&'static str>,
    succeeds: bool,
    says: &'static str,
    asked: &'static str,
}

impl Row {
    fn works(name: &'static str, answers: fn(&Package) -> Vec<(String, Answer)>) -> Self {
        Self {
            name,
            base: "URL/mirror/",
            answers,
            held: None,
            succeeds: true,
            says: "successfully initialized",
            asked: ALL,
        }
    }

    fn fails(
        name: &'static str,
        answers: fn(&Package) -> Vec<(String, Answer)>,
        says: &'static str,
        asked: &'static str,
    ) -> Self {
        Self {
            succeeds: false,
            says,
            asked,
            ..Self::works(name, answers)
        }
    }
}

fn platform() -> String {
    outpost::registry::Platform::current().to_string()
}

/// The document of a version with one archive.
fn archives(url: &str, hashes: &[String]) -> String {
    let mut archive = serde_json::json!({ "url": url });
    if !hashes.is_empty() {
        archive["hashes"] = hashes.into();
    }
    let platform = platform();
    serde_json::json!({ "archives": { platform: archive } }).to_string()
}

fn path(package: &Package) -> String {
    format!("/blobs/{}/{}", package.archive, package.filename)
}

fn zh(package: &Package) -> Vec<String> {
    vec![package.archive.zh().to_string()]
}

fn at(path: &str, answer: Answer) -> Vec<(String, Answer)> {
    vec![(path.to_owned(), answer)]
}

fn with_hashes(package: &Package, hashes: &[&str]) -> Vec<(String, Answer)> {
    let hashes: Vec<_> = hashes.iter().map(|hash| (*hash).to_owned()).collect();
    at(ARCHIVES, Answer::json(archives(&path(package), &hashes)))
}

fn redirects(count: usize) -> Vec<(String, Answer)> {
    let hop = |from: usize| match from {
        0 => INDEX.to_owned(),
        _ => format!("/hop/{from}/index.json"),
    };
    let to = |from: usize| match from + 1 == count {
        true => "/end/index.json".to_owned(),
        false => hop(from + 1),
    };
    let hops = (0..count).map(|it| (hop(it), Answer::status(302).with("location", to(it))));
    let end = Answer::json(r#"{"versions":{"2.20.0":{}}}"#);
    hops.chain([("/end/index.json".to_owned(), end)]).collect()
}

fn rows() -> Vec<Row> {
    vec![
        Row::works("our own answers", |_| Vec::new()),
        Row {
            base: "http://127.0.0.1:9/mirror/",
            ..Row::fails(
                "an address without TLS",
                |_| Vec::new(),
                "the mirror must be at an https: URL",
                "",
            )
        },
        Row {
            base: "URL/mirror",
            ..Row::fails(
                "an address without a slash at its end",
                |_| Vec::new(),
                "was not found in any of the search locations",
                "/registry.example/acme/coder/index.json",
            )
        },
        Row::works("versions that are none", |_| {
            at(
                INDEX,
                Answer::json(r#"{"versions":{"2.20.0":{},"latest":{},"v3":{}}}"#),
            )
        }),
        Row::fails(
            "no versions",
            |_| at(INDEX, Answer::json(r#"{"versions":{}}"#)),
            "was not found in any of the search locations",
            "index.json",
        ),
        Row::fails(
            "no such provider",
            |_| at(INDEX, Answer::status(404)),
            "was not found in any of the search locations",
            "index.json",
        ),
        Row::fails(
            "no such version",
            |_| at(ARCHIVES, Answer::status(404)),
            "Failed to install provider",
            "index.json 2.20.0.json",
        ),
        Row::fails(
            "nobody is let in",
            |_| at(INDEX, Answer::status(401)),
            "rejected the given authentication credentials",
            "index.json",
        ),
        Row::fails(
            "it is forbidden",
            |_| at(INDEX, Answer::status(403)),
            "rejected the given authentication credentials",
            "index.json",
        ),
        Row::fails(
            "it is broken",
            |_| at(INDEX, Answer::status(500)),
            "500 Internal Server Error",
            "index.json index.json",
        ),
        Row {
            held: Some(INDEX),
            ..Row::fails(
                "it does not answer",
                |_| Vec::new(),
                "exceeded",
                "index.json index.json",
            )
        },
        Row::fails(
            "another platform",
            |package| {
                let document =
                    archives(&path(package), &zh(package)).replace(&platform(), "plan9_mips");
                at(ARCHIVES, Answer::json(document))
            },
            "does not have a package available for your current platform",
            "index.json 2.20.0.json",
        ),
        Row::works("a charset beside the type", |_| {
            at(
                INDEX,
                Answer::status(200)
                    .with("content-type", "application/json; charset=utf-8")
                    .body(r#"{"versions":{"2.20.0":{}}}"#),
            )
        }),
        Row::fails(
            "another type",
            |_| {
                at(
                    INDEX,
                    Answer::status(200)
                        .with("content-type", "text/plain")
                        .body(r#"{"versions":{"2.20.0":{}}}"#),
                )
            },
            "must be application/json",
            "index.json",
        ),
        Row::works("a compressed document", |_| {
            let mut gzip =
                flate2::write::GzEncoder::new(Vec::new(), flate2::Compression::default());
            gzip.write_all(br#"{"versions":{"2.20.0":{}}}"#).unwrap();
            at(
                INDEX,
                Answer::json("")
                    .with("content-encoding", "gzip")
                    .body(gzip.finish().unwrap()),
            )
        }),
        Row {
            asked: "index.json /hop/1/index.json /hop/2/index.json /hop/3/index.json /hop/4/index.json /end/index.json 2.20.0.json HEAD:archive archive",
            ..Row::works("five redirections", |_| redirects(5))
        },
        Row::fails(
            "six redirections",
            |_| redirects(6),
            "302 Found",
            "index.json /hop/1/index.json /hop/2/index.json /hop/3/index.json /hop/4/index.json /hop/5/index.json index.json /hop/1/index.json /hop/2/index.json /hop/3/index.json /hop/4/index.json /hop/5/index.json",
        ),
        Row {
            asked: "index.json 2.20.0.json /moved/deep/2.20.0.json HEAD:archive archive",
            ..Row::works(
                "an address relative to where a redirection led",
                |package| {
                    let document = archives(&format!("../..{}", path(package)), &zh(package));
                    vec![
                        (
                            ARCHIVES.to_owned(),
                            Answer::status(302).with("location", "/moved/deep/2.20.0.json"),
                        ),
                        ("/moved/deep/2.20.0.json".to_owned(), Answer::json(document)),
                    ]
                },
            )
        },
        Row::works("a query behind the address", |package| {
            let url = format!("{}?signature=x", path(package));
            at(ARCHIVES, Answer::json(archives(&url, &zh(package))))
        }),
        Row {
            asked: "index.json 2.20.0.json HEAD:/elsewhere.zip HEAD:archive /elsewhere.zip archive",
            ..Row::works("a package that is elsewhere", |package| {
                let document = archives("/elsewhere.zip", &zh(package));
                vec![
                    (ARCHIVES.to_owned(), Answer::json(document)),
                    (
                        "/elsewhere.zip".to_owned(),
                        Answer::status(302).with("location", path(package)),
                    ),
                ]
            })
        },
        Row::works("nobody may ask for a package's head", |package| {
            at(&format!("HEAD {}", path(package)), Answer::status(405))
        }),
        Row::works("one known hash beside an unknown one", |package| {
            with_hashes(package, &["h9:abc", &package.archive.zh().to_string()])
        }),
        Row::fails(
            "unknown hashes alone",
            |package| with_hashes(package, &["h9:abc"]),
            "Failed to install provider",
            "index.json 2.20.0.json HEAD:archive archive",
        ),
        Row {
            says: UNAUTHENTICATED,
            ..Row::works("no hashes", |package| with_hashes(package, &[]))
        },
        Row::fails(
            "a wrong hash",
            |package| {
                with_hashes(
                    package,
                    &["h1:AAAAAAAAAAAAAAAAAAAAAAAAAAAAAAAAAAAAAAAAAAA="],
                )
            },
            "doesn't match",
            ALL,
        ),
    ]
}

/// OpenTofu asks for no heads, and does not ask again.
fn by_tofu(asked: &str) -> String {
    let asked: Vec<_> = asked
        .split(' ')
        .filter(|it| !it.starts_with("HEAD:"))
        .collect();
    let (first, second) = asked.split_at(asked.len() / 2);
    if first == second { first } else { &asked }.join(" ")
}

async fn run(engine: &'static str, row: &Row) -> Result<(), String> {
    let site = Site::start(row.answers, row.held).await;
    site.write(
        "terraform {\n  required_providers {\n    coder = { source = \"registry.example/acme/coder\" }\n  }\n}\n",
        None,
    );

    let output = site
        .init(engine, &site.network_mirror(row.base), &[], None)
        .await;

    let (said, asked, lock) = (said(&output), site.asked(engine), site.lock());
    let h1 = site.package.h1_tree.to_string();
    let mut hashes = vec![h1];
    if engine == "tofu" && row.says != UNAUTHENTICATED {
        // OpenTofu keeps what the mirror vouched for, too.
        hashes.push(site.package.archive.zh().to_string());
    }
    let expected = row.succeeds.then(|| lock_file(engine, &hashes));
    let expected_asked = match engine {
        "terraform" => row.asked.to_owned(),
        _ => by_tofu(row.asked),
    };
    let is_as_expected = output.status.success() == row.succeeds
        && said.contains(row.says)
        && lock == expected
        && asked == expected_asked;
    match is_as_expected {
        true => Ok(()),
        false => Err(format!(
            "{engine}, {}: {}\nsaid: {said}\nasked: {asked}\nlock: {lock:?}",
            row.name, output.status
        )),
    }
}

#[tokio::test]
async fn an_engine_takes_from_a_network_mirror_what_it_should_and_nothing_else() {
    let rows = rows();
    all(&rows, |engine, row| run(engine, &rows[row])).await;
}

#[tokio::test]
async fn an_engine_says_who_it_is_and_shows_nobody_a_token_for_a_package() {
    let site = Site::start(|_| Vec::new(), None).await;
    site.write(
        "terraform {\n  required_providers {\n    coder = { source = \"registry.example/acme/coder\" }\n  }\n}\n",
        None,
    );
    let host = site
        .url
        .trim_start_matches("https://")
        .trim_end_matches('/')
        .to_owned();
    let credentials = format!("credentials \"{host}\" {{\n  token = \"0123456789\"\n}}\n");
    let config = site.network_mirror("URL/mirror/") + &credentials;

    let output = site.init("terraform", &config, &[], None).await;

    let asked = site.script.asked.lock().unwrap().clone();
    assert!(output.status.success(), "{}", said(&output));
    for it in &asked {
        let is_document = it.path.ends_with(".json");
        let agent = it.headers[header::USER_AGENT.as_str()].to_str().unwrap();
        assert!(agent.starts_with("Terraform/"), "{it:?}");
        assert_eq!(
            it.headers.contains_key("x-terraform-version"),
            is_document,
            "{it:?}"
        );
        assert_eq!(
            it.headers.contains_key("authorization"),
            is_document,
            "{it:?}"
        );
    }
    assert_eq!(site.asked("terraform"), ALL);
}

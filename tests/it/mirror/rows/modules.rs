//! Modules over the module registry protocol.

use super::*;

const DOWNLOAD: &str = "/v1/modules/modules.example/acme/hello/coder/1.2.0/download";

struct Row {
    name: &'static str,
    /// What stands in `X-Terraform-Get`; `DIGEST` and `URL/` are the archive's and the mirror's own.
    answer: fn(&str) -> Vec<(String, Answer)>,
    /// What it takes of [`Row::answer`]: where the archive is.
    get: &'static str,
    succeeds: bool,
    /// One of these, with `|` between them.
    says: &'static str,
    asked: &'static str,
}

/// A download as the reference's registry answers it.
fn no_content(get: &str) -> Vec<(String, Answer)> {
    vec![(
        DOWNLOAD.to_owned(),
        Answer::status(204).with("x-terraform-get", get),
    )]
}

/// One with a body, of which nobody takes notice.
fn with_body(get: &str) -> Vec<(String, Answer)> {
    let answer = Answer::json("{}").with("x-terraform-get", get);
    vec![(DOWNLOAD.to_owned(), answer)]
}

fn location(get: &str) -> Vec<(String, Answer)> {
    let body = serde_json::json!({ "location": get }).to_string();
    vec![(DOWNLOAD.to_owned(), Answer::json(body))]
}

const ALL: &str = "versions download HEAD:module module";

impl Row {
    fn works(
        name: &'static str,
        answer: fn(&str) -> Vec<(String, Answer)>,
        get: &'static str,
    ) -> Self {
        Self {
            name,
            answer,
            get,
            succeeds: true,
            says: "successfully initialized",
            asked: ALL,
        }
    }

    fn fails(
        name: &'static str,
        get: &'static str,
        says: &'static str,
        asked: &'static str,
    ) -> Self {
        Self {
            succeeds: false,
            says,
            asked,
            ..Self::works(name, no_content, get)
        }
    }
}

fn rows() -> Vec<Row> {
    let relative = "../../../../../../../blobs/DIGEST/hello.tar.gz";
    vec![
        Row::works("our own answer", |_| Vec::new(), ""),
        Row::works("a path", no_content, "/blobs/DIGEST/hello.tar.gz"),
        Row::works(
            "a path without an ending",
            no_content,
            "/blobs/DIGEST/hello?archive=tar.gz",
        ),
        Row::works("a path from here", no_content, relative),
        Row::works("an address", no_content, "URL/blobs/DIGEST/hello.tar.gz"),
        Row::works("a body beside it", with_body, "/blobs/DIGEST/hello.tar.gz"),
        Row::works(
            "the right checksum",
            no_content,
            "/blobs/DIGEST/hello.tar.gz?checksum=sha256:DIGEST",
        ),
        Row::fails(
            "a wrong checksum",
            "/blobs/DIGEST/hello.tar.gz?checksum=sha256:1111111111111111111111111111111111111111111111111111111111111111",
            "Checksums did not match",
            ALL,
        ),
        Row::fails(
            "a pattern for the directory",
            "/blobs/DIGEST/hello.tar.gz//*",
            "Unreadable module|Module subdirectory not found",
            ALL,
        ),
        Row::fails(
            "nothing",
            "",
            "failed to get download URL|did not return a location",
            "versions download",
        ),
    ]
}

async fn run(engine: &'static str, row: &Row) -> Result<(), String> {
    // The archive's digest is the same everywhere, as it is made the same.
    let plain = Site::start(|_| Vec::new(), None).await;
    let digest = plain.module.archive.to_string();
    let get = row.get.replace("DIGEST", &digest);
    // An address names the port of this row's server, which is known only when it listens: so another one serves it.
    let get = get.replace("URL/", &plain.url);
    let site = Site::start(|_| (row.answer)(&get), None).await;
    // Both servers have certificates of their own authorities.
    let authorities = [
        fs::read(&site.authority).unwrap(),
        fs::read(&plain.authority).unwrap(),
    ];
    fs::write(&site.authority, authorities.concat()).unwrap();
    site.write(
        "module \"hello\" {\n  source  = \"modules.example/acme/hello/coder\"\n  version = \"1.2.0\"\n}\n",
        None,
    );

    let output = site.init(engine, &site.hosts(), &[], None).await;

    let mut asked = site.asked(engine);
    let elsewhere = plain.asked(engine);
    if !elsewhere.is_empty() {
        asked = format!("{asked} {elsewhere}");
    }
    let expected: Vec<_> = row
        .asked
        .split(' ')
        .filter(|it| engine == "terraform" || !it.starts_with("HEAD:"))
        .collect();
    let installed = site
        .template()
        .join(".terraform/modules/hello/main.tf")
        .is_file();
    let said = said(&output);
    let is_as_expected = output.status.success() == row.succeeds
        && row.says.split('|').any(|it| said.contains(it))
        && (installed || !row.succeeds)
        && asked == expected.join(" ")
        && site.lock().is_none();
    match is_as_expected {
        true => Ok(()),
        false => Err(format!(
            "{engine}, {}: {}\nsaid: {said}\nasked: {asked}",
            row.name, output.status
        )),
    }
}

#[tokio::test]
async fn an_engine_takes_modules_in_every_form_that_a_registry_may_give() {
    let rows = rows();
    all(&rows, |engine, row| run(engine, &rows[row])).await;
}

/// Only OpenTofu takes the newer form.
#[tokio::test]
async fn a_location_alone_is_no_answer_for_terraform() {
    let site = Site::start(|_| location("/blobs/x/hello.tar.gz"), None).await;
    site.write(
        "module \"hello\" {\n  source  = \"modules.example/acme/hello/coder\"\n  version = \"1.2.0\"\n}\n",
        None,
    );

    let output = site.init("terraform", &site.hosts(), &[], None).await;

    assert!(!output.status.success());
    assert!(
        said(&output).contains("failed to get download URL"),
        "{}",
        said(&output)
    );
    assert_eq!(site.asked("terraform"), "versions download");
}

#[tokio::test]
async fn a_token_for_a_registry_goes_with_its_documents_and_not_with_an_archive() {
    let site = Site::start(|_| Vec::new(), None).await;
    site.write(
        "module \"hello\" {\n  source  = \"modules.example/acme/hello/coder\"\n  version = \"1.2.0\"\n}\n",
        None,
    );
    let config = site.hosts() + "credentials \"modules.example\" {\n  token = \"0123456789\"\n}\n";

    let output = site.init("terraform", &config, &[], None).await;

    assert!(output.status.success(), "{}", said(&output));
    for it in site.script.asked.lock().unwrap().iter() {
        let is_document = it.path.starts_with("/v1/");
        assert_eq!(
            it.headers.contains_key("authorization"),
            is_document,
            "{it:?}"
        );
    }
}

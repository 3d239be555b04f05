//! Jobs whose templates need what a mirror does not have: who is told, and what is taken from elsewhere.

use std::{
    fs,
    process::{Command, Output},
};

use outpost::registry::Platform;

use super::{
    modules::{Site, call},
    origin::{Origin, Publisher},
    round_trip::{done, quiet},
};

/// Nobody listens there: whatever wants out fails, and says so.
const NO_WAY_OUT: &str = "http://127.0.0.1:9";
const REGISTRY: &str = "registry.example";
const DEMO: &str = "registry.example/acme/demo";
const TOKEN: &str = "0123456789abcdef";

/// A job, as a daemon would run it.
fn job(site: &Site, arguments: &[&str]) -> Command {
    let mut command = quiet(&site.path("."));
    command
        .args(["inspect", "--output", "json", "--coder-provider", "builtin"])
        .args(arguments)
        .arg("template")
        .env("HTTPS_PROXY", NO_WAY_OUT);
    command
}

fn said(output: &Output) -> String {
    let text = [&output.stdout[..], &output.stderr].concat();
    String::from_utf8_lossy(&text).into_owned()
}

fn wants(version: &str, reference: &str, url: &str) -> String {
    let providers = format!(
        "terraform {{\n  required_providers {{\n    demo  = {{ source = \"{DEMO}\", version = \"{version}\" }}\n    \
         coder = {{ source = \"coder/coder\" }}\n  }}\n}}\ndata \"coder_workspace\" \"me\" {{}}\n"
    );
    let module = call(
        "mods",
        &format!("git::{url}/git/acme/mods.git?ref={reference}"),
    );
    providers + &module
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn a_job_that_lacks_versions_says_which_and_tells_a_served_mirror() {
    let origin = Origin::start().await;
    let url = origin.url.clone();
    let here = Platform::current().to_string();
    origin.publish(&Publisher::new(), DEMO, "1.0.0", &[&here], 10);
    let module = "output \"from\" { value = \"there\" }\n";
    origin.publish_git("git/acme/mods.git", &[("main.tf", module)]);
    let mut site = Site::new(&format!(
        "[[providers]]\nsource = \"{DEMO}\"\n[[git]]\nurl = \"{url}/git/acme/mods.git\"\n{}",
        origin.host(REGISTRY)
    ));
    done(&site.mirror(&["sync"], None));
    drop(origin);
    fs::write(site.path("token"), TOKEN).unwrap();
    let token = site.path("token").display().to_string();
    let served = site.serve(&["--token-file", &token]);
    let missing = async || -> Vec<String> {
        let client = reqwest::Client::builder().no_proxy().build().unwrap();
        let asked = client
            .get(format!("{served}api/missing"))
            .bearer_auth(TOKEN);
        let text = asked.send().await.unwrap().text().await.unwrap();
        let list: serde_json::Value = serde_json::from_str(&text).unwrap();
        let list = list["missing"].as_array().unwrap().iter();
        list.map(|it| format!("{} {} {}", it["kind"], it["name"], it["version"]).replace('"', ""))
            .collect()
    };
    let by_url = ["--mirror", &served, "--mirror-token-file", &token];
    let place = url.strip_prefix("http://").unwrap();

    // What is wrong with a template alone is nobody's miss.
    site.template(&(wants("~> 1.0", "v1", &url) + "output \"a\" { value = nothing.at.all }\n"));
    let output = job(&site, &by_url).output().unwrap();
    assert!(!output.status.success(), "{}", said(&output));
    assert_eq!(missing().await, [""; 0], "{}", said(&output));

    site.template(&wants(">= 2.0", "v7", &url));
    let output = job(&site, &by_url).output().unwrap();

    assert!(!output.status.success(), "{}", said(&output));
    let expected = [
        format!("git {place}/git/acme/mods v7"),
        format!("provider {DEMO} >= 2.0.0"),
    ];
    assert_eq!(missing().await, expected, "{}", said(&output));
    let said_of_demo = format!("does not have provider {DEMO} (>= 2.0.0): there is 1.0.0");
    assert!(said(&output).contains(&said_of_demo), "{}", said(&output));
    assert!(!said(&output).contains("does not have provider registry.terraform.io/coder"));

    // A directory has no list, and the job's log all the same.
    let mirror = site.path("mirror").display().to_string();
    let output = job(&site, &["--mirror", &mirror]).output().unwrap();
    assert!(said(&output).contains(&said_of_demo), "{}", said(&output));
}

/// Publishes a repository under both forms of its address.
fn publish(origin: &Origin, name: &str, value: &str) {
    let module = format!("output \"from\" {{ value = \"{value}\" }}\n");
    for end in ["", ".git"] {
        let path = format!("git/acme/{name}{end}");
        origin.publish_git(&path, &[("main.tf", &module)]);
    }
}

fn asked_for(asked: &[String], name: &str) -> bool {
    let begins = [
        format!("GET /git/acme/{name}/"),
        format!("GET /git/acme/{name}.git/"),
    ];
    asked
        .iter()
        .any(|line| begins.iter().any(|begin| line.starts_with(begin)))
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn a_repository_whose_name_goes_on_where_a_mirrored_ones_ends_is_taken_from_its_host() {
    let origin = Origin::start().await;
    let url = origin.url.clone();
    publish(&origin, "mods", "mirrored");
    publish(&origin, "mods-extra", "not mirrored");
    publish(&origin, "mods2", "not mirrored");
    let mut site = Site::new(&format!("[[git]]\nurl = \"{url}/git/acme/mods.git\"\n"));
    done(&site.mirror(&["sync"], None));
    let sources = ["mods", "mods.git", "mods-extra", "mods-extra.git", "mods2"];
    let calls = sources.iter().enumerate().map(|(number, name)| {
        let source = format!("git::{url}/git/acme/{name}?ref=v1");
        call(&format!("m{number}"), &source)
    });
    site.template(&calls.collect::<String>());
    let mirror = site.path("mirror").display().to_string();
    let served = site.serve(&[]);
    for place in [&mirror, &served] {
        origin.asked();

        let output = job(&site, &["--mirror", place]).output().unwrap();

        done(&output);
        let asked = origin.asked();
        for (name, is_asked) in [("mods", false), ("mods-extra", true), ("mods2", true)] {
            assert_eq!(asked_for(&asked, name), is_asked, "{name}: {asked:#?}");
        }
    }

    // A sealed job asks nobody else.
    let output = job(&site, &["--sealed", "--mirror", &mirror])
        .output()
        .unwrap();
    assert!(!output.status.success(), "{}", said(&output));
    assert!(
        !origin
            .asked()
            .iter()
            .any(|line| line.contains("mods-extra"))
    );
}

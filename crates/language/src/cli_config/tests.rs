use proptest::prelude::*;

use super::*;

const OPERATORS: &str = r#"
# A comment, and a credential.
plugin_cache_dir   = "$HOME/.terraform.d/plugin-cache"
disable_checkpoint = true
credentials "app.example.com" {
  token = "s3cret \"quoted\" ${not.evaluated("x")}"
}
"credentials_helper" "osxkeychain" { args = ["a", "b",] }
host "registry.example.com" {
  services = {
    "providers.v1" = "https://mirror.example.com/v1/providers/",
    "modules.v1" = "https://mirror.example.com/v1/modules/"
  }
}
/* Methods. */
provider_installation {
  dev_overrides { "acme/tiny" = "/tmp/tiny" }
  network_mirror {
    url     = "https://mirror.example.com/"
    include = ["*/*/*"]
  }
  direct { exclude = ["acme/*"] }
}
"#;

fn parse(text: &str) -> CliConfig {
    CliConfig::parse(text).unwrap()
}

#[test]
fn a_configuration_means_the_same_after_writing() {
    let config = parse(OPERATORS);

    let again = parse(&config.to_string());

    assert!(config == again, "{config}");
    assert_eq!(
        config.argument("plugin_cache_dir"),
        Some("$HOME/.terraform.d/plugin-cache")
    );
    assert_eq!(config.argument("disable_checkpoint"), Some("true"));
    assert_eq!(config.labels("credentials"), ["app.example.com"]);
    assert!(
        config
            .to_string()
            .contains(r#"token = "s3cret \"quoted\" "#)
    );
}

#[test]
fn tokens_are_not_shown_by_debug_and_errors() {
    assert!(!format!("{:?}", parse(OPERATORS)).contains("s3cret"));

    let error = CliConfig::parse("credentials \"a\" {\n token = \"s3cret\n}").unwrap_err();

    assert_eq!(
        error,
        CliConfigError::Syntax {
            line: 3,
            reason: "a string does not end"
        }
    );
    assert!(!error.to_string().contains("s3cret"));
}

#[test]
fn methods_are_read_in_order() {
    let installation = parse(OPERATORS).installation().unwrap().unwrap();

    let kinds: Vec<&MethodKind> = installation
        .methods
        .iter()
        .map(|method| &method.kind)
        .collect();
    let paths = vec![("acme/tiny".to_owned(), "/tmp/tiny".to_owned())];
    let url = "https://mirror.example.com/".to_owned();
    assert_eq!(
        kinds,
        [
            &MethodKind::DevOverrides { paths },
            &MethodKind::NetworkMirror { url },
            &MethodKind::Direct
        ]
    );
    assert_eq!(installation.methods[2].exclude, ["acme/*"]);
}

#[test]
fn a_preferred_method_comes_first_and_is_asked_alone() {
    let mut config = parse(OPERATORS);
    let mut installation = config.installation().unwrap().unwrap();

    let coder = vec!["registry.terraform.io/coder/coder".to_owned()];
    installation.prefer(Method::filesystem_mirror("/mirror \"x\"", coder));
    config.set_installation(&installation);

    let again = parse(&config.to_string()).installation().unwrap().unwrap();
    assert_eq!(again, installation);
    assert!(matches!(
        again.methods[0].kind,
        MethodKind::DevOverrides { .. }
    ));
    assert!(
        matches!(&again.methods[1].kind, MethodKind::FilesystemMirror { path } if path == "/mirror \"x\"")
    );
    assert_eq!(
        again.methods[3].exclude,
        ["acme/*", "registry.terraform.io/coder/coder"]
    );
    assert_eq!(again.methods[0].exclude, [""; 0]);
    assert_eq!(config.labels("credentials"), ["app.example.com"]);
}

#[test]
fn json_is_read_in_both_of_its_shapes() {
    let natural = r#"{
      "plugin_cache_dir": "/cache", "disable_checkpoint": true,
      "credentials": {"a.example.com": {"token": "x"}, "b.example.com": {"token": "y"}},
      "host": {"c.example.com": {"services": {"providers.v1": "https://x/"}}},
      "provider_installation": {"filesystem_mirror": {"path": "/m", "include": ["a/*"]}, "direct": {}}
    }"#;
    let listed = r#"{
      "provider_installation": [{"filesystem_mirror": [{"path": "/m", "include": ["a/*"]}], "direct": [{}]}]
    }"#;
    let (natural, listed) = (parse(natural), parse(listed));

    assert_eq!(
        natural.labels("credentials"),
        ["a.example.com", "b.example.com"]
    );
    assert_eq!(natural.argument("plugin_cache_dir"), Some("/cache"));
    let installation = natural.installation().unwrap().unwrap();
    assert_eq!(installation.methods.len(), 2);
    assert_eq!(listed.installation().unwrap().unwrap(), installation);
    assert!(parse(&natural.to_string()) == natural, "{natural}");
}

#[test]
fn arguments_can_be_set_and_removed() {
    let mut config = parse("disable_checkpoint = false\nplugin_cache_dir = \"/x\"\n");

    config.set_bool("disable_checkpoint", true);
    config.set_text("plugin_cache_dir", "/a \"b\"");
    assert_eq!(
        config.to_string(),
        "disable_checkpoint = true\nplugin_cache_dir = \"/a \\\"b\\\"\"\n"
    );

    config.remove("disable_checkpoint");
    assert!(!config.has("disable_checkpoint") && config.has("plugin_cache_dir"));
}

#[test]
fn what_an_operator_says_of_a_host_stays() {
    let own =
        "host \"a.example\" {\n  services = {\n    \"modules.v1\" = \"https://own/\"\n  }\n}\n";
    let mut config = parse(own);
    let services = [("modules.v1".to_owned(), "http://127.0.0.1:1/m/".to_owned())].into();

    config.set_services("a.example", &services);
    config.set_services("b.example", &services);

    let expected = own.replace("a.example", "b.example");
    let expected = expected.replace("https://own/", "http://127.0.0.1:1/m/");
    assert_eq!(config.to_string(), own.to_owned() + &expected);
    assert!(parse(&config.to_string()) == config);
}

#[test]
fn several_files_are_one_configuration() {
    let mut config = parse("disable_checkpoint = false\n");

    config.append(parse(r#"{"credentials": {"a": {"token": "x"}}}"#));

    assert!(config.has("credentials") && config.has("disable_checkpoint"));
}

#[test]
fn heredocs_and_escapes_are_read() {
    let config = parse("a = <<-EOT\n    x\n    y\n  EOT\nb = \"\\u00e4\\t\\\\\"\n");

    assert_eq!(config.argument("a"), Some("x\ny\n"));
    assert_eq!(config.argument("b"), Some("ä\t\\"));
}

#[test]
fn what_makes_no_sense_is_named_with_its_line() {
    let deep = format!("a = {}", "[".repeat(100));
    let cases = [
        ("a = ", "line 1: expected a value"),
        ("\n= 1", "line 2: expected a name"),
        ("a {\n", "line 2: a block does not end"),
        ("a = \"\\q\"", "unknown escape"),
        ("a = <<EOT\nx", "a heredoc does not end"),
        ("/* x", "a comment does not end"),
        ("{\n x", "line 2: invalid JSON"),
        (&deep, "nested too deeply"),
    ];
    for (text, expected) in cases {
        let error = CliConfig::parse(text).unwrap_err().to_string();
        assert!(error.contains(expected), "{text:?}: {error}");
    }
    for (text, expected) in [
        ("provider_installation {\n unknown {}\n}", "unknown method"),
        (
            "provider_installation {\n network_mirror {}\n}",
            "network_mirror needs url",
        ),
        (
            "provider_installation {\n direct { include = 1 }\n}",
            "include must be a list",
        ),
        (
            "provider_installation {}\nprovider_installation {}",
            "more than one",
        ),
        ("provider_installation = 1", "must be a block"),
    ] {
        let error = parse(text).installation().unwrap_err().to_string();
        assert!(error.contains(expected), "{text:?}: {error}");
    }
}

proptest! {
    #[test]
    fn any_text_is_refused_or_survives_a_round_trip(text in "\\PC{0,60}|[a-c\"{}\\[\\]=,\n<$\\\\ #/*]{0,40}") {
        if let Ok(config) = CliConfig::parse(&text) {
            let written = config.to_string();
            let again = CliConfig::parse(&written).unwrap();
            prop_assert!(again == config, "{text:?}: {written:?}");
            let _ = config.installation();
        }
    }
}

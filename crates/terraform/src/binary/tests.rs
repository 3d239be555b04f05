use std::os::unix::fs::symlink;

use super::*;

fn fake_engine() -> PathBuf {
    Path::new(env!("CARGO_MANIFEST_DIR")).join("../../testdata/bin/fake-engine")
}

async fn probed(variables: &[(&str, &str)], limit: Duration) -> Result<Binary, BinaryError> {
    let path = [("PATH".into(), std::env::var_os("PATH").unwrap())];
    let variables = variables
        .iter()
        .map(|(name, value)| (name.into(), value.into()));
    let env = path.into_iter().chain(variables).collect();
    Binary::probe_within(limit, &fake_engine(), env, &Stop::new()).await
}

#[test]
fn terraform_comes_before_tofu_and_only_absolute_directories_count() {
    let dir = tempfile::tempdir().unwrap();
    for (place, name) in [("a", "tofu"), ("b", "terraform"), ("c", "other")] {
        std::fs::create_dir(dir.path().join(place)).unwrap();
        symlink(fake_engine(), dir.path().join(place).join(name)).unwrap();
    }
    let found = |places: &[&str]| {
        let places = places.iter().map(|place| dir.path().join(place));
        find(&std::env::join_paths(places).unwrap())
    };

    assert_eq!(found(&["a", "b"]).unwrap(), dir.path().join("b/terraform"));
    assert_eq!(found(&["c", "a"]).unwrap(), dir.path().join("a/tofu"));
    assert!(matches!(found(&["c"]), Err(BinaryError::NotFound)));
    assert!(matches!(
        find("testdata/bin:.".as_ref()),
        Err(BinaryError::NotFound)
    ));
}

#[test]
fn opentofu_is_known_by_its_name_even_behind_a_link() {
    let dir = tempfile::tempdir().unwrap();
    let (tofu, link) = (dir.path().join("tofu"), dir.path().join("terraform"));
    symlink(fake_engine(), &tofu).unwrap();
    assert_eq!(
        (kind_of(&tofu), kind_of(&fake_engine())),
        (Kind::OpenTofu, Kind::Terraform)
    );

    std::fs::write(dir.path().join("tofu-1.9"), "").unwrap();
    symlink("tofu-1.9", &link).unwrap();
    assert_eq!(kind_of(&link), Kind::OpenTofu);
}

#[tokio::test]
async fn versions_from_the_oldest_one_on_are_taken() {
    for version in ["1.1.0", "1.3.0", "1.15.0-beta1", "9.9.9"] {
        let binary = probed(&[("FAKE_VERSION", version)], ANSWER_TIMEOUT).await;

        assert_eq!(binary.unwrap().version.to_string(), version);
    }
}

#[tokio::test]
async fn a_version_that_is_too_old_is_refused_with_a_remedy() {
    let error = probed(&[("FAKE_VERSION", "1.0.9")], ANSWER_TIMEOUT)
        .await
        .unwrap_err();

    assert_eq!(
        error.to_string(),
        "terraform version \"1.0.9\" is too old. required >= \"1.1.0\""
    );
    assert!(error.hint().unwrap().contains("--engine PATH"));
}

#[tokio::test]
async fn what_says_no_version_is_no_engine() {
    let error = probed(&[("FAKE_VERSION", "version")], ANSWER_TIMEOUT)
        .await
        .unwrap_err();

    assert!(matches!(error, BinaryError::NoVersion { .. }), "{error}");
    assert!(error.to_string().contains("\"version\""), "{error}");
}

#[tokio::test]
async fn an_engine_that_does_not_answer_is_given_up() {
    let silent = [("FAKE", "deaf"), ("FAKE_AT", "version")];

    let error = probed(&silent, Duration::from_millis(100))
        .await
        .unwrap_err();

    assert!(matches!(error, BinaryError::Silent { .. }), "{error}");
}

#[tokio::test]
async fn a_file_that_is_missing_is_named() {
    let path = Path::new("/no/such/engine");

    let error = Binary::probe(path, Vec::new(), &Stop::new())
        .await
        .unwrap_err();

    assert_eq!(error.to_string(), "engine `/no/such/engine` cannot be used");
    assert!(error.hint().is_some());
}

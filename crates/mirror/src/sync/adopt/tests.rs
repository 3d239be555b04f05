use outpost_base::registry::h1_of_dir;

use super::*;
use crate::Digest;

fn zip_of(files: &[(&str, &str)]) -> Vec<u8> {
    let mut zip = ZipWriter::new(io::Cursor::new(Vec::new()));
    for (name, text) in files {
        let options = SimpleFileOptions::default().unix_permissions(0o755);
        zip.start_file(*name, options).unwrap();
        zip.write_all(text.as_bytes()).unwrap();
    }
    zip.finish().unwrap().into_inner()
}

struct Site {
    dir: tempfile::TempDir,
    store: Store,
    packages: PathBuf,
}

fn site() -> Site {
    let dir = tempfile::tempdir().unwrap();
    let store = Store::open(&dir.path().join("store")).unwrap();
    let packages = dir.path().join("mirror/registry.terraform.io/acme/demo");
    fs::create_dir_all(&packages).unwrap();
    Site {
        dir,
        store,
        packages,
    }
}

impl Site {
    fn write(&self, name: &str, content: &[u8]) {
        fs::write(self.packages.join(name), content).unwrap();
    }

    fn adopt(&self) -> Vec<(String, Result<Provider, StoreError>)> {
        adopt(&self.store, &self.dir.path().join("mirror")).unwrap()
    }
}

#[test]
fn a_packed_mirror_is_taken_over_byte_for_byte() {
    let site = site();
    let zip = zip_of(&[("terraform-provider-demo_v1.2.3", "#!/bin/sh")]);
    site.write("terraform-provider-demo_1.2.3_linux_amd64.zip", &zip);
    site.write("index.json", b"{}");

    let mut adopted = site.adopt();

    let (name, provider) = adopted.pop().unwrap();
    assert!(adopted.is_empty());
    assert_eq!(name, "registry.terraform.io/acme/demo 1.2.3 linux_amd64");
    let package = provider.unwrap().packages.remove(0);
    assert_eq!(package.archive, Digest::of(&zip));
    assert_eq!(package.size, zip.len() as u64);
}

#[test]
fn an_unpacked_package_keeps_its_checksum_and_gives_the_same_bytes_each_time() {
    let site = site();
    let tree = site.packages.join("1.2.3/linux_arm64");
    fs::create_dir_all(tree.join("docs")).unwrap();
    for (name, mode) in [("terraform-provider-demo", 0o755), ("docs/README", 0o600)] {
        let path = tree.join(name);
        fs::write(&path, name).unwrap();
        fs::set_permissions(&path, fs::Permissions::from_mode(mode)).unwrap();
    }

    let taken = || site.adopt().remove(0).1.unwrap().packages.remove(0);

    let (first, again) = (taken(), taken());
    assert_eq!(first, again);
    assert_eq!(first.h1_tree, h1_of_dir(&tree).unwrap());
    assert_eq!(first.h1_zip, first.h1_tree);
}

#[test]
fn a_package_that_its_neighbours_disown_is_refused() {
    let site = site();
    let zip = zip_of(&[("terraform-provider-demo", "#!/bin/sh")]);
    site.write("terraform-provider-demo_1.0.0_linux_amd64.zip", &zip);
    let other = Hash::H1([7; 32]);
    let index = format!(r#"{{"archives":{{"linux_amd64":{{"hashes":["{other}"]}}}}}}"#);
    site.write("1.0.0.json", index.as_bytes());
    let refused = site.adopt().remove(0).1.unwrap_err().to_string();
    assert!(refused.contains("1.0.0.json"), "{refused}");

    fs::remove_file(site.packages.join("1.0.0.json")).unwrap();
    let sums = format!(
        "{}  terraform-provider-demo_1.0.0_linux_amd64.zip\n",
        "0".repeat(64)
    );
    site.write("terraform-provider-demo_1.0.0_SHA256SUMS", sums.as_bytes());
    let refused = site.adopt().remove(0).1.unwrap_err().to_string();
    assert!(refused.contains("SHA256SUMS"), "{refused}");
}

#[test]
fn what_has_no_program_or_is_no_zip_file_is_refused() {
    let site = site();
    let zip = zip_of(&[("README", "hello")]);
    site.write("terraform-provider-demo_1.0.0_linux_amd64.zip", &zip);
    site.write("terraform-provider-demo_2.0.0_linux_amd64.zip", b"rubbish");

    for (name, result) in site.adopt() {
        let error = result.unwrap_err().to_string();
        assert!(
            error.contains("terraform-provider-demo_"),
            "{name}: {error}"
        );
    }
}

//! A generation as a list of components in CycloneDX's JSON, for the people who decide what may enter a site.
//!
//! Each component has its digest and a package URL. Programs depend on the Go modules that they were built from, and
//! packages have the licences whose texts they contain.

mod inside;
mod licence;
mod purl;

use std::collections::{BTreeMap, BTreeSet};

use serde_json::{Value, json};

use self::purl::Purl;
use crate::{Digest, Generation, generation::GitRepository};

pub use self::inside::{Inside, look};

/// Version of the CycloneDX format.
const VERSION: &str = "1.5";

/// Returns the document for a generation, with what was found in its packages. Equal content gives equal text: the
/// document contains no time, and its serial number is derived from the content.
pub fn sbom(generation: &Generation, inside: &Inside) -> Value {
    let mut list = List {
        inside,
        components: Vec::new(),
        dependencies: Vec::new(),
        modules: BTreeMap::new(),
    };
    list.packages(generation);
    for git in &generation.git {
        list.repository(git);
    }
    for image in &generation.images {
        if let Some(manifest) = image.manifests.last() {
            let purl = Purl::image(&image.reference, manifest.digest);
            let name = &image.reference;
            list.add("container", name, "", "", manifest.digest, &purl);
        }
    }
    for file in &generation.files {
        let purl = Purl::file(&file.url, file.content);
        list.add("file", &file.url, "", "", file.content, &purl);
    }
    list.document()
}

/// Returns the reference of a component within such documents.
pub fn reference(name: &str, version: &str, platform: &str, content: Digest) -> String {
    format!("{name}@{version}/{platform}#{content}")
}

/// A document that is being built.
struct List<'a> {
    inside: &'a Inside,
    components: Vec<Value>,
    dependencies: Vec<Value>,
    /// Names and versions of Go modules, by their package URLs.
    modules: BTreeMap<String, (String, String)>,
}

impl List<'_> {
    fn packages(&mut self, generation: &Generation) {
        for provider in &generation.providers {
            for package in &provider.packages {
                let (addr, version) = (provider.addr.to_string(), provider.version.to_string());
                let platform = package.platform.to_string();
                let purl = Purl::generic(&addr, &version, package.archive);
                self.add(
                    "application",
                    &addr,
                    &version,
                    &platform,
                    package.archive,
                    &purl,
                );
            }
        }
        for module in &generation.modules {
            let version = module.version.to_string();
            let purl = Purl::generic(&module.addr, &version, module.archive);
            let component = self.add("library", &module.addr, &version, "", module.archive, &purl);
            if !module.origin.is_empty() {
                component["properties"] =
                    json!([{ "name": "outpost:origin", "value": module.origin }]);
            }
        }
        for tool in &generation.tools {
            let (version, platform) = (tool.version.to_string(), tool.platform.to_string());
            let purl = Purl::generic(&tool.name, &version, tool.archive);
            self.add(
                "application",
                &tool.name,
                &version,
                &platform,
                tool.archive,
                &purl,
            );
        }
    }

    /// Adds a repository, with the commits that its references stand for.
    fn repository(&mut self, git: &GitRepository) {
        let component = self.add(
            "library",
            git.place(),
            "",
            "",
            git.pack,
            &Purl::git(&git.url, ""),
        );
        let commit = |(name, commit): (&String, &String)| {
            json!({
                "type": "library",
                "bom-ref": format!("{}#{name}", git.url),
                "name": git.place(),
                "version": name,
                "purl": Purl::git(&git.url, commit).to_string(),
            })
        };
        component["components"] = git.refs.iter().map(commit).collect();
    }

    fn add(
        &mut self,
        kind: &str,
        name: &str,
        version: &str,
        platform: &str,
        content: Digest,
        purl: &Purl,
    ) -> &mut Value {
        let reference = reference(name, version, platform, content);
        let mut component = json!({
            "type": kind,
            "bom-ref": reference,
            "name": name,
            "version": version,
            "hashes": [{"alg": "SHA-256", "content": content.to_string()}],
        });
        let licences: Vec<_> = self
            .inside
            .licences(content)
            .map(inside::License::to_json)
            .collect();
        if !licences.is_empty() {
            component["licenses"] = licences.into();
        }
        component["purl"] = purl.to_string().into();
        if !platform.is_empty() {
            component["properties"] = json!([{"name": "outpost:platform", "value": platform}]);
        }
        self.depend(&reference);
        let index = self.components.len();
        self.components.push(component);
        &mut self.components[index]
    }

    /// Records the Go modules that a program was built from.
    fn depend(&mut self, reference: &str) {
        let mut of_one = BTreeSet::new();
        for (path, version) in self.inside.modules(reference) {
            let purl = Purl::golang(path, version).to_string();
            let known = (path.clone(), version.to_string());
            self.modules.entry(purl.clone()).or_insert(known);
            of_one.insert(purl);
        }
        if !of_one.is_empty() {
            let dependency = json!({ "ref": reference, "dependsOn": of_one });
            self.dependencies.push(dependency);
        }
    }

    fn document(mut self) -> Value {
        let module = |(purl, (name, version)): (&String, &(String, String))| json!({ "type": "library", "bom-ref": purl, "name": name, "version": version, "purl": purl });
        self.components.extend(self.modules.iter().map(module));
        let text = Value::from(self.components.clone()).to_string();
        let number = Digest::of(text.as_bytes()).0;
        let mut bytes = [0; 16];
        bytes.copy_from_slice(&number[..16]);
        let number = uuid::Builder::from_custom_bytes(bytes).into_uuid();
        let mut document = json!({
            "bomFormat": "CycloneDX",
            "specVersion": VERSION,
            "serialNumber": format!("urn:uuid:{number}"),
            "version": 1,
            "components": self.components,
        });
        if !self.dependencies.is_empty() {
            document["dependencies"] = self.dependencies.into();
        }
        document
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::generation::{StaticFile, Tool};

    #[test]
    fn every_thing_is_a_component_with_its_digest_and_equal_content_is_equal_text() {
        let generation = Generation {
            tools: vec![Tool {
                name: "terraform".to_owned(),
                version: "1.11.4".parse().unwrap(),
                platform: "linux_amd64".parse().unwrap(),
                filename: "terraform_1.11.4_linux_amd64.zip".to_owned(),
                archive: Digest::of(b"terraform"),
                size: 9,
                signed: None,
            }],
            files: vec![StaticFile {
                url: "https://files.example/a".to_owned(),
                content: Digest::of(b"a"),
                size: 1,
            }],
            ..Generation::default()
        };

        let document = sbom(&generation, &Inside::default());

        let components = document["components"].as_array().unwrap();
        assert_eq!(components.len(), 2);
        assert_eq!(components[0]["name"], "terraform");
        assert_eq!(components[0]["properties"][0]["value"], "linux_amd64");
        let program = Digest::of(b"terraform");
        let purl = format!("pkg:generic/terraform@1.11.4?checksum=sha256:{program}");
        assert_eq!(components[0]["purl"], purl);
        assert!(components[0].get("licenses").is_none());
        let digest = Digest::of(b"a").to_string();
        assert_eq!(components[1]["hashes"][0]["content"], digest.as_str());
        assert_eq!(sbom(&generation, &Inside::default()), document);
        assert_ne!(
            sbom(&Generation::default(), &Inside::default())["serialNumber"],
            document["serialNumber"]
        );
        let references: std::collections::BTreeSet<_> =
            components.iter().map(|c| c["bom-ref"].as_str()).collect();
        assert_eq!(references.len(), components.len());
    }
}

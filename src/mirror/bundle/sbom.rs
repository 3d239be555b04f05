//! A generation as a list of components in CycloneDX's JSON, for those who decide what may pass.

use serde_json::{Value, json};

use crate::mirror::{Digest, Generation};

/// The version of the format.
const VERSION: &str = "1.5";

/// All that a generation has, as a document. Equal content is equal text: it tells no time, and its number comes from
/// the content.
pub fn sbom(generation: &Generation) -> Value {
    let mut components = Vec::new();
    for provider in &generation.providers {
        for package in &provider.packages {
            let (addr, version) = (provider.addr.to_string(), provider.version.to_string());
            let platform = package.platform.to_string();
            components.push(component(
                "application",
                &addr,
                &version,
                &platform,
                package.archive,
            ));
        }
    }
    for module in &generation.modules {
        let version = module.version.to_string();
        components.push(component(
            "library",
            &module.addr,
            &version,
            "",
            module.archive,
        ));
    }
    for git in &generation.git {
        components.push(component("library", git.place(), "", "", git.pack));
    }
    for tool in &generation.tools {
        let (version, platform) = (tool.version.to_string(), tool.platform.to_string());
        components.push(component(
            "application",
            &tool.name,
            &version,
            &platform,
            tool.archive,
        ));
    }
    for image in &generation.images {
        if let Some(manifest) = image.manifests.last() {
            components.push(component(
                "container",
                &image.reference,
                "",
                "",
                manifest.digest,
            ));
        }
    }
    for file in &generation.files {
        components.push(component("file", &file.url, "", "", file.content));
    }
    let number = Digest::of(Value::from(components.clone()).to_string().as_bytes()).0;
    let mut bytes = [0; 16];
    bytes.copy_from_slice(&number[..16]);
    let number = uuid::Builder::from_custom_bytes(bytes).into_uuid();
    json!({
        "bomFormat": "CycloneDX",
        "specVersion": VERSION,
        "serialNumber": format!("urn:uuid:{number}"),
        "version": 1,
        "components": components,
    })
}

/// What a component is called within such documents.
pub fn reference(name: &str, version: &str, platform: &str, content: Digest) -> String {
    format!("{name}@{version}/{platform}#{content}")
}

fn component(kind: &str, name: &str, version: &str, platform: &str, content: Digest) -> Value {
    let reference = reference(name, version, platform, content);
    let mut component = json!({
        "type": kind,
        "bom-ref": reference,
        "name": name,
        "version": version,
        "hashes": [{"alg": "SHA-256", "content": content.to_string()}],
    });
    if !platform.is_empty() {
        component["properties"] = json!([{"name": "outpost:platform", "value": platform}]);
    }
    component
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::mirror::generation::{StaticFile, Tool};

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

        let document = sbom(&generation);

        let components = document["components"].as_array().unwrap();
        assert_eq!(components.len(), 2);
        assert_eq!(components[0]["name"], "terraform");
        assert_eq!(components[0]["properties"][0]["value"], "linux_amd64");
        let digest = Digest::of(b"a").to_string();
        assert_eq!(components[1]["hashes"][0]["content"], digest.as_str());
        assert_eq!(sbom(&generation), document);
        assert_ne!(
            sbom(&Generation::default())["serialNumber"],
            document["serialNumber"]
        );
        let references: std::collections::BTreeSet<_> =
            components.iter().map(|c| c["bom-ref"].as_str()).collect();
        assert_eq!(references.len(), components.len());
    }
}

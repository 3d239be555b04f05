//! Facts about the workspace and its owner, as templates see them.

use outpost_base::job::{Metadata, Role};
use sha2::{Digest as _, Sha256};
use uuid::Uuid;

use super::super::Scenario;

/// Facts about the workspace. Ids are the same in every run of a scenario with mocks; a workspace that is really there
/// must not have the id of another one.
pub(super) fn metadata(scenario: &Scenario, template: &str, is_inert: bool) -> Metadata {
    let owner = &scenario.owner;
    let full = [template, &scenario.file, &owner.name, &scenario.workspace].join("/");
    let id = |what: &str| match is_inert {
        true => derived(&format!("{what}:{full}")).to_string(),
        false => Uuid::new_v4().to_string(),
    };
    let full_name = match owner.full_name.as_str() {
        "" => owner.name.clone(),
        name => name.to_owned(),
    };
    Metadata {
        coder_url: "https://coder.example.com".to_owned(),
        workspace_name: scenario.workspace.clone(),
        workspace_owner: owner.name.clone(),
        workspace_id: id("workspace"),
        workspace_owner_id: id("owner"),
        workspace_owner_email: owner.email.clone(),
        workspace_owner_name: full_name,
        owner_groups: owner.groups.clone(),
        owner_login_type: "password".to_owned(),
        owner_roles: vec![Role {
            name: "member".to_owned(),
            organization_id: String::new(),
        }],
        template_name: template.to_owned(),
        template_version: "test".to_owned(),
        template_id: id("template"),
        template_version_id: id("version"),
        build_id: id("build"),
        ..Metadata::default()
    }
}

/// An id that depends on a name alone.
fn derived(name: &str) -> Uuid {
    let mut bytes = [0; 16];
    bytes.copy_from_slice(&Sha256::digest(name)[..16]);
    uuid::Builder::from_random_bytes(bytes).into_uuid()
}

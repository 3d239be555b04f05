//! Names for the ids in responses, looked up once a call.

use std::collections::HashMap;

use crate::{
    model::{KeyId, OrganizationId, Template, TemplateId, UserId, Version, VersionId},
    plane::{Plane, RequestError},
};

/// Names of everything that is small in number, and of versions as they are needed.
pub(super) struct Names<'p> {
    plane: &'p Plane,
    organizations: HashMap<OrganizationId, String>,
    users: HashMap<UserId, String>,
    templates: HashMap<TemplateId, Template>,
    versions: HashMap<VersionId, Version>,
    keys: HashMap<KeyId, String>,
}

impl<'p> Names<'p> {
    pub(super) async fn load(plane: &'p Plane) -> Result<Self, RequestError> {
        let store = plane.store();
        let organizations = store.organizations_ever().await?.into_iter();
        let users = store.users_ever().await?.into_iter();
        let templates = store.templates().await?.into_iter();
        let keys = store.keys().await?.into_iter();
        Ok(Self {
            plane,
            organizations: organizations.map(|found| (found.id, found.name)).collect(),
            users: users.map(|found| (found.id, found.name)).collect(),
            templates: templates.map(|found| (found.id, found)).collect(),
            keys: keys.map(|found| (found.id, found.name)).collect(),
            versions: HashMap::new(),
        })
    }

    pub(super) fn organization(&self, id: OrganizationId) -> String {
        self.organizations.get(&id).cloned().unwrap_or_default()
    }

    pub(super) fn user(&self, id: UserId) -> String {
        self.users.get(&id).cloned().unwrap_or_default()
    }

    pub(super) fn key(&self, id: Option<KeyId>) -> String {
        id.and_then(|id| self.keys.get(&id).cloned())
            .unwrap_or_default()
    }

    /// Returns the template, including a deleted one.
    pub(super) async fn template(
        &mut self,
        id: TemplateId,
    ) -> Result<Option<Template>, RequestError> {
        if !self.templates.contains_key(&id)
            && let Some(template) = self.plane.store().template(id).await?
        {
            self.templates.insert(id, template);
        }
        Ok(self.templates.get(&id).cloned())
    }

    /// Name of the version; empty if there is none.
    pub(super) async fn version(&mut self, id: VersionId) -> Result<String, RequestError> {
        if !self.versions.contains_key(&id)
            && let Some(version) = self.plane.store().version(id).await?
        {
            self.versions.insert(id, version);
        }
        let version = self.versions.get(&id);
        Ok(version
            .map(|version| version.name.clone())
            .unwrap_or_default())
    }
}

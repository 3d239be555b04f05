//! Registration of daemons over Coder's wire: credential, organization, tags, types, rights and version, checked in the
//! reference's order.

use std::collections::BTreeMap;

use axum::http::{HeaderMap, StatusCode};
use outpost_transport::coder::ApiVersion;
use tracing::warn;
use url::form_urlencoded;
use uuid::Uuid;

use super::{
    BUILD_VERSION,
    answer::Refusal,
    api_version::check_version,
    authentication::{credential, text},
};
use crate::{
    model::{Daemon, Organization},
    plane::{Plane, Registration, RequestError},
};

/// Types of provisioner that Coder knows.
const PROVISIONERS: [&str; 2] = ["terraform", "echo"];

/// Registers the daemon or refuses it. It is registered before its WebSocket is opened.
pub(super) async fn admit(
    plane: &Plane,
    organization: &str,
    query: &str,
    headers: &HeaderMap,
) -> Result<Daemon, Refusal> {
    let credential = credential(plane, headers).await?;
    let organization = find_organization(plane, organization).await?;
    let asked = Query::read(query);
    let registration = Registration {
        tags: asked.tags()?,
        provisioners: asked.provisioners()?,
        name: asked.name(),
        version: text(headers, BUILD_VERSION.as_str()).unwrap_or_default(),
        api_version: asked.version.clone(),
        organization: Some(organization),
        // Coder's protocol has no field for it.
        restored: None,
    };
    plane
        .admit(&credential, &registration)
        .await
        .map_err(|error| not_admitted(error, &registration.tags))?;
    // After the permissions, as in the reference, so that `outpost doctor` can test a credential with an impossible
    // version.
    check_version(&asked.version, ApiVersion::NEWEST).map_err(|why| {
        Refusal::new(
            StatusCode::BAD_REQUEST,
            "Incompatible or unparsable version",
        )
        .at("version", why)
    })?;
    let registered = plane.register(&credential, registration).await;
    registered.map_err(|error| match error {
        // Coder's daemon tries again after a while, when the name may be free.
        RequestError::Conflict(why) => Refusal::new(
            StatusCode::CONFLICT,
            "Name of a provisioner daemon is taken.",
        )
        .because(why),
        error => Refusal::internal(error),
    })
}

/// Finds an organization by id or name; `default` and the nil UUID mean the default one, whatever its name.
async fn find_organization(plane: &Plane, named: &str) -> Result<Organization, Refusal> {
    let is_default = named == "default" || named.parse() == Ok(Uuid::nil());
    let found = plane
        .organization(if is_default { "" } else { named })
        .await;
    match found {
        // The plane would read an empty name as the default organization.
        Ok(organization) if !named.is_empty() => Ok(organization),
        Ok(_) | Err(RequestError::NotFound { .. }) => Err(Refusal::not_found()),
        Err(error) => Err(Refusal::internal(error)),
    }
}

fn not_admitted(error: RequestError, tags: &BTreeMap<String, String>) -> Refusal {
    match error {
        RequestError::Forbidden(why) => {
            let is_own = tags.get("scope").is_some_and(|scope| scope == "user");
            let scope = if is_own { "user" } else { "organization" };
            let message =
                format!("You aren't allowed to create provisioner daemons with scope {scope:?}");
            Refusal::new(StatusCode::FORBIDDEN, message).because(why)
        }
        RequestError::Invalid(why) => Refusal::new(
            StatusCode::BAD_REQUEST,
            "Given tags are not acceptable to the service",
        )
        .at("tags", why),
        error => Refusal::internal(error),
    }
}

/// Description of a daemon in its URL's query.
struct Query {
    name: Option<String>,
    version: String,
    provisioners: Vec<String>,
    tags: Vec<String>,
}

impl Query {
    /// Parses the query. If a parameter that is expected once is repeated, its first value counts.
    fn read(query: &str) -> Self {
        let all: Vec<_> = form_urlencoded::parse(query.as_bytes()).collect();
        let every = |name: &str| -> Vec<String> {
            let named = all.iter().filter(|(key, _)| key == name);
            named.map(|(_, value)| value.to_string()).collect()
        };
        let first = |name| every(name).into_iter().find(|value| !value.is_empty());
        Self {
            name: first("name"),
            version: first("version").unwrap_or_else(|| "1.0".to_owned()),
            provisioners: every("provisioner"),
            tags: every("tag"),
        }
    }

    fn tags(&self) -> Result<BTreeMap<String, String>, Refusal> {
        let split = self.tags.iter().map(|tag| {
            let (key, value) = tag.split_once('=').ok_or_else(|| {
                let message = format!("Invalid format for tag {tag:?}. It must be KEY=VALUE.");
                Refusal::new(StatusCode::BAD_REQUEST, message)
            })?;
            Ok((key.to_owned(), value.to_owned()))
        });
        split.collect()
    }

    fn provisioners(&self) -> Result<Vec<String>, Refusal> {
        let refused = |message: String| Err(Refusal::new(StatusCode::BAD_REQUEST, message));
        if self.provisioners.is_empty() {
            return refused("The provisioner query parameter must be specified.".to_owned());
        }
        let known = |name: &String| PROVISIONERS.contains(&name.as_str());
        match self.provisioners.iter().find(|name| !known(name)) {
            Some(unknown) => refused(format!("Unknown provisioner type {unknown:?}")),
            None => Ok(self.provisioners.clone()),
        }
    }

    /// Name of the daemon. One without a name gets a random one, which it will not have again, and loses its jobs
    /// with its connection.
    fn name(&self) -> String {
        self.name.clone().unwrap_or_else(|| {
            let name = format!("unnamed-{}", Uuid::new_v4().simple());
            warn!(name, "a daemon gave no name; assigning one");
            name
        })
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn of_what_may_come_once_the_first_counts() {
        let query = Query::read(
            "name=a&name=b&version=1.18&version=1.2&tag=x%3D1&tag=y%3D&provisioner=echo",
        );

        assert_eq!(query.name(), "a");
        assert_eq!(query.version, "1.18");
        let tags = query.tags().unwrap();
        assert_eq!((&tags["x"][..], &tags["y"][..]), ("1", ""));
        assert_eq!(Query::read("").version, "1.0");
        assert_ne!(Query::read("").name(), Query::read("name=").name());
    }
}

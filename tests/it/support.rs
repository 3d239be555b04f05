//! What several tests need: a network that goes wrong when it is told to, and daemons that dial through it.

pub mod fault_proxy;

use std::{collections::BTreeMap, sync::Arc};

use outpost::{
    net::http::{Client, Config},
    transport::{
        auth::{Credential, CredentialSource},
        coder::{CoderSource, Target},
    },
};
use url::Url;

/// A credential that stays the same.
pub struct Fixed(pub Credential);

impl CredentialSource for Fixed {
    fn credential(&self) -> Result<Credential, String> {
        Ok(self.0.clone())
    }
}

/// A daemon's end of Coder's wire, which has not dialled yet.
pub fn coder_source(
    url: &Url,
    name: &str,
    credential: Credential,
    tags: &[(&str, &str)],
) -> CoderSource {
    let tags = tags.iter().map(|(k, v)| ((*k).to_owned(), (*v).to_owned()));
    let tags: BTreeMap<String, String> = tags.collect();
    let client = Client::new(Config::new(url.clone())).unwrap();
    let target = Target {
        organization: None,
        name: name.to_owned(),
        tags,
    };
    CoderSource::new(client, target, Arc::new(Fixed(credential)))
}

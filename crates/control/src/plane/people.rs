//! Organizations, users, tokens and keys, and the first start of a server.

use std::{
    collections::{BTreeMap, HashMap, hash_map::Entry},
    sync::{Arc, Mutex, PoisonError},
    time::Duration,
};

use jiff::Timestamp;
use outpost_base::secret::Secret;
use outpost_net::listener::mark_authenticated;

use super::{
    Caller, Plane, RequestError, access::Proof, begins, check_name, check_text, is_called,
    not_found, several,
};
use crate::{
    model::{
        AuditEntry, KeyId, Organization, OrganizationId, ProvisionerKey, Token, TokenId, User,
        UserId,
    },
    queue::Tags,
    tokens::{self, Hashed},
};

/// Longest name or email address of a user, in characters.
const LONGEST_TEXT: usize = 256;
/// Shortest interval at which the last use of a token is recorded.
const TOUCH_EVERY: Duration = Duration::from_secs(60);

/// A user to add.
#[derive(Clone, Debug)]
#[expect(missing_docs, reason = "the fields are those of `User`")]
pub struct NewUser {
    pub name: String,
    pub email: String,
    pub full_name: String,
    pub admin: bool,
    pub budget: Option<i32>,
}

/// Times when this process last recorded the uses of tokens, by the hashes of their values.
#[derive(Default)]
pub(super) struct NotedUses(Mutex<HashMap<Hashed, Timestamp>>);

impl NotedUses {
    /// Returns whether the use at `now` is the caller's to record. Entries older than [`TOUCH_EVERY`] are forgotten.
    fn claim(&self, token: &Hashed, now: Timestamp) -> bool {
        let mut noted = self.0.lock().unwrap_or_else(PoisonError::into_inner);
        noted.retain(|_, used| now.duration_since(*used).unsigned_abs() < TOUCH_EVERY);
        match noted.entry(*token) {
            Entry::Occupied(_) => false,
            Entry::Vacant(entry) => {
                entry.insert(now);
                true
            }
        }
    }

    /// Gives up a claim whose use could not be recorded.
    fn release(&self, token: &Hashed) {
        let mut noted = self.0.lock().unwrap_or_else(PoisonError::into_inner);
        noted.remove(token);
    }
}

fn role(admin: bool) -> &'static str {
    if admin { "administrator" } else { "member" }
}

impl Plane {
    /// Creates the default organization and the first administrator if they are missing, and returns the
    /// administrator.
    ///
    /// # Errors
    /// [`RequestError::Store`]
    pub async fn begin(&self) -> Result<User, RequestError> {
        if self.store.organizations().await?.is_empty() {
            let organization = Organization {
                id: OrganizationId::random(),
                name: "default".to_owned(),
                is_default: true,
                created_at: self.now(),
            };
            self.store.insert_organization(&organization).await?;
        }
        let admin = self
            .store
            .users()
            .await?
            .into_iter()
            .find(|user| user.admin);
        if let Some(admin) = admin {
            return Ok(admin);
        }
        let admin = self.new_user(NewUser {
            name: "admin".to_owned(),
            email: String::new(),
            full_name: "Administrator".to_owned(),
            admin: true,
            budget: None,
        });
        self.store.insert_user(&admin).await?;
        self.audit("server", "user.create", &admin.name, "first start")
            .await?;
        Ok(admin)
    }

    /// Returns the user whose token has this value.
    ///
    /// # Errors
    /// [`RequestError::Unauthenticated`] if no token has this value, or it has ended; [`RequestError::Suspended`].
    pub async fn authenticate(&self, value: &Secret) -> Result<Caller, RequestError> {
        const UNKNOWN: RequestError =
            RequestError::Unauthenticated("token is unknown or has expired");
        if value.expose().len() != tokens::LENGTH {
            return Err(UNKNOWN);
        }
        let hashed = Hashed::of(value);
        let Some((token, user)) = self.store.token(&hashed).await? else {
            return Err(UNKNOWN);
        };
        let now = self.now();
        if token.expires_at.is_some_and(|end| end <= now) {
            return Err(UNKNOWN);
        }
        if user.suspended_at.is_some() {
            return Err(RequestError::Suspended);
        }
        let is_recent = |used| now.duration_since(used).unsigned_abs() < TOUCH_EVERY;
        if !token.last_used_at.is_some_and(is_recent) {
            self.note_use(&hashed, &token, &user).await?;
        }
        let access = self.access(Proof::Token(token.id), token.expires_at);
        // Nobody else holds the access yet: if the token was revoked meanwhile, nothing would end connections opened
        // with it now.
        if Arc::strong_count(&access) == 1 {
            let now = self.store.token(&hashed).await?;
            if now.is_none_or(|(_, user)| user.suspended_at.is_some()) {
                self.revoke(Proof::Token(token.id));
                return Err(UNKNOWN);
            }
        }
        mark_authenticated(Some(&access));
        Ok(Caller { user, access })
    }

    /// Records that a token is used: once in [`TOUCH_EVERY`], however many requests read the token before that.
    async fn note_use(
        &self,
        hashed: &Hashed,
        token: &Token,
        user: &User,
    ) -> Result<(), RequestError> {
        let now = self.now();
        if !self.noted_uses.claim(hashed, now) {
            return Ok(());
        }
        let noted = async {
            if token.last_used_at.is_none() {
                self.audit(&user.name, "token.login", &token.name, "first use")
                    .await?;
            }
            self.store.touch_token(token.id, now).await?;
            Ok(())
        };
        let noted = noted.await;
        if noted.is_err() {
            self.noted_uses.release(hashed);
        }
        noted
    }

    fn new_user(&self, new: NewUser) -> User {
        User {
            id: UserId::random(),
            name: new.name,
            email: new.email,
            full_name: new.full_name,
            admin: new.admin,
            suspended_at: None,
            budget: new.budget,
            created_at: self.now(),
        }
    }

    /// Adds an organization.
    ///
    /// # Errors
    /// [`RequestError`]
    pub async fn create_organization(
        &self,
        caller: &Caller,
        name: &str,
    ) -> Result<Organization, RequestError> {
        caller.need_admin("adding an organization")?;
        check_name("organization", name)?;
        let organization = Organization {
            id: OrganizationId::random(),
            name: name.to_owned(),
            is_default: false,
            created_at: self.now(),
        };
        self.audit(&caller.user.name, "organization.create", name, "")
            .await?;
        self.store.insert_organization(&organization).await?;
        Ok(organization)
    }

    /// Deletes an organization that has nothing in it, with its provisioner keys and daemons.
    ///
    /// # Errors
    /// [`RequestError`]; [`RequestError::Conflict`] for the default one, and while there is something in it.
    pub async fn delete_organization(
        &self,
        caller: &Caller,
        named: &str,
    ) -> Result<(), RequestError> {
        caller.need_admin("deleting an organization")?;
        let organization = self.organization(named).await?;
        if organization.is_default {
            return Err(RequestError::Conflict(
                "the default organization cannot be deleted".to_owned(),
            ));
        }
        let name = &organization.name;
        self.audit(&caller.user.name, "organization.delete", name, "")
            .await?;
        let mut keys = self.store.keys().await?;
        keys.retain(|key| key.organization_id == organization.id);
        self.store
            .delete_organization(organization.id, self.now())
            .await?;
        for key in keys {
            self.revoke(Proof::Key(key.id));
        }
        self.posted.notify_waiters(); // Wakes its daemons, which are then refused.
        Ok(())
    }

    /// Adds a user.
    ///
    /// # Errors
    /// [`RequestError`]
    pub async fn create_user(&self, caller: &Caller, new: NewUser) -> Result<User, RequestError> {
        caller.need_admin("adding a user")?;
        check_name("user", &new.name)?;
        check_text("e-mail address", &new.email, LONGEST_TEXT)?;
        check_text("full name", &new.full_name, LONGEST_TEXT)?;
        let user = self.new_user(new);
        self.audit(
            &caller.user.name,
            "user.create",
            &user.name,
            role(user.admin),
        )
        .await?;
        self.store.insert_user(&user).await?;
        Ok(user)
    }

    /// Makes a user an administrator, or a member again.
    ///
    /// # Errors
    /// [`RequestError`]; [`RequestError::Conflict`] for the caller, so that there is always an administrator.
    pub(crate) async fn set_admin(
        &self,
        caller: &Caller,
        named: &str,
        admin: bool,
    ) -> Result<User, RequestError> {
        caller.need_admin("setting a user's role")?;
        let user = self
            .somebody_else(caller, named, "change your own role")
            .await?;
        self.audit(&caller.user.name, "user.role", &user.name, role(admin))
            .await?;
        self.store.set_admin(user.id, admin).await?;
        if user.admin && !admin {
            // Connections that were opened as an administrator must end; the user reconnects with the new role.
            self.revoke_tokens(user.id).await?;
        }
        Ok(User { admin, ..user })
    }

    /// Suspends a user, or ends the suspension. A suspended user and the agents of their workspaces are refused, and what
    /// they have open ends.
    ///
    /// # Errors
    /// [`RequestError`]; [`RequestError::Conflict`] for the caller, so that there is always an administrator.
    pub async fn set_suspended(
        &self,
        caller: &Caller,
        named: &str,
        suspended: bool,
    ) -> Result<User, RequestError> {
        caller.need_admin("suspending a user")?;
        let user = self
            .somebody_else(caller, named, "suspend yourself")
            .await?;
        let action = if suspended {
            "user.suspend"
        } else {
            "user.activate"
        };
        self.audit(&caller.user.name, action, &user.name, "")
            .await?;
        // A repeated suspension keeps its original time.
        let since = user.suspended_at.unwrap_or_else(|| self.now());
        let suspended_at = suspended.then_some(since);
        self.store.set_suspended(user.id, suspended_at).await?;
        if suspended {
            self.revoke_tokens(user.id).await?;
        }
        Ok(User {
            suspended_at,
            ..user
        })
    }

    /// Deletes a user who has no workspaces, with all tokens.
    ///
    /// # Errors
    /// [`RequestError`]; [`RequestError::Conflict`] for the caller, so that there is always an administrator.
    pub async fn delete_user(&self, caller: &Caller, named: &str) -> Result<(), RequestError> {
        caller.need_admin("deleting a user")?;
        let user = self.somebody_else(caller, named, "delete yourself").await?;
        self.audit(&caller.user.name, "user.delete", &user.name, "")
            .await?;
        let tokens = self.store.tokens(Some(user.id)).await?;
        self.store.delete_user(user.id, self.now()).await?;
        for token in tokens {
            self.revoke(Proof::Token(token.id));
        }
        Ok(())
    }

    async fn somebody_else(
        &self,
        caller: &Caller,
        named: &str,
        what: &str,
    ) -> Result<User, RequestError> {
        let user = self.user(named).await?;
        if user.id != caller.user.id {
            return Ok(user);
        }
        Err(RequestError::Conflict(format!(
            "you cannot {what}; another administrator can"
        )))
    }

    /// Sets the daily budget of a user's workspaces.
    ///
    /// # Errors
    /// [`RequestError`]
    pub(crate) async fn set_budget(
        &self,
        caller: &Caller,
        named: &str,
        budget: Option<i32>,
    ) -> Result<User, RequestError> {
        caller.need_admin("setting a budget")?;
        let user = self.user(named).await?;
        let text = budget.map_or_else(|| "no limit".to_owned(), |budget| budget.to_string());
        self.audit(&caller.user.name, "user.budget", &user.name, text)
            .await?;
        self.store.set_budget(user.id, budget).await?;
        Ok(User { budget, ..user })
    }

    /// Finds the user that a call is about: the caller if it names none.
    ///
    /// # Errors
    /// [`RequestError::Forbidden`] if the caller may not act for them.
    pub(crate) async fn acting_for(
        &self,
        caller: &Caller,
        named: &str,
    ) -> Result<User, RequestError> {
        if named.is_empty() || is_called(named, &caller.user.name, caller.user.id) {
            return Ok(caller.user.clone());
        }
        caller.need_admin("acting for another user")?;
        self.user(named).await
    }

    /// Creates a token and returns its value, which is never shown again.
    ///
    /// # Errors
    /// [`RequestError`]
    pub async fn create_token(
        &self,
        caller: &Caller,
        user: &str,
        name: &str,
        lifetime: Option<Duration>,
    ) -> Result<(Token, Secret), RequestError> {
        let user = self.acting_for(caller, user).await?;
        if name.is_empty() || name.len() > 64 {
            let reason = "a token needs a name of up to 64 characters".to_owned();
            return Err(RequestError::Invalid(reason));
        }
        check_text("token name", name, 64)?;
        self.issue_token(&caller.user.name, &user, name, lifetime)
            .await
    }

    /// Creates a token for `user` on behalf of `actor`.
    ///
    /// # Errors
    /// [`RequestError`]
    pub(crate) async fn issue_token(
        &self,
        actor: &str,
        user: &User,
        name: &str,
        lifetime: Option<Duration>,
    ) -> Result<(Token, Secret), RequestError> {
        let now = self.now();
        let token = Token {
            id: TokenId::random(),
            user_id: user.id,
            name: name.to_owned(),
            created_at: now,
            expires_at: lifetime.and_then(|lifetime| now.checked_add(lifetime).ok()),
            last_used_at: None,
        };
        let value = tokens::generate();
        self.audit(actor, "token.create", &user.name, name).await?;
        self.store.insert_token(&token, &Hashed::of(&value)).await?;
        Ok((token, value))
    }

    /// Returns the tokens of a user, oldest first.
    ///
    /// # Errors
    /// [`RequestError`]
    pub async fn tokens(&self, caller: &Caller, user: &str) -> Result<Vec<Token>, RequestError> {
        let user = self.acting_for(caller, user).await?;
        Ok(self.store.tokens(Some(user.id)).await?)
    }

    /// Finds a token by id, by a prefix of one, or by name among the caller's own.
    ///
    /// # Errors
    /// [`RequestError::NotFound`], also if the caller may not see it; [`RequestError::Invalid`] if several are meant.
    pub async fn token(&self, caller: &Caller, named: &str) -> Result<Token, RequestError> {
        let visible = (!caller.user.admin).then_some(caller.user.id);
        let mut tokens = self.store.tokens(visible).await?;
        tokens.retain(|token| {
            let is_own = token.user_id == caller.user.id;
            (is_own && token.name == named) || begins(&token.id.to_string(), named)
        });
        if tokens.len() > 1 {
            return Err(several("token", named));
        }
        tokens.pop().ok_or_else(|| not_found("token", named))
    }

    /// Returns the token that has this value.
    ///
    /// # Errors
    /// [`RequestError::NotFound`]
    pub(crate) async fn token_of(&self, value: &Secret) -> Result<Token, RequestError> {
        let found = self.store.token(&Hashed::of(value)).await?;
        found
            .map(|(token, _)| token)
            .ok_or_else(|| not_found("token", "of this call"))
    }

    /// Gives a token, which [`Self::token`] found, a new value, and its original lifetime once more.
    ///
    /// # Errors
    /// [`RequestError`]
    pub async fn rotate_token(
        &self,
        caller: &Caller,
        token: Token,
        value: &Secret,
    ) -> Result<Token, RequestError> {
        let now = self.now();
        let lifetime = token
            .expires_at
            .map(|end| end.duration_since(token.created_at));
        let token = Token {
            created_at: now,
            expires_at: lifetime.and_then(|lifetime| now.checked_add(lifetime).ok()),
            last_used_at: None,
            ..token
        };
        let id = token.id.to_string();
        self.audit(&caller.user.name, "token.rotate", &token.name, id)
            .await?;
        self.store.replace_token(&token, &Hashed::of(value)).await?;
        self.revoke(Proof::Token(token.id));
        Ok(token)
    }

    /// Revokes a token.
    ///
    /// # Errors
    /// As [`Self::token`].
    pub async fn revoke_token(&self, caller: &Caller, named: &str) -> Result<(), RequestError> {
        let token = self.token(caller, named).await?;
        let id = token.id.to_string();
        self.audit(&caller.user.name, "token.revoke", &token.name, id)
            .await?;
        self.store.delete_token(token.id).await?;
        self.revoke(Proof::Token(token.id));
        Ok(())
    }

    /// Creates a provisioner key and returns its value, which is never shown again.
    ///
    /// # Errors
    /// [`RequestError`]
    pub(crate) async fn create_key(
        &self,
        caller: &Caller,
        organization: &str,
        name: &str,
        tags: BTreeMap<String, String>,
    ) -> Result<(ProvisionerKey, Secret), RequestError> {
        caller.need_admin("making a provisioner key")?;
        check_name("provisioner key", name)?;
        let key = ProvisionerKey {
            id: KeyId::random(),
            organization_id: self.organization(organization).await?.id,
            name: name.to_owned(),
            tags: Tags::from_given(None, tags)?,
            created_at: self.now(),
        };
        let value = tokens::generate();
        self.audit(&caller.user.name, "key.create", name, key.tags.to_string())
            .await?;
        self.store.insert_key(&key, &Hashed::of(&value)).await?;
        Ok((key, value))
    }

    /// Returns the provisioner keys of an organization, by name.
    ///
    /// # Errors
    /// [`RequestError`]
    pub async fn keys(
        &self,
        caller: &Caller,
        organization: &str,
    ) -> Result<Vec<ProvisionerKey>, RequestError> {
        caller.need_admin("listing provisioner keys")?;
        let organization = self.organization(organization).await?.id;
        let mut keys = self.store.keys().await?;
        keys.retain(|key| key.organization_id == organization);
        Ok(keys)
    }

    /// Deletes a provisioner key; daemons that registered with it are refused at their next call.
    ///
    /// # Errors
    /// [`RequestError`]
    pub(crate) async fn delete_key(
        &self,
        caller: &Caller,
        organization: &str,
        name: &str,
    ) -> Result<(), RequestError> {
        let keys = self.keys(caller, organization).await?;
        let key = keys
            .into_iter()
            .find(|key| is_called(name, &key.name, key.id))
            .ok_or_else(|| not_found("provisioner key", name))?;
        self.audit(&caller.user.name, "key.delete", &key.name, "")
            .await?;
        self.store.delete_key(key.id).await?;
        self.revoke(Proof::Key(key.id));
        self.posted.notify_waiters();
        Ok(())
    }

    /// Returns the fingerprints of the pre-shared keys that are valid now.
    ///
    /// # Errors
    /// [`RequestError::Forbidden`]
    pub(crate) fn psk_fingerprints(&self, caller: &Caller) -> Result<Vec<String>, RequestError> {
        caller.need_admin("showing pre-shared keys")?;
        self.refresh_psks();
        Ok(self.psks.fingerprints())
    }

    /// Returns the daily cost of a user's workspaces, and the user.
    ///
    /// # Errors
    /// [`RequestError`]
    pub async fn quota(
        &self,
        caller: &Caller,
        user: &str,
        organization: &str,
    ) -> Result<(User, i32), RequestError> {
        let user = self.acting_for(caller, user).await?;
        let organization = self.organization(organization).await?;
        let consumed = self.store.consumed(user.id, organization.id).await?;
        Ok((user, consumed))
    }

    /// Returns the audit log, newest entry first.
    ///
    /// # Errors
    /// [`RequestError`]
    pub(crate) async fn audit_log(
        &self,
        caller: &Caller,
        before: Option<i64>,
        limit: usize,
    ) -> Result<Vec<AuditEntry>, RequestError> {
        caller.need_admin("reading the audit log")?;
        Ok(self.store.audit_entries(before, limit).await?)
    }

    /// Records that `caller` requested a backup.
    ///
    /// # Errors
    /// [`RequestError`]
    pub(crate) async fn audit_backup(
        &self,
        caller: &Caller,
        path: &str,
    ) -> Result<(), RequestError> {
        caller.need_admin("making a backup")?;
        self.audit(&caller.user.name, "backup.create", path, "")
            .await
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn the_use_of_a_token_is_noted_once_a_minute_and_again_if_that_failed() {
        let noted = NotedUses::default();
        let at = |seconds| Timestamp::from_second(seconds).unwrap();
        let [one, two] = [Hashed([1; 32]), Hashed([2; 32])];

        assert!(noted.claim(&one, at(1000)));
        assert!(!noted.claim(&one, at(1059)));
        assert!(noted.claim(&two, at(1059)));
        assert!(noted.claim(&one, at(1060)));
        assert!(noted.claim(&one, at(500)), "the clock was set back");
        noted.release(&one);
        assert!(noted.claim(&one, at(501)));
        assert_eq!(noted.0.lock().unwrap().len(), 1, "the other is forgotten");
    }
}

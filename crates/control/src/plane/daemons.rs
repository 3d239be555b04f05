//! Daemons: their identity, and their reports on jobs.

use bytes::Bytes;
use sha2::{Digest as _, Sha256};
use uuid::Uuid;

use std::{collections::BTreeMap, fmt, time::Duration};

use outpost_base::{job::JobId, secret::Secret};
use outpost_net::listener::mark_authenticated;
use outpost_provision::{JobUpdate, JobUpdated, Quota};
use tracing::warn;

use super::{Caller, Plane, RequestError, access::Proof, begins, check_text, not_found, several};
use crate::{
    model::{
        Daemon, DaemonId, FileId, FileKind, Holder, JobRecord, Organization, OrganizationId,
        ProvisionerKey, Task, User,
    },
    queue::Tags,
    store::{JobChange, Registered},
    tokens::{self, Hashed},
};

/// Credential that a daemon presented.
#[derive(Clone, Debug)]
pub enum Credential {
    /// A pre-shared key, or none for a daemon in the server's own process.
    Shared,
    /// A provisioner key of an organization.
    Key(ProvisionerKey),
    /// A token of this person.
    Person(User),
}

impl Credential {
    /// Returns the holder of names that a daemon with this credential registers.
    fn holder(&self) -> Holder {
        match self {
            Self::Shared => Holder::Shared,
            Self::Key(key) => Holder::Key(key.id),
            Self::Person(user) => Holder::Person(user.id),
        }
    }
}

/// Formats the credential as in the audit log.
impl fmt::Display for Credential {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match self {
            Self::Shared => f.write_str("pre-shared key"),
            Self::Key(key) => write!(f, "provisioner key {}", key.name),
            Self::Person(user) => write!(f, "token of {}", user.name),
        }
    }
}

/// Registration of a daemon: its description of itself.
#[derive(Clone, Debug, Default)]
pub struct Registration {
    /// Name of the daemon, which no other daemon of the organization should have.
    pub name: String,
    /// Tags of the daemon; none with a provisioner key, which has its own.
    pub tags: BTreeMap<String, String>,
    /// Types of provisioner, such as `terraform`.
    pub provisioners: Vec<String>,
    /// Version of the daemon's program.
    pub version: String,
    /// Version of Coder's daemon API that the daemon speaks; empty if it did not say.
    pub api_version: String,
    /// Organization that the daemon asks for; `None` for that of its credential.
    pub organization: Option<Organization>,
    /// State from the previous process, if the daemon says that it has just started.
    pub restored: Option<RestoredState>,
}

/// State that a restarted daemon brings from its previous process.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct RestoredState {
    /// Id of its state directory, which distinguishes it from a daemon of the same name on another machine.
    pub(crate) state_id: String,
    /// Jobs in its journal, whose results it will deliver.
    pub held: Vec<JobId>,
}

/// Organization and tags that a daemon gets by its credential.
#[derive(Clone, Debug, PartialEq, Eq)]
pub(crate) struct Admission {
    organization_id: OrganizationId,
    holder: Holder,
    tags: Tags,
}

impl Plane {
    /// Determines the daemon's credential: exactly one of the two must be given.
    ///
    /// # Errors
    /// [`RequestError::Unauthenticated`], which does not reveal the reason.
    pub(crate) async fn daemon_credential(
        &self,
        psk: Option<&Secret>,
        key: Option<&Secret>,
    ) -> Result<Credential, RequestError> {
        const UNKNOWN: RequestError = RequestError::Unauthenticated(
            "a pre-shared key or a provisioner key is required, and the one given is unknown",
        );
        self.refresh_psks();
        let (credential, proof) = match (psk, key) {
            (Some(given), None) if self.psks.contains(given) => {
                (Credential::Shared, Proof::Psk(Hashed::of(given)))
            }
            (None, Some(key)) if key.expose().len() == tokens::LENGTH => {
                let key = self.store.key(&Hashed::of(key)).await?.ok_or(UNKNOWN)?;
                let proof = Proof::Key(key.id);
                (Credential::Key(key), proof)
            }
            (_, _) => return Err(UNKNOWN),
        };
        let access = self.access(proof, None);
        // Once more, so that a key that was removed meanwhile either fails here or has ended this access.
        if psk.is_some_and(|given| !self.psks.contains(given)) {
            self.revoke(proof);
            return Err(UNKNOWN);
        }
        mark_authenticated(Some(&access));
        Ok(credential)
    }

    /// Decides which organization a daemon belongs to and which tags it has.
    ///
    /// # Errors
    /// [`RequestError::Forbidden`] if its credential does not allow what it asks for; [`RequestError::Invalid`] for
    /// tags that cannot be stored.
    pub(crate) async fn admit(
        &self,
        credential: &Credential,
        registration: &Registration,
    ) -> Result<Admission, RequestError> {
        let forbidden = |why: &str| Err(RequestError::Forbidden(why.to_owned()));
        let named = registration.organization.as_ref();
        let given = &registration.tags;
        let (organization_id, tags) = match credential {
            Credential::Shared if named.is_some_and(|named| !named.is_default) => {
                return forbidden(
                    "a pre-shared key is valid for the default organization only; use a provisioner key",
                );
            }
            Credential::Shared => {
                let tags = Tags::from_given(None, given.clone())?;
                (self.organization("").await?.id, tags)
            }
            Credential::Key(_) if !given.is_empty() => {
                return forbidden("a daemon with a provisioner key gets the key's tags; set none");
            }
            Credential::Key(key) => (key.organization_id, key.tags.clone()),
            Credential::Person(user) => {
                let is_own = given.get("scope").is_some_and(|scope| scope == "user");
                if !is_own && !user.admin {
                    return forbidden(
                        "only an administrator may do this; set the tag `scope=user` for your own jobs",
                    );
                }
                let organization = match named {
                    Some(named) => named.id,
                    None => self.organization("").await?.id,
                };
                let tags = Tags::from_given(Some(user.id), given.clone())?;
                (organization, tags)
            }
        };
        Ok(Admission {
            organization_id,
            holder: credential.holder(),
            tags,
        })
    }

    /// Adds a daemon, or finds the one with the same name, whose id stays the same.
    ///
    /// # Errors
    /// As `admit`; [`RequestError::Invalid`] for what the server does not accept; [`RequestError::Conflict`] if
    /// the name belongs to another credential.
    pub async fn register(
        &self,
        credential: &Credential,
        registration: Registration,
    ) -> Result<Daemon, RequestError> {
        check_registration(&registration)?;
        let restored = registration.restored.clone();
        let Admission {
            organization_id,
            holder,
            tags,
        } = self.admit(credential, &registration).await?;
        let now = self.now();
        let daemon = Daemon {
            id: DaemonId::random(),
            organization_id,
            holder,
            name: registration.name,
            tags,
            provisioners: registration.provisioners,
            version: registration.version,
            api_version: registration.api_version,
            created_at: now,
            last_seen_at: now,
            state_id: restored
                .as_ref()
                .map(|it| it.state_id.clone())
                .unwrap_or_default(),
        };
        let actor = format!("daemon {}", daemon.name);
        let with = credential.to_string();
        let is_offline = |id| self.is_offline(id);
        let registered = self.store.register_daemon(&daemon, &is_offline);
        match registered.await? {
            Registered::As(daemon) => {
                self.presence.hear(daemon.id, self.uptime());
                self.audit(&actor, "daemon.login", &daemon.name, with)
                    .await?;
                if let Some(restored) = restored {
                    self.end_forgotten(&daemon, &restored).await?;
                }
                Ok(daemon)
            }
            Registered::Held { by, jobs } => {
                let held = self.describe_holder(&by, jobs).await?;
                warn!(
                    name = by.name,
                    with, held, "refusing a daemon whose name belongs to another credential"
                );
                let detail = format!("{with}: {held}");
                self.audit(&actor, "daemon.refused", &by.name, detail)
                    .await?;
                Err(RequestError::Conflict(format!(
                    "the daemon name `{}` belongs to another credential: {held}; register under another name, or stop \
                     that daemon and delete it with `outpost provisioner delete`",
                    by.name
                )))
            }
        }
    }

    /// Ends the jobs that a daemon took before its restart and that are not in its journal: it had not begun to apply
    /// them.
    pub(crate) async fn end_forgotten(
        &self,
        daemon: &Daemon,
        restored: &RestoredState,
    ) -> Result<(), RequestError> {
        let state_id = &restored.state_id;
        for job in self.store.jobs_of_state(daemon.id, state_id).await? {
            if restored.held.contains(&job) {
                continue;
            }
            warn!(job_id = %job, daemon = daemon.name, "ended a job whose daemon was restarted");
            let error = format!(
                "provisioner daemon {} was restarted before it applied anything; start the job again",
                daemon.name
            );
            self.end(job, error).await?;
        }
        Ok(())
    }

    /// Returns whether a daemon has been silent for so long that it counts as gone. For one that this process has not
    /// heard from, silence counts from the start of the process.
    fn is_offline(&self, id: DaemonId) -> bool {
        let now = self.uptime();
        let silence = self.presence.silence(id, &now);
        let silence = silence.or_else(|| now.since(&self.started_up));
        silence.is_some_and(|silence| silence >= self.limits.offline)
    }

    /// Number of daemons that count as connected.
    pub(crate) fn connected_daemons(&self) -> usize {
        let now = self.uptime();
        self.presence.count_within(self.limits.offline, &now)
    }

    /// Records a sign of life of a daemon.
    pub(super) async fn touch(&self, id: DaemonId) -> Result<(), RequestError> {
        self.presence.hear(id, self.uptime());
        Ok(self.store.touch_daemon(id, self.now()).await?)
    }

    /// Returns the reason why a name is not free, for the daemon's operator.
    async fn describe_holder(&self, daemon: &Daemon, jobs: usize) -> Result<String, RequestError> {
        let credential = match daemon.holder {
            Holder::Shared => "a pre-shared key".to_owned(),
            Holder::Unknown => "a pre-shared key or a person's token".to_owned(),
            Holder::Key(id) => {
                let keys = self.store.keys().await?;
                let key = keys.into_iter().find(|key| key.id == id);
                key.map_or_else(
                    || "a provisioner key".to_owned(),
                    |key| format!("provisioner key {}", key.name),
                )
            }
            Holder::Person(_) => "a person's token".to_owned(),
        };
        let silent = self.now().duration_since(daemon.last_seen_at);
        let silent = Duration::from_secs(silent.unsigned_abs().as_secs());
        let silent = humantime::format_duration(silent);
        Ok(format!(
            "registered with {credential}, last seen {silent} ago, {jobs} jobs"
        ))
    }

    /// Returns the daemon with this id if it registered with this credential.
    ///
    /// # Errors
    /// [`RequestError::Unauthenticated`]
    pub async fn daemon(
        &self,
        credential: &Credential,
        id: DaemonId,
    ) -> Result<Daemon, RequestError> {
        let daemon = self.store.daemon(id).await?;
        daemon
            .filter(|daemon| daemon.holder == credential.holder())
            .ok_or(RequestError::Unauthenticated(
                "daemon is not registered with this credential; register again",
            ))
    }

    /// Returns the job if it was given to `daemon` and the daemon is still registered with the credential of its
    /// session.
    pub(super) async fn owned(
        &self,
        daemon: &Daemon,
        id: JobId,
    ) -> Result<JobRecord, RequestError> {
        let job = self.store.job(id).await?;
        let job = job.ok_or_else(|| RequestError::Gone(no_job(id)))?;
        match job.worker {
            None => return Err(RequestError::Conflict("job isn't running yet".to_owned())),
            Some(worker) if worker != daemon.id => {
                return Err(RequestError::Gone("you don't own this job".to_owned()));
            }
            Some(_) => {}
        }
        // A connection may outlast the key that it came with, and the name that it had.
        let registered = self.store.daemon(daemon.id).await?;
        match registered.is_some_and(|it| it.holder == daemon.holder) {
            true => {
                self.presence.hear(daemon.id, self.uptime());
                Ok(job)
            }
            false => Err(NOT_REGISTERED),
        }
    }

    /// Records a job's sign of life and its news.
    ///
    /// # Errors
    /// [`RequestError::Gone`] if the job is not the daemon's or has ended; [`RequestError::Invalid`] if required
    /// variables have no value.
    pub(crate) async fn update_job(
        &self,
        daemon: &Daemon,
        update: JobUpdate,
    ) -> Result<JobUpdated, RequestError> {
        let job = self.owned(daemon, update.job).await?;
        if job.completed_at.is_some() {
            return Err(RequestError::Gone("job already completed".to_owned()));
        }
        let variables =
            super::outcome::variable_values(&update.template_variables, &update.user_variables);
        let missing = super::outcome::missing_variables(&update.template_variables, &variables);
        let unknown = super::outcome::unknown_variables(&update);
        let import_output = self.learn_early(&job, &update).await?;
        let now = self.now();
        let change = JobChange {
            job: update.job,
            lines: update.logs,
            import_output,
            now,
            heard: self.uptime(),
        };
        let cancelled = self.store.update_job(change).await?;
        self.changed.send_replace(());
        if let Some(unknown) = unknown {
            return Err(RequestError::Invalid(unknown));
        }
        if !missing.is_empty() {
            let missing = missing.join(", ");
            return Err(RequestError::Invalid(format!(
                "required template variables need values: {missing}"
            )));
        }
        Ok(JobUpdated {
            cancelled,
            variables,
        })
    }

    /// Returns the import's output so far, with the parts that this update brings; `None` if it brings none.
    async fn learn_early(
        &self,
        job: &JobRecord,
        update: &JobUpdate,
    ) -> Result<Option<(crate::model::VersionId, crate::model::ImportOutput)>, RequestError> {
        let Task::TemplateImport { version_id } = job.task else {
            return Ok(None);
        };
        let says_nothing = update.template_variables.is_empty()
            && update.readme.is_empty()
            && update.workspace_tags.is_empty();
        if says_nothing {
            return Ok(None);
        }
        let mut import_output = self.store.import_output(version_id).await?;
        if !update.template_variables.is_empty() {
            import_output
                .variables
                .clone_from(&update.template_variables);
        }
        if !update.readme.is_empty() {
            import_output.readme = String::from_utf8_lossy(&update.readme).replace('\0', "");
        }
        if !update.workspace_tags.is_empty() {
            import_output
                .workspace_tags
                .clone_from(&update.workspace_tags);
        }
        Ok(Some((version_id, import_output)))
    }

    /// Forgets a daemon that is offline and has no job.
    ///
    /// # Errors
    /// [`RequestError::Conflict`] if it is there or has a job; [`RequestError::Invalid`] if several have this name.
    pub async fn delete_daemon(
        &self,
        caller: &Caller,
        organization: &str,
        named: &str,
    ) -> Result<(), RequestError> {
        caller.need_admin("deleting a daemon")?;
        let organization = self.organization(organization).await?.id;
        let mut found = self.store.daemons().await?;
        found.retain(|it| {
            it.organization_id == organization
                && (it.name == named || begins(&it.id.to_string(), named))
        });
        if found.len() > 1 {
            return Err(several("daemon", named));
        }
        let daemon = found.pop().ok_or_else(|| not_found("daemon", named))?;
        if !self.is_offline(daemon.id) {
            return Err(RequestError::Conflict(format!(
                "the daemon `{}` is not offline; stop it first, or it registers itself again",
                daemon.name
            )));
        }
        let open = self.store.open_jobs().await?;
        if let Some(job) = open.iter().find(|job| job.worker == Some(daemon.id)) {
            return Err(RequestError::Conflict(format!(
                "the daemon `{}` has the job {}; it can be deleted once that has ended",
                daemon.name, job.id
            )));
        }
        let id = daemon.id.to_string();
        self.audit(&caller.user.name, "daemon.delete", &daemon.name, id)
            .await?;
        Ok(self.store.delete_daemon(daemon.id).await?)
    }

    /// Commits the daily cost of a build to its owner's quota.
    ///
    /// # Errors
    /// [`RequestError::Gone`] if the job is not the daemon's; [`RequestError::Invalid`] if it builds no workspace.
    pub async fn commit_quota(
        &self,
        daemon: &Daemon,
        job: JobId,
        daily_cost: i32,
    ) -> Result<Quota, RequestError> {
        match self.owned(daemon, job).await?.task {
            Task::WorkspaceBuild { build_id } => {
                Ok(self.store.commit_quota(build_id, daily_cost).await?)
            }
            Task::TemplateImport { .. } | Task::TemplateDryRun { .. } => Err(
                RequestError::Invalid("only a workspace build has a cost".to_owned()),
            ),
        }
    }

    /// Records that a daemon is connected.
    ///
    /// # Errors
    /// [`RequestError::Store`]
    pub async fn alive(&self, daemon: &Daemon) -> Result<(), RequestError> {
        self.touch(daemon.id).await
    }

    /// Stores an archive of modules that is too large for the message that ends its import.
    ///
    /// # Errors
    /// [`RequestError::Store`], and [`RequestError::Invalid`] if too much was uploaded that no import named.
    pub(crate) async fn upload_modules(&self, content: Bytes) -> Result<(), RequestError> {
        let sha256 = hex::encode(Sha256::digest(&content));
        let mut uploads = self.uploads.lock().await;
        if !uploads.note(&sha256, content.len(), self.now()) {
            let why = "too many module archives are waiting for their imports to end; try again in an hour";
            return Err(RequestError::Invalid(why.to_owned()));
        }
        let inserted = self.store.insert_file(FileKind::Modules, content).await;
        Ok(inserted.map(drop)?)
    }

    /// Returns the archive of modules with this SHA-256, if it was uploaded before.
    ///
    /// # Errors
    /// [`RequestError::Invalid`] if it was not.
    pub(crate) async fn uploaded_modules(&self, sha256: &[u8]) -> Result<Bytes, RequestError> {
        let digest = hex::encode(sha256);
        let found = self.store.file_by_hash(FileKind::Modules, &digest).await?;
        self.uploads.lock().await.name(&digest);
        found.map(|file| file.content).ok_or_else(|| {
            RequestError::Invalid(format!(
                "get file by hash, it should have been uploaded: there is none with SHA-256 {digest}"
            ))
        })
    }

    /// Returns the module archive with this id, if a template of the daemon's organization has it.
    ///
    /// # Errors
    /// [`RequestError::NotFound`] for anything else, [`RequestError::Busy`] if others receive too much for a minute.
    pub async fn download_modules(&self, daemon: &Daemon, id: Uuid) -> Result<Bytes, RequestError> {
        let unknown = || not_found("modules file", id.to_string());
        let id = FileId(id);
        let bytes = self.store.modules_bytes(daemon.organization_id, id).await?;
        let load = async {
            let file = self.store.file(id).await?.ok_or_else(unknown)?;
            Ok(file.content)
        };
        let bytes = bytes.ok_or_else(unknown)?;
        self.archives.get(id, bytes, load).await
    }
}

pub(super) const NOT_REGISTERED: RequestError =
    RequestError::Unauthenticated("daemon is no longer registered; register again");

/// Returns the error for a job that is not the daemon's. Daemons recognize it by the words at its end.
fn no_job(id: JobId) -> String {
    format!("there is no job {id}: no rows in result set")
}

fn check_registration(registration: &Registration) -> Result<(), RequestError> {
    let name = &registration.name;
    if name.is_empty() || name.chars().count() > 64 || name.contains('\0') {
        return Err(RequestError::Invalid(
            "a daemon needs a name of 1 to 64 characters without NUL".to_owned(),
        ));
    }
    check_text("daemon name", name, 64)?;
    check_text("version of a daemon", &registration.version, 128)?;
    check_text("API version of a daemon", &registration.api_version, 32)?;
    for provisioner in &registration.provisioners {
        check_text("type of provisioner", provisioner, 64)?;
    }
    if registration.provisioners.is_empty() {
        return Err(RequestError::Invalid(
            "a daemon needs at least one type of provisioner".to_owned(),
        ));
    }
    Ok(())
}

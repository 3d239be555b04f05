-- Ids are UUIDs as text, times milliseconds since 1970, flags 0 or 1. `sealed` values are encrypted.

CREATE TABLE meta (
  key TEXT PRIMARY KEY,
  value TEXT NOT NULL
) STRICT;

CREATE TABLE organizations (
  id TEXT PRIMARY KEY,
  name TEXT NOT NULL UNIQUE COLLATE NOCASE,
  is_default INTEGER NOT NULL,
  created_at INTEGER NOT NULL
) STRICT;

CREATE TABLE users (
  id TEXT PRIMARY KEY,
  name TEXT NOT NULL UNIQUE COLLATE NOCASE,
  email TEXT NOT NULL,
  full_name TEXT NOT NULL,
  admin INTEGER NOT NULL,
  budget INTEGER,
  created_at INTEGER NOT NULL
) STRICT;

CREATE TABLE tokens (
  id TEXT PRIMARY KEY,
  user_id TEXT NOT NULL REFERENCES users (id),
  name TEXT NOT NULL,
  hash BLOB NOT NULL UNIQUE,
  created_at INTEGER NOT NULL,
  expires_at INTEGER,
  last_used_at INTEGER
) STRICT;

CREATE TABLE provisioner_keys (
  id TEXT PRIMARY KEY,
  organization_id TEXT NOT NULL REFERENCES organizations (id),
  name TEXT NOT NULL COLLATE NOCASE,
  hash BLOB NOT NULL UNIQUE,
  tags TEXT NOT NULL,
  created_at INTEGER NOT NULL,
  UNIQUE (organization_id, name)
) STRICT;

CREATE TABLE daemons (
  id TEXT PRIMARY KEY,
  organization_id TEXT NOT NULL REFERENCES organizations (id),
  key_id TEXT REFERENCES provisioner_keys (id) ON DELETE CASCADE,
  name TEXT NOT NULL,
  owner TEXT NOT NULL,
  tags TEXT NOT NULL,
  provisioners TEXT NOT NULL,
  version TEXT NOT NULL,
  created_at INTEGER NOT NULL,
  last_seen_at INTEGER NOT NULL,
  UNIQUE (organization_id, name, owner)
) STRICT;

CREATE TABLE files (
  id TEXT PRIMARY KEY,
  kind TEXT NOT NULL CHECK (kind IN ('template', 'modules')),
  sha256 TEXT NOT NULL,
  content BLOB NOT NULL,
  UNIQUE (kind, sha256)
) STRICT;

CREATE TABLE templates (
  id TEXT PRIMARY KEY,
  organization_id TEXT NOT NULL REFERENCES organizations (id),
  name TEXT NOT NULL COLLATE NOCASE,
  active_version TEXT REFERENCES versions (id),
  created_by TEXT NOT NULL REFERENCES users (id),
  created_at INTEGER NOT NULL,
  updated_at INTEGER NOT NULL,
  deleted_at INTEGER
) STRICT;
CREATE UNIQUE INDEX templates_by_name ON templates (organization_id, name) WHERE deleted_at IS NULL;

CREATE TABLE versions (
  id TEXT PRIMARY KEY,
  template_id TEXT NOT NULL REFERENCES templates (id),
  name TEXT NOT NULL,
  message TEXT NOT NULL,
  file_id TEXT NOT NULL REFERENCES files (id),
  job_id TEXT NOT NULL UNIQUE REFERENCES jobs (id) DEFERRABLE INITIALLY DEFERRED,
  activate INTEGER NOT NULL,
  tags TEXT NOT NULL,
  created_by TEXT NOT NULL REFERENCES users (id),
  created_at INTEGER NOT NULL,
  variables BLOB NOT NULL, -- sealed
  learned TEXT NOT NULL,
  plan BLOB, -- sealed
  UNIQUE (template_id, name)
) STRICT;

CREATE TABLE workspaces (
  id TEXT PRIMARY KEY,
  organization_id TEXT NOT NULL REFERENCES organizations (id),
  owner_id TEXT NOT NULL REFERENCES users (id),
  template_id TEXT NOT NULL REFERENCES templates (id),
  name TEXT NOT NULL COLLATE NOCASE,
  created_at INTEGER NOT NULL,
  updated_at INTEGER NOT NULL,
  deleted_at INTEGER
) STRICT;
CREATE UNIQUE INDEX workspaces_by_name ON workspaces (organization_id, owner_id, name) WHERE deleted_at IS NULL;

CREATE TABLE builds (
  id TEXT PRIMARY KEY,
  workspace_id TEXT NOT NULL REFERENCES workspaces (id),
  number INTEGER NOT NULL,
  transition TEXT NOT NULL CHECK (transition IN ('start', 'stop', 'destroy')),
  version_id TEXT NOT NULL REFERENCES versions (id),
  job_id TEXT NOT NULL UNIQUE REFERENCES jobs (id) DEFERRABLE INITIALLY DEFERRED,
  parameters TEXT NOT NULL,
  preset TEXT NOT NULL,
  log_level TEXT NOT NULL,
  daily_cost INTEGER NOT NULL,
  state_id INTEGER REFERENCES states (id),
  made BLOB, -- sealed
  initiator_id TEXT NOT NULL REFERENCES users (id),
  created_at INTEGER NOT NULL,
  UNIQUE (workspace_id, number)
) STRICT;

-- Every state that ever was. A build points at the one that counts.
CREATE TABLE states (
  id INTEGER PRIMARY KEY AUTOINCREMENT,
  build_id TEXT NOT NULL REFERENCES builds (id),
  digest BLOB NOT NULL,
  content BLOB NOT NULL, -- sealed
  created_at INTEGER NOT NULL,
  UNIQUE (build_id, digest)
) STRICT;
CREATE TRIGGER states_are_kept BEFORE DELETE ON states
BEGIN SELECT RAISE (ABORT, 'states are never removed'); END;

CREATE TABLE jobs (
  id TEXT PRIMARY KEY,
  organization_id TEXT NOT NULL REFERENCES organizations (id),
  initiator_id TEXT NOT NULL REFERENCES users (id),
  task TEXT NOT NULL,
  provisioner TEXT NOT NULL,
  tags TEXT NOT NULL,
  prebuild INTEGER NOT NULL,
  subject TEXT NOT NULL,
  created_at INTEGER NOT NULL,
  updated_at INTEGER NOT NULL,
  started_at INTEGER,
  canceled_at INTEGER,
  completed_at INTEGER,
  worker TEXT,
  worker_name TEXT NOT NULL,
  error TEXT NOT NULL,
  error_code TEXT,
  ended_by TEXT CHECK (ended_by IN ('daemon', 'reaper', 'person', 'server')),
  log_bytes INTEGER NOT NULL,
  log_truncated INTEGER NOT NULL,
  result BLOB, -- sealed
  CHECK ((completed_at IS NULL) = (ended_by IS NULL)),
  CHECK ((started_at IS NULL) = (worker IS NULL))
) STRICT;
CREATE INDEX jobs_open ON jobs (created_at) WHERE completed_at IS NULL;
CREATE INDEX jobs_by_age ON jobs (created_at);
-- A job ends once: whoever tries again is a mistake of ours.
CREATE TRIGGER jobs_end_once BEFORE UPDATE OF completed_at, error, ended_by ON jobs WHEN OLD.completed_at IS NOT NULL
BEGIN SELECT RAISE (ABORT, 'a job ends once'); END;

CREATE TABLE job_logs (
  id INTEGER PRIMARY KEY AUTOINCREMENT,
  job_id TEXT NOT NULL REFERENCES jobs (id),
  source TEXT NOT NULL,
  level TEXT NOT NULL,
  created_at INTEGER NOT NULL,
  stage TEXT NOT NULL,
  output TEXT NOT NULL
) STRICT;
CREATE INDEX job_logs_by_job ON job_logs (job_id, id);

CREATE TABLE audit (
  id INTEGER PRIMARY KEY AUTOINCREMENT,
  at INTEGER NOT NULL,
  actor TEXT NOT NULL,
  action TEXT NOT NULL,
  target TEXT NOT NULL,
  detail TEXT NOT NULL
) STRICT;
CREATE TRIGGER audit_is_not_changed BEFORE UPDATE ON audit
BEGIN SELECT RAISE (ABORT, 'the audit log is append-only'); END;
CREATE TRIGGER audit_is_not_removed BEFORE DELETE ON audit
BEGIN SELECT RAISE (ABORT, 'the audit log is append-only'); END;

-- Agents of builds that succeeded, and what is known of them. What they run is in the resources of their build.
CREATE TABLE agents (
  id TEXT PRIMARY KEY,
  build_id TEXT NOT NULL REFERENCES builds (id),
  name TEXT NOT NULL,
  token_hash BLOB, -- SHA-256; none for one that its cloud vouches for
  lifecycle TEXT NOT NULL,
  version TEXT NOT NULL,
  directory TEXT NOT NULL,
  first_connected_at INTEGER,
  last_connected_at INTEGER,
  UNIQUE (build_id, name)
) STRICT;

CREATE INDEX agents_by_token ON agents (token_hash);

-- What agents say. `log_bytes` is what is kept of it; a full log takes nothing more.
ALTER TABLE agents ADD COLUMN log_bytes INTEGER NOT NULL DEFAULT 0;
ALTER TABLE agents ADD COLUMN log_full INTEGER NOT NULL DEFAULT 0;

CREATE TABLE agent_logs (
  id INTEGER PRIMARY KEY AUTOINCREMENT,
  agent_id TEXT NOT NULL REFERENCES agents (id),
  source TEXT NOT NULL, -- a script's id as its agent knows it
  level TEXT NOT NULL,
  created_at INTEGER NOT NULL,
  output TEXT NOT NULL
) STRICT;

CREATE INDEX agent_logs_by_agent ON agent_logs (agent_id, id);

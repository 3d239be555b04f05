-- When a job was last heard of, by the machine's own clock: which start of the machine, and milliseconds since then.
ALTER TABLE jobs ADD COLUMN heard_boot TEXT NOT NULL DEFAULT '';
ALTER TABLE jobs ADD COLUMN heard_ms INTEGER NOT NULL DEFAULT 0;
-- The state directory of the daemon that took it; empty if it did not say.
ALTER TABLE jobs ADD COLUMN worker_state_id TEXT NOT NULL DEFAULT '';

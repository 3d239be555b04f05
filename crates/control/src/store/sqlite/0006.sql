-- The credential that holds a daemon's name: `psk`, `key:ID` or `user:ID`; empty if an older version did not say.
ALTER TABLE daemons ADD COLUMN holder TEXT NOT NULL DEFAULT '';
UPDATE daemons SET holder = 'key:' || key_id WHERE key_id IS NOT NULL;
CREATE INDEX jobs_by_worker ON jobs (worker);

-- What a daemon speaks, such as 1.20; empty for those that never said.
ALTER TABLE daemons ADD COLUMN api_version TEXT NOT NULL DEFAULT '';

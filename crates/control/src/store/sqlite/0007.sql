-- A suspended user keeps everything and is refused everywhere.
ALTER TABLE users ADD COLUMN suspended_at INTEGER;
-- A deleted organization stays for what its jobs and workspaces were, under a name that nobody can give: `lab~1a2b3c4d`.
ALTER TABLE organizations ADD COLUMN deleted_at INTEGER;

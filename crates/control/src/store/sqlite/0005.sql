-- A deleted user stays as the author of what they did, under a name that nobody can be called by: `amy~1a2b3c4d`.
ALTER TABLE users ADD COLUMN deleted_at INTEGER;

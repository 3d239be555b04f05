-- A job ends once, except that the success of its daemon takes the place of the reaper's verdict.
DROP TRIGGER jobs_end_once;
CREATE TRIGGER jobs_end_once BEFORE UPDATE OF completed_at, error, ended_by ON jobs
WHEN OLD.completed_at IS NOT NULL AND NOT (
  OLD.ended_by = 'reaper' AND OLD.worker IS NOT NULL
  AND NEW.ended_by = 'daemon' AND NEW.worker = OLD.worker AND NEW.completed_at IS NOT NULL AND NEW.error = ''
)
BEGIN SELECT RAISE (ABORT, 'a job ends once'); END;

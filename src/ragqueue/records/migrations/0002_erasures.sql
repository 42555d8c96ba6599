-- The document that an ingest or a delete is about: its jobs are found, ended and cleaned when it is erased.
ALTER TABLE jobs ADD COLUMN document_id VARCHAR;
UPDATE jobs SET document_id = json_extract(payload, '$.document_id') WHERE kind <> 'chat';
CREATE INDEX jobs_document ON jobs (tenant, document_id) WHERE document_id is not null;
-- Whether retention has dropped the job's log, wherever logs are kept.
ALTER TABLE jobs ADD COLUMN log_dropped BOOLEAN NOT NULL DEFAULT 0;
CREATE INDEX jobs_logged ON jobs (ended_at) WHERE log_dropped = 0 and attempt > 0;
-- Many jobs have one created_at: pages need a tie-break.
DROP INDEX jobs_listed;
CREATE INDEX jobs_listed ON jobs (tenant, created_at, id);
-- The last job that was made to erase a hidden document, and when its rows were gone: the file is compacted after that.
ALTER TABLE documents ADD COLUMN erasure VARCHAR;
ALTER TABLE documents ADD COLUMN cleared_at FLOAT;

-- No cost that grows with the past: what was counted anew is kept as a tally, and each look has an index.
-- How many jobs there are, with their failed tries and deaths; rows without a job are none.
CREATE TABLE tallies (
    lane VARCHAR NOT NULL,
    state VARCHAR NOT NULL,
    tenant VARCHAR NOT NULL,
    jobs BIGINT NOT NULL,
    tries BIGINT NOT NULL,
    deaths BIGINT NOT NULL,
    PRIMARY KEY (lane, state, tenant)
) WITHOUT ROWID;
INSERT INTO tallies (lane, state, tenant, jobs, tries, deaths)
SELECT lane, state, tenant, count(*), sum(tries), sum(deaths) FROM jobs GROUP BY lane, state, tenant;
CREATE TRIGGER jobs_tally_insert AFTER INSERT ON jobs BEGIN INSERT INTO tallies (lane, state, tenant, jobs, tries, deaths) VALUES (new.lane, new.state, new.tenant, 1, new.tries, new.deaths) ON CONFLICT (lane, state, tenant) DO UPDATE SET jobs = jobs + 1, tries = tries + excluded.tries, deaths = deaths + excluded.deaths; END;
CREATE TRIGGER jobs_tally_update AFTER UPDATE OF state, tries, deaths ON jobs BEGIN UPDATE tallies SET jobs = jobs - 1, tries = tries - old.tries, deaths = deaths - old.deaths WHERE lane = old.lane AND state = old.state AND tenant = old.tenant; INSERT INTO tallies (lane, state, tenant, jobs, tries, deaths) VALUES (new.lane, new.state, new.tenant, 1, new.tries, new.deaths) ON CONFLICT (lane, state, tenant) DO UPDATE SET jobs = jobs + 1, tries = tries + excluded.tries, deaths = deaths + excluded.deaths; DELETE FROM tallies WHERE lane = old.lane AND state = old.state AND tenant = old.tenant AND jobs = 0; END;
CREATE TRIGGER jobs_tally_delete AFTER DELETE ON jobs BEGIN UPDATE tallies SET jobs = jobs - 1, tries = tries - old.tries, deaths = deaths - old.deaths WHERE lane = old.lane AND state = old.state AND tenant = old.tenant; DELETE FROM tallies WHERE lane = old.lane AND state = old.state AND tenant = old.tenant AND jobs = 0; END;
-- A job that waits is found by when it is due, by when it was rung, and by what must end.
DROP INDEX jobs_unrung;
CREATE INDEX jobs_unrung ON jobs (run_at) WHERE state = 'queued' AND rung_at IS NULL;
CREATE INDEX jobs_rung ON jobs (lane, rung_at) WHERE state = 'queued';
CREATE INDEX jobs_oldest ON jobs (lane, run_at) WHERE state = 'queued';
CREATE INDEX jobs_cancelled ON jobs (cancel_requested) WHERE state = 'queued';
DROP INDEX jobs_deadline;
CREATE INDEX jobs_queued_deadline ON jobs (deadline_at) WHERE state = 'queued';
CREATE INDEX jobs_running_deadline ON jobs (deadline_at) WHERE state = 'running';
DROP INDEX jobs_tenant_waiting;
-- Of the past: how many ended lately, which are dead letters, which may have a log.
CREATE INDEX jobs_ended_lately ON jobs (lane, ended_at) WHERE ended_at IS NOT NULL;
CREATE INDEX jobs_dead_letters ON jobs (id) WHERE error_code = 'dead_letter' AND state = 'failed';
DROP INDEX jobs_logged;
CREATE INDEX jobs_logged ON jobs (ended_at) WHERE NOT log_dropped AND attempt > 0;
-- When a newer version took a text's place.
ALTER TABLE versions ADD COLUMN replaced_at FLOAT;
UPDATE versions SET replaced_at = (
    SELECT min(newer.created_at) FROM versions newer
    WHERE newer.tenant = versions.tenant AND newer.document_id = versions.document_id AND newer.version > versions.version);
DROP INDEX versions_created;
CREATE INDEX versions_replaced ON versions (replaced_at) WHERE replaced_at IS NOT NULL;
-- Chunks of a text that is being stored have a negative version, which nobody is shown.
CREATE INDEX chunks_staged ON chunks (version, tenant, document_id) WHERE version < 0;

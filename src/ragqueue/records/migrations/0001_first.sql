-- The first schema. Statements end with a semicolon at the end of a line; PostgreSQL's own forms come with its support.
-- One row a job: the fence lets one attempt finish, and the key shows it if it did not. body: JSON of text, citations, usage, timings.
CREATE TABLE answers (
    tenant VARCHAR NOT NULL,
    job_id VARCHAR NOT NULL,
    attempt INTEGER NOT NULL,
    body TEXT NOT NULL,
    created_at FLOAT NOT NULL,
    PRIMARY KEY (tenant, job_id, attempt)
);
-- id: the public part of the key. hash: SHA-256 of the secret part, whose 256 random bits need no slow hash.
CREATE TABLE api_keys (
    tenant VARCHAR NOT NULL,
    id VARCHAR NOT NULL,
    hash VARCHAR NOT NULL,
    name VARCHAR NOT NULL,
    created_at FLOAT NOT NULL,
    revoked_at FLOAT,
    PRIMARY KEY (tenant, id)
);
CREATE UNIQUE INDEX api_keys_id ON api_keys (id);
-- tokens: our own of title, heading path and text, and those of tenant and collection; length: how many of ours.
-- heading_path: JSON list. vector: little-endian fp16, null without an embedder.
CREATE TABLE chunks (
    number INTEGER NOT NULL PRIMARY KEY AUTOINCREMENT,
    tenant VARCHAR NOT NULL,
    collection VARCHAR NOT NULL,
    generation VARCHAR NOT NULL,
    document_id VARCHAR NOT NULL,
    version INTEGER NOT NULL,
    start INTEGER NOT NULL,
    "end" INTEGER NOT NULL,
    page INTEGER,
    heading_path TEXT NOT NULL,
    language VARCHAR NOT NULL,
    tokens TEXT NOT NULL,
    length INTEGER NOT NULL,
    vector BLOB
);
CREATE INDEX chunks_document ON chunks (tenant, document_id, version);
CREATE INDEX chunks_space ON chunks (tenant, collection, generation, number);
-- generation: the active one (embedder and chunking).
CREATE TABLE collections (
    tenant VARCHAR NOT NULL,
    name VARCHAR NOT NULL,
    generation VARCHAR NOT NULL,
    created_at FLOAT NOT NULL,
    PRIMARY KEY (tenant, name)
);
-- Sums of what the worker processes counted, for /metrics of any process. labels: JSON.
CREATE TABLE counters (
    name VARCHAR NOT NULL,
    labels VARCHAR NOT NULL,
    value FLOAT NOT NULL,
    PRIMARY KEY (name, labels)
);
-- version 0: none is ready yet. sha256: of the bytes of the current version. counts: JSON, what the erasure removed.
CREATE TABLE documents (
    tenant VARCHAR NOT NULL,
    id VARCHAR NOT NULL,
    collection VARCHAR NOT NULL,
    source TEXT NOT NULL,
    media_type VARCHAR NOT NULL,
    title TEXT NOT NULL,
    version INTEGER NOT NULL,
    state VARCHAR NOT NULL,
    sha256 VARCHAR NOT NULL,
    language VARCHAR NOT NULL,
    chunks INTEGER NOT NULL,
    error TEXT,
    created_at FLOAT NOT NULL,
    updated_at FLOAT NOT NULL,
    hidden_at FLOAT,
    erased_at FLOAT,
    counts TEXT,
    PRIMARY KEY (tenant, id)
);
CREATE INDEX documents_erasing ON documents (hidden_at) WHERE state = 'deleted' and erased_at is null;
CREATE UNIQUE INDEX documents_source ON documents (tenant, collection, source) WHERE state <> 'deleted';
-- Reached only through a job that was resolved with its tenant. data: JSON.
CREATE TABLE events (
    job_id VARCHAR NOT NULL,
    seq BIGINT NOT NULL,
    type VARCHAR NOT NULL,
    data TEXT NOT NULL,
    at FLOAT NOT NULL,
    PRIMARY KEY (job_id, seq)
) WITHOUT ROWID;
CREATE TABLE facts (
    name VARCHAR NOT NULL,
    value TEXT NOT NULL,
    PRIMARY KEY (name)
);
-- place: order in the lane, 0 is the front. rung_at null: needs a ring as soon as it is due. payload, result: JSON.
-- claimed_stamp: stamp of the ring that the last claim answered, null after a ring at the front. idempotency: caller and Idempotency-Key.
CREATE TABLE jobs (
    tenant VARCHAR NOT NULL,
    id VARCHAR NOT NULL,
    kind VARCHAR NOT NULL,
    lane VARCHAR NOT NULL,
    state VARCHAR NOT NULL,
    payload TEXT NOT NULL,
    attempt INTEGER NOT NULL,
    tries INTEGER NOT NULL,
    deaths INTEGER NOT NULL,
    place FLOAT NOT NULL,
    run_at FLOAT NOT NULL,
    deadline_at FLOAT NOT NULL,
    rung_at FLOAT,
    claimed_stamp FLOAT,
    owner VARCHAR,
    lease_until FLOAT,
    cancel_requested BOOLEAN NOT NULL,
    created_at FLOAT NOT NULL,
    started_at FLOAT,
    ended_at FLOAT,
    result TEXT,
    error_code VARCHAR,
    error_message TEXT,
    retry_of VARCHAR,
    idempotency VARCHAR,
    PRIMARY KEY (tenant, id)
);
CREATE INDEX jobs_deadline ON jobs (deadline_at) WHERE state in ('queued', 'running');
CREATE INDEX jobs_ended ON jobs (ended_at);
CREATE UNIQUE INDEX jobs_id ON jobs (id);
CREATE UNIQUE INDEX jobs_idempotency ON jobs (tenant, idempotency) WHERE idempotency is not null;
CREATE INDEX jobs_leased ON jobs (lease_until) WHERE state = 'running';
CREATE INDEX jobs_listed ON jobs (tenant, created_at);
CREATE INDEX jobs_overtaking ON jobs (lane, claimed_stamp);
CREATE INDEX jobs_owner ON jobs (owner) WHERE state = 'running';
CREATE INDEX jobs_tenant_waiting ON jobs (tenant, lane) WHERE state = 'queued';
CREATE INDEX jobs_unrung ON jobs (rung_at) WHERE state = 'queued';
CREATE INDEX jobs_waiting ON jobs (lane, place, run_at) WHERE state = 'queued';
-- Which jobs were shown passages of which documents: what a delete must erase.
CREATE TABLE quotes (
    tenant VARCHAR NOT NULL,
    document_id VARCHAR NOT NULL,
    job_id VARCHAR NOT NULL,
    PRIMARY KEY (tenant, document_id, job_id)
);
CREATE INDEX quotes_job ON quotes (tenant, job_id);
-- What replicas must forget, in order.
CREATE TABLE removals (
    seq INTEGER NOT NULL PRIMARY KEY AUTOINCREMENT,
    tenant VARCHAR NOT NULL,
    collection VARCHAR NOT NULL,
    generation VARCHAR NOT NULL,
    number BIGINT NOT NULL,
    at FLOAT NOT NULL
);
CREATE INDEX removals_space ON removals (tenant, collection, generation, seq);
CREATE INDEX removals_at ON removals (at);
-- Sums that BM25 needs, and the languages that a question is tokenised for.
CREATE TABLE spaces (
    tenant VARCHAR NOT NULL,
    collection VARCHAR NOT NULL,
    generation VARCHAR NOT NULL,
    language VARCHAR NOT NULL,
    chunks INTEGER NOT NULL,
    length BIGINT NOT NULL,
    PRIMARY KEY (tenant, collection, generation, language)
);
-- Document frequencies: how many chunks of a collection hold a term.
CREATE TABLE terms (
    tenant VARCHAR NOT NULL,
    collection VARCHAR NOT NULL,
    generation VARCHAR NOT NULL,
    term VARCHAR NOT NULL,
    df INTEGER NOT NULL,
    PRIMARY KEY (tenant, collection, generation, term)
) WITHOUT ROWID;
CREATE TABLE uploads (
    tenant VARCHAR NOT NULL,
    id VARCHAR NOT NULL,
    document_id VARCHAR NOT NULL,
    data BLOB NOT NULL,
    created_at FLOAT NOT NULL,
    PRIMARY KEY (tenant, id)
);
CREATE INDEX uploads_document ON uploads (tenant, document_id);
-- text: the canonical text. blocks: JSON.
CREATE TABLE versions (
    tenant VARCHAR NOT NULL,
    document_id VARCHAR NOT NULL,
    version INTEGER NOT NULL,
    text TEXT NOT NULL,
    blocks TEXT NOT NULL,
    pages INTEGER,
    sha256 VARCHAR NOT NULL,
    created_at FLOAT NOT NULL,
    PRIMARY KEY (tenant, document_id, version)
);
CREATE INDEX versions_created ON versions (tenant, document_id, version, created_at);
-- owner: one a process and start.
CREATE TABLE workers (
    owner VARCHAR NOT NULL,
    host VARCHAR NOT NULL,
    pid INTEGER NOT NULL,
    lanes VARCHAR NOT NULL,
    started_at FLOAT NOT NULL,
    beat_at FLOAT NOT NULL,
    running INTEGER NOT NULL,
    PRIMARY KEY (owner)
);
-- The keyword index. `ascii` with "_" splits at our spaces only. The content stays in `chunks`: contentless tables rank wrongly.
CREATE VIRTUAL TABLE chunk_words USING fts5(tokens, content='chunks', content_rowid='number', tokenize="ascii tokenchars '_'");
-- What is deleted leaves the index's pages at once. SQLite below 3.42 does not know this.
INSERT INTO chunk_words (chunk_words, rank) SELECT 'secure-delete', 1 WHERE cast(substr(sqlite_version(), 3) as real) >= 42;
CREATE TRIGGER chunk_words_insert AFTER INSERT ON chunks BEGIN
    INSERT INTO chunk_words (rowid, tokens) VALUES (new.number, new.tokens); END;
CREATE TRIGGER chunk_words_delete AFTER DELETE ON chunks BEGIN
    INSERT INTO chunk_words (chunk_words, rowid, tokens) VALUES ('delete', old.number, old.tokens); END;
CREATE TRIGGER chunk_words_update AFTER UPDATE OF tokens ON chunks BEGIN
    INSERT INTO chunk_words (chunk_words, rowid, tokens) VALUES ('delete', old.number, old.tokens)
    ; INSERT INTO chunk_words (rowid, tokens) VALUES (new.number, new.tokens); END;
-- The database's UUID.
INSERT INTO facts (name, value) VALUES ('uuid', lower(hex(randomblob(16))));

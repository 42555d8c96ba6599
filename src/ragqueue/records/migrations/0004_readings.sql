-- reading: a number of its own for each time that a file is read. Shown are the chunks of a document's current one.
ALTER TABLE chunks RENAME COLUMN version TO reading;
ALTER TABLE documents ADD COLUMN reading BIGINT NOT NULL DEFAULT 0;
UPDATE documents SET reading = version;
DROP INDEX chunks_staged;
-- Readings that are being stored, and those that were replaced: their chunks are shown to nobody. A row goes with the last chunk.
CREATE TABLE readings (
    tenant VARCHAR NOT NULL,
    document_id VARCHAR NOT NULL,
    reading BIGINT NOT NULL,
    replaced BOOLEAN NOT NULL,
    PRIMARY KEY (tenant, document_id, reading)
) WITHOUT ROWID;
INSERT INTO readings (tenant, document_id, reading, replaced)
SELECT DISTINCT c.tenant, c.document_id, c.reading, c.reading > 0 FROM chunks c
LEFT JOIN documents d ON d.tenant = c.tenant AND d.id = c.document_id
WHERE d.reading IS NULL OR d.reading <> c.reading;

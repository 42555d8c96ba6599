-- document_id of an upload: empty while it comes in.
CREATE TABLE upload_parts (
    tenant VARCHAR NOT NULL,
    upload_id VARCHAR NOT NULL,
    n INTEGER NOT NULL,
    data BLOB NOT NULL,
    PRIMARY KEY (tenant, upload_id, n)
);
INSERT INTO upload_parts (tenant, upload_id, n, data) SELECT tenant, id, 0, data FROM uploads;
ALTER TABLE uploads DROP COLUMN data;
CREATE TRIGGER upload_parts_delete AFTER DELETE ON uploads BEGIN DELETE FROM upload_parts WHERE tenant = old.tenant AND upload_id = old.id; END;
CREATE INDEX uploads_untaken ON uploads (created_at) WHERE document_id = '';

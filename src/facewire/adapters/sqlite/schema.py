"""The tables of a Facewire database file, as a list of steps from one version to the next.

The version of a file (`PRAGMA user_version`) is the number of steps it has gone through. Steps are added at the end,
none is ever changed. Times in queues are seconds since 1970 (REAL), those of results and gallery whole microseconds.
"""

#: A message and its body are kept apart, so that lending a message does not write its picture once more.
#: `visible_at` is 0 for a message that waits, else the moment when a lent or delayed one comes back.
_QUEUES = """
CREATE TABLE messages (
    id INTEGER PRIMARY KEY,
    queue TEXT NOT NULL,
    sender TEXT,
    size INTEGER NOT NULL,
    receives INTEGER NOT NULL DEFAULT 0,
    visible_at REAL NOT NULL DEFAULT 0,
    receipt TEXT,
    buried_at REAL,
    reason TEXT
);
CREATE INDEX messages_by_turn ON messages (queue, visible_at);
CREATE INDEX messages_by_sender ON messages (queue, sender) WHERE sender IS NOT NULL;

CREATE TABLE bodies (
    id INTEGER PRIMARY KEY REFERENCES messages (id) ON DELETE CASCADE,
    body BLOB NOT NULL
);

CREATE TABLE queue_totals (
    queue TEXT PRIMARY KEY,
    messages INTEGER NOT NULL,
    bytes INTEGER NOT NULL
) WITHOUT ROWID;
CREATE TRIGGER message_came AFTER INSERT ON messages BEGIN
    INSERT INTO queue_totals VALUES (new.queue, 1, new.size)
        ON CONFLICT (queue) DO UPDATE SET messages = messages + 1, bytes = bytes + new.size;
END;
CREATE TRIGGER message_left AFTER DELETE ON messages BEGIN
    UPDATE queue_totals SET messages = messages - 1, bytes = bytes - old.size WHERE queue = old.queue;
END;
CREATE TRIGGER message_moved AFTER UPDATE OF queue ON messages BEGIN
    UPDATE queue_totals SET messages = messages - 1, bytes = bytes - old.size WHERE queue = old.queue;
    INSERT INTO queue_totals VALUES (new.queue, 1, new.size)
        ON CONFLICT (queue) DO UPDATE SET messages = messages + 1, bytes = bytes + new.size;
END;

CREATE TABLE seen (
    request_id TEXT PRIMARY KEY,
    content_sha256 TEXT NOT NULL,
    enroll_as TEXT,
    accepted_at REAL NOT NULL
) WITHOUT ROWID;
CREATE INDEX seen_by_time ON seen (accepted_at);
"""

#: `result_people` names everybody an answer mentions; `recognized` is 1 for those the history shows it under,
#: 0 for those that must only be found when a person is to be forgotten (runners-up).
_RESULTS = """
CREATE TABLE results (
    request_id TEXT PRIMARY KEY,
    status TEXT NOT NULL CHECK (status IN ('pending', 'done', 'failed')),
    rank INTEGER NOT NULL,
    camera TEXT,
    content_sha256 TEXT NOT NULL,
    received_at INTEGER NOT NULL,
    answer BLOB
);
CREATE INDEX results_by_time ON results (received_at, request_id);
CREATE INDEX results_by_camera ON results (camera, received_at, request_id);
CREATE INDEX results_by_status ON results (status, received_at, request_id);

CREATE TABLE result_people (
    person TEXT NOT NULL,
    recognized INTEGER NOT NULL,
    received_at INTEGER NOT NULL,
    request_id TEXT NOT NULL REFERENCES results (request_id) ON DELETE CASCADE,
    PRIMARY KEY (person, recognized, received_at, request_id)
) WITHOUT ROWID;
CREATE INDEX result_people_by_request ON result_people (request_id);

CREATE TABLE tombstones (
    request_id TEXT PRIMARY KEY,
    content_sha256 TEXT NOT NULL,
    received_at INTEGER NOT NULL
) WITHOUT ROWID;
CREATE INDEX tombstones_by_time ON tombstones (received_at);
"""

#: A face has one embedding per embedder that has seen it, and its enrolment crop once; `geometry` is JSON.
_GALLERY = """
CREATE TABLE gallery_version (version INTEGER NOT NULL);
INSERT INTO gallery_version VALUES (0);

CREATE TABLE faces (
    face_id TEXT PRIMARY KEY,
    person TEXT NOT NULL,
    enrolled_at INTEGER NOT NULL
);
CREATE INDEX faces_by_person ON faces (person, enrolled_at);

CREATE TABLE embeddings (
    face_id TEXT NOT NULL REFERENCES faces (face_id) ON DELETE CASCADE,
    embedder TEXT NOT NULL,
    embedding BLOB NOT NULL,
    PRIMARY KEY (face_id, embedder)
);

CREATE TABLE crops (
    face_id TEXT PRIMARY KEY REFERENCES faces (face_id) ON DELETE CASCADE,
    geometry TEXT NOT NULL,
    jpeg BLOB NOT NULL
);
"""

#: Who was deleted lately, as a hash: answers still under way, made with an older gallery, lose the name too.
_FORGOTTEN = """
CREATE TABLE forgotten (
    person_sha256 TEXT PRIMARY KEY,
    gallery_version INTEGER NOT NULL,
    forgotten_at INTEGER NOT NULL
) WITHOUT ROWID;
"""

#: Which request a message of an inbox is about, so that the inbox can tell whether it still holds it.
_REQUESTS = """
ALTER TABLE messages ADD COLUMN request_id TEXT;
CREATE INDEX messages_by_request ON messages (queue, request_id) WHERE request_id IS NOT NULL;
"""

#: Which people (as a hash) and faces were deleted lately: enrolments asked for before bring nothing back.
_DELETED = """
CREATE TABLE deleted (
    guard TEXT PRIMARY KEY,
    deleted_at INTEGER NOT NULL
) WITHOUT ROWID;
"""

STEPS = (_QUEUES + _RESULTS + _GALLERY + _FORGOTTEN, _REQUESTS, _DELETED)

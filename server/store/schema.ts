/**
 * The schema of the SQLite store, as the list of steps that lead to it. `user_version` counts
 * the steps that a file has seen; a step, once released, never changes.
 */
export const MIGRATIONS: readonly string[] = [
  `CREATE TABLE fact (
     name TEXT PRIMARY KEY,
     value TEXT NOT NULL
   ) STRICT;

   -- A name belongs to one peer or one open invite: both tables point here.
   CREATE TABLE name (
     name TEXT PRIMARY KEY
   ) STRICT, WITHOUT ROWID;

   CREATE TABLE peer (
     id INTEGER PRIMARY KEY AUTOINCREMENT,
     public_key BLOB NOT NULL UNIQUE CHECK (length(public_key) = 32),
     name TEXT NOT NULL UNIQUE REFERENCES name (name),
     preshared_key BLOB CHECK (preshared_key IS NULL OR length(preshared_key) = 32),
     origin TEXT NOT NULL CHECK (origin IN ('invite', 'profile')),
     created INTEGER NOT NULL,
     last_seen INTEGER,
     endpoint TEXT
   ) STRICT;

   CREATE TABLE invite (
     public_key BLOB PRIMARY KEY CHECK (length(public_key) = 32),
     name TEXT NOT NULL,
     created INTEGER NOT NULL,
     expires INTEGER NOT NULL,
     used_by BLOB CHECK (used_by IS NULL OR length(used_by) = 32)
   ) STRICT;
   CREATE UNIQUE INDEX invite_open_name ON invite (name) WHERE used_by IS NULL;

   -- One owner per address: a peer, or an invite that promises it.
   CREATE TABLE lease (
     address TEXT PRIMARY KEY,
     peer INTEGER UNIQUE REFERENCES peer (id) ON DELETE CASCADE,
     invite BLOB UNIQUE REFERENCES invite (public_key) ON DELETE CASCADE,
     created INTEGER NOT NULL,
     CHECK ((peer IS NULL) <> (invite IS NULL))
   ) STRICT;

   CREATE TABLE revoked (
     public_key BLOB PRIMARY KEY CHECK (length(public_key) = 32),
     name TEXT NOT NULL,
     revoked INTEGER NOT NULL
   ) STRICT;`,

  `-- What the operator settles per peer; networks: a JSON list of CIDR texts.
   ALTER TABLE peer ADD COLUMN expires INTEGER;
   ALTER TABLE peer ADD COLUMN suspended INTEGER NOT NULL DEFAULT 0 CHECK (suspended IN (0, 1));
   ALTER TABLE peer ADD COLUMN peer_group TEXT;
   ALTER TABLE peer ADD COLUMN networks TEXT NOT NULL DEFAULT '[]';
   -- Only when it does not follow from the IPv4 address.
   ALTER TABLE peer ADD COLUMN address6 TEXT;
   CREATE UNIQUE INDEX peer_address6 ON peer (address6) WHERE address6 IS NOT NULL;

   -- The key that takes the place of public_key once it has shaken hands.
   ALTER TABLE peer ADD COLUMN next_key BLOB CHECK (next_key IS NULL OR length(next_key) = 32);
   CREATE UNIQUE INDEX peer_next_key ON peer (next_key) WHERE next_key IS NOT NULL;

   -- What waits for a peer of that name: from an imported address list.
   CREATE TABLE reservation (
     name TEXT PRIMARY KEY,
     address TEXT UNIQUE,
     networks TEXT NOT NULL DEFAULT '[]',
     created INTEGER NOT NULL
   ) STRICT, WITHOUT ROWID;`,

  `-- What the printed profile of a stock peer says, as JSON; null: unknown.
   ALTER TABLE peer ADD COLUMN profile TEXT;`,
];

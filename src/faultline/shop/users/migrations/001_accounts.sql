-- No row in here opens anything: passwords are hashed slowly; tokens, codes and keys are 256 bits, so once is enough;
-- private keys are sealed with a secret that is not in here.
CREATE TABLE account (
    id text PRIMARY KEY,
    email text UNIQUE, -- in small letters; null: erased
    password text, -- argon2id with its parameters; null: erased
    role text NOT NULL CHECK (role IN ('customer', 'support', 'admin')),
    version int NOT NULL DEFAULT 1,
    made_at timestamptz NOT NULL DEFAULT clock_timestamp(),
    erased_at timestamptz
);

-- Programs of others, or our own in a browser, which cannot keep a secret.
CREATE TABLE client (
    id text PRIMARY KEY,
    name text NOT NULL,
    secret text, -- hashed; null: it has none
    redirect_uris text[] NOT NULL,
    scopes text[] NOT NULL,
    made_at timestamptz NOT NULL DEFAULT clock_timestamp()
);

-- All refresh tokens that follow from one consent.
CREATE TABLE family (
    id text PRIMARY KEY,
    user_id text NOT NULL REFERENCES account,
    client_id text NOT NULL REFERENCES client,
    scopes text[] NOT NULL,
    made_at timestamptz NOT NULL DEFAULT clock_timestamp(),
    ends_at timestamptz NOT NULL,
    revoked_at timestamptz,
    reason text NOT NULL DEFAULT ''
);
CREATE INDEX family_by_user ON family (user_id) WHERE revoked_at IS NULL;
CREATE INDEX family_by_end ON family (ends_at);

CREATE TABLE refresh_token (
    hash text PRIMARY KEY,
    family_id text NOT NULL REFERENCES family ON DELETE CASCADE,
    number int NOT NULL, -- within its family, from 1
    expires_at timestamptz NOT NULL,
    used_at timestamptz, -- when its successor was made
    reused_at timestamptz, -- when it was shown again, and that was no lost reply
    UNIQUE (family_id, number)
);
CREATE UNIQUE INDEX one_live_token_of_a_family ON refresh_token (family_id) WHERE used_at IS NULL;

CREATE TABLE code (
    hash text PRIMARY KEY,
    client_id text NOT NULL REFERENCES client,
    user_id text NOT NULL REFERENCES account,
    redirect_uri text NOT NULL,
    scopes text[] NOT NULL,
    challenge text NOT NULL,
    expires_at timestamptz NOT NULL,
    family_id text REFERENCES family ON DELETE CASCADE -- what it was redeemed for; null: it was not
);
CREATE INDEX code_by_end ON code (expires_at);

CREATE TABLE api_key (
    id text PRIMARY KEY, -- what a key begins with
    user_id text NOT NULL REFERENCES account,
    name text NOT NULL,
    hash text NOT NULL,
    scopes text[] NOT NULL,
    made_at timestamptz NOT NULL DEFAULT clock_timestamp(),
    used_at timestamptz,
    revoked_at timestamptz
);
CREATE INDEX api_key_by_user ON api_key (user_id);

CREATE TABLE signing_key (
    kid text PRIMARY KEY,
    public jsonb NOT NULL,
    sealed text NOT NULL, -- the private one
    seal text NOT NULL, -- tells with which secret
    signs_from timestamptz NOT NULL,
    signs_until timestamptz NOT NULL,
    published_until timestamptz NOT NULL
);

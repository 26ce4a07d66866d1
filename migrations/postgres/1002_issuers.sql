-- A person whom an authorizer vouches for, as JSON with user, uid and groups; NULL for the holder of a static token.
ALTER TABLE tickets ADD COLUMN issuer_identity TEXT;

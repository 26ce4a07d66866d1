-- What a ticket's issuer calls the one who gets it. It is shown, and is nobody's name.
ALTER TABLE tickets ADD COLUMN label TEXT;

"""`dure demo`: a federation on this machine, real work on it, and every claim checked."""

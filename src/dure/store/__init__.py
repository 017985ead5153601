"""The database: tables, constraints, and the statements on them."""

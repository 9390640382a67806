"""What the store promises, whichever database is below it. No ring of its own: tests/fast runs it on SQLite, tests/postgres on PostgreSQL,
tests/valkey the part about answers.

A module here is a module of tests that the rings import; its fixtures `database_url`, `empty_url` and `database` are the ring's.
"""

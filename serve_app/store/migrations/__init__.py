"""Alembic migrations; `store/database.py` runs them when it opens a database."""

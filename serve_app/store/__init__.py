"""What survives a restart: SQLAlchemy over SQLite on one machine, PostgreSQL in a cluster."""

"""Feeds: who paused them. Until now only the configuration could, by naming them no more."""

import sqlalchemy as sa
from alembic import op

revision = "0007"
down_revision = "0006"
branch_labels = None
depends_on = None


def upgrade() -> None:
    op.add_column("feeds", sa.Column("paused_by", sa.String(), nullable=True))
    op.execute("UPDATE feeds SET paused_by = 'config' WHERE state = 'paused'")


def downgrade() -> None:
    op.drop_column("feeds", "paused_by")

"""Feeds: options of their own, as JSON."""

import sqlalchemy as sa
from alembic import op

revision = "0005"
down_revision = "0004"
branch_labels = None
depends_on = None


def upgrade() -> None:
    op.add_column("feeds", sa.Column("options", sa.Text(), nullable=True))


def downgrade() -> None:
    op.drop_column("feeds", "options")

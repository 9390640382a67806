"""Feeds: their rhythm, where they moved, texts found by hash, and WebSub subscriptions."""

import sqlalchemy as sa
from alembic import op

revision = "0004"
down_revision = "0003"
branch_labels = None
depends_on = None

COLUMNS = (
    ("moved_to", sa.String()),
    ("redirect_to", sa.String()),
    ("redirect_count", sa.Integer()),
    ("redirect_since", sa.Float()),
    ("duplicate_of", sa.String(length=16)),
    ("asked_wait_s", sa.Float()),
    ("skips", sa.String()),
    ("entry_gap_s", sa.Float()),
    ("newest_at", sa.Float()),
)


def upgrade() -> None:
    for name, kind in COLUMNS:
        op.add_column("feeds", sa.Column(name, kind, nullable=True))
    op.create_index("articles_text_hash", "articles", ["text_hash", "first_seen_at", "id"], unique=False)
    op.create_table(
        "websub",
        sa.Column("feed_id", sa.String(length=16), nullable=False),
        sa.Column("hub", sa.String(), nullable=False),
        sa.Column("topic", sa.String(), nullable=False),
        sa.Column("token", sa.String(length=32), nullable=False),
        sa.Column("secret", sa.String(length=64), nullable=False),
        sa.Column("state", sa.String(), nullable=False),
        sa.Column("next_ask_at", sa.Float(), nullable=False),
        sa.Column("lease_until", sa.Float(), nullable=True),
        sa.Column("last_push_at", sa.Float(), nullable=True),
        sa.Column("num_errors", sa.Integer(), nullable=False),
        sa.Column("last_error", sa.Text(), nullable=True),
        sa.ForeignKeyConstraint(["feed_id"], ["feeds.id"]),
        sa.PrimaryKeyConstraint("feed_id"),
    )


def downgrade() -> None:
    op.drop_table("websub")
    op.drop_index("articles_text_hash", "articles")
    for name, _kind in COLUMNS:
        op.drop_column("feeds", name)

"""Questions and trials of the similarity lookup."""

import sqlalchemy as sa
from alembic import op

revision = "0003"
down_revision = "0002"
branch_labels = None
depends_on = None

INT64 = sa.BigInteger().with_variant(sa.Integer(), "sqlite")  # a plain INTEGER has 64 bits there, and 32 on PostgreSQL


def upgrade() -> None:
    op.create_table(
        "similar_questions",
        sa.Column("id", INT64, autoincrement=True, nullable=False),
        sa.Column("key", sa.String(length=64), nullable=False),
        sa.Column("group_key", sa.String(length=64), nullable=False),
        sa.Column("embedding", sa.String(length=16), nullable=False),
        sa.Column("question", sa.Text(), nullable=False),
        sa.Column("vector", sa.LargeBinary(), nullable=False),
        sa.PrimaryKeyConstraint("id"),
        sa.UniqueConstraint("key"),
        sqlite_autoincrement=True,
    )
    op.create_table(
        "similar_trials",
        sa.Column("id", sa.String(length=16), nullable=False),
        sa.Column("model", sa.String(), nullable=False),
        sa.Column("configured", sa.Float(), nullable=False),
        sa.Column("threshold", sa.Float(), nullable=False),
        sa.Column("judged", INT64, nullable=False),
        sa.Column("wrong", INT64, nullable=False),
        sa.Column("all_judged", INT64, nullable=False),
        sa.Column("all_wrong", INT64, nullable=False),
        sa.Column("updated_at", sa.Float(), nullable=False),
        sa.PrimaryKeyConstraint("id"),
    )


def downgrade() -> None:
    op.drop_table("similar_trials")
    op.drop_table("similar_questions")

"""Articles: their categories, and what is made of a summary: the line, tags, and what the article bears out."""

import sqlalchemy as sa
from alembic import op

revision = "0006"
down_revision = "0005"
branch_labels = None
depends_on = None

OF_RESULTS = (
    ("headline", sa.Text()),
    ("tags", sa.Text()),
    ("tags_from", sa.String()),
    ("grounding", sa.Float()),
    ("missing", sa.Text()),
)


def upgrade() -> None:
    op.add_column("articles", sa.Column("categories", sa.Text(), nullable=True))
    for name, kind in OF_RESULTS:
        op.add_column("results", sa.Column(name, kind, nullable=True))


def downgrade() -> None:
    for name, _kind in OF_RESULTS:
        op.drop_column("results", name)
    op.drop_column("articles", "categories")

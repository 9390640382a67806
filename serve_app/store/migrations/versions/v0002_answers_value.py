"""Answers know what they save, how often they were asked for and their own time to live; the digest covers their age.

The table is written anew, because the text must be its last column: SQLite reads through a long value to get at what lies behind it. Rows
that do not match their digest are left behind.
"""

import hashlib
import json

import sqlalchemy as sa
from alembic import op

from serve_app.store.columns import ExactText

revision = "0002"
down_revision = "0001"
branch_labels = None
depends_on = None

INT64 = sa.BigInteger().with_variant(sa.Integer(), "sqlite")
STEP = 500  # rows at once
ROW_BYTES = 300  # that a row has more than before: two index entries and four numbers

KEPT = ("key", "model", "scope", "feed_id", "finish", "digest", "size_bytes", "created_at")
ADDED = ("ttl_s", "compute_s", "hits", "value")
OLD = sa.table("answers", *map(sa.column, KEPT), sa.column("text", ExactText()))
NEW = sa.table("answers_new", *map(sa.column, KEPT + ADDED), sa.column("text", ExactText()))


def upgrade() -> None:
    op.create_table(
        "answers_new",
        sa.Column("key", sa.String(length=64), nullable=False),
        sa.Column("model", sa.String(), nullable=False),
        sa.Column("scope", sa.String(), nullable=False),
        sa.Column("feed_id", sa.String(), nullable=False),
        sa.Column("digest", sa.String(length=64), nullable=False),
        sa.Column("size_bytes", INT64, nullable=False),
        sa.Column("created_at", sa.Float(), nullable=False),
        sa.Column("ttl_s", sa.Float(), nullable=True),
        sa.Column("compute_s", sa.Float(), nullable=False),
        sa.Column("hits", INT64, nullable=False),
        sa.Column("value", sa.Float(), nullable=False),
        sa.Column("finish", sa.Text(), nullable=False),
        sa.Column("text", sa.Text(), nullable=False),
        sa.PrimaryKeyConstraint("key"),
    )
    _copy(op.get_bind())
    op.drop_table("answers")
    op.rename_table("answers_new", "answers")
    op.create_index("answers_created_at", "answers", ["created_at"], unique=False)
    op.create_index("answers_value", "answers", ["value", "size_bytes"], unique=False)
    op.create_index("answers_expires_at", "answers", [sa.text("(created_at + ttl_s)")], unique=False)
    clock = op.create_table(
        "answer_clock",
        sa.Column("id", sa.Integer(), nullable=False),
        sa.Column("value", sa.Float(), nullable=False),
        sa.PrimaryKeyConstraint("id"),
    )
    op.bulk_insert(clock, [{"id": 1, "value": 0.0}])


def downgrade() -> None:
    op.drop_table("answer_clock")
    op.drop_table("answers")
    op.create_table(  # empty: it is a cache
        "answers",
        sa.Column("key", sa.String(length=64), nullable=False),
        sa.Column("model", sa.String(), nullable=False),
        sa.Column("scope", sa.String(), nullable=False),
        sa.Column("feed_id", sa.String(), nullable=False),
        sa.Column("text", sa.Text(), nullable=False),
        sa.Column("finish", sa.Text(), nullable=False),
        sa.Column("digest", sa.String(length=64), nullable=False),
        sa.Column("size_bytes", INT64, nullable=False),
        sa.Column("created_at", sa.Float(), nullable=False),
        sa.PrimaryKeyConstraint("key"),
    )
    op.create_index("answers_created_at", "answers", ["created_at"], unique=False)


def _copy(connection: sa.Connection) -> None:
    last = ""
    while rows := connection.execute(sa.select(OLD).where(OLD.c.key > last).order_by(OLD.c.key).limit(STEP)).mappings().all():
        last = rows[-1]["key"]
        if kept := [_new(dict(row)) for row in rows if row["digest"] == _sha256(f"{row['key']}\n{row['finish']}\n{row['text']}")]:
            connection.execute(sa.insert(NEW), kept)


def _new(row: dict[str, object]) -> dict[str, object]:
    compute_s = float(json.loads(str(row["finish"]))["compute_s"])
    size_bytes = int(str(row["size_bytes"])) + ROW_BYTES
    digest = _sha256(f"{row['key']}\n{row['created_at']!r}\nNone\n{row['finish']}\n{row['text']}")
    saved = {"ttl_s": None, "compute_s": compute_s, "hits": 0, "value": compute_s / size_bytes}
    return {**row, **saved, "digest": digest, "size_bytes": size_bytes}


def _sha256(text: str) -> str:
    return hashlib.sha256(text.encode("utf-8", "surrogatepass")).hexdigest()

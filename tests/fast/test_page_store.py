"""Articles' pages, categories and tags on SQLite."""

from tests.contract_store.article_pages import *  # noqa: F403 (tests, which pytest finds by their names here)

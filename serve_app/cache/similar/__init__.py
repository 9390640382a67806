"""Answers to questions that mean the same, off by default: docs/similar.md has the whole picture."""

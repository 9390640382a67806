"""Frugal Serve: answers LLM requests and digests feeds on your own machines at the lowest honest cost."""

__version__ = "0.1.0"

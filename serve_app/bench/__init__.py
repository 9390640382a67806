"""Benchmarks that anyone can run again: a table for people, and one JSON document as the last line of standard output."""

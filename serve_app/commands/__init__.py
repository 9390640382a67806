"""The command line: a module per group of commands; `__main__.py` puts them together."""

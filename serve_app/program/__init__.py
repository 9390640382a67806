"""One run of the program on this machine: how it starts, is watched, ends, and what it cleans up."""

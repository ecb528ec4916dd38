"""Readers of other programs' data sets; they run in a child process and import little."""

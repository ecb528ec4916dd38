"""Networks of other programs in, ours out; nothing in a file is ever executed."""

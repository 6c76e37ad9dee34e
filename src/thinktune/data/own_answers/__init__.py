"""Own answers: the base's replies to the questions of a source, made once, kept whole, and trained to the token."""

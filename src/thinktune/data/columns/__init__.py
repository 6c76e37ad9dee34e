"""What a file's columns and messages mean, and a raw row read as an example by that."""

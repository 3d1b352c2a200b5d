"""The command line: from what is typed to an answer on the terminal, in a pipe or as JSON."""

"""From what the user names (a path, a URL, standard input) to the parts of a message."""

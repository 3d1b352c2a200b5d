"""Questions that are asked again and again, as files: those of the program, and the user's own."""

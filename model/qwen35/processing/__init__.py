"""Messages and pictures to token ids, positions and patches. Imports no torch."""

"""Files to a Source: one module for each format that a model comes in."""

"""States of prompts, kept so that nothing is computed twice: in memory and on disk, over restarts.

`keys` says what a state is the state of, `blobs` how it looks in files, `index` which files there are,
`store` finds and saves them, `room` makes room, `memory` has some at hand, `cache` is what the engine asks
of all that.
"""

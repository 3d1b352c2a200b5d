"""Whether the arena of experts is to shrink or may grow, as this and other programs take memory."""

import time

from qwen35.memory import available_memory, resident_memory

RESERVE = 300 << 20  # bytes that are left to other programs
PATIENCE = 20  # looks in a row, half a second apart at least, that find room before the arena grows


class Room:
    """Looks twice a second at most. Mutable."""

    def __init__(self, ram_bytes: int | None) -> None:
        """With `ram_bytes` this process may not take more than that in all."""
        self._ram_bytes = ram_bytes
        self._looked_at = 0.0
        self._roomy_looks = 0

    def change(self, step_bytes: int, *, may_grow: bool) -> int:
        """Bytes by which the arena is to grow, or, less than 0, to shrink.

        It grows by `step_bytes` when PATIENCE looks in a row have found room for two such steps, and in the
        system's memory RESERVE beyond that: so no step leads to the next shrinking by itself.
        """
        now = time.monotonic()
        if now - self._looked_at < 0.5:
            return 0
        self._looked_at = now
        room = available_memory() - RESERVE
        spare = room - RESERVE
        if self._ram_bytes is not None:
            left = self._ram_bytes - resident_memory()
            room, spare = min(room, left), min(spare, left)
        self._roomy_looks = self._roomy_looks + 1 if may_grow and spare >= 2 * step_bytes else 0
        if room < 0:
            return room
        if self._roomy_looks < PATIENCE:
            return 0
        self._roomy_looks = 0
        return step_bytes

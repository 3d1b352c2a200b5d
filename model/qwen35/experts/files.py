"""Records of a file straight into memory that the caller has, past the system's cache where that works."""

import errno
import os
import sys

from qwen35.errors import CheckpointError

ALIGNMENT = 4096  # of offsets, sizes and addresses: the greatest that disks ask for


class RecordFile:
    """An open file. Safe for many threads; `close` when no read is under way."""

    def __init__(self, path: str) -> None:
        """Raises CheckpointError that names the file."""
        self.path = path
        self.is_direct = hasattr(os, "O_DIRECT")  # not on tmpfs, some overlays and network disks
        try:
            try:
                self._fd = os.open(path, os.O_RDONLY | getattr(os, "O_DIRECT", 0))
            except OSError as error:
                if error.errno != errno.EINVAL:
                    raise
                self._fall_back()
        except OSError as error:
            raise self._unreadable(error) from None
        if sys.platform == "darwin":
            import fcntl

            fcntl.fcntl(self._fd, fcntl.F_NOCACHE, 1)

    def read_into(self, offset: int, memory: memoryview) -> None:
        """Fill `memory`, all of it. Raises CheckpointError that names the file."""
        try:
            try:
                count = os.preadv(self._fd, [memory], offset)
            except OSError as error:  # some file systems refuse direct reads only here
                if error.errno != errno.EINVAL or not self.is_direct:
                    raise
                self._fall_back()
                count = os.preadv(self._fd, [memory], offset)
            while count < len(memory):
                more = os.preadv(self._fd, [memory[count:]], offset + count)
                if more == 0:
                    raise CheckpointError(f"{self.path}: became shorter while it was read.", path=self.path)
                count += more
        except OSError as error:
            raise self._unreadable(error) from None
        if not self.is_direct and hasattr(os, "posix_fadvise"):
            # A second copy in the system's cache would push out what the arena could hold.
            os.posix_fadvise(self._fd, offset, len(memory), os.POSIX_FADV_DONTNEED)

    @property
    def fd(self) -> int:
        """The number of the open file, for others who read from it."""
        return self._fd

    def close(self) -> None:
        os.close(self._fd)

    def _fall_back(self) -> None:
        """Read through the system's cache from here on. A number that a thread may be using stays open."""
        fd = os.open(self.path, os.O_RDONLY)
        if hasattr(self, "_fd"):
            os.dup2(fd, self._fd)
            os.close(fd)
        else:
            self._fd = fd
        self.is_direct = False

    def _unreadable(self, error: OSError) -> CheckpointError:
        return CheckpointError(f"{self.path}: cannot be read ({error.strerror}).", path=self.path)

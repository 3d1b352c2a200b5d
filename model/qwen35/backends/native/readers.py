"""Records read and checked by the library's threads, without Python's lock.

The plain form is `experts.readers.ThreadReaders`.
"""

import ctypes
from collections.abc import Sequence
from ctypes import c_void_p

from qwen35.backends.native import library as native
from qwen35.backends.native.library import Library
from qwen35.backends.native.places import address
from qwen35.errors import DoesNotFit
from qwen35.experts.readers import LATER_AT_ONCE, NUM_READERS, Read

_LOOK_MS = 100  # between two looks whether Ctrl-C came


class NativeReaders:
    """`experts.readers.Readers`. What fails is read again by whoever waits, who learns why."""

    def __init__(self, library: Library, num_threads: int = NUM_READERS) -> None:
        """Raises DoesNotFit where there are no threads or no memory."""
        self._functions = library.functions
        self._under_way: dict[Read, tuple[native.Read, object]] = {}  # with what the library reads
        self._handle = self._functions.qw_readers_create(num_threads, LATER_AT_ONCE)
        if not self._handle:
            raise DoesNotFit("The system gives no threads for reading. Close other programs.")

    def submit(self, reads: Sequence[Read], *, is_urgent: bool) -> None:
        for read in reads:
            parts = [native.Check(begin, end, int(wanted, 16)) for begin, end, wanted, _ in read.checks]
            checks = (native.Check * len(parts))(*parts)
            own = native.Read(
                read.file.fd,
                not read.file.is_direct,
                read.offset,
                read.memory.nbytes,
                address(read.memory),
                ctypes.addressof(checks),
                len(checks),
            )
            self._under_way[read] = own, checks
        if self._functions.qw_readers_submit(self._handle, self._addresses(reads), len(reads), is_urgent):
            for read in reads:
                del self._under_way[read]
            raise DoesNotFit("Not enough memory to read from the disk. Close other programs.")

    def hurry(self, reads: Sequence[Read]) -> None:
        for read in self._those_under_way(reads):
            self._functions.qw_readers_hurry(self._handle, self._address(read))

    def cancel(self, reads: Sequence[Read]) -> None:
        self.take_back(reads)
        left = self._those_under_way(reads)
        self._wait(left)
        for read in left:
            del self._under_way[read]

    def take_back(self, reads: Sequence[Read]) -> list[Read]:
        taken = []
        for read in self._those_under_way(reads):
            if self._functions.qw_readers_cancel(self._handle, self._address(read)):
                del self._under_way[read]
                taken.append(read)
        return taken

    def is_done(self, read: Read) -> bool:
        if read in self._under_way and self._wait([read], timeout_ms=0):
            self._finish(read)
        return read not in self._under_way

    def wait(self, reads: Sequence[Read]) -> None:
        left = self._those_under_way(reads)
        self._wait(left)
        for read in left:
            self._finish(read)

    def close(self) -> None:
        if self._handle:
            self._functions.qw_readers_destroy(self._handle)
            self._handle = None
            self._under_way.clear()

    def __del__(self) -> None:
        if getattr(self, "_handle", None):
            self.close()  # before the memory is gone that is being written to

    def _wait(self, reads: Sequence[Read], timeout_ms: int | None = None) -> bool:
        """Whether all are done, in the time that is given, if any."""
        if not reads:
            return True
        addresses, look_ms = self._addresses(reads), _LOOK_MS if timeout_ms is None else timeout_ms
        while not self._functions.qw_readers_wait(self._handle, addresses, len(reads), look_ms):
            if timeout_ms is not None:
                return False
        return True

    def _finish(self, read: Read) -> None:
        if self._under_way[read][0].state == native.Read.FAILED:
            try:
                read.work()
            except Exception as error:
                read.error = error
        del self._under_way[read]

    def _those_under_way(self, reads: Sequence[Read]) -> list[Read]:
        return [read for read in reads if read in self._under_way]

    def _address(self, read: Read) -> int:
        return ctypes.addressof(self._under_way[read][0])

    def _addresses(self, reads: Sequence[Read]) -> object:
        return (c_void_p * len(reads))(*map(self._address, reads))

"""Exit codes, and the errors that only the command line knows. All are caught in `qwencli.app`."""

from collections.abc import Mapping
from enum import IntEnum

from qwen35.errors import (
    CheckpointError,
    DoesNotFit,
    InputError,
    NetworkError,
    Qwen35Error,
    UnwritableError,
)


class ExitCode(IntEnum):
    OK = 0
    BUG = 1
    USAGE = 2
    INPUT = 3
    CHECKPOINT = 4
    DOES_NOT_FIT = 5
    SOME_FAILED = 6  # items of a batch
    INCOMPLETE = 7  # the answer was cut
    NETWORK = 8
    UNWRITABLE = 9
    INTERRUPTED = 130  # 128 + SIGINT
    TERMINATED = 143  # 128 + SIGTERM


class CliError(Qwen35Error):
    """Base of the errors below."""


class UsageError(CliError):
    """The command was called wrongly, or a setting has a value that it cannot have."""

    kind = "usage"


def refuse_both(pairs: Mapping[str, object]) -> None:
    """`pairs`: of two options, as "-q and -v", whether both were given. Raises UsageError."""
    for pair, are_both in pairs.items():
        if are_both:
            raise UsageError(f"Of {pair}, only one can be given.")


class OutputError(CliError):
    """Standard output cannot be written: a full disk, a closed stream."""

    kind = "output"


class ReaderGone(CliError):
    """Whoever read standard output closed it (`| head -1`). They have what they wanted: no failure."""

    kind = "reader_gone"


_CODES: dict[type[Qwen35Error], ExitCode] = {
    UsageError: ExitCode.USAGE,
    NetworkError: ExitCode.NETWORK,
    OutputError: ExitCode.UNWRITABLE,
    ReaderGone: ExitCode.OK,
    InputError: ExitCode.INPUT,
    CheckpointError: ExitCode.CHECKPOINT,
    DoesNotFit: ExitCode.DOES_NOT_FIT,
    UnwritableError: ExitCode.UNWRITABLE,
}


def exit_code_for(error: BaseException) -> ExitCode:
    """The code that a run ended by `error` exits with; anything that is not ours to expect is a bug."""
    for kind, code in _CODES.items():
        if isinstance(error, kind):
            return code
    return ExitCode.BUG

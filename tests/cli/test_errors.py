import pytest

from qwen35.errors import CheckpointError, DoesNotFit, InputError, Qwen35Error
from qwencli.errors import CliError, NetworkError, OutputError, ReaderGone, UsageError, exit_code_for


@pytest.mark.parametrize(
    ("error", "code"),
    [
        (UsageError("x"), 2),
        (InputError("x"), 3),
        (CheckpointError("x"), 4),
        (DoesNotFit("x"), 5),
        (NetworkError("x"), 8),
        (OutputError("x"), 9),
        (ReaderGone("x"), 0),
        (ValueError("x"), 1),
    ],
)
def test_every_error_has_its_exit_code(error: Exception, code: int) -> None:
    assert exit_code_for(error) == code


def test_no_error_of_the_command_line_is_taken_for_a_bug() -> None:
    def kinds(base: type) -> set[type]:
        return {base, *(kind for child in base.__subclasses__() for kind in kinds(child))}

    for kind in kinds(Qwen35Error) - {Qwen35Error, CliError}:
        assert exit_code_for(kind("x")) != 1, kind

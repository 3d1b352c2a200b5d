"""The `qwen` command: which commands there are, and the one place where an error becomes an exit code."""

import contextlib
import errno
import sys
import traceback
from dataclasses import dataclass
from typing import Annotated

import typer
from typer.main import get_command

from qwen35.errors import DoesNotFit, Qwen35Error, UnwritableError
from qwencli.commands.ask import ask
from qwencli.commands.batch import batch
from qwencli.commands.bench import bench
from qwencli.commands.cache import cache
from qwencli.commands.chat import chat
from qwencli.commands.chats import chats
from qwencli.commands.doctor import doctor
from qwencli.commands.models import models
from qwencli.commands.plan import plan
from qwencli.commands.schema import schema
from qwencli.commands.templates import templates
from qwencli.errors import OutputError, ReaderGone, UsageError, exit_code_for
from qwencli.interrupts import Interrupts
from qwencli.render.output import Output, standard_output
from qwencli.render.record import SCHEMA_VERSION, Record, Style, error_dict
from qwencli.render.safe import one_line

app = typer.Typer(
    help="Ask about pictures, documents and text on your own machine.",
    pretty_exceptions_enable=False,
    rich_markup_mode=None,  # plain help: in half the time, and the same in a pipe
    context_settings={"help_option_names": ["-h", "--help"]},
)
# Short helps are written here where Typer would cut the first sentence of the long one at 45 characters.
app.command(short_help="Ask one question, about files where they are given.")(ask)
app.command(short_help="Talk: a conversation that is saved as it goes.")(chat)
app.command(short_help="Ask one question about many items.")(batch)
app.command(short_help="Tell whether a model fits this machine, and how fast it is.")(plan)
app.command()(schema)
app.command(short_help="Measure a model on this machine.")(bench)
app.command(short_help="Show what was found on this machine, for a fault report.")(doctor)
app.add_typer(models, name="models")
app.add_typer(cache, name="cache", short_help="Show, check and clear the saved states.")
app.add_typer(chats, name="chats", short_help="List, read, search, export and remove conversations.")
app.add_typer(templates, name="templates")


def _print_version(is_wanted: bool) -> None:
    if is_wanted:
        from importlib.metadata import version

        typer.echo(f"qwen {version('qwen')}")
        raise typer.Exit


@app.callback()
def _root(
    version: Annotated[
        bool, typer.Option("--version", callback=_print_version, is_eager=True, help="Show the version.")
    ] = False,
) -> None:
    pass


@dataclass(frozen=True, slots=True)
class Invocation:
    """What must be known of the command line even where it cannot be parsed."""

    is_question: bool
    style: Style

    @classmethod
    def of(cls, words: list[str]) -> "Invocation":
        options = words[: words.index("--")] if "--" in words else words
        style: Style = "json" if "--json" in options else "jsonl" if "--jsonl" in options else "text"
        command = next((word for word in words if not word.startswith("-")), None)
        return cls(command == "ask", style)


def main() -> int:
    """Run the command line of this process. Returns the exit code."""
    interrupts = Interrupts()
    code = 0
    # KeyboardInterrupt comes as far as here before the work has begun, or after it has ended.
    with contextlib.suppress(KeyboardInterrupt), interrupts:
        code = _run(sys.argv[1:] or ["--help"], interrupts)
    if interrupts.signum is not None:
        interrupts.leave()
    return code


def _run(words: list[str], interrupts: Interrupts) -> int:
    invocation, record, output = Invocation.of(words), Record(), standard_output()
    failure: Exception | None = None
    code = 0
    try:
        # Typer makes an exit code of typer.Exit, and of KeyboardInterrupt.
        code = get_command(app).main(words, "qwen", standalone_mode=False, obj=record) or 0
    except KeyboardInterrupt:
        pass  # before Typer had the command: `interrupts` knows
    except typer.TyperException as error:
        failure = UsageError(_usage_text(error))
    except MemoryError:
        failure = DoesNotFit("Not enough memory. Close other programs, or choose a smaller model.")
    except OSError as error:
        failure = _named(error)
    except Exception as error:
        failure = error
    try:
        if interrupts.signum is not None:
            _end_interrupted(invocation, record, output)
        elif failure is not None:
            return _end_failed(failure, invocation, record, output)
        output.flush()
    except (OutputError, ReaderGone) as error:
        return _end_failed(error, Invocation(False, "text"), record, output)
    return code


def _named(error: OSError) -> Exception:
    """A disk that takes nothing is no bug of ours."""
    if error.errno == errno.ENOSPC:
        return OutputError(f"Cannot write ({error.strerror}). Make room.")
    if error.errno in (errno.EACCES, errno.EPERM, errno.EROFS):
        path = error.filename and str(error.filename)
        return UnwritableError(f"Cannot write {path or 'a file'} ({error.strerror}).", path=path)
    return error


def _end_interrupted(invocation: Invocation, record: Record, output: Output) -> None:
    """What came of the answer stays on standard output; JSON says how it ended."""
    record.finish_reason = "interrupted"
    if invocation.is_question and invocation.style != "text":
        record.print(output, invocation.style)


def _end_failed(error: Exception, invocation: Invocation, record: Record, output: Output) -> int:
    code = exit_code_for(error)
    if isinstance(error, ReaderGone):
        return code
    if isinstance(error, Qwen35Error):
        kind, message, path = error.kind, str(error), error.path
        _complain(f"error: {one_line(message)}\n")
    else:
        kind, message, path = "bug", f"{type(error).__name__}: {error}", None
        _complain("".join(traceback.format_exception(error)))
    if invocation.style != "text" and not isinstance(error, OutputError):
        failure = error_dict(code, kind, message, path)
        if invocation.is_question:
            record.print(output, invocation.style, failure)
        else:
            output.print_json({"schema_version": SCHEMA_VERSION, "error": failure})
    return code


def _complain(text: str) -> None:
    """Write to standard error, if anybody hears it: between words where a person reads."""
    with contextlib.suppress(OSError):
        if sys.stderr is None:
            return
        if sys.stderr.isatty() and text.count("\n") == 1:
            from rich.text import Text

            from qwencli.render.aside import Aside, Verbosity

            Aside(Verbosity.NORMAL).print(Text(text.rstrip("\n")))
        else:
            sys.stderr.write(text)


def _usage_text(error: typer.TyperException) -> str:
    """Typer's words on one line, and where to read on."""
    context = getattr(error, "ctx", None)
    command = context.command_path if context else "qwen"
    text = " ".join(error.format_message().split())
    stop = "" if text.endswith((".", "?", "!")) else "."
    dash = " Write -- before a question that begins with a dash." if text.startswith("No such option") else ""
    return f"{text}{stop}{dash} See: {command} --help"

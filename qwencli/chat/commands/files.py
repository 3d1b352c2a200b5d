"""Commands that attach: /image, /paste, /file, /video and !COMMAND."""

import subprocess

from qwencli.chat.clipboard import read_picture
from qwencli.chat.session import Session
from qwencli.chat.typed import paths_in
from qwencli.errors import UsageError

MAX_OUTPUT_BYTES = 100_000  # of a command; more is the end alone


def attach_files(session: Session, argument: str) -> None:
    if not argument:
        raise UsageError("Name a file: /file PATH (or a URL, or a folder of files).")
    session.attach(paths_in(argument))


def attach_images(session: Session, argument: str) -> None:
    if not argument:
        raise UsageError("Name a picture: /image PATH (or a URL). /paste takes the clipboard's.")
    session.attach(paths_in(argument))


def paste_picture(session: Session, argument: str) -> None:
    """The picture in the clipboard. Text is pasted by the terminal itself."""
    session.attach_bytes("clipboard", read_picture())


def attach_video(session: Session, argument: str) -> None:
    """The clips that `argument` names; /set fps, frames, start and end say what is seen of them."""
    if not argument:
        raise UsageError("Name a video: /video PATH (or a URL). /set fps, start and end choose its frames.")
    session.attach(paths_in(argument))


def detach(session: Session, argument: str) -> None:
    """Without a number: all that waits for the next question."""
    waiting = len(session.pending)
    if not waiting:
        raise UsageError("Nothing is attached that waits for a question.")
    if argument and not (argument.isdecimal() and 1 <= int(argument) <= waiting):
        raise UsageError(f"{argument!r} is not a number from 1 to {waiting}, of what is attached.")
    for attachment in session.detach(int(argument) if argument else None):
        session.screen.say(f"took off {attachment.source} ({attachment.type})")


def run_command(session: Session, command: str) -> None:
    """Run a command of the shell, show what it wrote, and attach it."""
    if not command:
        raise UsageError("Name a command whose output is attached: !ls -l")
    try:
        done = subprocess.run(
            command, shell=True, stdin=subprocess.DEVNULL, stdout=subprocess.PIPE, stderr=subprocess.STDOUT
        )
    except KeyboardInterrupt:
        raise KeyboardInterrupt("stopped; nothing is attached") from None
    output = done.stdout
    if len(output) > MAX_OUTPUT_BYTES:
        session.screen.note(f"of its {len(output):,} bytes only the last {MAX_OUTPUT_BYTES:,} are used")
        output = output[-MAX_OUTPUT_BYTES:].partition(b"\n")[2]
    if done.returncode:
        session.screen.note(f"the command failed, with exit code {done.returncode}")
    if not output.strip():
        session.screen.say("it wrote nothing; nothing is attached")
        return
    session.screen.say(output.decode("utf-8", "replace").rstrip())
    session.attach_output(command, output)

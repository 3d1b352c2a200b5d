"""The options that commands share, each an Annotated type; a setting's text is parsed as `settings` says."""

from collections.abc import Callable
from typing import Annotated, Any

import typer

from qwencli import completions
from qwencli.settings import PARSERS
from qwencli.values import (
    ImageTokens,
    PageRanges,
    Thinking,
    VideoTokens,
    parse_batch_size,
    parse_choice,
    parse_pages,
    parse_rate,
    parse_time,
)


def _parser(parse: Callable[[str], Any]) -> Callable[[str], Any]:
    """`parse` whose ValueError reaches the user with its own words."""

    def parse_option(text: str) -> Any:
        try:
            return parse(text)
        except ValueError as error:
            raise typer.BadParameter(str(error)) from None

    return parse_option


def _setting(*names: str, metavar: str, help: str, completes: tuple[str, ...] = ()) -> Any:
    """An option named like a field of Settings."""
    field = max(names, key=len).removeprefix("--").replace("-", "_")

    def complete(incomplete: str) -> list[str]:
        return [word for word in completes if word.startswith(incomplete)]

    return typer.Option(
        *names,
        parser=_parser(PARSERS[field]),
        metavar=metavar,
        help=help,
        show_default=False,
        autocompletion=complete if completes else None,
    )


GoesOn = Annotated[bool, typer.Option("-c", "--continue", help="Go on with the last conversation.")]
Model = Annotated[
    str | None,
    typer.Option(
        "-m",
        "--model",
        metavar="NAME|FOLDER",
        help="A model that `qwen models ls` lists, or a folder. "
        "Default: the largest packed one of yours that fits into memory, else mini.",
        show_default=False,
        autocompletion=completions.complete_model,
    ),
]
Device = Annotated[
    str | None,
    _setting(
        "--device",
        metavar="auto|cpu|cuda",
        help="Where the model runs.",
        completes=("auto", "cpu", "cuda"),
    ),
]
Load = Annotated[
    str | None,
    _setting(
        "--load",
        metavar="auto|read|mmap",
        help="Packed weights: read into memory, or mapped and shared. auto: read where they fit.",
        completes=("auto", "read", "mmap"),
    ),
]
Ram = Annotated[
    int | None,
    _setting(
        "--ram",
        metavar="auto|SIZE",
        help="Memory the program may take, as 8G: experts and layers beyond it stay on disk. auto: what is "
        "free.",
        completes=("auto",),
    ),
]
Quant = Annotated[
    str | None,
    _setting(
        "--quant",
        metavar="none|nf4|int8",
        help="Unpacked weights: round the text model's layers to 4 or 8 bits (bitsandbytes).",
        completes=("none", "nf4", "int8"),
    ),
]
Threads = Annotated[
    int | None, _setting("--threads", metavar="N", help="CPU threads. Default: one per core.")
]
Speculate = Annotated[
    str | None,
    _setting(
        "--speculate",
        metavar="auto|off|N",
        help="Tokens that the model's MTP module drafts at a time, for the model to check: the answer stays "
        "the same. auto: as many as are faster.",
        completes=("auto", "off"),
    ),
]
Context = Annotated[int | None, _setting("--ctx", metavar="N", help="At most N tokens of prompt and answer.")]

LimitRate = Annotated[
    int | None,
    typer.Option(
        "--limit-rate",
        parser=_parser(parse_rate),
        metavar="SIZE",
        help="Fetch at most SIZE a second, as 5M.",
        show_default=False,
    ),
]

System = Annotated[
    str | None,
    typer.Option("-s", "--system", metavar="TEXT|@FILE", help="The system message.", show_default=False),
]
Attach = Annotated[
    list[str] | None,
    typer.Option("-a", "--attach", metavar="INPUT", help="Another input. Repeatable.", show_default=False),
]
Template = Annotated[
    str | None,
    typer.Option(
        "-t",
        "--template",
        metavar="NAME|FILE",
        help="Ask what this template asks, with its options; see `qwen templates ls`.",
        autocompletion=completions.complete_template,
        show_default=False,
    ),
]
Variables = Annotated[
    list[str] | None,
    typer.Option(
        "--set",
        metavar="NAME=VALUE",
        help="A variable of the template. Repeatable.",
        show_default=False,
    ),
]
Pages = Annotated[
    PageRanges | None,
    typer.Option(
        "--pages",
        parser=_parser(parse_pages),
        metavar="1-3,5",
        help="Pages of PDF and TIFF inputs. Default: the first 20.",
        show_default=False,
    ),
]
ImageTokenBounds = Annotated[
    ImageTokens | None,
    _setting(
        "--image-tokens",
        metavar="auto|model|MAX|MIN:MAX",
        help="Tokens of one picture. auto: the model's own bounds, but at most 2048 on a CPU.",
        completes=("auto", "model"),
    ),
]

Fps = Annotated[
    float | None,
    _setting("--fps", metavar="N", help="Frames a second of video inputs. Default: as the model has it."),
]
Frames = Annotated[
    int | None, _setting("--frames", metavar="N", help="N frames of each video input, evenly spread.")
]
Start = Annotated[
    float | None, _setting("--start", metavar="TIME", help="Of video inputs from here on: 90, 90s or 1:30.")
]
End = Annotated[float | None, _setting("--end", metavar="TIME", help="Of video inputs up to here.")]
VideoTokenBound = Annotated[
    VideoTokens | None,
    _setting(
        "--video-tokens",
        metavar="auto|model|MAX",
        help="Tokens of one video: its frames become smaller, then fewer. auto: the model's own bound, but "
        "at most 8192 on a CPU.",
        completes=("auto", "model"),
    ),
]
Window = Annotated[
    float | None,
    typer.Option(
        "--window",
        parser=_parser(parse_time),
        metavar="TIME",
        help="Walk through a very long video in windows, of 60s perhaps: attention sees one at a time, and "
        "memory does not grow. The answer comes at the end.",
        show_default=False,
    ),
]
EachWindow = Annotated[bool, typer.Option("--each-window", help="With --window: an answer in each of them.")]

Think = Annotated[
    Thinking | None,
    _setting(
        "--think",
        metavar="off|on|auto|N",
        help="Reason before the answer; N: for at most N tokens. auto: as the model does by itself.",
        completes=("off", "on", "auto"),
    ),
]
MaxTokens = Annotated[int | None, _setting("--max-tokens", metavar="N", help="Stop after N tokens.")]
Temperature = Annotated[
    float | None,
    _setting("--temperature", metavar="T", help="0: always the likeliest token."),
]
TopP = Annotated[
    float | None,
    _setting("--top-p", metavar="P", help="Sample from the likeliest tokens that sum to P."),
]
TopK = Annotated[int | None, _setting("--top-k", metavar="K", help="Sample from the K likeliest tokens.")]
MinP = Annotated[
    float | None,
    _setting("--min-p", metavar="P", help="Leave out tokens below P times the likeliest."),
]
PresencePenalty = Annotated[
    float | None,
    _setting("--presence-penalty", metavar="X", help="Make used tokens less likely, -2 to 2."),
]
RepetitionPenalty = Annotated[
    float | None,
    _setting("--repetition-penalty", metavar="X", help="Divide used tokens' scores by X."),
]
Stop = Annotated[
    list[str] | None,
    typer.Option(
        "--stop",
        metavar="TEXT",
        help="End the answer before TEXT. Repeatable.",
        show_default=False,
    ),
]
Seed = Annotated[int | None, _setting("--seed", metavar="N", help="Draw the same answer again.")]

NumAnswers = Annotated[
    int,
    typer.Option("--n", metavar="N", min=1, help="Write N answers; the prompt is read once."),
]
Logprobs = Annotated[
    bool, typer.Option("--logprobs", help="With --json: the logarithm of each token's probability.")
]
Loops = Annotated[
    str | None,
    _setting(
        "--loops",
        metavar="end|ignore",
        help="What becomes of an answer that repeats itself without end. Default: end.",
        completes=("end", "ignore"),
    ),
]

Schema = Annotated[
    str | None,
    typer.Option(
        "--schema",
        metavar="FILE|JSON|FIELDS",
        help="Answer in JSON by this JSON Schema, or with these fields: 'name, total float, items[]'.",
        show_default=False,
    ),
]
Regex = Annotated[
    str | None,
    typer.Option(
        "--regex", metavar="PATTERN", help="All of the answer matches the pattern.", show_default=False
    ),
]
Choice = Annotated[
    str | None,
    typer.Option("--choice", metavar="A,B,C", help="The answer is one of these.", show_default=False),
]
GrammarFile = Annotated[
    str | None,
    typer.Option(
        "--grammar",
        metavar="FILE",
        help="The answer is a sentence of this grammar, in Lark or GBNF.",
        show_default=False,
    ),
]
Check = Annotated[
    list[str] | None,
    typer.Option(
        "--check",
        metavar="RULE",
        help="A rule for the data of a --schema: 'sum(items.price) == total'. Repeatable. What breaks one is "
        "asked again, once.",
        show_default=False,
    ),
]
Where = Annotated[
    bool,
    typer.Option("--where", help="Of each value of a --schema's data, also its page and its box there."),
]
_KINDS = ("json", "jsonl", "csv", "yaml", "md", "xml")
As = Annotated[
    str | None,
    typer.Option(
        "--as",
        parser=_parser(parse_choice(*_KINDS)),
        metavar="|".join(_KINDS),
        help="Show the data of a --schema in another form.",
        show_default=False,
        autocompletion=lambda incomplete: [kind for kind in _KINDS if kind.startswith(incomplete)],
    ),
]
Extract = Annotated[
    bool,
    typer.Option("-x", "--extract", help="Of the answer, show what its first code fence holds."),
]

Include = Annotated[
    list[str] | None,
    typer.Option(
        "--include",
        metavar="PATTERN",
        help="Of folders and lists, take what matches: '*.png'. Repeatable. Default: pictures, videos, PDFs, "
        "text.",
        show_default=False,
    ),
]
Exclude = Annotated[
    list[str] | None,
    typer.Option(
        "--exclude", metavar="PATTERN", help="Leave out what matches. Repeatable.", show_default=False
    ),
]
Null = Annotated[
    bool, typer.Option("-0", "--null", help="The list on standard input has NULs between its paths.")
]
LineFormat = Annotated[
    str,
    typer.Option(
        "--format",
        parser=_parser(parse_choice("json", "openai")),
        metavar="json|openai",
        help="A line of the output: as --json of `qwen ask`, or as OpenAI's Batch API.",
        autocompletion=lambda incomplete: [w for w in ("json", "openai") if w.startswith(incomplete)],
    ),
]
RenderAs = Annotated[
    str | None,
    typer.Option(
        "--as",
        parser=_parser(parse_choice("csv")),
        metavar="csv",
        help="The output as a table.",
        show_default=False,
        autocompletion=lambda incomplete: [w for w in ("csv",) if w.startswith(incomplete)],
    ),
]
BatchSize = Annotated[
    int | None,
    typer.Option(
        "--batch-size",
        parser=_parser(parse_batch_size),
        metavar="auto|N",
        help="Items answered at a time. auto: as many as pay, and fit into memory.",
        show_default=False,
        autocompletion=lambda incomplete: [w for w in ("auto",) if w.startswith(incomplete)],
    ),
]

NoCache = Annotated[
    bool,
    typer.Option("--no-cache", help="Compute everything anew, and save no state."),
]
Private = Annotated[
    bool,
    typer.Option("--private", help="Write nothing to disk: saved states are used, none is added."),
]

Json = Annotated[bool, typer.Option("--json", help="Print one JSON object, on failure too.")]
Jsonl = Annotated[
    bool,
    typer.Option("--jsonl", help="Print events as JSON lines, the object last."),
]
DryRun = Annotated[
    bool,
    typer.Option("--dry-run", help="Show the prompt and its tokens; run no model."),
]
Verbose = Annotated[bool, typer.Option("-v", "--verbose", help="Add token counts and timings.")]
Quiet = Annotated[
    bool,
    typer.Option("-q", "--quiet", help="No notes, reasoning or progress; errors only."),
]

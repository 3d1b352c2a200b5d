"""What becomes of an answer when it is there: checked against its form, and shown as it was asked for."""

import re
from collections.abc import Sequence
from dataclasses import dataclass, replace
from typing import TYPE_CHECKING, Literal, cast

from qwen35.messages import Message, TextPart
from qwencli.errors import UsageError
from qwencli.render.record import Record

if TYPE_CHECKING:
    from qwencli.structured.form import Form

Kind = Literal["json", "jsonl", "csv", "yaml", "md", "xml"]

_FENCE = re.compile(r"^[ ]{0,3}(?P<fence>`{3,}|~{3,})[^\n]*\n(?P<code>.*?)^[ ]{0,3}(?P=fence)", re.M | re.S)


@dataclass(frozen=True, slots=True)
class Finish:
    """`form`, `kind` and `extracts`: what `--schema` and its like, `--as` and `-x` say.

    All of it counts for each of `num_answers`.
    """

    form: "Form | None" = None
    kind: Kind | None = None
    extracts: bool = False
    num_answers: int = 1
    wants_logprobs: bool = False
    tells_where: bool = False  # `--where`

    @classmethod
    def of(
        cls,
        schema: str | None = None,
        regex: str | None = None,
        choice: str | None = None,
        grammar: str | None = None,
        *,
        kind: str | None = None,
        extracts: bool = False,
        num_answers: int = 1,
        wants_logprobs: bool = False,
        checks: Sequence[str] = (),
        tells_where: bool = False,
        is_record: bool = False,
    ) -> "Finish":
        """Of the options' texts; `is_record`: the output is `--json` or `--jsonl`.

        Raises UsageError for what does not go together, and what `Form.of` raises.
        """
        if kind and schema is None:
            raise UsageError("--as shows the data of a schema: say what is in it with --schema.")
        if checks and schema is None:
            raise UsageError("--check is about the data of a schema: say what is in it with --schema.")
        if tells_where and (schema is None or kind or num_answers > 1):
            raise UsageError("--where is about the data of a --schema; it does not go with --as and --n.")
        if kind and is_record:
            raise UsageError("Of --as and --json or --jsonl, only one can be given.")
        if extracts and (kind or schema or regex or choice or grammar):
            raise UsageError(
                "-x takes the code out of a free answer; one by a schema or grammar has no fence."
            )
        if wants_logprobs and not is_record:
            raise UsageError("--logprobs are a part of the object that --json prints: give that, too.")
        if schema is None and regex is None and choice is None and grammar is None:
            # As fast as it was: without the modules that read schemas.
            return cls(None, None, extracts, num_answers, wants_logprobs)
        from qwencli.structured.form import Form

        form = Form.of(schema=schema, regex=regex, choice=choice, grammar=grammar, checks=checks)
        return cls(form, cast(Kind | None, kind), False, num_answers, wants_logprobs, tells_where)

    def about(self, messages: Sequence[Message]) -> "Finish":
        """The same, of an answer to these. Raises UsageError where `--where` has nowhere to look."""
        if not self.tells_where or self.form is None:
            return self
        return replace(self, form=self.form.in_pictures_of(messages))

    def told(self, question: Message) -> Message:
        """A question with what its answer has to look like."""
        if self.form is None or self.form.instruction is None:
            return question
        *parts, last = question.parts
        if isinstance(last, TextPart):
            return replace(question, parts=(*parts, TextPart(f"{last.text}\n\n{self.form.instruction}")))
        return replace(question, parts=(*question.parts, TextPart(self.form.instruction)))

    @property
    def fields(self) -> list[tuple[str, ...]]:
        """Those of the schema that answers follow, by the keys that lead to them."""
        if self.form is None or self.form.schema is None:
            return []
        from qwencli.structured.tables import fields_of

        return fields_of(self.form.schema)

    @property
    def waits(self) -> bool:
        """Whether nothing can be shown before the whole answer is there."""
        return self.kind is not None or self.extracts or self.num_answers > 1

    def settle(self, record: Record) -> str | None:
        """Bring a finished record to what its answer turned out to be; a complaint where it is not whole.

        The data goes into the record where the answer holds what was asked for, else its finish_reason says
        what is wrong.
        """
        if self.extracts and record.answer is not None:
            record.answer = extracted(record.answer)
            record.others = [extracted(other) for other in record.others]
        if record.finish_reason == "stop" and self.form:
            try:
                read = [self.form.read(answer) for answer in (record.answer or "", *record.others)]
            except ValueError as error:
                record.finish_reason = "schema"
                return f"the answer is not what was asked for: {error}"
            data, places = zip(*read, strict=True)
            record.data = [*data] if self.num_answers > 1 and self.form.schema is not None else data[0]
            record.where = places[0]
        return complaint_of(record)

    def text(self, record: Record) -> str:
        """What is shown of a settled record. A table of an answer that is not whole would look like one."""
        if self.kind is None:
            return "\n---\n".join([record.answer or "", *record.others])
        from qwencli.structured.tables import render

        if record.finish_reason != "stop" or self.form is None:
            return ""
        return render(record.data, self.kind, self.form.columns)


def complaint_of(record: Record) -> str | None:
    """Why an answer is not whole, for a person."""
    count = record.usage.completion_tokens
    match record.finish_reason:
        case "length":
            return f"the answer was cut after {count} tokens; see --max-tokens and --ctx"
        case "loop":
            return f"the answer repeated itself, and was ended after {count} tokens; see --loops"
        case "schema":
            return "the answer ended before it was what was asked for"
    return None


def extracted(answer: str) -> str:
    """The code of its first fence; without one, all of it."""
    match = _FENCE.search(answer)
    return match["code"].removesuffix("\n") if match else answer

"""What the program asks for a receipt, an invoice, a table and a chart, word by word, with its schemas.

A copy, so that training needs nothing of the program around the model; a test holds it to the templates.
"""

from typing import Any

TEXT, NUMBER = {"type": "string"}, {"type": "number"}


def record(**properties: Any) -> dict[str, Any]:
    """The schema of an object with these properties, all of which it must have, and no others."""
    required = list(properties)
    return {"type": "object", "properties": properties, "required": required, "additionalProperties": False}


def many(items: dict[str, Any]) -> dict[str, Any]:
    return {"type": "array", "items": items}


RECEIPT_PROMPT = (
    "Read this receipt. Prices are numbers without a currency sign. Leave a text empty where the "
    "receipt does not have it."
)
RECEIPT_ITEM = record(name=TEXT, quantity=NUMBER, price=NUMBER | {"description": "of the whole line"})
RECEIPT = record(
    shop=TEXT,
    date=TEXT | {"description": "as YYYY-MM-DD"},
    items=many(RECEIPT_ITEM),
    total=NUMBER,
    currency=TEXT,
)
INVOICE_PROMPT = (
    "Read this invoice. Amounts are numbers without a currency sign, dates are written as YYYY-MM-DD. "
    "Leave a text empty where the invoice does not have it."
)
INVOICE = record(
    number=TEXT,
    date=TEXT,
    due_date=TEXT,
    seller=TEXT,
    buyer=TEXT,
    lines=many(record(text=TEXT, quantity=NUMBER, unit_price=NUMBER, amount=NUMBER)),
    net=NUMBER,
    tax=NUMBER,
    total=NUMBER,
    currency=TEXT,
)
TABLE_PROMPT = (
    "Write the largest table of this page as CSV: the header first, then one line for each row, values "
    "with a comma or a quotation mark in quotes. Keep numbers as they are printed. Write the CSV alone,"
    " in a code block."
)
CHART_PROMPT = (
    "Read the values off this chart: for each series its name, and for each point its label and its "
    "value, as well as the axes allow."
)
CHART = record(
    title=TEXT,
    x_axis=TEXT,
    y_axis=TEXT,
    series=many(record(name=TEXT, points=many(record(label=TEXT, value=NUMBER)))),
)
OCR_PROMPT = (
    "Write out all text of this page, in reading order, with its line breaks, and nothing else. Keep "
    "spelling, numbers and punctuation as they are. Mark what cannot be read with [?]."
)
# Prompt and schema by the template's name.
TEMPLATES: dict[str, tuple[str, dict[str, Any] | None]] = {
    "receipt": (RECEIPT_PROMPT, RECEIPT),
    "invoice": (INVOICE_PROMPT, INVOICE),
    "table": (TABLE_PROMPT, None),
    "chart": (CHART_PROMPT, CHART),
    "ocr": (OCR_PROMPT, None),
}

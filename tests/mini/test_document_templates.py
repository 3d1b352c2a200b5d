"""What mini learns to be asked is what the program's templates ask."""

import json
from pathlib import Path

import pytest

from mini.document_templates import TEMPLATES
from qwencli.structured.form import Form
from qwencli.templates.template import find_template


@pytest.mark.parametrize("name", TEMPLATES)
def test_it_is_the_program_s_template(name: str, tmp_path: Path) -> None:
    prompt, schema = TEMPLATES[name]
    template = find_template(name, tmp_path)
    assert template.prompt.strip() == prompt
    if template.schema is None:
        assert schema is None
    else:
        form = Form.of(schema=template.schema)
        assert form is not None
        assert form.instruction == f"Answer in JSON that follows this schema: {json.dumps(schema)}"

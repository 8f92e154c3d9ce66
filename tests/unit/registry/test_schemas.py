from __future__ import annotations

from pathlib import Path

import pytest
from jsonschema import Draft202012Validator

from steerguard.registry.schemas import DIALECT, DOCUMENTS, document_schema, file_name, main, outdated

COMMITTED = Path(__file__).parents[3] / "registry" / "schemas"


def test_the_committed_schemas_are_the_generated_ones():
    main(["--check", str(COMMITTED)])


@pytest.mark.parametrize("document", DOCUMENTS)
def test_every_object_is_closed_and_every_field_described(document):
    schema = document_schema(document)
    assert schema["$schema"] == DIALECT
    Draft202012Validator.check_schema(schema)
    for part in (schema, *schema["$defs"].values()):
        assert part["additionalProperties"] is False
        assert part["description"]
        for name, field in part["properties"].items():
            assert field.get("description"), f"{part['title']}.{name}"


def test_a_changed_or_missing_schema_fails_the_check(tmp_path):
    main(["--write", str(tmp_path)])
    assert outdated(tmp_path) == ()
    first, second, *_ = (tmp_path / file_name(document) for document in DOCUMENTS)
    first.write_text("{}")
    second.unlink()
    assert outdated(tmp_path) == (first.name, second.name)
    with pytest.raises(SystemExit):
        main(["--check", str(tmp_path)])

"""Nothing private leaves: random texts in prompts, answers, names, host context and exceptions, and a search for them.

Under `none` and `hmac` they are nowhere in the log's directory, its copies, our messages, or what the commands print.
"""

from __future__ import annotations

import base64
import json

import pytest
from tests.canaries import canary, forms, places_in
from tests.canary_scene import PLACES, Scene, ids_of
from tests.guarded_models import (
    ALWAYS,
    guarded,
    policy,
    shared_model,
    tokenizer,
)
from typer.testing import CliRunner

from steerguard.audit.log import AuditLog
from steerguard.audit.privacy.sealing import SealingKey
from steerguard.cli.audit import app
from steerguard.models.chat import render


@pytest.fixture(scope="module", params=["none", "hmac"])
def scene(request, tmp_path_factory):
    """What is left behind, in files, messages and prints, after every private text was put in its place."""
    return Scene(tmp_path_factory.mktemp("canaries"), request.param)


def test_the_search_finds_every_form():
    text = canary()
    for planted in (
        text.encode(),
        b"x" + base64.b64encode(text.encode()),
        base64.b64encode(b"a" + text.encode() + b"b"),
        base64.urlsafe_b64encode(b"ab" + text.encode()),
        base64.b64encode(text.encode("utf-16-le")),
        text.encode().hex().encode(),
        text.encode("utf-16").hex().upper().encode(),
        text.encode("utf-16-be"),
        json.dumps("".join(f"{character}" for character in text)).encode(),
        "".join(f"\\u00{ord(character):02x}" for character in text).encode(),
        text[::-1].encode(),
        json.dumps(ids_of(text)).encode(),
    ):
        assert places_in(b"before " + planted + b" after", {"place": text}, ids_of) == ["place"], planted
    assert places_in(b"nothing " + canary().encode(), {"place": text}, ids_of) == []
    assert all(len(form) >= 15 for form in forms(text, ids_of(text)))


def test_private_texts_were_where_they_should_be(scene):
    """Otherwise it would prove nothing that they are nowhere else."""
    assert scene.canaries["answer"] in scene.seen["answer"]
    assert scene.canaries["system prompt"] in scene.seen["answer"]
    assert scene.canaries["prompt"] in scene.seen["answer"]
    failed = {place for place, _ in (*scene.errors, *scene.foreign)}
    quiet = {"system prompt", "prompt", "answer", "model folder", "host variable"}
    only_redacting = {"redactor", "tokenizer"} if scene.mode == "none" else set()
    assert failed == set(PLACES) - quiet - only_redacting


def test_the_log_tells_of_what_happened(scene):
    lines = [
        line for name, content in scene.files().items() if name.endswith(".jsonl") for line in content.splitlines()
    ]
    records = [json.loads(line) for line in lines]
    kinds = {record["type"] for record in records}
    assert {"guard.decision", "guard.request", "guard.error", "policy.reject", "checkpoint", "log.rotate"} <= kinds
    assert {record.get("tenant") for record in records} >= {"tenant-1"}
    assert {record["model"]["name"] for record in records if record["type"] == "guard.decision"} == {"tiny"}
    tags = [record["content"]["in"] for record in records if record["type"] == "guard.decision"]
    assert all((tag is None) == (scene.mode == "none") for tag in tags)


def test_no_private_text_is_in_a_file(scene):
    files = scene.files()
    assert {name.rpartition(".")[2] for name in files} >= {"jsonl", "checkpoints", "vkey"}
    found = {name: places_in(content, scene.canaries, ids_of) for name, content in files.items()}
    assert {name: places for name, places in found.items() if places} == {}


def test_no_private_text_is_in_a_message_or_in_what_a_command_prints(scene):
    assert {"report.html", "report.json", "export.csv", "audit verify", "stream of checkpoints"} <= set(scene.prints)
    found = {name: places_in(content, scene.canaries, ids_of) for name, content in scene.prints.items()}
    assert {name: places for name, places in found.items() if places} == {}


def test_no_private_text_is_in_a_name_of_a_file(scene):
    names = "\n".join(scene.files()).encode()
    assert places_in(names, scene.canaries, ids_of) == []


def test_encrypted_content_holds_them_for_the_holder_of_the_key_alone(tmp_path):
    """The counter-check: what `none` and `hmac` leave out is there to be read, and nowhere in plain."""
    texts = {"prompt": canary(), "system prompt": canary()}
    messages = [
        {"role": "system", "content": texts["system prompt"]},
        {"role": "user", "content": texts["prompt"]},
    ]
    batch = render(tokenizer(), [messages], padding_side="left")
    model = shared_model()
    key = SealingKey.create(tmp_path / "sealing.key")
    document = policy(rules=ALWAYS, more="audit: {content: encrypted}")
    with (
        AuditLog.open(tmp_path / "audit", content="encrypted", sealing=key) as log,
        guarded(model, document, audit=log) as wrapped,
        wrapped.guard.collect() as decisions,
    ):
        wrapped.generate(**batch, max_new_tokens=2, do_sample=False)
    for path in (tmp_path / "audit").iterdir():
        assert places_in(path.read_bytes(), texts, ids_of) == []
    command = ["content", str(tmp_path / "audit"), "--request", decisions[0].request]
    printed = CliRunner().invoke(app, [*command, "--sealing-key", str(tmp_path / "sealing.key")])
    assert printed.exit_code == 0, printed.output
    assert places_in(printed.output.encode(), texts, ids_of) == ["prompt", "system prompt"]

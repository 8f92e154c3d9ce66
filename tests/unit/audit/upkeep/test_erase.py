from __future__ import annotations

import json
import os
import subprocess
import sys

import pytest

from steerguard.audit.log import AuditLog
from steerguard.audit.privacy.content import row_content
from steerguard.audit.privacy.sealed_slots import SLOT_BYTES
from steerguard.audit.privacy.sealing import SealingKey
from steerguard.audit.records.record import decision_event
from steerguard.audit.upkeep import erase
from steerguard.audit.upkeep.erase import SealedRows, erase_request, sealed_rows
from steerguard.audit.upkeep.hold import place_hold, release_hold
from steerguard.audit.upkeep.unsealing import unsealed_rows
from steerguard.audit.verify import verify_directory
from steerguard.errors import AuditContentError, AuditError, AuditSinkError, LegalHoldError

KEY = SealingKey.of_secret(bytes(range(32)))


@pytest.fixture
def write(context, decide):
    """Record rows of a request with sealed content."""

    def work(log, request, rows):
        for row in range(rows):
            content = row_content(log, request, row, [row], [7], text=lambda tokens: f"text {tokens[0]}")
            log.record(decision_event(decide(request=request, row=row), context, content=content))

    return work


@pytest.fixture
def directory(tmp_path, write):
    """Two finished logs, one of them with two segments, that hold two requests."""
    for _ in range(2):
        with AuditLog.open(tmp_path, content="encrypted", sealing=KEY) as log:
            write(log, "erase-me", 2)
            write(log, "keep-me", 1)
    with AuditLog.open(tmp_path, content="encrypted", sealing=KEY) as log:
        write(log, "erase-me", 1)
        log.rotate()
        write(log, "erase-me", 1)
    return tmp_path


def _erased(directory):
    found = []

    def take(record):
        if record["type"] == "content.erased":
            found.append((record["t"], record["req"], record["in_log"], record["rows"], record["reason"]))

    report = verify_directory(directory, strict=True, on_record=take)
    assert report.status == "ok"
    # Ids of logs that were made within one second are in no order.
    return [told for _, *told in sorted(found)]


def _read(directory, request):
    return [(row.content and row.content["prompt"], row.error) for row in unsealed_rows(directory, request, KEY)]


def test_a_request_is_erased_in_every_log_and_the_logs_verify(directory):
    before = sealed_rows(directory, "erase-me")
    assert [rows.readable for rows in before] == [2, 2, 2]
    assert erase_request(directory, "erase-me", reason="asked by the person") == before
    assert _read(directory, "erase-me") == [(None, "ContentErasedError")] * 6
    assert _read(directory, "keep-me") == [("text 0", None)] * 2
    assert _erased(directory) == [["erase-me", rows.log, 2, "asked by the person"] for rows in before]


def test_a_second_run_says_that_nothing_is_left_and_records_nothing(directory):
    first = erase_request(directory, "erase-me", reason="asked")
    names = {path.name for path in directory.iterdir()}
    assert erase_request(directory, "erase-me", reason="asked") == tuple(SealedRows(rows.log, 0, 2) for rows in first)
    assert erase_request(directory, "unknown", reason="asked") == ()
    assert {path.name for path in directory.iterdir()} == names
    assert len(_erased(directory)) == 3


def test_no_byte_of_a_wrapped_key_is_left_and_no_other_byte_changes(directory):
    before = {path: path.read_bytes() for path in directory.glob("*.keys")}
    sealed = {path: path.read_bytes() for path in directory.glob("*.sealed")}
    erase_request(directory, "erase-me", reason="asked")
    assert {path: path.read_bytes() for path in sealed} == sealed
    for path, content in before.items():
        after = path.read_bytes()
        for start in range(0, len(content), SLOT_BYTES):
            own = b"erase-me" in content[start : start + SLOT_BYTES]
            kept = SLOT_BYTES - 344 if own else SLOT_BYTES
            assert after[start : start + kept] == content[start : start + kept]
            assert not own or not any(after[start + kept : start + SLOT_BYTES])


def test_a_log_in_use_is_erased_from_and_written_on(tmp_path, write):
    with AuditLog.open(tmp_path, content="encrypted", sealing=KEY) as log:
        write(log, "erase-me", 2)
        write(log, "keep-me", 1)
        script = (
            "import sys\nfrom pathlib import Path\nfrom steerguard.audit.upkeep.erase import erase_request\n"
            "print(sum(one.readable for one in erase_request(Path(sys.argv[1]), 'erase-me', reason='asked')))\n"
        )
        done = subprocess.run([sys.executable, "-c", script, str(tmp_path)], capture_output=True, text=True, check=True)
        assert done.stdout.strip() == "2"
        write(log, "keep-me", 2)
    assert _read(tmp_path, "erase-me") == [(None, "ContentErasedError")] * 2
    assert _read(tmp_path, "keep-me") == [("text 0", None), ("text 0", None), ("text 1", None)]
    assert len(_erased(tmp_path)) == 1


def test_a_request_whose_id_begins_the_same_is_another(tmp_path, write):
    with AuditLog.open(tmp_path, content="encrypted", sealing=KEY) as log:
        write(log, "request-1", 1)
        write(log, "request-10", 1)
    erase_request(tmp_path, "request-1", reason="asked")
    assert _read(tmp_path, "request-10") == [("text 0", None)]


def test_the_record_is_there_before_the_first_key_goes(directory, monkeypatch):
    """What fails in between is told, the rest is erased by the next run, and that is recorded too."""
    overwrite = erase._overwrite
    left = [3]

    def failing(descriptor, offset):
        left[0] -= 1
        if left[0] < 0:
            raise OSError(5, "Input/output error")
        overwrite(descriptor, offset)

    with monkeypatch.context() as patched:
        patched.setattr(erase, "_overwrite", failing)
        with pytest.raises(AuditSinkError, match="could not be erased, though the log says"):
            erase_request(directory, "erase-me", reason="asked")
    assert len(_erased(directory)) == 3
    again = erase_request(directory, "erase-me", reason="asked again")
    assert sum(rows.readable for rows in again) == 3
    assert sum(rows.readable for rows in sealed_rows(directory, "erase-me")) == 0
    assert [reason for *_, reason in _erased(directory)] == ["asked"] * 3 + ["asked again"] * 2


def test_what_cannot_be_recorded_is_not_erased(directory, monkeypatch):
    def failing(self, body):
        raise AuditSinkError("No space.")

    with monkeypatch.context() as patched:
        patched.setattr(AuditLog, "record", failing)
        with pytest.raises(AuditSinkError):
            erase_request(directory, "erase-me", reason="asked")
    assert sum(rows.readable for rows in sealed_rows(directory, "erase-me")) == 6


def test_a_legal_hold_keeps_everything(directory):
    place_hold(directory, reason="case 17")
    with pytest.raises(LegalHoldError):
        erase_request(directory, "erase-me", reason="asked")
    assert sum(rows.readable for rows in sealed_rows(directory, "erase-me")) == 6
    release_hold(directory, reason="closed")
    erase_request(directory, "erase-me", reason="asked")
    assert sum(rows.readable for rows in sealed_rows(directory, "erase-me")) == 0


@pytest.mark.parametrize("reason", ["", " "])
def test_a_reason_is_needed(directory, reason):
    with pytest.raises(AuditError, match="Say why"):
        erase_request(directory, "erase-me", reason=reason)


def test_files_of_other_processes_that_are_torn_are_passed_over(directory):
    path = min(directory.glob("*.keys"))
    with path.open("ab") as file:
        file.write(b"SGK1" + b"erase-me")
    erase_request(directory, "erase-me", reason="asked")
    assert sum(rows.readable for rows in sealed_rows(directory, "erase-me")) == 0
    assert path.stat().st_size % SLOT_BYTES == 12


def test_a_keys_file_that_is_a_link_is_not_followed(directory, tmp_path_factory):
    outside = tmp_path_factory.mktemp("outside") / "file"
    outside.write_bytes(b"x" * SLOT_BYTES)
    (directory / "20261122T071532Z-7809bc8c2669ad56.000000.keys").symlink_to(outside)
    with pytest.raises(AuditError, match="symbolic"):
        sealed_rows(directory, "erase-me")
    assert outside.read_bytes() == b"x" * SLOT_BYTES


def test_rows_are_read_back_as_json(directory):
    rows = unsealed_rows(directory, "keep-me", KEY)
    assert [json.dumps(row.content, sort_keys=True) for row in rows] == [
        '{"answer": "text 7", "answer_tokens": [7], "prompt": "text 0", "prompt_tokens": [0]}'
    ] * 2
    other = SealingKey.of_secret(bytes(32))
    assert {row.error for row in unsealed_rows(directory, "keep-me", other)} == {"ContentKeyError"}


def test_nothing_is_read_from_a_log_that_does_not_verify(directory):
    path = min(directory.glob("*.000000.jsonl"))
    path.chmod(0o600)
    path.write_bytes(path.read_bytes().replace(b'"slot":0', b'"slot":2', 1))
    with pytest.raises(AuditError, match="logs that verify"):
        unsealed_rows(directory, "keep-me", KEY)


def test_a_pipe_in_place_of_a_keys_file_is_not_waited_for(directory):
    path = next(directory.glob("*.keys"))
    path.unlink()
    os.mkfifo(path)
    with pytest.raises(AuditContentError):
        erase_request(directory, "erase-me", reason="a test")


@pytest.mark.parametrize("payload", [b"\xff secret", b"secret", b"[1]", b"[" * 100_000, b"3" * 5000])
def test_content_that_is_no_json_object_is_an_error_of_its_row_and_is_not_told(tmp_path, context, decide, payload):
    with AuditLog.open(tmp_path, content="encrypted", sealing=KEY) as log:
        content = row_content(log, "request-1", 0, [1], [7], text=None)
        sealed = log.seal(payload, req="request-1", row=0)
        record = decision_event(decide(), context, content=content.model_copy(update={"sealed": sealed}))
        log.record(record)
    (row,) = unsealed_rows(tmp_path, "request-1", KEY)
    assert (row.content, row.error) == (None, "ContentAlteredError")

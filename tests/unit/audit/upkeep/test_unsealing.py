"""Reading encrypted content back."""

from __future__ import annotations

import json

import pytest
from tests.audit_events import decision, recorded_content, sized_content

from steerguard.audit.evidence.layout import logs_in
from steerguard.audit.log import AuditLog
from steerguard.audit.privacy.sealing import SealingKey
from steerguard.audit.upkeep.unsealing import unsealed_rows
from steerguard.errors import AuditVerificationError

KEY = SealingKey.of_secret(bytes(range(32)))


def sealed(directory, *payloads, req="request-1"):
    """Write a log with a sealed row for each payload."""
    with AuditLog.open(directory, content="encrypted", sealing=KEY) as log:
        for row, payload in enumerate(payloads):
            content = recorded_content(sealed=log.seal(payload, req=req, row=row))
            log.record(decision(req=req, row=row, content=content))
    return log.log_id


def test_rows_of_one_request_come_from_all_logs_oldest_first(tmp_path):
    first = sealed(tmp_path, b'{"prompt": "a"}', b'{"prompt": "b"}')
    sealed(tmp_path, b'{"prompt": "c"}', req="request-2")
    second = sealed(tmp_path, b'{"prompt": "d"}')
    found = unsealed_rows(tmp_path, "request-1", KEY)
    assert [(row.log, row.row, row.content, row.error) for row in found] == [
        (log, row, {"prompt": text}, None)
        for log, row, text in sorted([(first, 0, "a"), (first, 1, "b"), (second, 0, "d")])
    ]


def test_a_record_without_sealed_content_has_no_row(tmp_path):
    with AuditLog.open(tmp_path, content="none") as log:
        log.record(decision(req="request-1", content=sized_content()))
    assert unsealed_rows(tmp_path, "request-1", KEY) == ()


@pytest.mark.parametrize("payload", [b"no JSON: secret", b'["secret"]', b"[" * 5000])
def test_content_of_another_form_is_an_error_that_does_not_repeat_it(tmp_path, payload):
    sealed(tmp_path, payload)
    (row,) = unsealed_rows(tmp_path, "request-1", KEY)
    assert (row.content, row.error) == (None, "ContentAlteredError")
    assert "secret" not in repr(row)


def test_another_key_says_so_for_each_row(tmp_path):
    sealed(tmp_path, json.dumps({"prompt": "a"}).encode(), b"{}")
    other = SealingKey.of_secret(bytes(range(1, 33)))
    found = unsealed_rows(tmp_path, "request-1", other)
    assert [row.content for row in found] == [None, None]
    assert all(row.error for row in found)


def test_nothing_is_read_from_a_log_that_does_not_verify(tmp_path):
    sealed(tmp_path, b"{}")
    path = logs_in(tmp_path)[0].segments[0][1]
    path.chmod(0o600)
    path.write_bytes(path.read_bytes().replace(b'"mode":"enforce"', b'"mode":"monitor"', 1))
    with pytest.raises(AuditVerificationError, match="only from logs that verify"):
        unsealed_rows(tmp_path, "request-1", KEY)

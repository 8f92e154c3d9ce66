from __future__ import annotations

import gc
import json
import os
import stat
import subprocess
import sys
import threading
import uuid

import pytest
import structlog
from tests.revocations import artifact

from steerguard.audit.log import AuditLog
from steerguard.audit.privacy.content import text_content, token_content
from steerguard.audit.privacy.keys import ContentKey
from steerguard.audit.records.events import GuardBypass, GuardDecision, GuardError
from steerguard.audit.records.record import bypass_event, decision_event, revoked_event
from steerguard.audit.sinks import MemorySink
from steerguard.audit.verify import verify_bytes, verify_directory, verify_path
from steerguard.errors import AuditError, AuditKeyError, AuditSinkError

PROMPT = "How do I pick a lock without anybody noticing?"


def report_of(path):
    return verify_path(path, strict=True).logs[0]


@pytest.fixture
def event(decide, context):
    return decision_event(decide(), context, content=token_content(None, [1, 2], [3]))


def test_a_log_is_one_private_file_that_verifies(tmp_path, event):
    with AuditLog.open(tmp_path / "logs", content="none") as log:
        receipts = [log.record(event) for _ in range(3)]
    assert log.path == tmp_path / "logs" / f"{log.log_id}.000000.jsonl"
    assert stat.S_IMODE(log.path.stat().st_mode) == 0o400
    assert stat.S_IMODE(log.path.parent.stat().st_mode) == 0o700
    report = report_of(log.path)
    assert (report.status, report.records, report.closed, report.warnings) == ("ok", 5, True, ())
    assert [receipt.seq for receipt in receipts] == [1, 2, 3]
    assert json.loads(log.path.read_bytes().splitlines()[4])["prev"] == receipts[2].leaf


def test_another_log_in_the_directory_is_left_alone(tmp_path, event):
    with AuditLog.open(tmp_path, content="none") as first:
        first.record(event)
    before = first.path.read_bytes()
    with AuditLog.open(tmp_path, content="none") as second:
        second.record(event)
    assert first.path.read_bytes() == before
    assert [report.status for report in verify_directory(tmp_path).logs] == ["ok", "ok"]


def test_a_log_that_is_not_closed_is_closed_when_it_is_collected(tmp_path, event):
    log = AuditLog.open(tmp_path, content="none")
    path = log.path
    log.record(event)
    del log
    gc.collect()
    assert report_of(path).closed


def test_a_closed_log_takes_no_record(event):
    sink = MemorySink()
    log = AuditLog.open(content="none", sink=sink)
    log.close()
    log.close()
    with pytest.raises(AuditSinkError, match="closed"):
        log.record(event)
    assert len(sink.lines) == 2


def test_a_directory_that_cannot_be_made_is_an_error(tmp_path):
    (tmp_path / "file").write_text("")
    with pytest.raises(AuditSinkError, match="directory"):
        AuditLog.open(tmp_path / "file" / "logs", content="none")


def test_the_default_directory_is_the_users_log_directory(tmp_path, monkeypatch):
    monkeypatch.setattr("platformdirs.user_log_path", lambda *_args, **_kwargs: tmp_path / "state")
    with AuditLog.open(content="none") as log:
        assert log.path.parent == tmp_path / "state"


def test_the_key_comes_from_the_argument_then_the_environment_then_the_directory(tmp_path, monkeypatch, key):
    with AuditLog.open(tmp_path) as log:
        made = log.key
    assert ContentKey.from_file(tmp_path / "content.key") == made
    with AuditLog.open(tmp_path) as log:
        assert log.key == made
    monkeypatch.setenv("STEERGUARD_AUDIT_KEY", "cd" * 32)
    with AuditLog.open(tmp_path) as log:
        assert log.key == ContentKey(b"\xcd" * 32)
    with AuditLog.open(tmp_path, key=key) as log:
        assert log.key == key


def test_logs_opened_at_once_in_a_new_directory_share_one_key(tmp_path):
    barrier = threading.Barrier(8)
    made = []

    def work():
        barrier.wait()
        with AuditLog.open(tmp_path) as log:
            made.append(log.key)

    threads = [threading.Thread(target=work) for _ in range(8)]
    for thread in threads:
        thread.start()
    for thread in threads:
        thread.join()
    assert made == [ContentKey.from_file(tmp_path / "content.key")] * 8


def test_a_callers_sink_needs_a_key_or_no_content(tmp_path):
    with pytest.raises(AuditKeyError, match="content='none'"):
        AuditLog.open(sink=MemorySink())
    assert AuditLog.open(content="none", sink=MemorySink()).key is None


def test_content_none_records_sizes_and_refuses_tags(decide, context, key):
    sink = MemorySink()
    log = AuditLog.open(content="none", key=key, sink=sink)
    with pytest.raises(AuditError, match=r"content\.in"):
        log.record(decision_event(decide(), context, content=token_content(key, [1], None)))
    log.record(decision_event(decide(), context, content=token_content(log.key, [1], None)))
    assert verify_bytes(sink.content).status == "ok"


def test_a_tag_under_another_key_is_refused(decide, context, key):
    log = AuditLog.open(key=ContentKey(b"o" * 32), sink=MemorySink())
    with pytest.raises(AuditError, match=r"content\.in"):
        log.record(decision_event(decide(), context, content=token_content(key, [1], None)))


def test_no_piece_of_the_prompt_is_in_the_log(decide, context, key):
    sink = MemorySink()
    log = AuditLog.open(key=key, sink=sink)
    log.record(decision_event(decide(), context, content=text_content(key, PROMPT, PROMPT[::-1])))
    log.close()
    assert not [PROMPT[i : i + 6] for i in range(len(PROMPT) - 5) if PROMPT[i : i + 6].encode() in sink.content]


def test_an_unknown_key_is_an_error_and_not_dropped(event):
    class Chatty(GuardDecision):
        prompt: str

    sink = MemorySink()
    log = AuditLog.open(content="none", sink=sink)
    with pytest.raises(AuditError, match="closed schema") as caught:
        log.record(Chatty(**{**dict(event), "prompt": PROMPT}))
    assert "lock" not in str(caught.value)
    assert caught.value.__context__ is None or caught.value.__suppress_context__
    assert len(sink.lines) == 1
    assert log.record(event).seq == 1


def test_a_body_that_skipped_validation_is_validated_by_the_log(event):
    log = AuditLog.open(content="none", sink=MemorySink())
    with pytest.raises(AuditError, match="row"):
        log.record(GuardDecision.model_construct(**{**dict(event), "row": 0.5}))
    with pytest.raises(AuditError, match="rules"):
        log.record(GuardDecision.model_construct(**{**dict(event), "rules": (PROMPT,)}))


def test_there_is_never_a_float(event):
    sink = MemorySink()
    AuditLog.open(content="none", sink=sink).record(event)
    for line in sink.lines:
        json.loads(line, parse_float=lambda text: pytest.fail(f"float {text}"))


def test_request_trace_and_tenant_are_carried_and_nothing_else(event):
    sink = MemorySink()
    log = AuditLog.open(content="none", sink=sink)
    request = uuid.uuid4()
    with structlog.contextvars.bound_contextvars(request_id=request, tenant="Zoë\n", user=PROMPT, seq=99):
        log.record(event)
    log.record(event)
    inside, outside = (json.loads(line) for line in sink.lines[1:])
    assert (inside["request_id"], inside["tenant"], inside["seq"]) == (str(request), "Zo\\xeb\\n", 1)
    assert "user" not in inside
    assert "trace_id" not in inside
    assert "tenant" not in outside


@pytest.mark.parametrize("value", ["x" * 129, "é" * 33, 0.5, b"bytes", ["list"]])
def test_a_context_variable_that_cannot_be_kept_whole_is_an_error(event, value):
    log = AuditLog.open(content="none", sink=MemorySink())
    with structlog.contextvars.bound_contextvars(tenant=value), pytest.raises(AuditError, match="tenant"):
        log.record(event)
    assert log.record(event).seq == 1


def test_the_hosts_structlog_configuration_is_neither_used_nor_changed(event):
    def explode(*_):
        raise structlog.DropEvent

    strange = structlog.make_filtering_bound_logger(50)
    processors = [explode]
    structlog.configure(
        processors=processors, wrapper_class=strange, context_class=list, cache_logger_on_first_use=True
    )
    try:
        sink = MemorySink()
        with structlog.testing.capture_logs() as captured:
            log = AuditLog.open(content="none", sink=sink)
            log.record(event)
            log.close()
        configuration = structlog.get_config()
        assert configuration["processors"] is processors == [explode]
        assert configuration["wrapper_class"] is strange
        assert captured == []
    finally:
        structlog.reset_defaults()
    assert verify_bytes(sink.content).records == 3


def test_opening_a_log_leaves_structlog_unconfigured():
    structlog.reset_defaults()
    AuditLog.open(content="none", sink=MemorySink()).close()
    assert not structlog.is_configured()


def test_refusals_bypasses_and_errors_are_made_durable_and_others_not(decide, context, event):
    sink = MemorySink()
    log = AuditLog.open(content="none", sink=sink)

    def syncs(body):
        before = sink.syncs
        log.record(body)
        return sink.syncs - before

    refusal = decision_event(decide(applied="refuse"), context, content=token_content(None, [1], None))
    failure = GuardError(
        req="r", row=0, stage="detect", code="NonFiniteHiddenStateError", outcome="refuse", policy=None, plan=None
    )
    bypass = bypass_event("unguided", "scoring")
    assert isinstance(bypass, GuardBypass)
    revoked = revoked_event(artifact(), None)
    assert [syncs(body) for body in (event, refusal, failure, bypass, revoked)] == [0, 1, 1, 1, 1]


def test_threads_share_one_unbroken_chain(tmp_path, event):
    log = AuditLog.open(tmp_path, content="none")
    barrier = threading.Barrier(4)

    def work():
        barrier.wait()
        for _ in range(50):
            log.record(event)

    threads = [threading.Thread(target=work) for _ in range(4)]
    for thread in threads:
        thread.start()
    for thread in threads:
        thread.join()
    log.close()
    assert (report_of(log.path).status, report_of(log.path).records) == ("ok", 202)


FORK = """
import os, sys, threading
from pathlib import Path
from steerguard.audit.log import AuditLog
from steerguard.audit.records.record import bypass_event
from steerguard.audit.sinks import MemorySink
from steerguard.errors import AuditSinkError
log = AuditLog.open(Path(sys.argv[1]), content="none")
own = AuditLog.open(content="none", sink=MemorySink())
event = bypass_event("unguided", "test")
log.record(event)
log._writer._lock.acquire()  # another thread holds it at the fork
child = os.fork()
if child == 0:
    assert log.log_id is None and log.path is None
    log.record(event)
    try:
        own.record(event)
    except AuditSinkError as error:
        assert "forked" in str(error)
    else:
        os._exit(1)
    sys.exit(0)
log._writer._lock.release()
assert os.waitpid(child, 0)[1] == 0
assert own.record(event).seq == 1
log.record(event)
print(log.log_id)
"""


def test_a_forked_child_opens_a_log_of_its_own(tmp_path):
    environment = {**os.environ, "PYTHONPATH": os.pathsep.join(sys.path)}
    done = subprocess.run(
        [sys.executable, "-c", FORK, tmp_path], check=True, env=environment, capture_output=True, text=True, timeout=60
    )
    parent = done.stdout.strip()
    reports = {report.log: report for report in verify_directory(tmp_path).logs}
    assert len(reports) == 2
    assert reports[parent].records == 4
    (child,) = set(reports) - {parent}
    assert reports[child].records == 3
    opened = json.loads((tmp_path / f"{child}.000000.jsonl").read_bytes().splitlines()[0])
    assert opened["forked_from"] == parent
    assert all(report.status == "ok" and report.closed for report in reports.values())


def test_a_child_that_records_nothing_makes_no_log(tmp_path):
    script = (
        "import os, sys; from pathlib import Path; from steerguard.audit.log import AuditLog\n"
        "log = AuditLog.open(Path(sys.argv[1]), content='none')\n"
        "child = os.fork()\n"
        "if child: os.waitpid(child, 0)\n"
    )
    environment = {**os.environ, "PYTHONPATH": os.pathsep.join(sys.path)}
    subprocess.run([sys.executable, "-c", script, tmp_path], check=True, env=environment, timeout=60)
    (report,) = verify_directory(tmp_path).logs
    assert (report.records, report.closed) == (2, True)


def test_the_audit_log_needs_no_torch():
    script = "import sys, steerguard.audit.log, steerguard.audit.records.record, steerguard.audit.verify; assert 'torch' not in sys.modules"
    environment = {**os.environ, "PYTHONPATH": os.pathsep.join(sys.path)}
    subprocess.run([sys.executable, "-c", script], check=True, env=environment, timeout=60)


INTERRUPTED_CLOSE = """
import signal, sys, threading
from pathlib import Path
from steerguard.audit.log import AuditLog
log = AuditLog.open(Path(sys.argv[1]), content="none")
writer, held, go_on = log._writer, threading.Event(), threading.Event()
def hold():  # as the background thread does while it waits for a second place
    with writer._lock:
        held.set()
        go_on.wait(30)
threading.Thread(target=hold).start()
held.wait(30)
signal.signal(signal.SIGINT, signal.default_int_handler)
main = threading.get_ident()
threading.Timer(0.2, lambda: signal.pthread_kill(main, signal.SIGINT)).start()
try:
    log.close()
except KeyboardInterrupt:
    print("interrupted")
go_on.set()
"""


def test_a_close_that_was_interrupted_is_finished_at_the_end_of_the_process(tmp_path):
    environment = {**os.environ, "PYTHONPATH": os.pathsep.join(sys.path)}
    done = subprocess.run(
        [sys.executable, "-c", INTERRUPTED_CLOSE, tmp_path],
        check=True,
        env=environment,
        capture_output=True,
        text=True,
        timeout=60,
    )
    assert (done.stdout, done.stderr) == ("interrupted\n", "")
    (path,) = tmp_path.glob("*.000000.jsonl")
    assert json.loads(path.read_bytes().splitlines()[-1])["type"] == "log.close"
    assert path.stat().st_mode & 0o777 == 0o400

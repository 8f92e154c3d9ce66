"""A medium that fails under a guarded model: nothing leaves without a record, and service resumes."""

from __future__ import annotations

import json
import os
import random
import shutil
import signal
import subprocess
import sys
import tempfile
import time
from contextlib import contextmanager, suppress
from pathlib import Path

import pytest
import structlog
from tests.audit_fault_scenes import SCENES
from tests.audit_faults import KEY, SIGNER, Keeper, opened, records_of, service
from tests.guarded_models import policy
from tests.interrupter import Interrupter
from typer.testing import CliRunner

from steerguard.audit.copies import CallableCopy, DirectoryCopy
from steerguard.audit.log import AuditLog
from steerguard.audit.settings import CheckpointSettings, Durability, Rotation
from steerguard.cli.audit import app
from steerguard.errors import AuditSinkError
from steerguard.signing.keys import CallableSigner
from steerguard.testing import MemorySink

SEQUENCES = {"limit": 200, "disk": 60}
ALLOW = policy(1e6)
REFUSE = policy(-1e6, "refuse")


@pytest.fixture(autouse=True)
def _no_keys_in_the_environment(monkeypatch):
    for name in ("STEERGUARD_AUDIT_KEY", "STEERGUARD_CHECKPOINT_KEY", "STEERGUARD_AUDIT_SEALING_KEY"):
        monkeypatch.delenv(name, raising=False)


def in_a_process(kind, folder, *rest):
    """Play scenes in a process of its own; return what it printed, by scene."""
    namespace = ["unshare", "--user", "--map-root-user", "--mount"] if kind == "disk" else []
    done = subprocess.run(
        [*namespace, sys.executable, "-m", "tests.audit_fault_play", kind, str(folder), *rest],
        check=False,
        cwd=Path(__file__).parents[2],
        env={**os.environ, "PYTHONPATH": os.pathsep.join(sys.path)},
        capture_output=True,
        text=True,
        timeout=300,
    )
    assert done.returncode == 0, done.stderr[-4000:]
    lines = [json.loads(line) for line in done.stdout.splitlines() if line.startswith("{")]
    return {line["scene"]: line for line in lines}


def require_small_disks():
    """Skip where this user may not mount: then `limit` plays the same scenes."""
    probe = "mount -t tmpfs -o size=64k tmpfs /tmp"
    command = ["unshare", "--user", "--map-root-user", "--mount", "sh", "-c", probe]
    if shutil.which("unshare") is None or subprocess.run(command, check=False, capture_output=True).returncode:
        pytest.skip("this user may not mount a file system")


@pytest.fixture(scope="module")
def scenes_under_a_limit(tmp_path_factory):
    folder = tmp_path_factory.mktemp("limit")
    return {"folder": folder, **in_a_process("limit", folder)}


@pytest.fixture(scope="module")
def scenes_on_a_full_disk(tmp_path_factory):
    require_small_disks()
    return in_a_process("disk", tmp_path_factory.mktemp("disk"))


@pytest.mark.slow
@pytest.mark.parametrize("scene", SCENES)
def test_when_files_may_not_grow_nothing_leaves_and_service_resumes(scenes_under_a_limit, scene):
    assert scenes_under_a_limit[scene]["failure"] is None, scenes_under_a_limit[scene]["failure"]


@pytest.mark.slow
@pytest.mark.parametrize("scene", SCENES)
def test_on_a_full_disk_nothing_leaves_and_service_resumes(scenes_on_a_full_disk, scene):
    assert scenes_on_a_full_disk[scene]["failure"] is None, scenes_on_a_full_disk[scene]["failure"]


@pytest.mark.slow
@pytest.mark.parametrize("kind", SEQUENCES)
def test_whatever_the_order_of_faults_every_answer_has_a_record(tmp_path, kind):
    if kind == "disk":
        require_small_disks()
    outcome = in_a_process(kind, tmp_path, str(SEQUENCES[kind]))["sequences"]
    assert outcome["failure"] is None, outcome["failure"]
    released, refused = outcome["result"]
    # The sequences are worth something: there were answers, and there were faults.
    assert released > 2 * SEQUENCES[kind]
    assert refused > SEQUENCES[kind] / 2


def test_a_directory_that_is_removed_is_noticed_at_once_by_refusals_and_service_resumes_with_a_new_log(tmp_path):
    folder = tmp_path / "logs"
    log = opened(folder)
    with service(log, document=REFUSE) as served:
        served.must_answer(2)
        shutil.rmtree(folder)
        served.released.clear()
        served.called.clear()
        error = served.must_refuse(2)
        assert "removed" in str(error)
        assert "use_audit" in error.next_step
        served.must_refuse(2)
        served.guard.use_audit(opened(folder))
        served.must_answer(2)
        served.guard.audit.close()
        served.require_accounted(folder)
    with suppress(AuditSinkError):
        log.close()


def test_a_removed_directory_is_noticed_within_the_sync_interval_when_only_allowed_answers_leave(tmp_path):
    folder, interval = tmp_path / "logs", 0.2
    log = opened(folder, durability=Durability(seconds=interval))
    with service(log, document=ALLOW) as served, structlog.testing.capture_logs() as said:
        served.must_answer(1)
        time.sleep(2 * interval)
        shutil.rmtree(folder)
        begun = time.monotonic()
        served.must_answer(1)
        while served.ask(1) is None:
            assert time.monotonic() < begun + interval + 1.0, "the records went into a file without a name"
        assert any("removed" in line["found"] for line in said if line["event"] == "audit_log_not_kept")
    with suppress(AuditSinkError):
        log.close()


@pytest.mark.parametrize("emptied", [True, False], ids=["an empty one", "a copy"])
def test_a_directory_that_another_one_replaced_takes_no_more_records(tmp_path, emptied):
    folder, aside = tmp_path / "logs", tmp_path / "aside"
    log = opened(folder)
    with service(log, document=REFUSE) as served:
        served.must_answer(2)
        folder.rename(aside)
        if emptied:
            folder.mkdir(mode=0o700)
        else:
            shutil.copytree(aside, folder)
        assert "another took its place" in str(served.must_refuse(2))
        served.must_refuse(1)
        served.guard.use_audit(opened(aside))
        served.must_answer(2)
        served.guard.audit.close()
        with suppress(AuditSinkError):
            log.close()
        # The log that was moved is finished where it is, and accounts for what left before.
        AuditLog.open(aside, content="none").close()
        served.require_accounted(aside)


class DownSink(MemorySink):
    """A sink that can be down: it raises what it is told to, at writes or at syncs."""

    def __init__(self):
        super().__init__()
        self.failure = {}

    def write(self, line):
        if "write" in self.failure:
            raise self.failure["write"]
        super().write(line)

    def sync(self):
        if "sync" in self.failure:
            raise self.failure["sync"]
        super().sync()


def test_a_sink_that_is_down_keeps_everything_back_until_it_is_up():
    sink = DownSink()
    with service(AuditLog.open(sink=sink, key=KEY)) as served:
        served.must_answer(2)
        sink.failure = {
            "write": AuditSinkError(
                "The collector is down.", expected="an answer", found="none", where="collector", next_step="Wait."
            )
        }
        for _ in range(3):
            served.must_refuse(2)
        sink.failure = {}
        served.must_answer(2)
    assert sum(b'"type":"guard.request"' in line for line in sink.lines) == 2


@pytest.mark.parametrize("at", ["write", "sync"])
@pytest.mark.parametrize("failure", [RuntimeError("a secret of the sink"), OSError(5, "Input/output error")])
def test_a_sink_that_breaks_its_promise_ends_the_log_and_a_new_one_resumes_service(at, failure):
    sink = DownSink()
    with service(AuditLog.open(sink=sink, key=KEY), document=REFUSE) as served:
        served.must_answer(2)
        sink.failure = {at: failure}
        error = served.must_refuse(2)
        assert "use_audit" in error.next_step
        assert "secret" not in str(error)
        sink.failure = {}
        served.must_refuse(1)
        served.guard.use_audit(AuditLog.open(sink=sink, key=KEY))
        served.must_answer(2)


@pytest.mark.parametrize("failure", [RuntimeError("disk"), OSError(5, "Input/output error")])
def test_a_background_sync_that_fails_stops_the_next_answer(failure):
    sink = DownSink()
    with service(AuditLog.open(sink=sink, key=KEY, durability=Durability(seconds=0.05)), document=ALLOW) as served:
        served.must_answer(1)
        sink.failure = {"sync": failure}
        begun = time.monotonic()
        with structlog.testing.capture_logs():
            while (error := served.ask(1)) is None:
                assert time.monotonic() < begun + 2.0, "answers go on though no record is on the medium"
            assert "use_audit" in error.next_step
            served.must_refuse(1)


def test_checkpoint_copies_and_signers_that_are_down_stop_answers_until_they_are_back(tmp_path):
    down = {"copy": False, "signer": False}

    def require_up(what):
        if down[what]:
            raise ConnectionError("a secret of the service")

    def sign(message):
        require_up("signer")
        return SIGNER.sign(message)

    mirror = tmp_path / "mirror"
    settings = CheckpointSettings(
        signer=CallableSigner(SIGNER.public, sign),
        every_records=1,
        copies=(CallableCopy(lambda _log, _note: require_up("copy")), DirectoryCopy(mirror)),
    )
    log = opened(tmp_path / "logs", checkpoints=settings)
    with service(log) as served:
        for what in ("copy", "signer"):
            served.must_answer(2)
            down[what] = True
            for _ in range(2):
                assert "secret" not in str(served.must_refuse(2))
            keeper = Keeper()
            served.must_refuse(1, streamer=keeper)
            assert (keeper.columns[1:], keeper.ends) == ([], 1)
            down[what] = False
            served.must_answer(2)
        # A file in the place of the second copy.
        shutil.rmtree(mirror)
        mirror.write_text("")
        served.must_refuse(2)
        mirror.unlink()
        served.must_answer(2)
        log.close()
        served.require_accounted(tmp_path / "logs")


@contextmanager
def read_only(folder):
    """Take the right to write from a directory; root gives up that it may do everything meanwhile."""
    root = os.geteuid() == 0
    if root:
        os.chown(folder, 65534, -1)
        os.seteuid(65534)
    folder.chmod(0o500)
    try:
        yield
    finally:
        folder.chmod(0o700)
        if root:
            os.seteuid(0)


def test_in_a_directory_that_became_read_only_no_segment_begins_and_service_resumes():
    with tempfile.TemporaryDirectory(prefix="steerguard-tests-") as place:
        Path(place).chmod(0o755)
        folder = Path(place) / "logs"
        log = opened(folder, rotation=Rotation(max_bytes=4000))
        with service(log) as served:
            served.must_answer(4)
            with read_only(folder):
                while served.ask(2) is None:
                    assert len(served.released) < 100, "a segment was made in a directory that may not be written to"
                served.must_refuse(2)
                with pytest.raises(AuditSinkError, match="Permission denied"):
                    opened(folder)
            served.must_answer(4)
            log.close()
            served.require_accounted(folder)


def test_a_file_that_takes_no_writes_for_a_while_does_not_end_the_log(tmp_path):
    log = opened(tmp_path, checkpoints=CheckpointSettings(signer=SIGNER, every_records=4))
    if (
        shutil.which("chattr") is None
        or subprocess.run(["chattr", "+i", str(log.path)], check=False, capture_output=True).returncode
    ):
        log.close()
        pytest.skip("this user or file system cannot make a file immutable")
    subprocess.run(["chattr", "-i", str(log.path)], check=True)
    with service(log) as served:
        for path in (log.path, tmp_path / f"{log.log_id}.checkpoints"):
            served.must_answer(2)
            subprocess.run(["chattr", "+i", str(path)], check=True)
            try:
                # Older kernels let a file that was open before be written.
                while served.ask(4) is None and len(served.released) < 100:
                    pass
            finally:
                subprocess.run(["chattr", "-i", str(path)], check=True)
            served.must_answer(2)
        log.close()
        served.require_accounted(tmp_path)


PARTS = ("steerguard/audit/", "steerguard/recorder.py", "steerguard/guard.py", "steerguard/guarded_call.py")


@pytest.mark.slow
@pytest.mark.parametrize("due", ["nothing", "checkpoint", "rotation"])
def test_ctrl_c_at_any_line_of_the_guard_leaves_no_answer_without_a_record(tmp_path, due):
    at, interrupted, count = 0, True, 0
    stride = {"nothing": 31, "checkpoint": 61, "rotation": 61}[due]
    with service(AuditLog.open(sink=MemorySink(), key=KEY)) as served:
        while interrupted:
            at += stride
            count += 1
            folder = tmp_path / str(at)
            every = 1 if due == "checkpoint" else 1000
            log = opened(
                folder,
                checkpoints=CheckpointSettings(signer=SIGNER, every_records=every),
                rotation=Rotation(max_bytes=2500 if due == "rotation" else 1 << 20),
                durability=Durability(mode="never"),
            )
            served.guard.use_audit(log)
            served.released.clear()
            interrupted = Interrupter(at, PARTS).run(lambda: served.must_answer(2))
            served.must_answer(1)
            log.close()
            require_covered(served, folder)
    assert count > 10


def test_ctrl_c_at_any_time_leaves_no_answer_without_a_record(tmp_path):
    draw = random.Random(7)
    before = signal.signal(signal.SIGALRM, signal.default_int_handler)
    interrupts = 0
    log = opened(tmp_path, checkpoints=CheckpointSettings(signer=SIGNER, every_records=2))
    try:
        with service(log) as served:
            begun = time.monotonic()
            for _ in range(5):
                served.must_answer(2)
            longest = 1.2 * (time.monotonic() - begun) / 5
            for _ in range(150):
                signal.setitimer(signal.ITIMER_REAL, draw.uniform(0.0005, longest))
                try:
                    served.must_answer(2)
                except KeyboardInterrupt:
                    interrupts += 1
                finally:
                    signal.setitimer(signal.ITIMER_REAL, 0)
            served.must_answer(2)
            log.close()
            require_covered(served, tmp_path)
    finally:
        signal.signal(signal.SIGALRM, before)
    assert interrupts > 30


def require_covered(served, folder):
    """Every answer that left is on record; an interrupt may fall between the record and the answer."""
    records = records_of(folder)
    recorded = {
        (record["req"], record["row"]): record["content"]["out"]
        for record in records
        if record["type"] == "guard.decision"
    }
    for one in served.released:
        assert recorded[one.request, one.row] == KEY.tag_tokens(one.tokens)


@pytest.mark.slow
def test_the_command_verifies_a_log_that_met_a_full_disk(scenes_under_a_limit):
    folder = scenes_under_a_limit["folder"] / "at_a_rotation"
    done = CliRunner().invoke(app, ["verify", str(folder), "--strict"])
    assert done.exit_code == 0, done.output

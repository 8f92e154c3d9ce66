"""Whatever is done to a log: the standalone script takes exactly what the log wrote, and `verify` vouches for no more."""

from __future__ import annotations

import functools
import random
import shutil

import pytest

from steerguard.audit.evidence.checkpoint import parse_head, split_notes
from steerguard.audit.evidence.layout import checkpoints_name, logs_in
from steerguard.audit.evidence.tree import inclusion_path
from steerguard.audit.log import AuditLog
from steerguard.audit.proving.proof import Proof
from steerguard.audit.proving.prove import prove_record
from steerguard.audit.proving.standalone import verify_proof as script
from steerguard.audit.records.chain import leaf_hash
from steerguard.audit.records.record import bypass_event
from steerguard.audit.settings import CheckpointSettings
from steerguard.audit.verification.pins import Pins
from steerguard.audit.verify import verify_directory
from steerguard.errors import AuditVerificationError
from steerguard.signing.keys import SigningKey

CASES = 60
SIGNER = SigningKey(bytes(range(32)))


@pytest.fixture(scope="module", autouse=True)
def _each_signature_is_checked_once():
    """Signatures are checked in plain Python, and the same ones again and again."""
    with pytest.MonkeyPatch.context() as patch:
        patch.setattr(script, "_valid", functools.cache(script._valid))
        yield


@pytest.fixture(scope="module")
def log(tmp_path_factory):
    """A finished log of two segments."""
    directory = tmp_path_factory.mktemp("audit")
    settings = CheckpointSettings(signer=SIGNER, every_records=4)
    with AuditLog.open(directory, content="none", checkpoints=settings) as open_log:
        for number in range(5):
            open_log.record(bypass_event("unguided", "a test", request=f"request-{number}"))
        open_log.rotate()
        for number in range(5, 9):
            open_log.record(bypass_event("unguided", "a test", request=f"request-{number}"))
        return directory, open_log.checkpoint_key


def lines_in(directory):
    [files] = logs_in(directory)
    content = b"".join(path.read_bytes() for _, path in files.segments)
    return content.split(b"\n")[:-1]


def notes_in(directory):
    [files] = logs_in(directory)
    return list(split_notes((directory / checkpoints_name(files.log)).read_bytes()))


def taken_by_script(lines, notes, key):
    """The lines that the script takes, by place, from a prover that checks nothing itself."""
    leaves = [bytes.fromhex(leaf_hash(line)) for line in lines]
    taken = {}
    for note in notes:
        try:
            size = parse_head(note).head.size
        except AuditVerificationError:
            continue
        for seq in range(min(size, len(lines)) if size <= len(lines) else 0):
            path = inclusion_path(seq, size, leaves[:size])
            try:
                proof = Proof.of(seq, lines[seq], note, path, key.text)
                fields = {name: getattr(proof, name) for name in ("seq", "record", "checkpoint", "key")}
                script._checked(key.text, **fields, path=list(proof.path))
            except (ValueError, TypeError, LookupError, AttributeError):
                # The tree is the same for every record: where one fails for its tree, so do the others.
                if seq == 0:
                    break
                continue
            taken.setdefault(seq, set()).add(lines[seq])
    return taken


def tamper(directory, generator):
    """Change something in a copy of the log, as somebody would who can write its files, but not sign; return where."""
    [files] = logs_in(directory)
    for path in files.paths:
        path.chmod(0o600)
    kind = generator.choice(["flip", "delete", "insert", "swap", "cut", "flip note", "delete note", "cut notes"])
    target = files.checkpoints if "note" in kind else generator.choice(files.segments)[1]
    content = bytearray(target.read_bytes())
    pieces = list(split_notes(bytes(content))) if "note" in kind else bytes(content).splitlines(keepends=True)
    at = generator.randrange(len(pieces))
    if kind in {"flip", "flip note"}:
        content[generator.randrange(len(content))] ^= 1 << generator.randrange(8)
        target.write_bytes(content)
        return target
    if kind == "insert":
        pieces.insert(at, generator.choice(pieces))
    elif kind == "swap":
        other = generator.randrange(len(pieces))
        pieces[at], pieces[other] = pieces[other], pieces[at]
    elif kind in {"cut", "cut notes"}:
        del pieces[at:]
    else:
        del pieces[at]
    target.write_bytes(b"".join(piece + (b"\n" if "note" in kind else b"") for piece in pieces))
    return target


def test_of_an_untouched_log_everything_is_taken(log):
    directory, key = log
    lines = lines_in(directory)
    report = verify_directory(directory, Pins(keys=(key,))).logs[0]
    assert (report.status, report.anchored) == ("ok", len(lines))
    assert taken_by_script(lines, notes_in(directory), key) == {seq: {line} for seq, line in enumerate(lines)}


@pytest.mark.parametrize("seed", range(CASES))
def test_of_a_tampered_log_nothing_but_what_was_written_is_taken(log, tmp_path, seed):
    original, key = log
    directory = tmp_path / "audit"
    shutil.copytree(original, directory)
    changed = tamper(directory, random.Random(seed))
    written = lines_in(original)
    lines = lines_in(directory)
    taken = taken_by_script(lines, notes_in(directory), key)
    assert all(found == {written[seq]} for seq, found in taken.items())
    report = verify_directory(directory, Pins(keys=(key,))).logs[0]
    # What `verify` calls anchored is proven by the script, and is what was written.
    for seq in range(report.anchored):
        assert taken[seq] == {written[seq]}
    if report.status == "ok":
        assert lines == written[: len(lines)]
        assert sorted(taken) == list(range(report.anchored))
    # What `prove` gives out is accepted. It gives out whatever can be proven, but for a damaged file of checkpoints,
    # which it reads up to the damage.
    for seq in range(len(written)):
        try:
            [proof] = prove_record(directory, report.log, seq, Pins(keys=(key,))).proofs
        except AuditVerificationError:
            assert seq not in taken or changed.suffix == ".checkpoints"
            continue
        assert proof.record.encode() == written[seq]
        assert seq in taken

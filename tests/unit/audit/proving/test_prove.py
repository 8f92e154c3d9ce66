from __future__ import annotations

import json
import tracemalloc

import pytest
from tests.proven_logs import KEY, LOG, OTHER, OTHER_KEY, SIGNER, head_over, lines_of, requests_of, write_log

from steerguard.audit.evidence.checkpoint import TreeHead, parse_head, sign_head, stored
from steerguard.audit.evidence.layout import checkpoints_name, segment_name
from steerguard.audit.proving.prove import prove_record, prove_request
from steerguard.audit.proving.standalone import verify_proof as script
from steerguard.audit.verification.pins import Pins
from steerguard.errors import AuditVerificationError, UnanchoredRecordError

LATER = "20261123T071532Z-7809bc8c2669ad56"
SIZE = 40
ROTATIONS = (12, 25)


@pytest.fixture
def lines():
    return lines_of(SIZE, rotations=ROTATIONS)


@pytest.fixture
def log(tmp_path, lines):
    """A log of three segments with checkpoints over 10, 12, 25, 30 and all 40 records."""
    write_log(tmp_path, lines, [head_over(lines, size) for size in (10, 12, 25, 30, 40)], rotations=ROTATIONS)
    return tmp_path


def proven(proof, key=KEY):
    """What the standalone script says of a proof."""
    fields = {name: getattr(proof, name) for name in ("seq", "record", "checkpoint", "key")}
    return script._checked(key.text, **fields, path=list(proof.path))


@pytest.mark.parametrize("seq", range(SIZE))
def test_every_record_is_proven_as_it_lies_in_the_file(log, lines, seq):
    proved = prove_record(log, LOG, seq)
    assert proved.warnings == ()
    [proof] = proved.proofs
    assert (proof.seq, proof.record, proof.key) == (seq, lines[seq].decode(), KEY.text)
    assert parse_head(proof.checkpoint.encode()).head.size == SIZE
    assert proven(proof).startswith(f"record {seq} of log {LOG} ")


@pytest.mark.parametrize("name", [segment_name(LOG, 1), checkpoints_name(LOG)])
def test_any_file_of_the_log_will_do(log, name):
    assert prove_record(log / name, LOG, 3) == prove_record(log, LOG, 3)


def test_every_record_of_a_request_is_proven(log, lines):
    proved = prove_request(log, "request-3")
    seqs = [seq for seq, request in enumerate(requests_of(lines)) if request == "request-3"]
    assert len(seqs) > 3
    assert [proof.seq for proof in proved.proofs] == seqs
    assert all(proven(proof) for proof in proved.proofs)


def test_a_request_may_lie_in_several_logs(log):
    lines = lines_of(6, log=LATER)
    write_log(log, lines, [head_over(lines, 6, log=LATER)], log=LATER)
    proofs = prove_request(log, "request-3").proofs
    assert [json.loads(proof.record)["log"] for proof in proofs][-2:] == [LOG, LATER]
    assert all(proven(proof) for proof in proofs)
    assert len(prove_request(log / segment_name(LATER, 0), "request-3").proofs) == 1


def test_the_hosts_request_id_counts_too(tmp_path):
    lines = lines_of(3)
    record = json.loads(lines[2]) | {"request_id": 'a"b\\\\xe9', "req": "other"}
    lines[2] = json.dumps(record, sort_keys=True, separators=(",", ":")).encode()
    write_log(tmp_path, lines, [head_over(lines, 3)])
    assert [proof.seq for proof in prove_request(tmp_path, 'a"b\\\\xe9').proofs] == [2]


@pytest.mark.parametrize("request_id", ["request-9", "request", "", "req", '"', "r\u00e9", "guard.bypass"])
def test_a_request_that_is_not_there_is_an_error(log, request_id):
    with pytest.raises(AuditVerificationError, match="no such record"):
        prove_request(log, request_id)


@pytest.mark.parametrize(("name", "seq"), [(LOG, SIZE), (LOG, 10**9), (LATER, 0)])
def test_a_record_that_is_not_there_is_an_error(log, name, seq):
    with pytest.raises(AuditVerificationError, match="no such record"):
        prove_record(log, name, seq)


# Which checkpoint.


def test_a_record_behind_the_last_checkpoint_is_unanchored(tmp_path):
    lines = lines_of(8)
    write_log(tmp_path, lines, [head_over(lines, 5)])
    assert proven(prove_record(tmp_path, LOG, 4).proofs[0])
    with pytest.raises(UnanchoredRecordError, match="newest is over 5 records") as caught:
        prove_record(tmp_path, LOG, 5)
    assert "1000 records or 60 seconds" in str(caught.value)
    with pytest.raises(UnanchoredRecordError):
        prove_request(tmp_path, "request-2")  # records 2 and 7


def test_a_log_without_a_checkpoint_says_so(tmp_path):
    lines = lines_of(3)
    write_log(tmp_path, lines, [])
    with pytest.raises(UnanchoredRecordError, match="no checkpoint"):
        prove_record(tmp_path, LOG, 1)


def test_a_finished_log_gets_no_further_checkpoint(tmp_path):
    lines = lines_of(3)
    write_log(tmp_path, lines, [head_over(lines, 1)], finished=True)
    with pytest.raises(UnanchoredRecordError, match="none will follow"):
        prove_record(tmp_path, LOG, 1)


def test_the_pinned_key_must_have_signed(tmp_path):
    lines = lines_of(20)
    heads = [
        head_over(lines, 10),
        head_over(lines, 15, signers=(SIGNER, OTHER)),
        head_over(lines, 20, signers=(OTHER,)),
    ]
    write_log(tmp_path, lines, heads)
    for key, size in ((KEY, 15), (OTHER_KEY, 20)):
        [proof] = prove_record(tmp_path, LOG, 3, Pins(keys=(key,))).proofs
        assert (parse_head(proof.checkpoint.encode()).head.size, proof.key) == (size, key.text)
        assert proven(proof, key)
    with pytest.raises(AuditVerificationError, match="signed by a key that counts") as caught:
        prove_record(tmp_path, LOG, 17, Pins(keys=(KEY,)))
    assert f"{OTHER_KEY.name}+{OTHER_KEY.hash}" in str(caught.value.found)
    assert not isinstance(caught.value, UnanchoredRecordError)


def test_without_a_pin_a_key_that_the_log_names_counts_and_no_other(tmp_path):
    lines = lines_of(6)
    write_log(tmp_path, lines, [head_over(lines, 6, signers=(OTHER,))])
    with pytest.raises(AuditVerificationError, match="signed by a key that counts"):
        prove_record(tmp_path, LOG, 3)
    assert proven(prove_record(tmp_path, LOG, 3, Pins(keys=(OTHER_KEY,))).proofs[0], OTHER_KEY)


def test_checkpoints_that_were_kept_elsewhere_count(tmp_path):
    lines = lines_of(9)
    write_log(tmp_path, lines, [head_over(lines, 4)])
    kept = (head_over(lines_of(9, log=LATER), 9, log=LATER), head_over(lines, 9), head_over(lines, 4))
    assert proven(prove_record(tmp_path, LOG, 8, Pins(heads=kept)).proofs[0])
    (tmp_path / checkpoints_name(LOG)).unlink()
    assert proven(prove_record(tmp_path, LOG, 8, Pins(heads=kept)).proofs[0])


# Pruned, torn, and altered logs.


@pytest.mark.parametrize("first", [1, 2])
def test_records_behind_pruned_segments_are_proven(log, lines, first):
    for number in range(first):
        (log / segment_name(LOG, number)).unlink()
    start = ROTATIONS[first - 1]
    for seq in range(start, SIZE):
        [proof] = prove_record(log, LOG, seq, Pins(keys=(KEY,))).proofs
        assert proof.record == lines[seq].decode()
        assert proven(proof)
    with pytest.raises(AuditVerificationError, match=f"records 0 to {start - 1} were pruned"):
        prove_record(log, LOG, start - 1, Pins(keys=(KEY,)))
    with pytest.raises(AuditVerificationError, match="a pinned key"):
        prove_record(log, LOG, start)


def test_wrong_peaks_of_pruned_segments_prove_nothing(log, lines):
    (log / segment_name(LOG, 0)).unlink()
    path = log / segment_name(LOG, 1)
    peak = json.loads(lines[12])["peaks"][0]
    path.write_bytes(path.read_bytes().replace(peak.encode(), b"0" * 64))
    with pytest.raises(AuditVerificationError, match="agrees with the log"):
        prove_record(log, LOG, 14, Pins(keys=(KEY,)))
    path.write_bytes(path.read_bytes().replace(b'"0000', b'"zz00'))
    with pytest.raises(AuditVerificationError, match="does not say what came before"):
        prove_record(log, LOG, 14, Pins(keys=(KEY,)))


def test_a_line_that_is_being_written_is_no_record(log, lines):
    path = log / segment_name(LOG, 2)
    path.write_bytes(path.read_bytes() + lines[-1][:50])
    assert proven(prove_record(log, LOG, SIZE - 1).proofs[0])


def test_a_note_that_is_being_written_is_no_checkpoint(log, lines):
    path = log / checkpoints_name(LOG)
    path.write_bytes(path.read_bytes()[:-40])
    [proof] = prove_record(log, LOG, 3).proofs
    assert parse_head(proof.checkpoint.encode()).head.size == 30


def test_an_altered_record_cannot_be_proven_and_earlier_ones_still_can(log, lines):
    path = log / segment_name(LOG, 2)
    path.write_bytes(path.read_bytes().replace(b'"seq":28,', b'"seq":29,', 1))
    for seq in (27, 29, 35):
        with pytest.raises(AuditVerificationError, match="agrees with the log"):
            prove_record(log, LOG, seq)
    with pytest.raises(AuditVerificationError, match="not the record that belongs there"):
        prove_record(log, LOG, 28)
    proved = prove_record(log, LOG, 24)
    assert parse_head(proved.proofs[0].checkpoint.encode()).head.size == 25
    assert proven(proved.proofs[0])
    assert proved.warnings[0] == f"{LOG}: the checkpoint over 30 records does not agree with the log"


def test_a_log_that_was_cut_off_is_pointed_out(log, lines):
    (log / segment_name(LOG, 2)).unlink()
    proved = prove_record(log, LOG, 20)
    assert proven(proved.proofs[0])
    assert proved.warnings == (f"{LOG}: the log ends before the 30 records that were signed",)


def test_a_missing_segment_ends_the_log(log):
    (log / segment_name(LOG, 1)).unlink()
    proved = prove_record(log, LOG, 5)
    assert "segment 1 is missing" in proved.warnings[0]
    with pytest.raises(AuditVerificationError, match="segment 1 is missing"):
        prove_record(log, LOG, 30)


def test_a_forged_signature_is_not_believed(tmp_path):
    lines = lines_of(9)
    good, other = head_over(lines, 9), head_over(lines, 8)
    forged = type(good)(good.head, type(good.note)(good.note.text, other.note.signatures))
    write_log(tmp_path, lines, [head_over(lines, 5), forged])
    with pytest.raises(AuditVerificationError, match="signature of a checkpoint is wrong"):
        prove_record(tmp_path, LOG, 7)
    assert prove_record(tmp_path, LOG, 3).warnings


def test_a_checkpoint_of_another_log_is_not_believed(tmp_path):
    lines = lines_of(9)
    write_log(tmp_path, lines, [sign_head(TreeHead(LATER, 9, head_over(lines, 9).head.root), [(KEY.name, SIGNER)])])
    with pytest.raises(AuditVerificationError, match="no checkpoint of it"):
        prove_record(tmp_path, LOG, 7)


def test_checkpoints_in_another_order_do_no_harm(tmp_path):
    lines = lines_of(9)
    write_log(tmp_path, lines, [head_over(lines, size) for size in (7, 3, 7, 9)])
    assert proven(prove_record(tmp_path, LOG, 8).proofs[0])


def test_a_log_that_grows_meanwhile_is_looked_at_again(tmp_path, lines):
    """A listing from before a rotation does not end the log."""
    from steerguard.audit.evidence.layout import log_at
    from steerguard.audit.proving.prove import _prove, _Wanted

    write_log(tmp_path, lines[:25], [head_over(lines, 12)], rotations=(12,))
    before = log_at(tmp_path / checkpoints_name(LOG))
    write_log(tmp_path, lines, [head_over(lines, size) for size in (12, 25, 40)], rotations=ROTATIONS)
    proved = _prove(before, _Wanted(seq=30), Pins())
    assert proved.warnings == ()
    assert proven(proved.proofs[0])


def test_memory_does_not_grow_with_the_log(tmp_path):
    lines = lines_of(20_000)
    write_log(tmp_path, lines, [head_over(lines, 20_000)])
    size = sum(map(len, lines))
    del lines
    tracemalloc.start()
    try:
        assert proven(prove_record(tmp_path, LOG, 9_000).proofs[0])
        peak = tracemalloc.get_traced_memory()[1]
    finally:
        tracemalloc.stop()
    assert peak < size / 3
    assert (tmp_path / checkpoints_name(LOG)).read_bytes().endswith(b"\n\n")


def test_what_a_log_wrote_is_what_is_proven(tmp_path):
    """The same through the log's own writer, with a request that the host named."""
    from steerguard.audit.log import AuditLog
    from steerguard.audit.records.record import bypass_event
    from steerguard.audit.settings import CheckpointSettings

    with AuditLog.open(tmp_path, content="none", checkpoints=CheckpointSettings(every_records=4)) as log:
        for number in range(10):
            log.record(bypass_event("unguided", "a test", request=f"request-{number % 3}"))
        log.rotate()
        log.record(bypass_event("unguided", "a test", request="request-1"))
        key, name = log.checkpoint_key, log.log_id
        with pytest.raises(UnanchoredRecordError):
            prove_request(tmp_path, "request-1")
        log.checkpoint()
        assert len(prove_request(tmp_path, "request-1").proofs) == 4
    proved = prove_request(tmp_path, "request-1", Pins(keys=(key,)))
    assert proved.warnings == ()
    assert all(proven(proof, key) for proof in proved.proofs)
    last = max(json.loads(line)["seq"] for line in (tmp_path / segment_name(name, 1)).read_bytes().splitlines())
    for seq in range(last + 1):
        assert proven(prove_record(tmp_path, name, seq).proofs[0], key)


def test_stored_notes_are_what_the_helpers_write(tmp_path):
    lines = lines_of(2)
    write_log(tmp_path, lines, [head_over(lines, 2)])
    assert (tmp_path / checkpoints_name(LOG)).read_bytes() == stored(head_over(lines, 2))

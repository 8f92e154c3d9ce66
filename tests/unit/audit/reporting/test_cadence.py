"""The gap between checkpoints."""

from __future__ import annotations

from steerguard.audit.reporting.cadence import Cadence


def cadence_of(*records):
    found = Cadence()
    for seq, (kind, seconds, fields) in enumerate(records):
        found.add({"log": "a", "seq": seq, "mono": seconds * 1_000_000, "type": kind, **fields})
    return found.document()


def test_a_log_without_checkpoints_is_open_as_a_whole():
    found = cadence_of(("log.open", 0, {}), ("guard.decision", 5, {}), ("guard.decision", 9, {}))
    assert found == {"checkpoints": 0, "most_open_records": 3, "longest_open_us": 9_000_000, "fewest_copies": None}


def test_checkpoints_close_what_lies_before_them():
    found = cadence_of(
        ("log.open", 0, {}),
        ("guard.decision", 1, {}),
        ("checkpoint", 4, {"size": 2, "copies": 2}),
        ("guard.decision", 5, {}),
        ("checkpoint", 14, {"size": 4, "copies": 1}),
        ("log.close", 15, {}),
    )
    assert found["checkpoints"] == 3
    # Records 0 and 1 and the checkpoint record itself were open at once.
    assert found["most_open_records"] == 2
    assert found["longest_open_us"] == 10_000_000
    assert found["fewest_copies"] == 1


def test_each_log_is_counted_by_itself():
    found = Cadence()
    for log in ("a", "b"):
        for seq in range(3):
            found.add({"log": log, "seq": seq, "mono": seq, "type": "guard.decision"})
    assert found.document()["most_open_records"] == 3


def test_a_pruned_log_begins_where_its_first_record_is():
    found = Cadence()
    found.add({"log": "a", "seq": 5000, "mono": 9_000_000, "type": "log.rotate", "size": 5000})
    found.add({"log": "a", "seq": 5001, "mono": 9_500_000, "type": "guard.decision"})
    assert found.document()["most_open_records"] == 2
    assert found.document()["longest_open_us"] == 500_000

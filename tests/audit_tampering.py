"""Ways to tamper with audit logs, and the first bad position that must be found: shared by CI and the benchmark.

The logs are built by `built_audit_logs`, not by the writer of the package.

What the right first bad position is:

- Records (flip, delete, insert, duplicate, reorder, cut, other content in a segment): the first position p in the row of
  records at which the row differs from the one that was written. Right is `seq <= p <= until`, in the file that p lies in
  or that shows it, and at most two records wide where one record was touched.
- Rewriting from record p on with new hashes: the records agree with one another, so right is a range that begins at the
  last size that a checkpoint vouched for and that p lies in; with other keys under all of them, it begins at 0.
- Checkpoints (flip, delete, duplicate, reorder, of another log, by another key): right is `seq` = the size of the last
  checkpoint before the first that differs, and 0 before the first.
- Files (a missing segment or file of checkpoints, a forged or removed record of pruning): right is the first record that
  is not there any more, or the log that is named as missing.
- Bytes of a torn file: the log.recovered record that states their digest.

What cannot be found is no case here: an edit behind the last checkpoint that keeps the chain, as the owner of the process
can make it. Verification reports those records as unanchored instead.
"""

from __future__ import annotations

import os
import random
from collections.abc import Callable
from pathlib import Path

from tests.built_audit_logs import BuiltLog, log_id, random_log
from tests.tampered_audit_case import Case, Expected
from tests.tampered_audit_records import delete, duplicate, flip, insert, reorder, swap_segments, truncate
from tests.tampered_audit_sets import delete_log, rewrite, swap_checkpoints, tamper_tombstone

from steerguard.audit.verify import DirectoryReport, verify_directory

TAMPERINGS: dict[str, Callable[[Case], Expected]] = {
    "flip": flip,
    "delete": delete,
    "insert": insert,
    "duplicate": duplicate,
    "reorder": reorder,
    "truncate": truncate,
    "segment swap": swap_segments,
    "checkpoint swap": swap_checkpoints,
    "rewrite": rewrite,
    "log deleted": delete_log,
    "tombstone": tamper_tombstone,
}
"""Kind and what carries it out on the files of a case."""


def made_case(seed: int, directory: Path) -> Case:
    """Write two or three logs of random shapes into an empty directory."""
    source = random.Random(seed)
    logs: list[BuiltLog] = []
    for number in range(source.choice([2, 3])):
        log = random_log(source, number, previous=logs[-1] if logs else None, recovered_by=log_id(1))
        log.write(directory)
        logs.append(log)
    return Case(source, directory, logs, source.choice(logs))


def emptied(directory: Path) -> Path:
    """Return the directory without its files."""
    directory.mkdir(exist_ok=True)
    for entry in os.scandir(directory):
        Path(entry.path).unlink()
    return directory


def wrong(report: DirectoryReport, expected: Expected) -> str | None:
    """Say what is wrong with a report; None when it found what was done, at the right place."""
    if report.status != "broken":
        return "not detected"
    if expected.missing:
        return None if any(one.log == expected.log for one in report.missing) else "not reported as missing"
    (log,) = (one for one in report.logs if one.log == expected.log)
    bad = log.first_bad
    if bad is None:
        return "found in another log"
    if expected.exact is not None and bad.seq != expected.exact:
        return f"seq {bad.seq} where {expected.exact} is right ({bad.fault})"
    until = bad.seq if bad.until is None and expected.width is not None else bad.until
    if expected.at is not None and not (bad.seq <= expected.at and (until is None or expected.at <= until)):
        return f"{bad.seq} to {bad.until} where {expected.at} is right ({bad.fault})"
    if expected.width is not None and until is not None and until - bad.seq >= expected.width:
        return f"{bad.seq} to {bad.until} is too wide ({bad.fault})"
    return None


def verified(case: Case, *, strict: bool = False) -> DirectoryReport:
    """Verify the case's directory with what is pinned."""
    return verify_directory(case.directory, case.pins, strict=strict)

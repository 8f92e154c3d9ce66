"""Plays the scenes of a full disk in a process of its own, since they limit all its files.

`python -m tests.audit_fault_play KIND FOLDER [SEQUENCES]` plays every scene in FOLDER and prints a JSON line for each.
KIND is `limit` (no file may grow, EFBIG) or `disk` (FOLDER becomes a small file system that is full, ENOSPC).
With SEQUENCES it plays so many random sequences of faults instead.
"""

from __future__ import annotations

import json
import random
import shutil
import subprocess
import sys
import traceback
from pathlib import Path

from tests.audit_fault_scenes import SCENES, document
from tests.audit_faults import (
    KEY,
    SIGNER,
    FullDisk,
    Keeper,
    SizeLimit,
    opened,
    service,
)

from steerguard.audit.log import AuditLog
from steerguard.audit.settings import CheckpointSettings, Durability, Rotation
from steerguard.testing import MemorySink

DISK = 1 << 20
"""Bytes of the small file system."""


def sequence(fault, folder, served, seed):
    """Play one random sequence of faults on a log of its own; return how many answers were released and refused.

    A call may find the disk full to the byte, nearly full, or free, may be a batch or a stream, and may come when a
    checkpoint or a new segment is due.
    """
    draw = random.Random(seed)
    log = opened(
        folder,
        durability=Durability(mode=draw.choice(["never", "interval", "batch", "always"]), records=draw.randint(1, 5)),
        rotation=Rotation(max_bytes=draw.choice([2500, 6000, 1 << 20])),
        checkpoints=CheckpointSettings(signer=SIGNER, every_records=draw.choice([1, 3, 8, 1000])),
    )
    served.guard.use_audit(log)
    served.released.clear()
    served.called.clear()
    refused = 0
    for _ in range(draw.randint(1, 3)):
        if draw.random() < 0.5:
            served.must_answer(draw.randint(1, 3))
        fault.begin(draw.choice([0, draw.randint(1, 400), draw.randint(1, 6000)]))
        for _ in range(draw.randint(1, 2)):
            streamer = {"streamer": Keeper()} if draw.random() < 0.3 else {}
            refused += served.ask(draw.randint(1, 4), **streamer) is not None
        fault.end()
    served.must_answer(draw.randint(1, 3))
    assert served.guard.audit is log
    released = len(served.released)
    log.close()
    served.require_accounted(folder)
    return released, refused


def sequences(fault, folder, count):
    """Play random sequences; return the sums of `sequence`."""
    totals = [0, 0]
    with service(AuditLog.open(sink=MemorySink(), key=KEY), document=document("window")) as served:
        for seed in range(count):
            place = folder / str(seed)
            try:
                totals = [sum(pair) for pair in zip(totals, sequence(fault, place, served, seed), strict=True)]
            except BaseException as error:
                error.add_note(f"seed {seed}")
                raise
            finally:
                fault.end()
            shutil.rmtree(place)
    return tuple(totals)


def main(kind, folder, *rest):
    """Play all scenes, or random sequences, and print what came of each as a JSON line."""
    folder = Path(folder)
    folder.mkdir(parents=True, exist_ok=True)
    # What is made on first use is made before anything is limited.
    for strategy in ("buffer", "window", "unsafe_passthrough"):
        document(strategy)
    document(content="encrypted")
    if kind == "disk":
        options = f"size={DISK},nr_inodes=4000,mode=0700"
        subprocess.run(["mount", "-t", "tmpfs", "-o", options, "tmpfs", str(folder)], check=True)
    fault = (FullDisk if kind == "disk" else SizeLimit)(folder)
    if rest:
        play("sequences", lambda: sequences(fault, folder, int(rest[0])))
        return
    for name, scene in SCENES.items():
        place = folder / name
        place.mkdir()
        if fault.of_process:
            # The limit is told from the largest file of the scene.
            fault.folder = place
        play(name, lambda scene=scene, place=place: scene(fault, place))
        fault.end()
        if not fault.of_process:
            shutil.rmtree(place)


def play(name, scene):
    try:
        result, failure = scene(), None
    except BaseException:  # noqa: BLE001 - reported with its traceback
        result, failure = None, traceback.format_exc()
    sys.stdout.write(json.dumps({"scene": name, "result": result, "failure": failure}) + "\n")
    sys.stdout.flush()


if __name__ == "__main__":
    main(*sys.argv[1:])

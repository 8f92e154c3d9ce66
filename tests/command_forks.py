"""Commands of this package in child processes that begin at once and may be killed at any moment.

A server process of its own imports what the commands need and never has a second thread, so that each command begins in
a fresh fork of it. `python -m tests.command_forks` is that server; `CommandForks` talks to it.
"""

from __future__ import annotations

import importlib
import json
import os
import signal
import subprocess
import sys
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any, NoReturn, Self

THREADS = Path("/proc/self/task")
MODULES = (
    "steerguard.cli.registry",
    "steerguard.cli.lock",
    "steerguard.cli.sync",
    "steerguard.artifacts.verify",
    "steerguard.hub.client",
    "steerguard.hub.publish",
    "steerguard.hub.registry",
    "steerguard.hub.revoke",
    "steerguard.hub.sync",
    "steerguard.plan.resolve",
    "steerguard.policy.load",
    "steerguard.registry.locking",
    "steerguard.registry.sources",
    "steerguard.trust.judge",
    "steerguard.trust.load",
    "steerguard.watching",
    "huggingface_hub.hf_api",
    "huggingface_hub.file_download",
)
"""What the commands import; whatever else they need they import themselves."""


class CommandForks:
    """The server, and the commands that run in forks of it; ends both at the end of a `with` block.

    Args:
        home: folder for what the client of the Hub keeps.
    """

    def __init__(self, home: Path) -> None:
        settings = {
            "PYTHONPATH": os.pathsep.join(("sdk", ".")),
            "HF_HOME": str(home),
            "HF_HUB_OFFLINE": "0",
            "HF_HUB_DISABLE_XET": "1",
            "HF_HUB_DISABLE_TELEMETRY": "1",
            "HF_HUB_DISABLE_PROGRESS_BARS": "1",
            "OMP_NUM_THREADS": "1",
            "OPENBLAS_NUM_THREADS": "1",
        }
        self._server = subprocess.Popen(
            [sys.executable, "-m", "tests.command_forks"],
            cwd=Path(__file__).parent.parent,
            env={**os.environ, **settings},
            stdin=subprocess.PIPE,
            stdout=subprocess.PIPE,
            text=True,
        )

    def __enter__(self) -> Self:
        return self

    def __exit__(self, *_: object) -> None:
        assert self._server.stdin is not None
        assert self._server.stdout is not None
        self._server.stdin.close()
        self._server.wait(timeout=60)
        self._server.stdout.close()

    def start(self, words: Sequence[str], *, folder: Path, environment: Mapping[str, str]) -> int:
        """Begin `steerguard WORDS…` in a folder and return its process id; what it says goes to `said.log` there."""
        return int(self._ask({"words": list(words), "folder": str(folder), "environment": dict(environment)}))

    def end(self, pid: int) -> int:
        """Wait for a command, and return its exit status; minus the number of the signal that ended it."""
        return int(self._ask({"wait": pid}))

    def _ask(self, question: Mapping[str, Any]) -> int:
        assert self._server.stdin is not None
        assert self._server.stdout is not None
        self._server.stdin.write(json.dumps(question) + "\n")
        self._server.stdin.flush()
        return int(self._server.stdout.readline())


def kill(pid: int) -> None:
    """End a command as a power cut does. It stays waited for, so the number belongs to nobody else."""
    os.kill(pid, signal.SIGKILL)


def serve() -> None:
    """Begin a command, or wait for one, for each line of standard input."""
    for name in MODULES:
        importlib.import_module(name)
    for line in sys.stdin:
        asked = json.loads(line)
        if "wait" in asked:
            _, status = os.waitpid(asked["wait"], 0)
            _answer(os.waitstatus_to_exitcode(status))
            continue
        if len(list(THREADS.iterdir())) != 1:
            raise RuntimeError("a process with several threads cannot be forked safely")
        pid = os.fork()
        if pid == 0:
            _carry_out(asked)
        _answer(pid)


def _answer(number: int) -> None:
    sys.stdout.write(f"{number}\n")
    # A fork must not inherit what was not sent.
    sys.stdout.flush()


def _carry_out(asked: Mapping[str, Any]) -> NoReturn:
    """Be the command."""
    os.chdir(asked["folder"])
    os.environ.update(asked["environment"])
    log = os.open("said.log", os.O_WRONLY | os.O_CREAT | os.O_APPEND, 0o600)
    for descriptor, source in ((0, os.open(os.devnull, os.O_RDONLY)), (1, log), (2, log)):
        os.dup2(source, descriptor)
    status = 1
    try:
        from steerguard.cli.main import application

        application([asked["words"][0]])(asked["words"])
    except SystemExit as end:
        status = end.code if isinstance(end.code, int) else int(end.code is not None)
    finally:
        sys.stdout.flush()
        sys.stderr.flush()
        os._exit(status)


if __name__ == "__main__":
    serve()

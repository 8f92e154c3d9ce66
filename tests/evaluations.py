"""Small evaluations of a tiny model, for tests: files, policy, inputs."""

from __future__ import annotations

import functools

from tests.guarded_models import conversation, registry_for, scores_of, shared_model, tokenizer

from steerguard.evaluate.inputs import EvaluationInputs
from steerguard.evaluate.prompt_files import read_prompts
from steerguard.evaluate.prompt_spec import parse_spec
from steerguard.models.chat import render
from steerguard.policy.load import parse_policy

POLICY = """
apiVersion: steerguard/v1alpha1
kind: GuidancePolicy
metadata: {{name: {name}, version: 1.0.0, description: for tests, owner: tests}}
target: {{modalities: [text]}}
detectors:
  - {{id: d, type: linear_probe, artifact: harmful-intent@^1, read: generation_prompt_end}}
guidance:
  - {{id: steer, method: inferaligner, artifact: inferaligner@^1, coefficient: 4.0}}
rules:
  - {{id: likely, when: {{detector: d, score: {{at_least: {{value: {low:.6f}}}}}}}, then: {{action: guide, use: [steer]}}}}
  - {{id: clear, when: {{detector: d, score: {{at_least: {{value: {high:.6f}}}}}}}, then: {{action: refuse}}}}
default: {{action: allow}}
refusal: {{template: "I cannot."}}
"""


def harmful_texts(count):
    return [f"tell me how to {'do ' * (index % 4)}{index}" for index in range(count)]


def benign_texts(count):
    return [f"what is {index}?" for index in range(count)]


@functools.cache
def thresholds():
    """Two scores of the standard prompts: some rows stay below, some lie between, some above."""
    texts = [*harmful_texts(7), *benign_texts(5)]
    scores = sorted(scores_of(shared_model(), render(tokenizer(), [conversation(text) for text in texts])))
    return (scores[4] + scores[5]) / 2, (scores[8] + scores[9]) / 2


def policy_text(name="tiny", low=None, high=None):
    """A policy that lets some of the standard prompts pass, guides some and refuses some."""
    between = thresholds()
    return POLICY.format(name=name, low=between[0] if low is None else low, high=between[1] if high is None else high)


def tiny_policy(**settings):
    return parse_policy(policy_text(**settings), file="tiny.yaml")


def prompt_files(folder, harmful=7, benign=5):
    """Write a text file and a CSV file with prefilled answers; return their two specifications."""
    folder.mkdir(parents=True, exist_ok=True)
    (folder / "bad.txt").write_text("\n".join(harmful_texts(harmful)) + "\n", encoding="utf-8")
    rows = [f"{text},Sure {index}" for index, text in enumerate(benign_texts(benign))]
    (folder / "good.csv").write_text("\n".join(["question,answer", *rows]) + "\n", encoding="utf-8")
    return f"bad={folder / 'bad.txt'}", f"good={folder / 'good.csv'}#question+answer"


def tiny_inputs(folder, *, policies=None, **settings):
    bad, good = prompt_files(folder)
    model = shared_model()
    return EvaluationInputs(
        sets=(read_prompts(parse_spec(bad), "refuse"), read_prompts(parse_spec(good), "answer")),
        policies=(tiny_policy(),) if policies is None else policies,
        **{"model_name": "tiny", "max_new_tokens": 4, "batch_size": 3, "registry": registry_for(model), **settings},
    )


def model_and_tokenizer():
    return shared_model(), tokenizer()

"""A processor in place of a tokenizer: a real one of transformers, with a template that takes lists of parts."""

from __future__ import annotations

import pytest
import torch
from tests.guarded_models import conversation, memory_log, policy, tokenizer
from transformers import LlavaProcessor
from transformers.models.clip.image_processing_pil_clip import CLIPImageProcessorPil

import steerguard
from steerguard.models.chat import GenerationPrompt, encode_prompts
from steerguard.models.digests import chat_template_sha256
from steerguard.models.inspect import inspect_model
from steerguard.testing import IMAGE_TOKEN_ID, tiny_model, tiny_registry
from steerguard.testing.multimodal_configs import IMAGE_SIZE, PATCH_SIZE

PARTS_ONLY = (
    "{% for m in messages %}{{ '<|im_start|>' + m['role'] + '\n' }}{% for part in m['content'] %}"
    "{% if part['type'] == 'image' %}{{ '<image>' }}{% elif part['type'] == 'text' %}{{ part['text'] }}{% endif %}"
    "{% endfor %}{{ '<|im_end|>\n' }}{% endfor %}"
    "{% if add_generation_prompt %}{{ '<|im_start|>assistant\n' }}{% endif %}"
)
WITH_IMAGE = [{"role": "user", "content": [{"type": "image"}, {"type": "text", "text": "what is it"}]}]
IN_PARTS = [{"role": "user", "content": [{"type": "text", "text": "hello there you"}]}]


@pytest.fixture
def processor():
    images = CLIPImageProcessorPil(
        size={"shortest_edge": IMAGE_SIZE}, crop_size={"height": IMAGE_SIZE, "width": IMAGE_SIZE}
    )
    return LlavaProcessor(
        image_processor=images,
        tokenizer=tokenizer(),
        patch_size=PATCH_SIZE,
        vision_feature_select_strategy="default",
        num_additional_image_tokens=1,
        chat_template=PARTS_ONLY,
    )


@pytest.fixture
def wrapped(processor, tmp_path):
    model = tiny_model("llava")
    registry = tiny_registry(tmp_path / "registry", model, processor)
    steerguard.wrap(
        model, policy(-1e6, modalities="text, image"), tokenizer=processor, registry=registry, audit=memory_log()
    )
    return model


def _batch(processor):
    texts = [processor.apply_chat_template(one, add_generation_prompt=True) for one in (WITH_IMAGE, IN_PARTS)]
    image = torch.randint(0, 255, (3, 40, 50), generator=torch.Generator().manual_seed(0), dtype=torch.uint8)
    return processor(images=[image], text=texts, return_tensors="pt", padding=True)


def test_what_a_processor_returns_is_generated_with_and_every_row_is_gated(processor, wrapped):
    batch = _batch(processor)
    assert set(batch) >= {"input_ids", "attention_mask", "pixel_values"}
    assert (batch["input_ids"] == IMAGE_TOKEN_ID).sum(dim=1).tolist() == [4, 0]
    with wrapped.guard.collect() as reports:
        wrapped.generate(**batch, max_new_tokens=3, do_sample=False)
    assert [report.intended for report in reports] == ["guide", "guide"]
    assert all(report.doses for report in reports)


def test_monitoring_with_a_processor_changes_nothing(processor, tmp_path):
    model = tiny_model("llava")
    batch = _batch(processor)
    plain = model.generate(**batch, max_new_tokens=4, do_sample=False)
    registry = tiny_registry(tmp_path / "registry", model, processor)
    document = policy(-1e6, modalities="text, image")
    steerguard.wrap(model, document, tokenizer=processor, registry=registry, audit=memory_log(), mode="monitor")
    assert torch.equal(model.generate(**batch, max_new_tokens=4, do_sample=False), plain)


def test_texts_and_lists_of_parts_are_the_same_conversation(processor, wrapped):
    in_parts, as_text = (wrapped.guard.check(messages) for messages in (IN_PARTS, conversation("hello there you")))
    other = wrapped.guard.check(conversation("something else entirely"))
    assert in_parts.readings == as_text.readings
    assert in_parts.readings != other.readings


def test_a_text_is_not_lost_in_a_template_that_only_takes_parts(processor):
    prompt = encode_prompts(processor, [conversation("abc def")])[0]
    assert "abc def" in tokenizer().decode(prompt.ids)


def test_the_generation_prompt_of_a_processor_is_found_behind_an_image(processor):
    batch = _batch(processor)
    found = GenerationPrompt.from_tokenizer(processor).ends(batch["input_ids"], batch["attention_mask"])
    assert found == (batch["input_ids"].shape[1] - 1,) * 2


def test_the_facts_name_the_template_of_the_processor_and_the_vocabulary_of_its_tokenizer(processor):
    model = tiny_model("llava")
    facts, plain = inspect_model(model, processor), inspect_model(model, tokenizer())
    assert facts.chat_template_sha256 == chat_template_sha256(processor) != plain.chat_template_sha256
    assert facts.tokenizer_sha256 == plain.tokenizer_sha256

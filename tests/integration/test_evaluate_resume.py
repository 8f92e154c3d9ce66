"""An evaluation that is stopped anywhere and started again ends with the same bytes."""

from __future__ import annotations

import copy
import json
import os
import random
import signal
from dataclasses import replace

import pytest
import torch
from tests.evaluations import model_and_tokenizer, tiny_inputs, tiny_policy

from steerguard.errors import EvaluationError, SteerguardError
from steerguard.evaluate import durable, journal
from steerguard.evaluate.answering import Answerer
from steerguard.evaluate.prompt_files import read_prompts
from steerguard.evaluate.prompt_spec import parse_spec
from steerguard.evaluate.run import evaluate
from steerguard.evaluate.run_settings import store_settings, stored_settings

MADE = ("evaluation.json", "rows.jsonl", "settings.json")


class Stop(BaseException):
    """Stands for a kill inside this process."""


def run(folder, inputs):
    model, tokenizer = model_and_tokenizer()
    return evaluate(model, tokenizer, inputs, folder, report=False)


def made(folder):
    return {name: (folder / name).read_bytes() for name in MADE}


def restore(folder, **changed):
    """Store settings as an evaluation that was begun elsewhere would have."""
    stored = stored_settings(folder)
    places = [node for node in (stored, *stored.values()) if isinstance(node, dict)]
    for key, value in changed.items():
        (place,) = [node for node in places if key in node]
        place[key] = value
    store_settings(folder, stored)


@pytest.fixture
def undisturbed(tmp_path):
    inputs = tiny_inputs(tmp_path)
    run(tmp_path / "whole", inputs)
    return inputs, made(tmp_path / "whole")


def test_a_second_start_answers_nothing_again_and_writes_the_same(undisturbed, tmp_path, monkeypatch):
    inputs, expected = undisturbed
    monkeypatch.setattr(journal.Journal, "append", lambda *_: pytest.fail("a batch was answered again"))
    run(tmp_path / "whole", inputs)
    assert made(tmp_path / "whole") == expected


@pytest.mark.parametrize("batches", [0, 1, 4, 5, 9])
def test_stopped_before_any_batch_it_ends_the_same(undisturbed, tmp_path, monkeypatch, batches):
    inputs, expected = undisturbed
    append, left = journal.Journal.append, iter(range(batches))

    def interrupted(self, rows):
        if next(left, None) is None:
            raise Stop
        append(self, rows)

    with monkeypatch.context() as patch:
        patch.setattr(journal.Journal, "append", interrupted)
        with pytest.raises(Stop):
            run(tmp_path / "out", inputs)
    run(tmp_path / "out", inputs)
    assert made(tmp_path / "out") == expected


def test_cut_at_any_byte_the_journal_is_mended(undisturbed, tmp_path):
    inputs, expected = undisturbed
    whole = expected["rows.jsonl"]
    for place in random.Random(3).sample(range(len(whole)), 6):
        torn = tmp_path / "whole"
        (torn / "evaluation.json").unlink()
        (torn / "rows.jsonl").write_bytes(whole[:place])
        run(torn, inputs)
        assert made(torn) == expected, place


def test_garbage_behind_the_rows_is_cut_off(undisturbed, tmp_path):
    inputs, expected = undisturbed
    with (tmp_path / "whole" / "rows.jsonl").open("ab") as file:
        file.write(b"\0" * 40 + b'\n{"set":')
    run(tmp_path / "whole", inputs)
    assert made(tmp_path / "whole") == expected


@pytest.mark.parametrize("name", ["settings.json", "evaluation.json"])
def test_stopped_while_a_document_is_written_it_ends_the_same(undisturbed, tmp_path, monkeypatch, name):
    inputs, expected = undisturbed
    fsync = os.fsync

    def interrupted(descriptor):
        if f".{name}." in "".join(path.name for path in (tmp_path / "out").iterdir()):
            raise Stop
        fsync(descriptor)

    with monkeypatch.context() as patch:
        patch.setattr(durable.os, "fsync", interrupted)
        with pytest.raises(Stop):
            run(tmp_path / "out", inputs)
    assert not (tmp_path / "out" / name).exists()
    run(tmp_path / "out", inputs)
    assert made(tmp_path / "out") == expected


def test_the_measured_batch_size_is_measured_once(tmp_path, monkeypatch):
    inputs = tiny_inputs(tmp_path, batch_size=None)
    with monkeypatch.context() as patch:
        patch.setattr(journal.Journal, "append", lambda *_: (_ for _ in ()).throw(Stop))
        with pytest.raises(Stop):
            run(tmp_path / "out", inputs)
    # A size that a search of these prompts does not end at: what is stored is used, so nothing is measured again.
    restore(tmp_path / "out", batch_size=1)
    assert run(tmp_path / "out", inputs).settings.batch_size == 1


LACKS = (torch.OutOfMemoryError("CUDA out of memory."), RuntimeError("DefaultCPUAllocator: can't allocate memory"))


@pytest.mark.parametrize("lack", LACKS, ids=["cuda", "cpu"])
def test_a_batch_too_large_for_the_memory_says_so_and_a_smaller_one_may_follow(tmp_path, monkeypatch, lack):
    inputs = tiny_inputs(tmp_path, batch_size=4)
    with monkeypatch.context() as patch:
        patch.setattr(Answerer, "_generate", lambda *_: (_ for _ in ()).throw(lack))
        with pytest.raises(EvaluationError, match="memory does not suffice") as caught:
            run(tmp_path / "out", inputs)
    assert "--batch-size 2" in caught.value.next_step
    assert run(tmp_path / "out", replace(inputs, batch_size=2)).settings.batch_size == 2
    assert json.loads((tmp_path / "out" / "settings.json").read_bytes())["settings"]["batch_size"] == 2


def test_a_lack_of_memory_behind_recorded_rows_keeps_them(tmp_path, monkeypatch):
    inputs, answer, left = tiny_inputs(tmp_path), Answerer.answer, iter(range(1))

    def lacking(self, rows, *, guarded):
        if next(left, None) is None:
            raise LACKS[0]
        return answer(self, rows, guarded=guarded)

    with monkeypatch.context() as patch:
        patch.setattr(Answerer, "answer", lacking)
        with pytest.raises(EvaluationError, match="run the same command again: it goes on"):
            run(tmp_path / "out", inputs)
    with pytest.raises(EvaluationError, match="batch_size: 3 → 2"):
        run(tmp_path / "out", replace(inputs, batch_size=2))
    run(tmp_path / "out", inputs)


def test_another_error_of_the_model_is_left_as_it_is(tmp_path, monkeypatch):
    monkeypatch.setattr(Answerer, "_generate", lambda *_: (_ for _ in ()).throw(RuntimeError("shapes differ")))
    with pytest.raises(RuntimeError, match="shapes differ"):
        run(tmp_path / "out", tiny_inputs(tmp_path))


def test_another_device_refuses_to_go_on(undisturbed, tmp_path):
    inputs, _ = undisturbed
    restore(tmp_path / "whole", device_name="another")
    with pytest.raises(EvaluationError, match=r"device_name: \"another\" → "):
        run(tmp_path / "whole", inputs)


@pytest.mark.parametrize(
    ("changed", "named"),
    [
        ({"max_new_tokens": 5}, "max_new_tokens: 4 → 5"),
        ({"batch_size": 4}, "batch_size: 3 → 4"),
        ({"seed": 1}, "seed: 0 → 1"),
        ({"references": ("I will not.",)}, "references"),
        ({"model_name": "other"}, "model.name"),
    ],
)
def test_a_changed_setting_refuses_to_go_on_and_is_named(undisturbed, tmp_path, changed, named):
    with pytest.raises(SteerguardError, match="begun with other settings") as caught:
        run(tmp_path / "whole", tiny_inputs(tmp_path, **changed))
    assert named in str(caught.value)


def test_changed_prompts_refuse_to_go_on_and_the_set_is_named(undisturbed, tmp_path):
    inputs, _ = undisturbed
    (tmp_path / "bad.txt").write_text("another prompt\n", encoding="utf-8")
    changed = read_prompts(parse_spec(f"bad={tmp_path / 'bad.txt'}"), "refuse")
    with pytest.raises(SteerguardError) as caught:
        run(tmp_path / "whole", replace(inputs, sets=(changed, inputs.sets[1])))
    assert "sets.bad.n: 7 → 1" in str(caught.value)
    assert "sets.bad.sha256" in str(caught.value)


def test_a_changed_policy_refuses_to_go_on_and_is_named(undisturbed, tmp_path):
    inputs, _ = undisturbed
    with pytest.raises(SteerguardError, match=r"policies\.tiny\.policy_digest"):
        run(tmp_path / "whole", replace(inputs, policies=(tiny_policy(high=9.0),)))


def test_changed_weights_refuse_to_go_on(undisturbed, tmp_path):
    inputs, _ = undisturbed
    model, tokenizer = model_and_tokenizer()
    changed = copy.deepcopy(model)
    with torch.no_grad():
        changed.get_output_embeddings().weight[5, 5] += 1e-6
    with pytest.raises(SteerguardError, match=r"model\.weights_digest"):
        evaluate(changed, tokenizer, inputs, tmp_path / "whole", report=False)


def test_two_processes_cannot_share_a_folder(undisturbed, tmp_path):
    inputs, _ = undisturbed
    with journal.Journal(tmp_path / "whole"), pytest.raises(SteerguardError, match="Another evaluation"):
        run(tmp_path / "whole", inputs)


def test_a_folder_with_something_else_is_left_alone(tmp_path):
    (tmp_path / "out").mkdir()
    (tmp_path / "out" / "thesis.txt").write_text("mine", encoding="utf-8")
    with pytest.raises(SteerguardError, match="no evaluation"):
        run(tmp_path / "out", tiny_inputs(tmp_path))
    assert [path.name for path in (tmp_path / "out").iterdir()] == ["thesis.txt"]


def killed_at(batch, share, work):
    """Do the work in a forked process that kills itself while it writes a batch of rows; return how it ended."""
    child = os.fork()
    if child == 0:
        try:
            write, left = os.write, iter(range(batch))

            def deadly(descriptor, content):
                if next(left, None) is None:
                    write(descriptor, content[: int(share * len(content))])
                    os.kill(os.getpid(), signal.SIGKILL)
                return write(descriptor, content)

            journal.os.write = deadly
            work()
        finally:
            os._exit(1)
    return os.waitpid(child, 0)[1]


def test_killed_at_random_points_it_ends_the_same(undisturbed, tmp_path):
    inputs, expected = undisturbed
    chosen = random.Random(5)
    for number in range(4):
        out = tmp_path / str(number)
        # Two kills each: the second one meets a folder that was already resumed.
        for batch in (chosen.randrange(5), chosen.randrange(4)):
            status = killed_at(batch, chosen.random(), lambda out=out: run(out, inputs))
            assert os.WTERMSIG(status) == signal.SIGKILL
        run(out, inputs)
        assert made(out) == expected

"""One audit log, private texts wherever they can go, everything that can fail around it, and what is left of that."""

from __future__ import annotations

import io
import logging
import traceback
from contextlib import contextmanager
from functools import partial

import structlog
import torch
from tests.canaries import canary
from tests.guarded_models import (
    ALWAYS,
    FailingSink,
    conversation,
    fresh_model,
    guarded,
    policy,
    registry_for,
    tokenizer,
)
from tests.searched_models import sampled, search_policy, with_judge
from transformers import LogitsProcessor, LogitsProcessorList, StoppingCriteria, StoppingCriteriaList
from transformers.generation.streamers import BaseStreamer
from typer.testing import CliRunner

import steerguard
from steerguard.audit.copies import CallableCopy, DirectoryCopy, StreamCopy
from steerguard.audit.log import AuditLog
from steerguard.audit.privacy.keys import ContentKey
from steerguard.audit.settings import CheckpointSettings, Rotation
from steerguard.cli.audit import app
from steerguard.errors import AuditError, SteerguardError
from steerguard.models.chat import render

PLACES = (
    "system prompt",
    "prompt",
    "answer",
    "model folder",
    "policy file",
    "registry folder",
    "image file",
    "host variable",
    "bad request id",
    "streamer",
    "stopping criterion",
    "logits processor",
    "callback",
    "tokenizer",
    "template",
    "redactor",
    "copy",
    "sink",
    "unguided",
    "detector",
    "cost model",
)
SECRETS = ("content.key", "checkpoint.key")


class Scene:
    """One log of a content mode, everything that could go wrong around it, and what came of it."""

    def __init__(self, root, mode):
        self.canaries = {place: canary() for place in PLACES}
        self.errors = []
        self.foreign = []
        self.seen = {}
        self.prints = {}
        self.audit = root / "audit"
        self.copies = root / "copies"
        self.copies.mkdir()
        self._root, self.mode = root, mode
        self._stream = io.StringIO()
        self._said = io.StringIO()
        self._run()
        self.prints |= {
            "stream of checkpoints": self._stream.getvalue().encode(),
            "own warnings": self._said.getvalue().encode(),
        }
        self._commands()

    def files(self):
        """Every file of the audit directory and of the copies, but the secret keys."""
        found = [path for folder in (self.audit, self.copies) for path in sorted(folder.rglob("*"))]
        return {str(path): path.read_bytes() for path in found if path.is_file() and path.name not in SECRETS}

    def _run(self):
        handler = logging.StreamHandler(self._said)
        logging.getLogger().addHandler(handler)
        bound = {"user": self.canaries["host variable"], "note": {"deep": [self.canaries["host variable"]]}}
        structlog.contextvars.clear_contextvars()
        structlog.contextvars.bind_contextvars(**bound, request_id="request-1", trace_id="trace-1", tenant="tenant-1")
        try:
            self._answers()
            self._failures()
            self._other_logs()
        finally:
            structlog.contextvars.clear_contextvars()
            logging.getLogger().removeHandler(handler)

    def _open(self, **settings):
        copies = (DirectoryCopy(self.copies), StreamCopy(self._stream))
        key = ContentKey(bytes(range(32))) if self.mode == "hmac" else None
        given = {
            "checkpoints": CheckpointSettings(every_records=5, copies=copies),
            "rotation": Rotation(max_bytes=16384),
        }
        return AuditLog.open(self.audit, content=self.mode, key=key, **(given | settings))

    def _document(self, **settings):
        return policy(rules=ALWAYS, detector=True, more=f"audit: {{content: {self.mode}}}", **settings)

    def _model(self):
        model = fresh_model()
        model.config._name_or_path = f"/srv/{self.canaries['model folder']}/tiny"
        return model

    def _batch(self):
        messages = [
            {"role": "system", "content": f"You are {self.canaries['system prompt']}."},
            {"role": "user", "content": f"Say {self.canaries['prompt']}!"},
        ]
        return render(tokenizer(), [messages], padding_side="left")

    def _answers(self):
        """Requests that succeed, one of them with a forced answer."""
        model, batch = self._model(), self._batch()
        with self._open() as log, guarded(model, self._document(), audit=log, registry=registry_for(model)) as wrapped:
            forced = _Forced(self.canaries["answer"])
            tokens = wrapped.generate(
                **batch, max_new_tokens=24, do_sample=False, logits_processor=LogitsProcessorList([forced])
            )
            self.seen["answer"] = tokenizer().decode(tokens[0])
            wrapped.guard.check(conversation(self.canaries["prompt"]))
            for _ in range(6):
                wrapped.generate(**batch, max_new_tokens=2, do_sample=False)

    def _failures(self):
        """Foreign code that raises with a private text, at every place where a call reaches it."""
        model, batch = self._model(), self._batch()

        def generate(wrapped, **settings):
            wrapped.generate(**batch, max_new_tokens=4, do_sample=False, **settings)

        def raising(place):
            def act(*_arguments, **_named):
                raise _QuotingError(self.canaries[place])

            return act

        with (
            self._open() as log,
            guarded(
                model, self._document(), audit=log, registry=registry_for(model), on_decision=raising("callback")
            ) as wrapped,
        ):
            self._expect("callback", lambda: generate(wrapped))
            self._expect("streamer", lambda: generate(wrapped, streamer=_Streamer(raising("streamer"))))
            criteria = StoppingCriteriaList([_Criterion(raising("stopping criterion"))])
            self._expect("stopping criterion", lambda: generate(wrapped, stopping_criteria=criteria))
            processors = LogitsProcessorList([_Processor(raising("logits processor"))])
            self._expect("logits processor", lambda: generate(wrapped, logits_processor=processors))
            with _replaced(tokenizer(), "apply_chat_template", raising("template")):
                self._expect("template", lambda: wrapped.guard.check(conversation("hello")))
            image = [
                {"type": "image", "path": f"/srv/{self.canaries['image file']}.png"},
                {"type": "text", "text": "x"},
            ]
            self._expect("image file", lambda: wrapped.guard.check([{"role": "user", "content": image}]))
            hook = wrapped.get_decoder().layers[0].register_forward_hook(raising("detector"))
            self._expect("detector", lambda: generate(wrapped))
            self._expect("detector", lambda: wrapped.guard.check(conversation("hello")))
            hook.remove()
            for value in ({"id": self.canaries["bad request id"]}, self.canaries["bad request id"] * 20):
                with structlog.contextvars.bound_contextvars(request_id=value):
                    self._expect("bad request id", lambda: generate(wrapped))
            self._expect("unguided", lambda: wrapped(torch.tensor([ids_of(self.canaries["unguided"])])))
            broken = self._root / f"{self.canaries['policy file']}.yaml"
            broken.write_text("kind: 3\n", encoding="utf-8")
            # Our message names the file that the caller named; the log does not.
            self._expect("policy file", lambda: generate(wrapped, policy=broken), kept=False)

    def _other_logs(self):
        """Logs that themselves call foreign code, a search whose judge fails, and a model that is never wrapped."""
        batch = self._batch()

        def generate(**settings):
            model = self._model()
            with guarded(model, self._document(), registry=registry_for(model), **settings) as wrapped:
                wrapped.generate(**batch, max_new_tokens=2, do_sample=False)

        def redact(text):
            raise _QuotingError(text + self.canaries["redactor"])

        if self.mode == "hmac":
            with self._open(redactors=(redact,)) as log:
                self._expect("redactor", lambda: generate(audit=log), chained=True)
            with self._open(redactors=(str.upper,)) as log:
                self._expect("tokenizer", lambda: self._with_failing_tokenizer(log), chained=True)
        with self._open() as log:
            self._with_failing_judge(log)
        failing = FailingSink(_QuotingError(self.canaries["sink"]))
        unkept = AuditLog.open(sink=failing, content="none")
        failing.at = 3
        self._expect("sink", lambda: generate(audit=unkept))

        def publish(_log, _note):
            raise _QuotingError(self.canaries["copy"])

        settings = CheckpointSettings(every_records=1, copies=(CallableCopy(publish),))
        self._expect("copy", lambda: self._open(checkpoints=settings).close())
        folder = self._root / self.canaries["registry folder"]
        folder.mkdir()
        wrap = partial(steerguard.wrap, self._model(), self._document(), tokenizer=tokenizer(), registry=folder)
        with self._open() as log:
            # Our message names the folder that the caller named; the log does not.
            self._expect("registry folder", partial(wrap, audit=log), kept=False)

    def _with_failing_tokenizer(self, log):
        """The tokenizer decodes until the row is to be recorded."""
        model, failing = self._model(), []
        decoded = tokenizer().decode

        def decode(*arguments, **named):
            if failing:
                raise _QuotingError(self.canaries["tokenizer"])
            return decoded(*arguments, **named)

        with (
            _replaced(tokenizer(), "decode", decode),
            guarded(model, self._document(), registry=registry_for(model), audit=log) as wrapped,
        ):
            failing.append(True)
            wrapped.generate(**self._batch(), max_new_tokens=2, do_sample=False)

    def _with_failing_judge(self, log):
        """The judge's failure refuses the row; the caller gets the refusal and the decision."""
        model, document = self._model(), search_policy(start="always")
        with (
            guarded(model, document, registry=registry_for(model), audit=log) as wrapped,
            wrapped.guard.collect() as reports,
        ):
            blocks = wrapped.guard.engine.program.searches[0].cost.blocks
            with_judge(wrapped, _Judge(blocks, _QuotingError(self.canaries["cost model"])))
            sampled(wrapped, self._batch())
        assert {report.cause for report in reports} == {"critic_failed"}
        self.prints["decision about the cost model"] = repr(reports).encode()
        self.errors.append(("cost model", "critic_failed"))

    def _expect(self, place, act, *, kept=True, chained=False):
        """Call what must fail, and keep what our errors say: their text, notes and fields, with `chained` all they carry."""
        error = None
        try:
            act()
        except Exception as raised:  # noqa: BLE001 - foreign errors pass through as they are
            error = raised
        assert error is not None, place
        said = list(getattr(error, "__notes__", ()))
        before = error.__context__
        while before is not None:
            # What went wrong first, where unwrapping failed after it.
            said += [str(before), repr(vars(before))] if isinstance(before, SteerguardError) else []
            before = before.__context__
        if isinstance(error, SteerguardError):
            said += [str(error), repr(vars(error))]
            if chained:
                assert isinstance(error, AuditError)
                said.append("".join(traceback.format_exception(error)))
            self.errors.append((place, type(error).__name__))
        else:
            self.foreign.append((place, type(error).__name__))
        if kept:
            self.prints[f"message of {place}, {len(self.prints)}"] = "\n".join(said).encode("utf-8", "surrogatepass")

    def _commands(self):
        page, figures, table = (self._root / name for name in ("report.html", "report.json", "export.csv"))
        directory = str(self.audit)
        for command in (
            ["verify", directory],
            ["verify", directory, "--json", "--strict"],
            ["query", directory, "--last", "1000"],
            ["query", directory, "--type", "all", "--last", "10000", "--json"],
            ["query", directory, "--request", self.canaries["prompt"][:3]],
            ["stats", directory],
            ["stats", directory, "--json"],
            ["tail", directory, "-n", "1000"],
            ["report", directory],
            ["report", directory, "--html", str(page), "--json", str(figures)],
            ["export", directory, "--format", "jsonl"],
            ["export", directory, "--format", "cloudevents"],
            ["export", directory, "--format", "csv", "--out", str(table)],
            ["replay", directory],
            ["hold", directory],
            ["prune", directory, "--dry-run"],
            ["erase", directory, "--request", "request-1", "--reason", "a test", "--yes"],
        ):
            result = CliRunner().invoke(app, command)
            assert result.exception is None or isinstance(result.exception, SystemExit), command
            # Neither mode keeps content: there is nothing to erase, which is said with exit code 2.
            expected = {"erase": {2}, "replay": {0, 2}, "query": {0, 2}}.get(command[0], {0})
            assert result.exit_code in expected, (command, result.output)
            name = " ".join(part for part in command if part not in {directory, self.canaries["prompt"][:3]})
            self.prints[f"audit {name}"] = result.output.encode("utf-8", "surrogatepass")
        self.prints |= {path.name: path.read_bytes() for path in (page, figures, table)}


class _QuotingError(Exception):
    """What foreign code raises: it quotes what it was given."""


class _Forced(LogitsProcessor):
    """Makes the model write a text."""

    def __init__(self, text):
        self._left = ids_of(text)

    def __call__(self, _input_ids, scores):
        if self._left:
            chosen = self._left.pop(0)
            scores = torch.full_like(scores, float("-inf"))
            scores[:, chosen] = 0.0
        return scores


class _Processor(LogitsProcessor):
    def __init__(self, act):
        self._act = act

    def __call__(self, _input_ids, _scores):
        self._act()


class _Judge:
    """A cost model that fails at every answer."""

    def __init__(self, blocks, error):
        self.blocks = blocks
        self._error = error

    def cost(self, _inputs):
        raise self._error


class _Criterion(StoppingCriteria):
    def __init__(self, act):
        self._act = act

    def __call__(self, _input_ids, _scores, **_named):
        self._act()


class _Streamer(BaseStreamer):
    def __init__(self, act):
        self._act = act

    def put(self, _value):
        self._act()

    def end(self):
        self._act()


@contextmanager
def _replaced(owner, name, value):
    """Give an object another method for the time of the block."""
    setattr(owner, name, value)
    try:
        yield
    finally:
        delattr(owner, name)


def ids_of(text):
    """Return the token ids of a text."""
    return tokenizer()(text, add_special_tokens=False)["input_ids"]

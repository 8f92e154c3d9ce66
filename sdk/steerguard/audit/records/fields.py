"""The values that an audit record may hold: ASCII strings of known shape, integers up to 2^53 - 1, booleans, null, lists.

There is no float: a score or threshold is the decimal string `repr(float)`, which reads back to the same number.
There is no free text that a prompt could fill: every string has a pattern or, for names that people chose, a length.
"""

from __future__ import annotations

import codecs
import re
import sys
from typing import Annotated, Final, Literal

from pydantic import BaseModel, ConfigDict, Field

from steerguard.decision import SearchOutcome
from steerguard.errors import AuditError

LABEL_LENGTH = 256
CONTEXT_LENGTH = 128
REASON_LENGTH = 5000
"""500 characters of a document, each written with ten at most."""

Count = Annotated[int, Field(ge=0, le=2**53 - 1)]
Number = Annotated[str, Field(pattern=r"^-?[0-9]+(\.[0-9]+)?([eE][+-]?[0-9]+)?$", max_length=40)]
"""A finite number as `repr` of a float or `str` of a decimal writes it."""
_CLASS_NAME: Final = re.compile(r"[A-Za-z_][A-Za-z0-9_]{0,99}")
_IDENTIFIER: Final = r"[A-Za-z0-9_][A-Za-z0-9._:/@+-]{0,127}"
Identifier = Annotated[str, Field(pattern=f"^{_IDENTIFIER}$")]
"""A name without spaces: request, rule, step, method, class or artifact reference."""
Source = Annotated[str, Field(pattern=r"^[A-Za-z0-9_][A-Za-z0-9._:/@+-]{0,127}(/block [0-9]{1,4})?$")]
"""A detector id, a step id, or `<step id>/block <n>`."""
ConditionPlace = Annotated[
    str, Field(pattern=r"^(not|(any|all)\.[0-9]{1,4})(\.(not|(any|all)\.[0-9]{1,4}))*$", max_length=CONTEXT_LENGTH)
]
"""The way down from the condition of a rule to one comparison."""
Label = Annotated[str, Field(pattern=r"^[ -~]*$", max_length=LABEL_LENGTH)]
"""A name or reason that a developer wrote, in printable ASCII; see `escaped`."""
StatedReason = Annotated[str, Field(pattern=r"^[ -~]*$", max_length=REASON_LENGTH)]
"""A reason as a document states it, in printable ASCII; see `escaped`."""
ContextText = Annotated[str, Field(pattern=r"^[ -~]*$", max_length=CONTEXT_LENGTH)]
Digest = Annotated[str, Field(pattern=r"^sha256:[0-9a-f]{64}$")]
Hash = Annotated[str, Field(pattern=r"^[0-9a-f]{64}$")]
KeyId = Annotated[str, Field(pattern=r"^[0-9a-f]{8}$")]
ContentTag = Annotated[str, Field(pattern=r"^hmac:[0-9a-f]{8}:[0-9a-f]{64}$")]
LogId = Annotated[str, Field(pattern=r"^[0-9]{8}T[0-9]{6}Z-[0-9a-f]{16}$")]
Timestamp = Annotated[
    str, Field(pattern=r"^[0-9]{4}-[01][0-9]-[0-3][0-9]T[0-2][0-9]:[0-5][0-9]:[0-5][0-9]\.[0-9]{6}Z$")
]
Date = Annotated[str, Field(pattern=r"^[0-9]{4}-[01][0-9]-[0-3][0-9]$")]

ContentMode = Literal["none", "hmac", "encrypted"]
DurabilityMode = Literal["never", "interval", "batch", "always"]
Mode = Literal["enforce", "monitor", "off"]
BudgetOutcome = Literal["within", "fallback", "exceeded"]
Stage = Literal["load", "prompt", "detect", "guide", "generate", "audit"]
FileName = Annotated[str, Field(pattern=r"^[A-Za-z0-9][A-Za-z0-9._-]{0,127}$")]
"""The name of a file in the log's directory, without a folder."""
VerifierKey = Annotated[str, Field(pattern=r"^[!-*,-~]{1,128}\+[0-9a-f]{8}\+[A-Za-z0-9+/]{44}$")]
"""A checkpoint key as verifiers pin it: `<name>+<key hash>+<base64 of 0x01 and the public key>` (C2SP signed-note)."""
SigningKeyId = Annotated[str, Field(pattern=r"^ed25519-[0-9a-f]{16}$")]
VettingLevel = Annotated[int, Field(ge=0, le=3)]
RevocationReason = Literal["unsafe", "leaked_key", "wrong_base", "superseded"]


def is_identifier(text: str) -> bool:
    """Return whether a record can hold the text as an `Identifier`."""
    return re.fullmatch(_IDENTIFIER, text) is not None


def class_name(thing: object, otherwise: str = "Exception") -> str:
    """Return the name of the class of an error or of another object, if some code states the class under that name.

    A class that was made at run time can have any name, a text of a prompt too; then it is `otherwise`.
    """
    kind = type(thing)
    stated: object = sys.modules.get(kind.__module__)
    for part in kind.__qualname__.split("."):
        stated = getattr(stated, "__dict__", {}).get(part)
    known = stated is kind or "<locals>" in kind.__qualname__ or kind.__module__ == "builtins"
    return kind.__name__ if known and _CLASS_NAME.fullmatch(kind.__name__) else otherwise


_ESCAPE = codecs.getencoder("unicode_escape")
"""Found once: a child forked while another thread looks a codec up for the first time would wait for it for ever."""


def escaped(text: str) -> str:
    r"""Return the text in printable ASCII, reversibly: `é` becomes `\xe9` and a backslash becomes two."""
    return _ESCAPE(text)[0].decode("ascii")


def escaped_label(text: str) -> str:
    """Return the escaped text for a `Label` field.

    Raises:
        AuditError: the escaped text is longer than a label may be.
    """
    label = escaped(text)
    if len(label) > LABEL_LENGTH:
        raise AuditError(
            "A text for the audit log is too long.",
            expected=f"at most {LABEL_LENGTH} characters once escaped to ASCII",
            found=f"{len(label)} characters",
            next_step="Give a short name or reason.",
        )
    return label


class Part(BaseModel):
    """A closed piece of an audit record: unknown keys and other types are refused, errors do not repeat values."""

    model_config = ConfigDict(
        extra="forbid",
        strict=True,
        frozen=True,
        use_attribute_docstrings=True,
        hide_input_in_errors=True,
        serialize_by_alias=True,
    )


class PolicyReference(Part):
    """The policy in force."""

    name: Label
    version: Label
    digest: Digest
    """Digest of the effective document."""


class ModelReference(Part):
    """The wrapped model."""

    name: Label
    """The name that the model was loaded from, for people; it may be empty."""
    architecture: Identifier
    dtype: Identifier


class ArtifactPin(Part):
    """One artifact that the plan uses, down to its bytes."""

    ref: Identifier
    """`<family>/<variant>@<version>`."""
    digest: Digest


class RecordedThreshold(Part):
    """One bound that a score was compared with."""

    rule: Identifier
    bound: Literal["at_least", "below"]
    """`at_least` holds when score >= value, `below` when score < value."""
    value: Number
    fpr: Number | None
    """The false-positive rate that the policy asked for; null when it gave the value itself."""
    place: ConditionPlace | None = None
    """Where the comparison stands in the rule's condition, `any.1.not`; null for a rule of one comparison."""


class RecordedReading(Part):
    """One number that a detector or gate read, with everything that it was compared with."""

    source: Source
    score: Number | None
    """Null when the score was not finite."""
    thresholds: tuple[RecordedThreshold, ...]
    token: Count | None = None
    """Generated tokens that the model had read by then; null for what was read at the prompt."""
    tolerance: Number | None = None
    """Score tolerance: how far the score may be off; null in records of versions that compared scores as they are."""
    near: bool = False
    """Whether the score lies within its tolerance of a threshold, so that the stricter verdict was taken."""


class RecordedDose(Part):
    """What one guidance step did to one row; equal position counts show that it fired where the plan says."""

    step: Identifier
    method: Identifier
    open_blocks: tuple[Count, ...]
    coefficient: Number
    positions: Count
    expected_positions: Count


class RecordedSearch(Part):
    """What a search did for one row; counts and costs, never candidates."""

    step: Identifier
    method: Identifier
    outcome: SearchOutcome
    cost: Number | None
    """What the returned answer costs; null where nothing was found."""
    cost_budget: Number
    cost_budget_fpr: Number | None
    plain_cost: Number | None
    """What the answer without a search costs; null where none was written, or nothing of it could be judged."""
    kept_tokens: Count
    candidates: Count
    candidates_drawn: Count
    retries: Count
    halvings: Count
    forward_tokens: Count
    late_ms: Count


class RecordedUsage(Part):
    """Forward tokens of one row or one request, padding not counted."""

    prompt_tokens: Count
    generated_tokens: Count
    extra_forward_tokens: Count
    cached_tokens: Count = 0
    """Prompt tokens whose states came from an earlier turn; 0 in records of versions that did not say."""


class RecordedBudget(Part):
    """How the row stood against the policy's budget."""

    outcome: BudgetOutcome
    max_extra_forward_tokens: Count | None


class SealedContent(Part):
    """Where the encrypted prompt and answer of a row lie in the side store of their segment."""

    file: FileName
    slot: Count
    """Position among the sealed rows of that file, from 0."""
    bytes: Count
    """Size of the ciphertext."""
    digest: Digest
    """Over the ciphertext, which stays when the key of the slot is destroyed."""
    key: KeyId
    """Id of the key that the key of the slot is wrapped with."""


class RecordedContent(Part):
    """Keyed hashes and sizes of what went in and what came out; never the text."""

    form: Literal["tokens", "text"]
    """What was hashed: the token ids (see `keys.token_bytes`) or the UTF-8 text."""
    prompt: ContentTag | None = Field(alias="in")
    answer: ContentTag | None = Field(alias="out")
    in_chars: Count | None
    out_chars: Count | None
    in_tokens: Count | None
    out_tokens: Count | None
    sealed: SealedContent | None = None
    """Set where the content mode is `encrypted`; then there are no tags."""


class RecordedActions(Part):
    """How many rows of a request ended in which action."""

    allow: Count
    annotate: Count
    guide: Count
    refuse: Count


class RecordedError(Part):
    """An error by its class name; messages of foreign errors can quote a prompt, so none is recorded."""

    code: Identifier
    stage: Stage

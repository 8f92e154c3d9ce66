"""Whatever stands in a trust policy, it is read or refused with the documented error."""

from __future__ import annotations

import os
import random

from tests.signed_artifacts import HUB, NOW, trust_text

from steerguard.errors import TrustPolicyError
from steerguard.trust.document import TrustPolicy
from steerguard.trust.load import parse_trust

INPUTS = int(os.environ.get("STEERGUARD_PARSER_INPUTS", "2000"))
BASE = trust_text(
    registries=[HUB, "file:///srv/*"],
    signed=[HUB],
    require="{signatures: 1, vetting_level: 2, other_vetter: true}",
    extra="unsigned_local: {action: allow, reason: built here for tests, expires: 2026-12-31}\n"
    'revocation: {max_age: 7d, on_stale: refuse, check_every: 10m}\nrevoked_keys: ["ed25519-0123456789abcdef"]\n',
)
PIECES = (
    "", "null", "~", "[]", "{}", "[[]]", "{a: 1}", "0", "-1", "1e400", ".inf", ".nan", "true", "1" * 400, "2026-02-30",
    '"\\ud800"', "'", '"', ":", "- ", "&a", "*a", "!!python/object", "<<: {}", "\t", "\0", "\u2028", "hf://*", "file:///[",
    "strict", "loosened", "allow", "{action: allow}", "{action: refuse, reason: 1, expires: 2}", "999999d", "0s", "%", "?",
)  # fmt: skip


def mutated(chosen: random.Random) -> str:
    text = BASE
    for _ in range(chosen.randint(1, 3)):
        start = chosen.randrange(len(text) + 1)
        kind = chosen.randrange(5)
        if kind == 0:
            end = min(len(text), start + chosen.randint(1, 30))
            text = text[:start] + text[end:]
        elif kind == 1:
            text = text[:start] + chosen.choice(PIECES) + text[start:]
        elif kind == 2:
            words = text.split(" ")
            words[chosen.randrange(len(words))] = chosen.choice(PIECES)
            text = " ".join(words)
        elif kind == 3:
            lines = text.split("\n")
            lines.insert(chosen.randrange(len(lines)), chosen.choice(lines))
            text = "\n".join(lines)
        else:
            end = min(len(text), start + 1)
            text = text[:start] + chr(chosen.choice((chosen.randrange(128), chosen.randrange(0xD800)))) + text[end:]
    return text


def test_only_the_documented_error_is_raised():
    chosen = random.Random(6)
    read = refused = 0
    for number in range(INPUTS):
        text = mutated(chosen)
        file = "trust.json" if number % 10 == 0 else "trust.yaml"
        try:
            policy = parse_trust(text, file=file, today=NOW.date())
        except TrustPolicyError:
            refused += 1
        else:
            assert isinstance(policy, TrustPolicy)
            read += 1
    assert read
    assert refused > read

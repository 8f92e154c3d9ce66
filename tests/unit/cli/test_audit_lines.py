from __future__ import annotations

import pytest
from hypothesis import given
from hypothesis import strategies as st
from tests.audit_events import BODIES, LOG, SAMPLES, bodies, refusal
from tests.chained_logs import record

from steerguard.audit.records.chain import canonical_line
from steerguard.cli.audit_lines import json_line, one_line
from steerguard.cli.visible import visible

SAID = {
    "log.open": "steerguard 0.1.0, Python 3.11.9, process 4711, content none, durability interval",
    "log.close": "",
    "log.recovered": "log 20261122T071532Z-7809bc8c2669ad56 ended without closing; 0 torn bytes were set aside; recovered by ",
    "log.rotate": "segment 1, after 3 records",
    "log.prune": "records 0 to 4095 of log 20261121T071532Z-0123456789abcdef, from 2026-11-22 to 2026-11-22, older than 400 days",
    "log.hold": "legal hold held: court order",
    "log.key_rotate": "content key 66687aad → 0a1b2c3d",
    "checkpoint": "1000 records signed by 0a1b2c3d, 1 copies",
    "content.erased": "request 01KAN5C3 in log 20261121T071532Z-0123456789abcdef, rows erased: 2, because: asked for by the data",
    "policy.load": "harmlessness 1.0.0 (aaaaaaaaaaaa), plan bbbbbbbbbbbb, mode enforce, on smollm2, bfloat16 with inferaligner/",
    "policy.swap": "harmlessness 1.0.0 (aaaaaaaaaaaa) → harmlessness 1.0.0 (aaaaaaaaaaaa), plan bbbbbbbbbbbb, mode enforce",
    "policy.reject": "a document that could not be read: PolicyValidationError; harmlessness 1.0.0 (aaaaaaaaaaaa) stays",
    "artifact.load": "inferaligner/smollm2@1.0.0 (aaaaaaaaaaaa), steering_vectors, ed25519-0123456789abcdef, vetting level 2",
    "artifact.verify_failed": "inferaligner/smollm2@1.0.0 (aaaaaaaaaaaa): ArtifactIntegrityError",
    "artifact.revoked": "inferaligner/smollm2@1.0.0 (aaaaaaaaaaaa): revoked, unsafe, action refuse, said by hf://acme",
    "guard.decision": "01KAN5C3T4W8E0V8Q3M1XK9A7B row 0: guide → guide, rule by guide_suspected_harm; harmful_intent 1.812",
    "guard.request": "01KAN5C3T4W8E0V8Q3M1XK9A7B: generate, 1 rows (1 guide), 0 extra forward tokens, 1532.2 ms",
    "budget.exceeded": "max_extra_forward_tokens of 01KAN5C3 row 0: 4100 of 4096, then refuse",
    "guard.bypass": "unguided: scoring",
    "guard.error": "NonFiniteHiddenStateError in detect of 01KAN5C3 row 0, then refuse",
}


@pytest.mark.parametrize("kind", sorted(SAMPLES))
def test_every_type_says_what_happened(kind):
    line = one_line(record(SAMPLES[kind], seq=7), fits=True)
    head = f"2026-11-22T07:15:07.000000Z  {LOG}/7  {kind}"
    assert line.startswith(f"{head}  {SAID[kind]}" if SAID[kind] else head)


@given(bodies(body.event_type for body in BODIES))
def test_every_valid_record_has_a_line_that_prints(body):
    line = one_line({**record(body), "tenant": "acme"}, fits=True)
    assert line.isprintable()
    assert line.endswith("tenant acme")


@given(st.text())
def test_nothing_that_does_not_print_is_left(text):
    assert visible(text).isprintable()
    assert not text.isprintable() or visible(text) == text


def test_a_record_that_does_not_fit_is_shown_as_it_is_and_cut():
    odd = {**record(refusal()), "cause": "\x1b[2J" + "x" * 1000}
    line = one_line(odd, fits=False)
    assert line.isprintable()
    assert "(does not fit the schema) {" in line
    assert line.endswith("…")
    assert one_line({}, fits=False) == "None  None/None  None  (does not fit the schema) {}"


@given(bodies(body.event_type for body in BODIES))
def test_a_sound_line_comes_out_as_it_stands_in_the_log(body):
    found = record(body)
    assert json_line(found).encode() == canonical_line(found)

from __future__ import annotations

import pytest
from tests.audit_events import KEY_ID, LOG, OTHER_LOG, decision, sealed_content, sized_content, tagged_content
from tests.audit_lines import line_of

from steerguard.audit.privacy.content_rule import ContentRule
from steerguard.errors import AuditError

OTHER_KEY = "0a1b2c3d"
TAGGED = ContentRule(mode="hmac", key_id=KEY_ID)
SEALED = ContentRule(mode="encrypted", key_id=KEY_ID)
NOTHING = ContentRule(mode="none")


def written(rule, content):
    return line_of(decision(content=content), rule)["content"]


@pytest.mark.parametrize("rule", [NOTHING, TAGGED, SEALED])
def test_sizes_alone_are_admitted_in_every_mode(rule):
    assert written(rule, sized_content())["in_tokens"] == 57


def test_each_mode_admits_its_own_content():
    assert written(TAGGED, tagged_content())["in"].startswith(f"hmac:{KEY_ID}:")
    assert written(SEALED, sealed_content())["sealed"]["file"] == f"{LOG}.000000.sealed"
    assert written(ContentRule(mode="encrypted"), sealed_content(key=OTHER_KEY))["sealed"]["key"] == OTHER_KEY


@pytest.mark.parametrize(
    ("rule", "content", "place"),
    [
        (NOTHING, tagged_content(), "content.in"),
        (NOTHING, sealed_content(), "content.sealed"),
        (TAGGED, tagged_content(OTHER_KEY), "content.in"),
        (TAGGED, sealed_content(), "content.sealed"),
        (SEALED, tagged_content(), "content.in"),
        (SEALED, sealed_content(key=OTHER_KEY), "content.sealed.key"),
        (SEALED, sealed_content(file=f"{OTHER_LOG}.000000.sealed"), "content.sealed.file"),
    ],
)
def test_content_of_another_mode_key_or_log_is_refused(rule, content, place):
    with pytest.raises(AuditError, match="must not hold") as caught:
        written(rule, content)
    assert caught.value.where == place


def test_a_tag_of_the_answer_alone_is_looked_at_too():
    content = tagged_content().model_copy(update={"prompt": None})
    with pytest.raises(AuditError) as caught:
        written(NOTHING, content)
    assert caught.value.where == "content.out"


def test_after_a_rotation_of_the_key_only_the_new_one_counts():
    rotated = ContentRule(mode="hmac", key_id=OTHER_KEY)
    assert written(rotated, tagged_content(OTHER_KEY))
    with pytest.raises(AuditError, match=r"content\.in"):
        written(rotated, tagged_content(KEY_ID))


@pytest.mark.parametrize(("mode", "key_id"), [("hmac", None), ("none", KEY_ID)])
def test_a_rule_whose_key_does_not_fit_its_mode_is_refused(mode, key_id):
    with pytest.raises(AuditError, match="does not fit its content mode"):
        ContentRule(mode=mode, key_id=key_id)

"""The report: the same figures as JSON and as a page that loads nothing and takes no value for markup."""

from __future__ import annotations

import copy
import itertools
import json
import re

import pytest
from tests import audit_days as days
from tests.html_page import Page

from steerguard.audit.evidence.layout import logs_in
from steerguard.audit.reading.selection import Selection
from steerguard.audit.records.events import ArtifactLoad, GuardBypass, LogHold, PolicyLoad, PolicyReject
from steerguard.audit.reporting.figures import MAX_SOURCES, MAX_THRESHOLDS, Figures
from steerguard.audit.reporting.report import page_of, report_on
from steerguard.audit.verify import Pins, verify_path

GENERATED = "2026-11-23T02:00:00.000000Z"
MARKUP = "<script>alert(1)</script><img src=x onerror=alert(1)>&amp;\"'`"


def figures_of(directory, *, pins=None, selection=None, framework=None):
    figures = Figures(selection)
    checked = verify_path(directory, Pins() if pins is None else pins, on_record=figures.add)
    return report_on(checked, figures, generated=GENERATED, framework=framework)


@pytest.fixture(scope="module")
def week(tmp_path_factory):
    directory = tmp_path_factory.mktemp("week")
    days.write_days(directory, days=7, requests=20)
    return directory


@pytest.fixture(scope="module")
def document(week):
    return figures_of(week, pins=Pins(keys=(days.KEY,)))


@pytest.fixture
def day(tmp_path):
    return days.Day(tmp_path, days.START)


def test_every_figure_is_one_of_the_records(week, document):
    lines = [
        json.loads(line)
        for files in logs_in(week)
        for _, path in files.segments
        for line in path.read_bytes().splitlines()
    ]
    decisions = [line for line in lines if line["type"] == "guard.decision"]
    totals = document["totals"]
    assert totals["records"] == len(lines)
    assert totals["decisions"] == len(decisions) > 50
    for action in ("allow", "guide", "refuse"):
        count = sum(line["applied"] == action for line in decisions)
        assert count > 0
        assert totals["applied"][action] == count
        assert sum(span["applied"][action] for span in document["volume"]["spans"]) == count
    (scores,) = document["scores"]
    assert sum(one["count"] for one in scores["bins"]) == len(decisions)
    assert {(one["rule"], one["value"]) for one in scores["thresholds"]} == {
        ("refuse_clear_harm", "5.25"),
        ("guide_suspected_harm", "1.25"),
        ("guide_suspected_harm", "5.25"),
    }
    requests = [line for line in lines if line["type"] == "guard.request"]
    share = sum(line["guard_us"] for line in requests) / sum(line["duration_us"] for line in requests)
    assert document["overhead"]["guard_share_of_duration"] == pytest.approx(share)
    loads = [line for line in lines if line["type"] == "policy.load"]
    (load,) = [row for row in document["changes"]["entries"] if row["kind"] == "policy.load"]
    assert (load["times"], load["first"], load["last"]) == (len(loads), loads[0]["t"], loads[-1]["t"])


def test_the_gap_between_checkpoints_is_the_largest_of_all_logs(week, document):
    widest = 0
    for files in logs_in(week):
        lines = [json.loads(line) for _, path in files.segments for line in path.read_bytes().splitlines()]
        covered = [0, *(line["size"] for line in lines if line["type"] == "checkpoint"), len(lines) - 1]
        widest = max(widest, *(after - before for before, after in itertools.pairwise(covered)))
    # The record that names a checkpoint may be open beside those that the next one covers.
    assert widest <= document["cadence"]["most_open_records"] <= widest + 1
    assert document["cadence"]["fewest_copies"] == 1


def test_a_period_selects_what_counts_and_everything_is_verified(week, document):
    selection = Selection(since="2026-03-03T00:00:00.000000Z", until="2026-03-05T00:00:00.000000Z")
    part = figures_of(week, selection=selection)
    assert part["totals"]["first_t"][:10] == "2026-03-03"
    assert part["totals"]["last_t"][:10] == "2026-03-04"
    assert 0 < part["totals"]["records"] < document["totals"]["records"]
    assert sum(log["records"] for log in part["verification"]["logs"]) == document["totals"]["records"]
    assert part["cadence"] == document["cadence"]
    assert "Asked for: from 2026-03-03 00:00 before 2026-03-05 00:00" in Page(page_of(part)).text()


def test_the_page_is_sound_and_loads_nothing(document):
    html = page_of(document)
    page = Page(html)
    assert page.faults == []
    assert len(set(page.ids)) == len(page.ids)
    assert [one for one in page.references if not one.startswith("#")] == []
    assert {one.removeprefix("#") for one in page.references} <= set(page.ids)
    assert not {"script", "img", "iframe", "object", "link", "form"} & {tag for tag, _ in page.elements}
    assert not [name for _, name, _ in page.attributes if name.startswith("on") or name == "style"]
    (policy,) = [a["content"] for tag, a in page.elements if tag == "meta" and a.get("http-equiv")]
    assert re.fullmatch(r"default-src 'none'; style-src 'sha256-[^']+'; base-uri 'none'; form-action 'none'", policy)
    assert "@import" not in html
    assert "url(" not in html


def test_the_page_can_be_read_without_eyes_and_without_a_mouse(document):
    page = Page(page_of(document))
    assert page.headings[0] == 1
    assert page.headings.count(1) == 1
    assert all(later <= before + 1 for before, later in zip(page.headings, page.headings[1:], strict=False))
    tags = [tag for tag, _ in page.elements]
    assert tags.count("caption") == tags.count("table") > 10
    boxes = [given for tag, given in page.elements if tag == "div" and given.get("role") == "region"]
    assert len(boxes) == tags.count("table")
    assert all(given["tabindex"] == "0" and given["aria-label"] for given in boxes)
    charts = [given for tag, given in page.elements if tag == "svg"]
    assert len(charts) == 2
    assert all(given["role"] == "img" and given["aria-label"] for given in charts)
    assert all(given.get("scope") in {"row", "col"} for tag, given in page.elements if tag == "th")


def test_equal_documents_give_equal_pages(document):
    assert page_of(document) == page_of(copy.deepcopy(json.loads(json.dumps(document))))


def test_the_page_has_the_figures_of_the_document(document):
    text = Page(page_of(document)).text()
    refused = document["totals"]["refused"]
    assert f"{refused['share'] * 100:.2f}\u00a0%" in text or f"{refused['share'] * 100:.2f} %" in text
    assert f"{document['totals']['decisions']:,}" in text
    assert "helps you meet" in text
    assert "compliant" not in text.lower()


def evil_day(day):
    policy = days.policy(0, MARKUP)
    day.record(1, PolicyLoad(policy=policy, plan=policy.digest, mode="enforce", model=days.MODEL.model_copy(update={"name": MARKUP}), artifacts=days.ARTIFACTS))  # fmt: skip
    day.record(2, GuardBypass(req=None, kind="unguided", reason=MARKUP, expires=None, policy=policy, plan=None))
    day.record(3, LogHold(state="held", reason=MARKUP))
    day.record(4, days.decided("r", 2.5, policy=policy, model=days.MODEL.model_copy(update={"name": MARKUP})))
    day.close(5)


def test_markup_in_a_record_is_shown_as_text(tmp_path, day):
    evil_day(day)
    page = Page(page_of(figures_of(tmp_path)))
    assert page.faults == []
    assert not {"script", "img"} & {tag for tag, _ in page.elements}
    assert page.text().count("<script>alert(1)</script><img src=x onerror=alert(1)>") >= 4


def test_a_record_that_verifies_and_fits_no_schema_is_left_out_and_said(tmp_path, day):
    hostile = {"type": "guard.decision", "req": "\x1b[2J<b>\u202e", "applied": MARKUP}
    day.record(1, hostile)
    day.record(2, {"type": "<script>", "what": MARKUP})
    day.record(3, days.decided("r", 2.5))
    day.close(4)
    document = figures_of(tmp_path)
    assert document["totals"]["decisions"] == 1
    assert document["verification"]["misfits"] == 2
    assert document["verification"]["status"] == "broken"
    html = page_of(document)
    assert "2 records that verified did not fit" in Page(html).text()
    assert not re.search("[\x00-\x08\x0b-\x1f\x7f\u202e]", html)


def test_hidden_characters_in_file_names_and_warnings_are_written_out(document):
    changed = copy.deepcopy(document)
    changed["verification"]["logs"][0]["warnings"] = ["odd \x1b[2J \u202e text\x00"]
    assert "odd \\x1b[2J \\u202e text\\x00" in Page(page_of(changed)).text()


def test_times_and_numbers_that_are_none_are_no_accident(tmp_path, day):
    record = days.decided("r", 2.5)
    reading = record.readings[0]
    odd = reading.model_copy(update={"score": "1e999"})
    day.record(1, record.model_copy(update={"readings": (odd,)}))
    far = reading.model_copy(update={"score": "1.7e308"})
    near = reading.model_copy(update={"score": "-1.7e308"})
    day.record(2, record.model_copy(update={"readings": (far,)}))
    day.record(3, record.model_copy(update={"readings": (near,)}))
    day.close(5)
    document = figures_of(tmp_path)
    assert document["scores"][0]["not_finite"] == 1
    assert not re.search(r"\b(nan|inf)\b", page_of(document).lower())
    figures = Figures()
    line = json.loads(day.lines[1])
    figures.add({**line, "t": "2026-19-39T29:00:00.000000Z"})
    assert figures.document()["undated"] == 1


def test_a_broken_log_is_said_at_the_top_and_only_what_verified_counts(tmp_path, day):
    for number in range(20):
        day.record(number + 1, days.decided(f"r{number}", 2.5))
    day.close(50)
    (files,) = logs_in(tmp_path)
    path = files.segments[0][1]
    path.chmod(0o600)
    content = path.read_bytes().replace(b'"req":"r10"', b'"req":"r77"')
    path.write_bytes(content)
    document = figures_of(tmp_path)
    assert document["verification"]["status"] == "broken"
    assert document["totals"]["decisions"] == 10
    html = page_of(document)
    text = Page(html).text()
    assert "The logs do not verify." in text
    assert f"record {document['verification']['logs'][0]['first_bad']['seq']}" in text
    assert html.index("The logs do not verify") < html.index("<h2")


def test_a_missing_log_is_named(tmp_path):
    days.write_days(tmp_path, days=3, requests=3)
    gone = logs_in(tmp_path)[1]
    for path in gone.paths:
        path.unlink()
    document = figures_of(tmp_path)
    assert document["verification"]["status"] == "broken"
    assert f"Log {gone.log} is missing" in Page(page_of(document)).text()


def test_without_pins_the_page_says_what_that_means(week):
    text = Page(page_of(figures_of(week))).text()
    assert "No key and no checkpoint was pinned" in text


def test_an_empty_log_gives_a_page_that_says_so(tmp_path, day):
    day.close(1)
    page = Page(page_of(figures_of(tmp_path)))
    assert page.faults == []
    for words in ("There are no decisions in this period", "No score was read", "Nothing passed without guidance"):
        assert words in page.text()
    assert not [tag for tag, _ in page.elements if tag == "svg"]


def test_a_framework_shows_its_table_alone(week):
    document = figures_of(week, framework="gdpr")
    assert [entry["framework"] for entry in document["frameworks"]["tables"]] == ["gdpr"]
    text = Page(page_of(document)).text()
    assert "Art. 17" in text
    assert "CC7.2" not in text


def test_announcements_of_streams_are_counted_apart(tmp_path, day):
    whole = days.decided("r", 2.5)
    early = whole.model_copy(update={"content": whole.content.model_copy(update={"out_tokens": None})})
    day.record(1, early)
    day.record(2, whole)
    day.close(3)
    document = figures_of(tmp_path)
    assert (document["totals"]["announced"], document["totals"]["decisions"]) == (1, 1)
    assert sum(span["applied"]["guide"] for span in document["volume"]["spans"]) == 1


def test_memory_is_bounded_in_readers_thresholds_and_happenings():
    figures = Figures()
    record = {"log": "l", "seq": 0, "mono": 0, "v": 1, "prev": "0" * 64, "t": "2026-03-01T08:00:00.000000Z"}
    base = days.decided("r", 2.5).model_dump(mode="json", by_alias=True)
    log = "20260301T080000Z-0123456789abcdef"
    for number in range(MAX_SOURCES + 10):
        reading = {**base["readings"][0], "source": f"detector_{number}"}
        thresholds = [{**reading["thresholds"][0], "value": f"{place}.5"} for place in range(MAX_THRESHOLDS + 3)]
        figures.add(
            {
                **record,
                **base,
                "log": log,
                "type": "guard.decision",
                "readings": [{**reading, "thresholds": thresholds}],
            }
        )
    assert figures.totals.misfits == 0
    assert len(figures.scores) == MAX_SOURCES
    for one in figures.document()["scores"]:
        assert len(one["thresholds"]) == MAX_THRESHOLDS
        assert one["more_thresholds"]


def test_changes_name_signer_level_and_what_was_refused(tmp_path, day):
    load = ArtifactLoad(artifact=days.PROBE, artifact_type="probe", fingerprint_distance=None, fingerprint_limit=None, signed_by=("ed25519-0123456789abcdef",), vetting_level=3)  # fmt: skip
    day.record(1, load)
    day.record(2, load.model_copy(update={"signed_by": (), "vetting_level": None}))
    day.record(3, PolicyReject(scope="guard", code="LooserPolicyError", rejected=None, policy=days.policy(), plan=None))
    day.close(4)
    words = [row["what"] for row in figures_of(tmp_path)["changes"]["entries"]]
    assert any("ed25519-0123456789abcdef, vetting level 3" in text for text in words)
    assert any("no signature asked for, not vetted" in text for text in words)
    assert any("could not be read: LooserPolicyError; harmlessness 1.0.0" in text for text in words)

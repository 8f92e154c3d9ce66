from __future__ import annotations

import base64
import hashlib
import itertools
import json
import os
import re
import subprocess
import sys
from pathlib import Path

import pytest
from tests.html_page import Page
from tests.report_examples import DETECTOR, evaluation_of, example, one_sample, policy_run, prompt_set

import steerguard
from steerguard.errors import SteerguardError
from steerguard.evaluate.report import render_report
from steerguard.evaluate.report_tables import per_cent
from steerguard.evaluate.result import UNGUIDED, EvaluatedRun

NONE = "\u2013"


@pytest.fixture(scope="module")
def evaluation():
    return example(unrecognised=0.2)


@pytest.fixture(scope="module")
def html(evaluation):
    return render_report(*evaluation)


@pytest.fixture(scope="module")
def page(html):
    return Page(html)


def test_every_element_is_closed_and_every_id_is_unique(page):
    assert page.faults == []
    assert len(page.ids) == len(set(page.ids))


def test_every_reference_stays_in_the_page(page):
    assert page.references
    assert all(value.startswith("#") and value[1:] in page.ids for value in page.references)
    for _, name, value in page.attributes:
        if name in {"aria-labelledby", "aria-describedby"}:
            assert set(value.split()) <= set(page.ids)
        if "url(" in (value or ""):
            assert re.fullmatch(r"url\(#([^)]+)\)", value).group(1) in page.ids


def test_nothing_names_another_host(page, html):
    style, script = page.blocks["style", None], page.blocks["script", None]
    assert "@import" not in style
    assert "url(" not in style
    assert not re.search(r"https?:|//[a-z]", html.replace(script, "").replace(style, ""))
    assert not re.search(r"fetch|XMLHttpRequest|WebSocket|import\(|https?:|eval\(|innerHTML|Function\(", script)


def test_the_security_policy_allows_the_two_inline_blocks_by_hash_and_nothing_else(page):
    policy = next(given["content"] for tag, given in page.elements if given.get("http-equiv"))
    parts = dict(part.strip().split(" ", 1) for part in policy.split(";"))
    assert parts.pop("default-src") == parts.pop("base-uri") == parts.pop("form-action") == "'none'"
    for kind in ("style", "script"):
        content = page.blocks[kind, None].encode()
        expected = base64.b64encode(hashlib.sha256(content).digest()).decode()
        assert parts.pop(f"{kind}-src") == f"'sha256-{expected}'"
    assert parts == {}


def test_no_attribute_holds_style_or_script(page):
    assert not [name for _, name, _ in page.attributes if name == "style" or name.startswith("on")]


def test_every_figure_of_the_document_stands_in_the_table_of_figures(page, evaluation):
    cells = [row for table in page.tables for row in table]
    for figure in evaluation[0].figures:
        shown = [figure.value, figure.low or NONE, figure.high or NONE]
        counts = [NONE if figure.count is None else str(figure.count), str(figure.n)]
        assert any(
            row[:2] == [figure.set, figure.run] and row[2].endswith(figure.measure) and row[3:8] == shown + counts
            for row in cells
        ), figure


def test_the_summary_has_each_set_with_its_main_measure_and_interval_for_each_run(page, evaluation):
    summary = page.tables[0]
    assert summary[0] == ["Measure", UNGUIDED, "harmlessness", "refuse-only"]
    refusals = [row for row in summary if row[0].startswith("strict refusal ")]
    assert len(refusals) == 4
    for row, part in zip(refusals, evaluation[0].sets, strict=True):
        better = "higher" if part.expect == "refuse" else "lower"
        assert f"({better} is better)" in row[0]
        for cell, run in zip(row[1:], evaluation[0].runs, strict=True):
            figure = next(
                one
                for one in evaluation[0].figures
                if (one.set, one.run, one.measure) == (part.name, run.name, "strict_refusal")
            )
            assert cell == (
                f"{per_cent(figure.value)} % [{per_cent(figure.low)} to {per_cent(figure.high)}] "
                f"{figure.count} of {figure.n}"
            )


def test_the_report_tells_models_policies_sets_settings_and_their_digests(page, evaluation):
    document, text = evaluation[0], page.text()
    for run in document.runs[1:]:
        assert run.policy_digest in text
        assert run.plan_digest in text
    for part in document.sets:
        assert part.sha256 in text
    assert document.model.tokenizer_sha256 in text
    assert document.settings.judge in text


def test_unrecognised_prompts_are_counted_apart(page, evaluation):
    values = next(scores.values for scores in evaluation[0].scores if scores.set == "harmful-heldout")
    unread = values.count(None)
    assert unread > 0
    table = next(table for table in page.tables if table[0][0] == "Set" and "Not recognised" in table[0])
    assert table[1][:4] == ["harmful-heldout", "refused", str(len(values) - unread), str(unread)]


def test_the_auroc_of_each_pair_stands_beside_its_curve(page, evaluation):
    tables = [table for table in page.tables if table[0][0] == "Benign set"]
    assert len(tables) == 2
    shown = {row[0].strip(): row[1] for row in tables[0][1:]}
    for benign, value in shown.items():
        assert value == next(
            figure.value
            for figure in evaluation[0].figures
            if (figure.set, figure.measure) == (f"harmful-heldout against {benign}", f"auroc.{DETECTOR}")
        )


def test_policies_that_read_the_same_scores_share_one_section(page):
    assert page.text().count("as read by harmlessness, refuse-only") == 1


def test_headings_go_down_one_level_at_a_time_and_every_table_cell_has_a_header(page):
    assert page.headings[0] == 1
    assert page.headings.count(1) == 1
    assert all(below - above <= 1 for above, below in itertools.pairwise(page.headings))
    assert all(given.get("scope") for tag, given in page.elements if tag == "th")
    assert [tag for tag, _ in page.elements].count("caption") == len(page.tables)
    for tag, given in page.elements:
        if tag == "svg":
            assert given.get("aria-hidden") == "true" or given["role"] == "img"


def test_equal_input_gives_equal_bytes_whatever_the_order_of_rows_and_the_users_plot_settings(evaluation, html):
    import matplotlib as mpl

    document, rows = evaluation
    with mpl.rc_context({"font.size": 31, "lines.linewidth": 9, "svg.hashsalt": None}):
        assert render_report(document, reversed(rows)) == html


@pytest.mark.parametrize("expect", ["refuse", "answer"])
def test_sets_of_one_kind_give_a_report_without_curves(expect):
    runs = [EvaluatedRun(name=UNGUIDED), policy_run("refuse-only", {"refuse": 1.0})]
    page = Page(render_report(*evaluation_of([prompt_set("only", expect, 5)], runs)))
    assert page.faults == []
    assert "ROC curves need" in page.text()


def test_the_unguided_run_alone_gives_a_report_without_scores():
    page = Page(render_report(*one_sample()))
    assert page.faults == []
    assert "only the unguided model was run" in page.text()
    assert "No policy: the model was run without guidance." in page.text()


def test_prompts_that_no_detector_read_give_no_drawing_of_scores():
    document, rows = example()
    unread = tuple(one.model_copy(update={"values": (None,) * len(one.values)}) for one in document.scores)
    page = Page(render_report(document.model_copy(update={"scores": unread}), rows))
    assert page.faults == []
    assert "No prompt was read." in page.text()


def test_one_score_only_is_drawn():
    sets = [prompt_set("bad", "refuse", 1), prompt_set("good", "answer", 1)]
    document, rows = evaluation_of(sets, [policy_run("refuse-only", {"refuse": 1.0})])
    assert Page(render_report(document, rows)).faults == []


def test_a_document_without_figures_scores_and_rows_is_a_page():
    document, _ = one_sample()
    page = Page(render_report(document.model_copy(update={"figures": (), "scores": ()}), []))
    assert page.faults == []
    assert "The report was made without rows." in page.text()


def test_a_measure_of_another_version_keeps_its_name_and_number():
    document, rows = one_sample()
    figure = document.figures[0].model_copy(update={"measure": "new_thing.part", "value": "17.25"})
    page = Page(render_report(document.model_copy(update={"figures": (figure,)}), rows))
    assert "new thing, part new_thing.part" in page.text()
    assert "17.25" in page.text()


@pytest.mark.parametrize("package", ["jinja2", "matplotlib"])
def test_a_missing_package_is_named_with_the_extra(package, monkeypatch):
    monkeypatch.setitem(sys.modules, package, None)
    with pytest.raises(SteerguardError, match=r"pip install 'steerguard\[eval\]'") as caught:
        render_report(*one_sample())
    assert package in caught.value.summary


def test_importing_the_report_loads_neither_jinja2_nor_matplotlib_nor_torch():
    code = "import sys, steerguard.evaluate.report; print(sorted({'jinja2', 'matplotlib', 'torch'} & set(sys.modules)))"
    environment = {**os.environ, "PYTHONPATH": str(Path(steerguard.__file__).parents[1])}
    done = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, check=True, env=environment)
    assert done.stdout.strip() == "[]"


def test_the_data_block_is_the_samples_in_the_order_of_the_sets(page, evaluation):
    data = json.loads(page.blocks["script", "application/json"])
    document, rows = evaluation
    assert [one["name"] for one in data["sets"]] == [one.name for one in document.sets]
    assert [sample[:2] for sample in data["samples"]] == [
        [number, index] for number, one in enumerate(document.sets) for index in range(one.n)
    ]
    assert data["samples"][0][2] == next(row.prompt for row in rows if row.index == 0)

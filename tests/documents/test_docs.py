"""What README and docs say about files, commands, errors and names is true."""

from __future__ import annotations

import ast
import importlib
import inspect
import re
import shlex
from pathlib import Path

import pytest
import typer

import steerguard
from steerguard import errors
from steerguard.cli.main import GROUPS, application
from steerguard.methods.catalog import METHODS

ROOT = Path(__file__).parents[2]
DOCS = ROOT / "docs"
PAGES = sorted(
    [ROOT / "README.md", ROOT / "policies" / "README.md", ROOT / "registry" / "README.md", *DOCS.rglob("*.md")]
)
ERRORS = [
    name for name, value in vars(errors).items() if inspect.isclass(value) and value.__module__ == errors.__name__
]


def _name(page: Path) -> str:
    return str(page.relative_to(ROOT))


def _fences(page: Path) -> list[tuple[str, str]]:
    """Return (language, content) of every fenced block."""
    return re.findall(r"^```(\w*)\n(.*?)^```$", page.read_text(encoding="utf-8"), re.MULTILINE | re.DOTALL)


def _prose(page: Path) -> str:
    return re.sub(r"^```.*?^```$", "", page.read_text(encoding="utf-8"), flags=re.MULTILINE | re.DOTALL)


def _commands(page: Path, program: str) -> list[str]:
    """Return the command lines of a program: whole lines of fenced blocks, and code spans in the prose."""
    lines = [
        line.removeprefix("$ ")
        for language, content in _fences(page)
        if language in {"", "sh", "console"}
        for line in content.splitlines()
    ]
    found = [*lines, *re.findall(r"`([^`\n]+)`", _prose(page))]
    return [line for line in found if line.startswith(f"{program} ")]


def _headings(page: Path) -> list[str]:
    return re.findall(r"^#+ (.+)$", _prose(page), re.MULTILINE)


def _anchor(heading: str) -> str:
    return re.sub(r"[^\w\- ]", "", heading.lower()).replace(" ", "-")


LINKS = [
    pytest.param(page, target, id=f"{_name(page)}:{target}")
    for page in PAGES
    for target in dict.fromkeys(re.findall(r"\]\(([^)\s]+)\)", _prose(page)))
    if not re.match(r"[a-z]+:", target)
]
COMMANDS = [
    pytest.param(line, id=f"{_name(page)}:{line}")
    for page in PAGES
    for line in dict.fromkeys(_commands(page, "steerguard"))
]
SCRIPTS = [
    pytest.param(content, id=f"{_name(page)}:{index}")
    for page in PAGES
    for index, (language, content) in enumerate(_fences(page))
    if language == "python"
]


@pytest.mark.parametrize("name", ERRORS)
def test_every_error_has_a_section_with_symptom_cause_and_fix(name):
    sections = dict(
        re.findall(r"^###? (\w+)\n(.*?)(?=^##|\Z)", (DOCS / "errors.md").read_text("utf-8"), re.MULTILINE | re.DOTALL)
    )
    assert [word for word in ("Symptom", "Cause", "Fix") if f"**{word}.** " not in sections.get(name, "")] == []


def test_no_section_describes_an_error_that_does_not_exist():
    described = [heading for heading in _headings(DOCS / "errors.md") if re.fullmatch(r"\w+Error", heading)]
    assert sorted(set(described) - set(ERRORS)) == []


@pytest.mark.parametrize(("page", "target"), LINKS)
def test_relative_link_resolves(page, target):
    path, _, anchor = target.partition("#")
    file = (page.parent / path).resolve() if path else page
    assert file.exists()
    assert not anchor or anchor in {_anchor(heading) for heading in _headings(file)}


@pytest.mark.parametrize("line", COMMANDS)
def test_command_line_parses(line):
    """A command that is named with arguments parses with them; named alone it exists."""
    without_options = re.sub(r"\[[^]]*\]", "", line.partition(" #")[0])
    words = [word for word in shlex.split(without_options)[1:] if word != "…"]
    command = typer.main.get_command(application(list(GROUPS)))
    context = command.make_context("steerguard", [], resilient_parsing=True)
    while words and hasattr(command, "resolve_command"):
        name, command, words = command.resolve_command(context, words)
        assert command is not None
        context = command.make_context(name, [], parent=context, resilient_parsing=True)
    if words and words != ["--help"]:
        command.make_context(command.name, words, parent=context)


@pytest.mark.parametrize("page", PAGES, ids=_name)
def test_named_make_targets_exist(page):
    makefile = (ROOT / "Makefile").read_text(encoding="utf-8")
    targets = set(re.findall(r"^([a-z][\w-]*):", makefile, re.MULTILINE))
    named = {line.split()[1] for line in _commands(page, "make")}
    assert named - targets == set()


@pytest.mark.parametrize("page", [page for page in PAGES if page.parent.name != "adr"], ids=_name)
def test_named_source_files_exist(page):
    """Decisions are left out: they may name a file that was rejected or has gone since."""
    named = re.findall(r"`([\w/]+\.py)`", _prose(page))
    assert [
        name for name in named if not any((root / name).is_file() for root in (ROOT, ROOT / "sdk/steerguard"))
    ] == []


@pytest.mark.parametrize("script", SCRIPTS)
def test_python_block_compiles_and_uses_public_names(script):
    for node in ast.walk(ast.parse(script)):
        if isinstance(node, ast.Attribute) and isinstance(node.value, ast.Name) and node.value.id == "steerguard":
            assert node.attr in steerguard.__all__
        if isinstance(node, ast.ImportFrom) and node.module == "steerguard":
            assert {alias.name for alias in node.names} <= set(steerguard.__all__)
        elif isinstance(node, ast.ImportFrom) and (node.module or "").startswith("steerguard."):
            module = importlib.import_module(node.module or "")
            assert [alias.name for alias in node.names if not hasattr(module, alias.name)] == []


@pytest.mark.parametrize("method", METHODS, ids=lambda method: method.name)
def test_every_method_has_a_page_that_states_its_status_and_every_setting(method):
    text = (DOCS / method.page).read_text(encoding="utf-8")
    assert f"**Status: {method.status}.**" in text
    assert f"| [`{method.name}`](docs/{method.page}) |" in (ROOT / "README.md").read_text(encoding="utf-8")
    assert [field for field in method.spec.model_fields if field not in {"id", "method"} and field not in text] == []


def test_the_index_of_decisions_lists_every_decision():
    index = (DOCS / "adr" / "README.md").read_text(encoding="utf-8")
    files = sorted(path.name for path in (DOCS / "adr").glob("[0-9]*.md"))
    assert [name for name in files if f"({name})" not in index] == []

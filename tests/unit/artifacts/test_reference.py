from __future__ import annotations

import pytest

from steerguard.artifacts.reference import ArtifactReference, parse_reference
from steerguard.errors import ArtifactReferenceError


@pytest.mark.parametrize(
    ("text", "expected"),
    [
        ("inferaligner", ArtifactReference(backend="default", family="inferaligner")),
        ("inferaligner@^1", ArtifactReference(backend="default", family="inferaligner", range="^1")),
        ("harmful-intent/smollm2-135m@~1.2", ArtifactReference(backend="default", family="harmful-intent", variant="smollm2-135m", range="~1.2")),
        ("file:///srv/my%20registry#probe@*", ArtifactReference(backend="file", family="probe", location="/srv/my registry")),
        ("hf://acme/vectors@>=1,<2", ArtifactReference(backend="hf", family="vectors", range=">=1,<2", location="acme")),
        ("hf://Acme_2/vectors/tiny@^1", ArtifactReference(backend="hf", family="vectors", variant="tiny", range="^1", location="Acme_2")),
    ],
)  # fmt: skip
def test_each_form_is_parsed(text, expected):
    assert parse_reference(text) == expected
    assert parse_reference(str(expected)) == expected


@pytest.mark.parametrize(
    ("text", "registry"),
    [
        ("a@^1", "default"),
        ("file:///srv/my%20registry#a", "file:///srv/my%20registry"),
        ("hf://acme/a/b@^1", "hf://acme"),
    ],
)
def test_a_reference_names_its_registry(text, registry):
    assert parse_reference(text).registry == registry


@pytest.mark.parametrize(
    "text",
    ["", "@^1", "a@", "A@1.0.0", "a@1.0", "a@^", "a@>=1,", "a@latest", "a b", " a", "a/", "/a", "a/b/c", "..", "a..b", "../a", "a@^1@^2",
     "file://relative#a", "file:///x", "file:///x/../y#a", "hf://acme", "hf://../x", "hf://acme/", "hf://acme/Vectors",
     "hf://acme/a/b/c", "hf://a--b/x", "hf://acme@^1", "hf:///x", "https://x/y", "a" * 65, "a@01.0.0", "a\n"],
)  # fmt: skip
def test_anything_else_is_refused_and_the_forms_are_named(text):
    with pytest.raises(ArtifactReferenceError, match="expected"):
        parse_reference(text)


@pytest.mark.parametrize(
    ("range_", "inside", "outside"),
    [
        ("^1", ("1.0.0", "1.9.3"), ("0.9.9", "2.0.0")),
        ("^1.2", ("1.2.0", "1.10.0"), ("1.1.9", "2.0.0")),
        ("^0.3", ("0.3.0", "0.3.7"), ("0.2.9", "0.4.0", "1.0.0")),
        ("^0.0.3", ("0.0.3",), ("0.0.2", "0.0.4")),
        ("^0", ("0.0.0", "0.9.0"), ("1.0.0",)),
        ("~1", ("1.0.0", "1.5.0"), ("2.0.0",)),
        ("~1.2", ("1.2.0", "1.2.9"), ("1.3.0",)),
        ("~1.2.3", ("1.2.3", "1.2.4"), ("1.2.2", "1.3.0")),
        ("1.2.0", ("1.2.0",), ("1.2.1",)),
        (">=1,<2", ("1.0.0", "1.99.0"), ("0.9.0", "2.0.0")),
        (">1.0.0, !=1.5.0, <=2", ("1.0.1", "2.0.0"), ("1.0.0", "1.5.0", "2.0.1")),
        ("*", ("0.0.0", "9.9.9"), ()),
    ],
)
def test_a_range_admits_what_it_says(range_, inside, outside):
    reference = parse_reference(f"a@{range_}")
    assert all(reference.admits(version) for version in inside)
    assert not any(reference.admits(version) for version in outside)


@pytest.mark.parametrize("version", ["1", "1.0", "1.0.0-rc1", "v1.0.0", "1.0.0\n"])
def test_a_version_needs_three_numbers(version):
    with pytest.raises(ArtifactReferenceError, match="three numbers"):
        parse_reference("a@*").admits(version)

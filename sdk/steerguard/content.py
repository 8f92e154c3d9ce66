"""Where the package's own data files lie: the shipped policies and the embedded registry.

In an installed wheel they lie in `steerguard/_content/`.
In a checkout (also an editable install of one, or an unpacked sdist) they are the top-level folders `policies/` and
`registry/`, two levels above the package.
"""

from __future__ import annotations

from pathlib import Path

from steerguard.errors import ContentError

_PACKAGE = Path(__file__).resolve().parent


def policies_directory() -> Path:
    """Return the folder of the shipped policy documents.

    Raises:
        ContentError: neither the packaged folder nor a checkout's folder exists.
    """
    return find_content("policies", package=_PACKAGE)


def registry_directory() -> Path:
    """Return the root of the embedded artifact registry.

    Raises:
        ContentError: neither the packaged folder nor a checkout's folder exists.
    """
    return find_content("registry", package=_PACKAGE)


def shipped_recipes() -> dict[str, Path]:
    """Return the recipes that ship with the package: what `steerguard build` accepts as a name, to its file.

    Raises:
        ContentError: the registry folder cannot be found.
    """
    return {path.stem: path for path in sorted((registry_directory() / "recipes").glob("*.yaml"))}


def find_content(name: str, *, package: Path) -> Path:
    """Return the folder `name` that belongs to the package directory: packaged, else checkout.

    A checkout is recognised by its `pyproject.toml`, so that a stray folder of the same name beside an installed
    package is never taken for content.

    Args:
        name: `policies` or `registry`.
        package: directory of the `steerguard` package.

    Raises:
        ContentError: neither place has the folder.
    """
    packaged = package / "_content" / name
    if packaged.is_dir():
        return packaged
    checkout = package.parent.parent
    if (checkout / "pyproject.toml").is_file() and (checkout / name).is_dir():
        return checkout / name
    raise ContentError(
        f"The shipped folder {name!r} cannot be found.",
        expected=f"{packaged}, or {checkout / name} in a checkout (a folder with a pyproject.toml)",
        found="neither",
        next_step="Reinstall steerguard; a wheel built from its source tree holds this folder.",
    )

from __future__ import annotations

import pytest

from steerguard.content import find_content, policies_directory, registry_directory
from steerguard.errors import ContentError


def checkout(root):
    package = root / "sdk" / "steerguard"
    package.mkdir(parents=True)
    (root / "registry").mkdir()
    (root / "pyproject.toml").touch()
    return package


def test_a_checkout_s_own_folders_are_found():
    assert (policies_directory().parent / "pyproject.toml").is_file()
    assert (registry_directory() / "index.json").is_file()


def test_the_checkout_s_folder_is_two_levels_above_the_package(tmp_path):
    assert find_content("registry", package=checkout(tmp_path)) == tmp_path / "registry"


def test_the_packaged_folder_wins(tmp_path):
    package = checkout(tmp_path)
    packaged = package / "_content" / "registry"
    packaged.mkdir(parents=True)
    assert find_content("registry", package=package) == packaged


def test_a_stray_folder_beside_an_installed_package_is_not_content(tmp_path):
    package = checkout(tmp_path)
    (tmp_path / "pyproject.toml").unlink()
    with pytest.raises(ContentError, match="pyproject"):
        find_content("registry", package=package)


def test_missing_content_says_where_was_looked(tmp_path):
    with pytest.raises(ContentError) as caught:
        find_content("policies", package=checkout(tmp_path))
    assert str(tmp_path / "policies") in str(caught.value)
    assert str(tmp_path / "sdk" / "steerguard" / "_content" / "policies") in str(caught.value)

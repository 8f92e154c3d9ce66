"""Routes that change a repository or tell its history: preupload, commit, tags, branches, refs and the log."""

from __future__ import annotations

import sys
from typing import Any

from steerguard.testing.loopback_hub.history import (
    DEFAULT_BRANCH,
    Commit,
    History,
    check_parent,
    with_branch,
    with_commit,
    with_tag,
    without_branch,
    without_tag,
)
from steerguard.testing.loopback_hub.messages import Answer, Request, json_answer
from steerguard.testing.loopback_hub.refusals import bad_request, no_revision, not_signed_in
from steerguard.testing.loopback_hub.routes import API, Place, Route, Site, paged, route
from steerguard.testing.loopback_hub.uploads import (
    MAX_REGULAR_BYTES,
    apply_operations,
    check_path,
    is_large,
    parse_commit,
)


def preupload(site: Site, request: Request, place: Place) -> Answer:
    """How each file is to be uploaded, and the id of what is there now, so that equal files are left out."""
    history = site.writable(request, place).history
    _refuse_pull_request(request)
    commit = history.at(place.revision)
    files = []
    for asked in request.records("files"):
        path, size = check_path(asked.get("path")), asked.get("size")
        if not isinstance(size, int) or size < 0:
            raise bad_request(f"No size: {path}")
        there = commit.files.get(path)
        mode = "lfs" if site.large_files and is_large(path, size) else "regular"
        oid = there.etag if there and there.lfs == (mode == "lfs") else None
        files.append({"path": path, "uploadMode": mode, "shouldIgnore": False, "oid": oid})
    return json_answer({"files": files, "commitOid": commit.oid})


def commit(site: Site, request: Request, place: Place) -> Answer:
    """One commit: all operations or none, and only on the parent that the caller names."""
    repository = site.writable(request, place)
    _refuse_pull_request(request)
    asked = parse_commit(request.body)
    branch = place.revision.removeprefix("refs/heads/")
    user = request.user
    if user is None:
        raise not_signed_in()

    most = MAX_REGULAR_BYTES if site.large_files else sys.maxsize

    def step(history: History) -> History:
        if branch not in history.branches:
            raise no_revision(place.revision)
        before = history.at(branch)
        check_parent(asked.parent, before.oid)
        return with_commit(
            history,
            apply_operations(before.files, asked, site.repositories.blobs, before.oid, max_regular_bytes=most),
            branch=branch,
            title=asked.title,
            description=asked.description,
            author=user.name,
        )

    oid = repository.change(step).branches[branch]
    prefix = "datasets/" if place.repo_type == "dataset" else ""
    return json_answer(
        {
            "success": True,
            "commitOid": oid,
            "commitUrl": f"{site.endpoint}/{prefix}{place.repo}/commit/{oid}",
            "hookOutput": "",
        }
    )


def refs(site: Site, request: Request, place: Place) -> Answer:
    """Branches and tags with the commits that they name."""
    history = site.repository(request, place).history
    shown: dict[str, Any] = {
        "branches": [
            {"name": name, "ref": f"refs/heads/{name}", "targetCommit": site.shown(request, history, name).oid}
            for name in history.branches
        ],
        "converts": [],
        "tags": [
            {"name": name, "ref": f"refs/tags/{name}", "targetCommit": oid}
            for name, oid in sorted(history.tags.items())
        ],
    }
    if request.flag("include_prs"):
        shown["pullRequests"] = []
    return json_answer(shown)


def commits(site: Site, request: Request, place: Place) -> Answer:
    """The log of a revision, newest first."""
    history = site.repository(request, place).history
    log = history.log(site.shown(request, history, place.revision))
    return paged(site, request, [_log_entry(entry) for entry in log])


def add_tag(site: Site, request: Request, place: Place) -> Answer:
    """A new tag at a revision."""
    repository = site.writable(request, place)
    tag = request.json().get("tag")
    if not isinstance(tag, str):
        raise bad_request("No tag")
    repository.change(lambda history: with_tag(history, tag, place.revision))
    return json_answer({"tag": tag})


def delete_tag(site: Site, request: Request, place: Place) -> Answer:
    """A tag less."""
    site.writable(request, place).change(lambda history: without_tag(history, place.revision))
    return json_answer({})


def add_branch(site: Site, request: Request, place: Place) -> Answer:
    """A new branch at a revision, by default the newest commit."""
    repository = site.writable(request, place)
    start = request.json().get("startingPoint") if request.body else None
    repository.change(lambda history: with_branch(history, place.revision, start or DEFAULT_BRANCH))
    return json_answer({})


def delete_branch(site: Site, request: Request, place: Place) -> Answer:
    """A branch less."""
    site.writable(request, place).change(lambda history: without_branch(history, place.revision))
    return json_answer({})


def _refuse_pull_request(request: Request) -> None:
    if request.flag("create_pr"):
        raise bad_request("The loopback hub has no pull requests")


def _log_entry(entry: Commit) -> dict[str, Any]:
    rest = entry.message.removeprefix(entry.title).strip()
    return {
        "id": entry.oid,
        "authors": [{"user": entry.author}],
        "date": entry.date,
        "title": entry.title,
        "message": rest,
        "formatted": {"title": entry.title, "message": rest},
    }


ROUTES: tuple[Route, ...] = (
    route("POST", rf"{API}/preupload/(?P<revision>[^/]+)", preupload),
    route("POST", rf"{API}/commit/(?P<revision>[^/]+)", commit),
    route("GET", rf"{API}/refs", refs),
    route("GET", rf"{API}/commits/(?P<revision>[^/]+)", commits),
    route("POST", rf"{API}/tag/(?P<revision>[^/]+)", add_tag),
    route("DELETE", rf"{API}/tag/(?P<revision>[^/]+)", delete_tag),
    route("POST", rf"{API}/branch/(?P<revision>[^/]+)", add_branch),
    route("DELETE", rf"{API}/branch/(?P<revision>[^/]+)", delete_branch),
)

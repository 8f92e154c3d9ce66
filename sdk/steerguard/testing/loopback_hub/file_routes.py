"""Routes that show files: tree, paths-info, and resolve with ranges, entity tags and the redirect of large files."""

from __future__ import annotations

import hashlib
import hmac
import re
from collections.abc import Iterator, Sequence
from itertools import pairwise
from typing import Any
from urllib.parse import quote

from steerguard.testing.loopback_hub.history import Commit, History
from steerguard.testing.loopback_hub.messages import Answer, Request, json_answer
from steerguard.testing.loopback_hub.objects import StoredFile, folder_oids
from steerguard.testing.loopback_hub.refusals import Refusal, no_entry
from steerguard.testing.loopback_hub.routes import API, SITE, Place, Route, Site, paged, query_of, route

RANGE = re.compile(r"bytes=(\d*)-(\d*)")


def tree(site: Site, request: Request, place: Place) -> Answer:
    """Files and folders of a commit, or of one folder of it, by path."""
    history = site.repository(request, place).history
    commit = site.shown(request, history, place.revision)
    folder = place.parts.get("path", "").strip("/")
    inside = f"{folder}/" if folder else ""
    entries = list(_entries(history, commit, expand=request.flag("expand")))
    found = [entry for entry in entries if entry["path"].startswith(inside)]
    if folder and not found:
        raise no_entry(folder, commit.oid)
    if not request.flag("recursive"):
        found = [entry for entry in found if "/" not in entry["path"].removeprefix(inside)]
    return paged(site, request, found)


def paths_info(site: Site, request: Request, place: Place) -> Answer:
    """What the commit has under the paths asked for; missing ones are left out."""
    history = site.repository(request, place).history
    commit = site.shown(request, history, place.revision)
    form = (
        request.json()
        if "json" in request.headers.get("content-type", "")
        else query_of(request.body.decode(errors="replace"))
    )
    asked = form.get("paths", [])
    wanted = {str(path).strip("/") for path in ([asked] if isinstance(asked, str) else asked)}
    expand = str(form.get("expand", [""])).strip("[]'").lower() in {"true", "1"}
    return json_answer([entry for entry in _entries(history, commit, expand=expand) if entry["path"] in wanted])


def resolve(site: Site, request: Request, place: Place) -> Answer:
    """The bytes of a file, or where they are."""
    repository = site.readable(request, place)
    commit = site.shown(request, repository.history, place.revision)
    path = place.parts["path"]
    file = commit.files.get(path)
    if file is None or site.faults.take(request, "missing"):
        raise no_entry(path, commit.oid)
    if file.lfs and site.redirect:
        return _elsewhere(site, place, commit, file)
    return _content(site, request, file, commit)


def moved(site: Site, request: Request, place: Place) -> Answer:
    """The bytes of a large file at the address that `resolve` sent the client to; the ticket stands for the token."""
    repository = site.repositories.find(place.repo_type, place.repo)
    commit = repository.history.commits.get(place.revision) if repository else None
    file = commit.files.get(place.parts["path"]) if commit else None
    if file is None or commit is None or site.faults.take(request, "missing"):
        raise no_entry(place.parts["path"])
    if not hmac.compare_digest(request.one("ticket") or "", ticket(site, _address(place, commit, file))):
        raise Refusal(403, "The address is not valid any more")
    return _content(site, request, file, commit)


def ticket(site: Site, text: str) -> str:
    """What proves that the hub itself handed out an address: 64 hexadecimal digits."""
    return hmac.new(site.secret, text.encode(), hashlib.sha256).hexdigest()


def _elsewhere(site: Site, place: Place, commit: Commit, file: StoredFile) -> Answer:
    address = _address(place, commit, file)
    origin = site.endpoint.replace("127.0.0.1", "localhost")
    headers = {**_names(file, commit), "Location": f"{origin}{address}?ticket={ticket(site, address)}"}
    return Answer(302, b"", {**headers, "X-Linked-Size": str(file.size)})


def _address(place: Place, commit: Commit, file: StoredFile) -> str:
    return f"/loopback/objects/{place.repo_type}s/{place.repo}/{commit.oid}/{quote(file.path)}"


def _names(file: StoredFile, commit: Commit) -> dict[str, str]:
    names = {"X-Repo-Commit": commit.oid, "ETag": f'"{file.etag}"', "Accept-Ranges": "bytes"}
    return {**names, "X-Linked-Etag": f'"{file.etag}"'} if file.lfs else names


def _content(site: Site, request: Request, file: StoredFile, commit: Commit) -> Answer:
    content = site.faults.altered(request, site.repositories.blobs.read(file.sha256))
    headers = {**_names(file, commit), "Content-Type": "application/octet-stream"}
    if file.lfs:
        headers["X-Linked-Size"] = str(len(content))
    part = _range(request.headers.get("range", ""), len(content))
    if part is None:
        return Answer(200, content, headers, is_content=True)
    first, last = part
    headers["Content-Range"] = f"bytes {first}-{last}/{len(content)}"
    return Answer(206, content[first : last + 1], headers, is_content=True)


def _range(header: str, size: int) -> tuple[int, int] | None:
    """First and last byte asked for; None where the header asks for everything or is not one range."""
    found = RANGE.fullmatch(header.replace(" ", ""))
    if found is None or not any(found.groups()):
        return None
    start, end = found.groups()
    if not start:
        first, last = max(size - int(end), 0), size - 1
    else:
        first, last = int(start), min(int(end), size - 1) if end else size - 1
    if first > last:
        raise Refusal(416, "Requested range not satisfiable", headers={"Content-Range": f"bytes */{size}"})
    return first, last


def _entries(history: History, commit: Commit, *, expand: bool) -> Iterator[dict[str, Any]]:
    folders = folder_oids(commit.files.values())
    log = history.log(commit) if expand else []
    for path in sorted({*commit.files, *folders} - {""}):
        file = commit.files.get(path)
        entry = file_entry(file) if file else {"type": "directory", "path": path, "oid": folders[path], "size": 0}
        if expand:
            last = _last_change(log, path)
            entry["lastCommit"] = {"id": last.oid, "title": last.title, "date": last.date}
        yield entry


def file_entry(file: StoredFile) -> dict[str, Any]:
    """A file as the tree shows it."""
    entry: dict[str, Any] = {"type": "file", "path": file.path, "size": file.size, "oid": file.oid}
    if file.lfs:
        entry["lfs"] = {"oid": file.sha256, "size": file.size, "pointerSize": file.pointer_size}
    return entry


def _last_change(log: Sequence[Commit], path: str) -> Commit:
    """The newest commit of a log (newest first) in which a file or folder became what it is."""
    now = _below(log[0], path)
    for newer, older in pairwise(log):
        if _below(older, path) != now:
            return newer
    return log[-1]


def _below(commit: Commit, path: str) -> dict[str, str]:
    inside = f"{path}/"
    return {name: file.oid for name, file in commit.files.items() if name == path or name.startswith(inside)}


ROUTES: tuple[Route, ...] = (
    route("GET", rf"{API}/tree/(?P<revision>[^/]+)(?:/(?P<path>.+))?", tree),
    route("POST", rf"{API}/paths-info/(?P<revision>[^/]+)", paths_info),
    route("GET", rf"{SITE}/resolve/(?P<revision>[^/]+)/(?P<path>.+)", resolve),
    route(
        "GET",
        r"/loopback/objects/(?P<types>models|datasets)/(?P<repo>[^/]+/[^/]+)/(?P<revision>[0-9a-f]{40})/(?P<path>.+)",
        moved,
    ),
)

"""Routes about accounts and whole repositories: who am I, create, delete, move, settings, cards, facts and lists."""

from __future__ import annotations

import re
from typing import Any, cast

from steerguard.testing.loopback_hub.card_check import CardError, check_card, front_matter
from steerguard.testing.loopback_hub.file_routes import file_entry
from steerguard.testing.loopback_hub.history import Commit, Gated, History, RepoType
from steerguard.testing.loopback_hub.messages import Answer, Request, json_answer
from steerguard.testing.loopback_hub.refusals import Refusal, bad_request, conflict, not_allowed, not_signed_in
from steerguard.testing.loopback_hub.repositories import REPOSITORY_ID, Repository
from steerguard.testing.loopback_hub.routes import API, TYPES, Place, Route, Site, paged, route
from steerguard.testing.loopback_hub.users import User, check_files, may_read

BRIEF = ("_id", "id", "modelId", "private", "tags", "pipeline_tag", "library_name", "downloads", "likes", "createdAt")


def whoami(_site: Site, request: Request, _place: Place) -> Answer:
    """The account of the token."""
    user = _signed_in(request)
    role = "write" if user.write else "read"
    return json_answer(
        {
            "type": "user",
            "id": user.name,
            "name": user.name,
            "fullname": user.name,
            "isPro": False,
            "orgs": [{"type": "org", "name": name, "roleInOrg": role} for name in sorted(user.organisations)],
            "auth": {"type": "access_token", "accessToken": {"displayName": "loopback", "role": role}},
        }
    )


def create(site: Site, request: Request, _place: Place) -> Answer:
    """A new repository."""
    user = _signed_in(request)
    document = request.json()
    repo_type, repo = _named(document, user)
    if not user.may_write(repo.split("/")[0]):
        raise not_allowed(f"create a repository in {repo.split('/')[0]}")
    private = document.get("visibility") == "private" or document.get("private") is True
    try:
        site.repositories.create(repo_type, repo, private=private, author=user.name)
    except Refusal as refusal:
        if refusal.status != 409:
            raise
        raise conflict(
            refusal.message, body={"error": refusal.message, "url": _url(site, repo_type, repo)}
        ) from refusal
    return json_answer({"url": _url(site, repo_type, repo), "name": repo, "id": repo})


def delete(site: Site, request: Request, _place: Place) -> Answer:
    """A repository less."""
    repo_type, repo = _named(request.json(), _signed_in(request))
    site.writable(request, _place_of(repo_type, repo))
    site.repositories.delete(repo_type, repo)
    return json_answer({})


def move(site: Site, request: Request, _place: Place) -> Answer:
    """A repository under another id; the old id leads nowhere."""
    user = _signed_in(request)
    document = request.json()
    old, new = document.get("fromRepo"), document.get("toRepo")
    if not isinstance(old, str) or not isinstance(new, str) or not REPOSITORY_ID.fullmatch(new):
        raise bad_request("A move names fromRepo and toRepo")
    repo_type = _type(document)
    site.writable(request, _place_of(repo_type, old))
    if not user.may_write(new.split("/")[0]):
        raise not_allowed(f"move a repository to {new.split('/')[0]}")
    site.repositories.move(repo_type, old, new)
    return json_answer({"url": _url(site, repo_type, new)})


def settings(site: Site, request: Request, place: Place) -> Answer:
    """Private or public, gated or open."""
    repository = site.writable(request, place)
    document = request.json()
    visibility = document.get("visibility")
    if visibility not in {None, "private", "public"} or document.get("gated") not in {None, "auto", "manual", False}:
        raise bad_request("visibility is private or public; gated is auto, manual or false")
    private = document.get("private") if visibility is None else visibility == "private"
    repository.set_access(private=private, gated=cast("Gated | None", document.get("gated")))
    return json_answer({"private": repository.history.private, "gated": repository.history.gated})


def validate_card(_site: Site, request: Request, _place: Place) -> Answer:
    """Whether the front matter of a card is right."""
    content = request.json().get("content")
    if not isinstance(content, str):
        raise bad_request("No content")
    errors, warnings = check_card(content)
    body = {
        "errors": [{"message": message} for message in errors],
        "warnings": [{"message": message} for message in warnings],
    }
    if errors:
        raise bad_request("Invalid metadata in the card", body={"error": "Invalid metadata", **body})
    return json_answer(body)


def check_access(site: Site, request: Request, place: Place) -> Answer:
    """Whether the token may read, or with `/write` change, the repository."""
    if place.parts.get("write"):
        site.writable(request, place)
    else:
        check_files(request.user, site.repository(request, place).history)
    return json_answer({})


def facts(site: Site, request: Request, place: Place) -> Answer:
    """Everything about a repository at a revision."""
    repository = site.repository(request, place)
    commit = site.shown(request, repository.history, place.parts.get("revision", "main"))
    return json_answer(_facts(repository, commit, blobs=request.flag("blobs")))


def search(site: Site, request: Request, place: Place) -> Answer:
    """The repositories that the user may know of, newest change first, as far as they fit."""
    repo_type = TYPES[place.parts["types"]]
    found = []
    for repository in site.repositories.of_type(repo_type):
        history = repository.history
        if not may_read(request.user, history):
            continue
        entry = _facts(repository, history.at("main"), blobs=False)
        if _fits(entry, history, request):
            found.append(entry)
    key = request.one("sort") or "lastModified"
    found.sort(key=lambda entry: (str(entry.get(key, "")), entry["id"]), reverse=True)
    return paged(site, request, [_brief(entry, request) for entry in found])


def _fits(entry: dict[str, Any], history: History, request: Request) -> bool:
    author, text, pipeline = request.one("author"), request.one("search"), request.one("pipeline_tag")
    tags = [tag for value in request.query.get("filter", []) for tag in value.split(",")]
    gated = request.one("gated")
    return (
        (author is None or history.namespace == author)
        and (text is None or text.lower() in history.id.lower())
        and (pipeline is None or entry["pipeline_tag"] == pipeline)
        and (gated is None or (gated.lower() == "true") == (history.gated is not False))
        and all(tag in entry["tags"] for tag in tags)
    )


def _brief(entry: dict[str, Any], request: Request) -> dict[str, Any]:
    expand = request.query.get("expand")
    if expand:
        return {name: value for name, value in entry.items() if name in {"_id", "id", "modelId", *expand}}
    if request.flag("full"):
        return entry
    wanted = {*BRIEF, "cardData"} if request.flag("cardData") else {*BRIEF}
    return {name: value for name, value in entry.items() if name in wanted}


def _facts(repository: Repository, commit: Commit, *, blobs: bool) -> dict[str, Any]:
    history = repository.history
    card = _card(repository, commit)
    siblings = [_sibling(file_entry(file), blobs=blobs) for _, file in sorted(commit.files.items())]
    entry: dict[str, Any] = {
        "_id": f"{history.repo_type}:{history.id}",
        "id": history.id,
        "author": history.namespace,
        "sha": commit.oid,
        "createdAt": history.created,
        "lastModified": history.at("main").date,
        "private": history.private,
        "gated": history.gated,
        "disabled": False,
        "downloads": 0,
        "likes": 0,
        "tags": _tags(card),
        "library_name": card.get("library_name"),
        "pipeline_tag": card.get("pipeline_tag"),
        "cardData": card,
        "siblings": siblings,
    }
    if history.repo_type == "model":
        entry["modelId"] = history.id
    return entry


def _sibling(entry: dict[str, Any], *, blobs: bool) -> dict[str, Any]:
    if not blobs:
        return {"rfilename": entry["path"]}
    sibling = {"rfilename": entry["path"], "size": entry["size"], "blobId": entry["oid"]}
    lfs = entry.get("lfs")
    if lfs:
        sibling["lfs"] = {"sha256": lfs["oid"], "size": lfs["size"], "pointerSize": lfs["pointerSize"]}
    return sibling


def _card(repository: Repository, commit: Commit) -> dict[str, Any]:
    file = commit.files.get("README.md")
    if file is None:
        return {}
    try:
        card = front_matter(repository.read(file).decode(errors="replace")) or {}
    except CardError:
        return {}
    return {name: value if _is_json(value) else str(value) for name, value in card.items()}


def _is_json(value: Any) -> bool:
    if isinstance(value, dict):
        return all(isinstance(key, str) and _is_json(item) for key, item in value.items())
    if isinstance(value, list):
        return all(_is_json(item) for item in value)
    return value is None or isinstance(value, str | int | float | bool)


def _tags(card: dict[str, Any]) -> list[str]:
    """What a list may be filtered by: the card's tags and its fields as `name:value`."""
    tags = [*_texts(card.get("tags")), *_texts(card.get("library_name")), *_texts(card.get("pipeline_tag"))]
    tags += _texts(card.get("language"))
    for name, prefix in (("license", "license"), ("base_model", "base_model"), ("datasets", "dataset")):
        tags += [f"{prefix}:{value}" for value in _texts(card.get(name))]
    relation = card.get("base_model_relation")
    tags += [f"base_model:{relation}:{value}" for value in _texts(card.get("base_model")) if relation]
    return list(dict.fromkeys(tags))


def _texts(value: Any) -> list[str]:
    return [value] if isinstance(value, str) else [str(item) for item in value] if isinstance(value, list) else []


def _signed_in(request: Request) -> User:
    if request.user is None:
        raise not_signed_in()
    return request.user


def _type(document: dict[str, Any]) -> RepoType:
    repo_type = document.get("type") or "model"
    if repo_type not in {"model", "dataset"}:
        raise bad_request("The loopback hub keeps models and data sets only")
    return cast("RepoType", repo_type)


def _named(document: dict[str, Any], user: User) -> tuple[RepoType, str]:
    name, organisation = document.get("name"), document.get("organization")
    if not isinstance(name, str) or not re.fullmatch(r"[^/]+", name):
        raise bad_request("No name")
    return _type(document), f"{organisation or user.name}/{name}"


def _place_of(repo_type: RepoType, repo: str) -> Place:
    return Place({"types": f"{repo_type}s", "repo": repo})


def _url(site: Site, repo_type: RepoType, repo: str) -> str:
    return f"{site.endpoint}/{'datasets/' if repo_type == 'dataset' else ''}{repo}"


ROUTES: tuple[Route, ...] = (
    route("GET", r"/api/whoami-v2", whoami),
    route("POST", r"/api/repos/create", create),
    route("DELETE", r"/api/repos/delete", delete),
    route("POST", r"/api/repos/move", move),
    route("PUT", rf"{API}/settings", settings),
    route("POST", r"/api/validate-yaml", validate_card),
    route("GET", rf"{API}/auth-check(?P<write>/write)?", check_access),
    route("GET", API, facts),
    route("GET", rf"{API}/revision/(?P<revision>[^/]+)", facts),
    route("GET", r"/api/(?P<types>models|datasets)", search),
)

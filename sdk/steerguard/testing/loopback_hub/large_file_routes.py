"""Routes of git's large-file protocol: where to upload, the upload in one piece or in parts, and its check."""

from __future__ import annotations

import hashlib
import hmac
import threading
from typing import Any

from steerguard.testing.loopback_hub.file_routes import ticket
from steerguard.testing.loopback_hub.messages import Answer, Request, json_answer
from steerguard.testing.loopback_hub.refusals import Refusal, bad_request
from steerguard.testing.loopback_hub.routes import SITE, Place, Route, Site, route
from steerguard.testing.loopback_hub.uploads import SHA256

UPLOAD = r"/loopback/uploads/(?P<oid>[0-9a-f]{64})/(?P<size>[0-9]{1,15})"
GIT_JSON = {"Content-Type": "application/vnd.git-lfs+json"}


class Parts:
    """Pieces of uploads that are under way, by object and number; safe to use from several threads."""

    def __init__(self) -> None:
        self._lock = threading.Lock()
        self._content: dict[str, dict[int, bytes]] = {}

    def put(self, oid: str, number: int, content: bytes) -> str:
        """Keep a piece and return its entity tag."""
        with self._lock:
            self._content.setdefault(oid, {})[number] = content
        return f'"{hashlib.sha256(content).hexdigest()}"'

    def join(self, oid: str) -> dict[int, bytes]:
        """All pieces of an object by number, which are forgotten."""
        with self._lock:
            return self._content.pop(oid, {})


def large_file_routes(parts: Parts) -> tuple[Route, ...]:
    """The routes, with the store of pieces that they share."""

    def put_part(site: Site, request: Request, place: Place) -> Answer:
        _check_ticket(site, request, place)
        etag = parts.put(place.parts["oid"], int(place.parts["number"]), request.body)
        return Answer(200, b"", {"ETag": etag})

    def complete(site: Site, request: Request, place: Place) -> Answer:
        _check_ticket(site, request, place)
        asked = request.records("parts")
        pieces = parts.join(place.parts["oid"])
        content = b"".join(piece for _, piece in sorted(pieces.items()))
        tags = [f'"{hashlib.sha256(piece).hexdigest()}"' for _, piece in sorted(pieces.items())]
        if [part.get("etag") for part in asked] != tags or [part.get("partNumber") for part in asked] != sorted(pieces):
            raise bad_request("The parts are not those that were uploaded")
        return _keep(site, place, content)

    return (
        route("POST", rf"{SITE}\.git/info/lfs/objects/batch", batch),
        route("POST", rf"{SITE}\.git/info/lfs/verify", verify),
        route("PUT", UPLOAD, put_whole),
        route("PUT", rf"{UPLOAD}/(?P<number>[0-9]{{1,5}})", put_part),
        route("POST", rf"{UPLOAD}/complete", complete),
    )


def batch(site: Site, request: Request, place: Place) -> Answer:
    """Where each object is to be uploaded; no address for what is there already."""
    site.writable(request, place)
    document = request.json()
    if document.get("operation") != "upload" or document.get("hash_algo", "sha256") != "sha256":
        raise bad_request("Only uploads by sha256 go through this address")
    transfers = document.get("transfers") or ["basic"]
    objects = [_instructions(site, request, asked, transfers) for asked in request.records("objects")]
    in_parts = any("chunk_size" in entry.get("actions", {}).get("upload", {}).get("header", {}) for entry in objects)
    transfer = "multipart" if in_parts else "basic"
    return json_answer({"transfer": transfer, "objects": objects}, headers=GIT_JSON)


def put_whole(site: Site, request: Request, place: Place) -> Answer:
    """An object in one piece."""
    _check_ticket(site, request, place)
    return _keep(site, place, request.body)


def verify(site: Site, request: Request, place: Place) -> Answer:
    """Whether an object arrived with the size that the client knows."""
    site.writable(request, place)
    document = request.json()
    oid = document.get("oid")
    size = site.repositories.blobs.size(oid) if isinstance(oid, str) and SHA256.fullmatch(oid) else None
    if size is None:
        raise Refusal(404, "The object was not uploaded")
    if size != document.get("size"):
        raise bad_request("The object has another size")
    return json_answer({"oid": oid, "size": size}, headers=GIT_JSON)


def _instructions(site: Site, request: Request, asked: dict[str, Any], transfers: list[str]) -> dict[str, Any]:
    oid, size = asked.get("oid"), asked.get("size")
    if not isinstance(oid, str) or not SHA256.fullmatch(oid) or not isinstance(size, int) or size < 0:
        raise bad_request("An object is named by its sha256 and size")
    entry: dict[str, Any] = {"oid": oid, "size": size}
    there = site.repositories.blobs.size(oid)
    if there is not None and there != size:
        return {**entry, "error": {"code": 422, "message": "The object has another size"}}
    if there is not None:
        return entry
    base = f"/loopback/uploads/{oid}/{size}"
    key = f"ticket={ticket(site, base)}"
    address = f"{site.endpoint}{base}"
    upload: dict[str, Any] = {"href": f"{address}?{key}"}
    if size > site.part_bytes and "multipart" in transfers:
        count = -(-size // site.part_bytes)
        header = {str(number): f"{address}/{number}?{key}" for number in range(1, count + 1)}
        upload = {
            "href": f"{address}/complete?{key}",
            "header": {"chunk_size": str(site.part_bytes), **header},
        }
    check = f"{site.endpoint}{request.path.removesuffix('/objects/batch')}/verify"
    return {**entry, "actions": {"upload": upload, "verify": {"href": check}}}


def _check_ticket(site: Site, request: Request, place: Place) -> None:
    base = f"/loopback/uploads/{place.parts['oid']}/{place.parts['size']}"
    if not hmac.compare_digest(request.one("ticket") or "", ticket(site, base)):
        raise Refusal(403, "The address is not one that the hub gave")


def _keep(site: Site, place: Place, content: bytes) -> Answer:
    if len(content) != int(place.parts["size"]) or hashlib.sha256(content).hexdigest() != place.parts["oid"]:
        raise bad_request("The bytes are not those that were announced")
    site.repositories.blobs.put(content)
    return Answer(200)

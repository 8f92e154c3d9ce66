"""A request and an answer as values, so that every route is a function from one to the other."""

from __future__ import annotations

import json
from collections.abc import Mapping
from dataclasses import dataclass, field
from typing import Any

from steerguard.testing.loopback_hub.refusals import EMPTY, Refusal, bad_request
from steerguard.testing.loopback_hub.users import User

JSON_TYPE = "application/json; charset=utf-8"


@dataclass(frozen=True)
class Request:
    """One request, read to its end."""

    method: str
    path: str
    """Percent-encoded, without the query."""

    query: Mapping[str, list[str]]
    headers: Mapping[str, str]
    """By name in lower case."""

    body: bytes
    user: User | None

    def json(self) -> dict[str, Any]:
        """The body as a JSON object.

        Raises:
            Refusal: 400 where it is none.
        """
        try:
            document = json.loads(self.body)
        except ValueError as problem:
            raise bad_request("The body is not JSON") from problem
        if not isinstance(document, dict):
            raise bad_request("The body is not a JSON object")
        return document

    def records(self, name: str) -> list[dict[str, Any]]:
        """The list of objects that a JSON body has under a name.

        Raises:
            Refusal: 400 where it is none.
        """
        found = self.json().get(name)
        if not isinstance(found, list) or not all(isinstance(item, dict) for item in found):
            raise bad_request(f"{name} is not a list of objects")
        return found

    def flag(self, name: str) -> bool:
        """Whether a query parameter says yes."""
        return self.query.get(name, [""])[-1].lower() in {"1", "true"}

    def one(self, name: str) -> str | None:
        """The last value of a query parameter, or None."""
        values = self.query.get(name)
        return values[-1] if values else None


@dataclass(frozen=True)
class Answer:
    """One answer; the length of the body is sent exactly."""

    status: int
    body: bytes = b""
    headers: Mapping[str, str] = field(default_factory=dict)
    is_content: bool = False
    """Whether the body is bytes of a file of a repository."""


def json_answer(document: Any, *, status: int = 200, headers: Mapping[str, str] = EMPTY) -> Answer:
    """An answer with a JSON document."""
    return Answer(status, json.dumps(document).encode(), {"Content-Type": JSON_TYPE, **headers})


def refusal_answer(refusal: Refusal) -> Answer:
    """The answer that a refusal stands for: what the client reads is in the headers."""
    headers = {"X-Error-Message": one_line(refusal.message), **refusal.headers}
    if refusal.code is not None:
        headers["X-Error-Code"] = refusal.code
    return json_answer(refusal.body, status=refusal.status, headers=headers)


def one_line(text: str) -> str:
    """A text that may stand in a header: printable ASCII without line breaks."""
    return " ".join(text.encode("ascii", "replace").decode().split())

"""Every failure of the Hub's client as an error of this package, with the next step and never with the token."""

from __future__ import annotations

import re
from collections.abc import Iterator
from contextlib import contextmanager

from huggingface_hub import errors
from huggingface_hub.utils import httpx  # type: ignore[attr-defined]

from steerguard.errors import (
    ArtifactNotFoundError,
    PublishConflictError,
    PublishRefusedError,
    RegistryAccessError,
    RegistryUnavailableError,
    SteerguardError,
)

_LOGIN = "Log in with `hf auth login` or set HF_TOKEN to a token that may {what} it."


@contextmanager
def asking(doing: str, *, where: str, token: str | None, writing: bool = False) -> Iterator[None]:
    """Turn every failure of the Hub's client inside the block into an error of this package.

    Args:
        doing: what is done, as the end of "while …".
        where: endpoint, repository and commit or file.
        token: the token in use; it is cut out of every message.
        writing: whether the call changes the repository.

    Raises:
        RegistryUnavailableError: no network, no answer, an answer that makes no sense, or offline mode.
        RegistryAccessError: no token, a wrong one, or one without permission.
        ArtifactNotFoundError: the repository, commit or file does not exist.
        PublishConflictError: the repository changed meanwhile.
        PublishRefusedError: the Hub does not accept what is written.
    """
    try:
        yield
    except SteerguardError:
        raise
    except errors.OfflineModeIsEnabled as error:
        raise offline_error(doing, where=where) from error
    except errors.HfHubHTTPError as error:
        raise _refused(error, doing, where=where, token=token, writing=writing) from _cause(error, token)
    except errors.HFValidationError as error:
        raise PublishRefusedError(
            "The Hub does not accept this name.",
            where=where,
            found=_plain(str(error), token),
            next_step="Choose another name for the repository.",
        ) from error
    except (httpx.HTTPError, httpx.InvalidURL) as error:
        raise RegistryUnavailableError(
            f"The registry does not answer, while {doing}.",
            where=where,
            found=type(error).__name__,
            next_step="Check the network and HF_ENDPOINT, then try again; finished parts are kept.",
        ) from _cause(error, token)
    except (ValueError, KeyError, TypeError, AttributeError, RuntimeError, OSError) as error:
        if isinstance(error, OSError) and error.errno is not None:
            raise
        if writing and isinstance(error, ValueError):
            raise PublishRefusedError(
                f"The Hub does not accept this, while {doing}.", where=where, found=_plain(str(error), token)
            ) from _cause(error, token)
        raise RegistryUnavailableError(
            f"The registry's answer makes no sense, while {doing}.",
            where=where,
            found=f"{type(error).__name__}: {_plain(str(error), token)}",
            next_step="Check that HF_ENDPOINT names a Hub, then try again.",
        ) from _cause(error, token)


def offline_error(doing: str, *, where: str) -> RegistryUnavailableError:
    """Return the error for a call that offline mode forbids."""
    return RegistryUnavailableError(
        f"The network is switched off, while {doing}.",
        where=where,
        expected="a network, or everything on this machine already",
        found="offline mode (HF_HUB_OFFLINE, or offline=True)",
        next_step="Run `steerguard sync` once with a network.",
    )


def _refused(
    error: errors.HfHubHTTPError, doing: str, *, where: str, token: str | None, writing: bool
) -> SteerguardError:
    """Return the error for an answer of the Hub that refuses."""
    response = error.response
    status = int(response.status_code)
    said = _plain(str(error.server_message or ""), token)
    found = f"HTTP status {status}" + (f": {said}" if said else "")
    facts = {"where": where, "found": found}
    if isinstance(error, errors.GatedRepoError):
        return RegistryAccessError(
            f"The repository is gated, while {doing}.",
            **facts,
            next_step="Accept the conditions on the repository's page with your account, then `hf auth login`.",
        )
    if isinstance(error, errors.DisabledRepoError):
        return RegistryAccessError(
            f"The repository is disabled, while {doing}.", **facts, next_step="Ask the repository's owner."
        )
    if status in (401, 402, 403):
        return RegistryAccessError(
            f"The registry refuses access, while {doing}; or it does not exist.",
            **facts,
            next_step=_LOGIN.format(what="write to" if writing else "read"),
        )
    if isinstance(error, errors.RevisionNotFoundError | errors.EntryNotFoundError) or status == 404:
        repository = isinstance(error, errors.RepositoryNotFoundError)
        return ArtifactNotFoundError(
            f"The {'repository' if repository else 'commit or file'} does not exist, while {doing}.",
            **facts,
            next_step=(
                "Check the name; if the repository is private, log in with `hf auth login`."
                if repository
                else "Ask the registry's owner; a commit that an index or a lock file pins must stay."
            ),
        )
    if status in (409, 412):
        return PublishConflictError(
            f"The repository changed meanwhile, while {doing}.", **facts, next_step="Run the command again."
        )
    if status in (400, 413, 422) and writing:
        return PublishRefusedError(f"The Hub does not accept this, while {doing}.", **facts)
    return RegistryUnavailableError(
        f"The registry cannot answer now, while {doing}.",
        **facts,
        next_step="Try again later; finished parts are kept.",
    )


def _plain(text: str, token: str | None) -> str:
    """Return at most 200 printable characters of a foreign message, without the token."""
    if token:
        text = text.replace(token, "(token)")
    return re.sub(r"[^ -~]+", " ", text).strip()[:200]


def _cause(error: Exception, token: str | None) -> Exception | None:
    """Return the error as a cause, unless a hostile server made it repeat the token."""
    return None if token and token in str(error) else error

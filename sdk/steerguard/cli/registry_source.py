"""Which registry a command works on, and who judges what comes out of it: `--registry`, `--trust`, `--endpoint`, `--key`.

The Hub's client is imported only where a registry on the Hub is named.
"""

from __future__ import annotations

from dataclasses import dataclass
from datetime import UTC, datetime
from pathlib import Path
from typing import TYPE_CHECKING, Annotated

import typer

from steerguard.artifacts.reference import ArtifactReference
from steerguard.content import registry_directory
from steerguard.errors import ArtifactNotFoundError, RegistryAccessError, SignatureError, SigningKeyError
from steerguard.registry.local import LocalDirectory, embedded_registry
from steerguard.registry.names import EMBEDDED, is_hub, organisation_of
from steerguard.registry.sources import local_folder, local_store
from steerguard.registry.store import LOCAL_SCHEME, ArtifactStore, Evidence

if TYPE_CHECKING:
    from steerguard.hub.client import HubClient
    from steerguard.hub.registry import HubRegistry
    from steerguard.registry.index import IndexEntry
    from steerguard.registry.pulled import PulledArtifacts
    from steerguard.registry.store import Judge
    from steerguard.signing.keys import PublicKey, SigningKey
    from steerguard.trust.document import TrustPolicy

RegistryOption = Annotated[
    str | None,
    typer.Option(
        "--registry", metavar="FOLDER|hf://ORG", help="Folder of a local registry, or hf://ORGANISATION; else embedded."
    ),
]
TrustOption = Annotated[
    Path | None, typer.Option("--trust", metavar="FILE", help="Trust policy: who may publish, vet and revoke.")
]
EndpointOption = Annotated[
    str | None, typer.Option("--endpoint", metavar="URL", help="URL of the Hub; HF_ENDPOINT without it.")
]
KeyOption = Annotated[
    Path | None, typer.Option("--key", metavar="FILE", help="Signing key; STEERGUARD_SIGNING_KEY without it.")
]
JsonOption = Annotated[bool, typer.Option("--json", help="Print JSON instead of text.")]


@dataclass(frozen=True, slots=True, kw_only=True)
class RegistryAccess:
    """Opens registries for one command."""

    trust: TrustPolicy | None = None
    endpoint: str | None = None

    @classmethod
    def of(cls, trust: Path | None, endpoint: str | None) -> RegistryAccess:
        """Return access under the trust policy of a file, if one is given.

        Raises:
            TrustPolicyError: the file is no valid trust policy.
        """
        if trust is None:
            return cls(endpoint=endpoint)
        from steerguard.trust.load import load_trust

        return cls(trust=load_trust(trust), endpoint=endpoint)

    def store(self, registry: str | None) -> ArtifactStore:
        """Return the store of a registry: a folder, `embedded`, `file:///folder` or `hf://organisation`.

        Raises:
            ArtifactNotFoundError: there is no such folder.
            SignatureError: it is on the Hub, and the trust policy names no key of its index.
        """
        if registry is not None and is_hub(registry):
            return self.hub_registry(registry)
        return local_registry(registry)

    def store_of(self, reference: ArtifactReference, registry: str | None) -> ArtifactStore:
        """Return the store that a reference points into; one that names no registry points into `registry`.

        Raises:
            ArtifactNotFoundError, SignatureError: as `store` does.
        """
        return self.store(registry if reference.backend == "default" else reference.registry)

    def hub_registry(self, registry: str) -> HubRegistry:
        """Return a registry on the Hub, read with the keys that the trust policy names.

        Raises:
            SignatureError: there is no trust policy, or it names no key of this registry.
        """
        from steerguard.hub.registry import HubRegistry

        return HubRegistry(
            organisation_of(registry), client=self.client(), pulled=self.pulled(), index_keys=self.index_keys(registry)
        )

    def index_keys(self, registry: str) -> tuple[PublicKey, ...]:
        """Return who may sign the index of a registry.

        Raises:
            SignatureError: there is no trust policy, or it names no key that counts now.
        """
        keys = () if self.trust is None else self.trust.keys_of_registry(registry, datetime.now(UTC))
        if not keys:
            raise SignatureError(
                "A registry on the Hub is read only with the keys of its index.",
                where=registry,
                expected=f"a trust policy with a valid key under registries: {registry}",
                found="no trust policy" if self.trust is None else "no such key",
                next_step="Name the trust policy with --trust FILE.",
            )
        return keys

    def client(self) -> HubClient:
        """Return the client of the Hub."""
        from steerguard.hub.client import HubClient

        return HubClient(self.endpoint)

    def pulled(self) -> PulledArtifacts:
        """Return the store of pulled artifacts of this user."""
        from steerguard.registry.pulled import PulledArtifacts

        return PulledArtifacts()

    def judge(self) -> Judge | None:
        """Return the judge of the trust policy, with every list of revocations that it asks for; None without a policy.

        Raises:
            StaleError, RollbackError, SignatureError, ArtifactFormatError: a list cannot be relied on.
        """
        if self.trust is None:
            return None
        from steerguard.trust.judge import TrustedJudge
        from steerguard.trust.revocation_source import load_revocations

        return TrustedJudge(self.trust, load_revocations(self.trust, self.pulled()))


def admitted(judge: Judge | None, store: ArtifactStore, entry: IndexEntry) -> Evidence | None:
    """Return who vouches for an entry of a store; None where there is no judge.

    Raises:
        TrustError: nobody who is trusted vouches for it, or it is revoked.
    """
    if judge is None:
        return None
    return judge.admit(entry, registry=store.name, attestations=store.attestations(entry))


def local_registry(registry: str | None) -> LocalDirectory:
    """Return a registry on this machine; the embedded one without a name.

    Raises:
        ArtifactNotFoundError: there is no such folder.
    """
    if registry is None or registry == EMBEDDED:
        return embedded_registry()
    if registry.startswith(LOCAL_SCHEME):
        return local_store(registry)
    if not Path(registry).is_dir():
        raise ArtifactNotFoundError(
            "There is no such registry.", where=registry, next_step="Name a folder, or hf://ORGANISATION."
        )
    return LocalDirectory(registry)


def writable_folder(registry: str) -> Path:
    """Return the folder of a local registry that a command may write to; it need not exist yet.

    Raises:
        RegistryAccessError: it is the registry that came with the package.
    """
    root = local_folder(registry) if registry.startswith(LOCAL_SCHEME) else Path(registry)
    if registry == EMBEDDED or root.absolute() == registry_directory().absolute():
        raise RegistryAccessError(
            "The registry that came with the package is not written to.",
            where=registry,
            expected="a folder of your own, or hf://ORGANISATION",
            found="the embedded registry",
            next_step="Pull what you need into a registry of your own: steerguard registry pull REF --to FOLDER.",
        )
    return root


def signing_key(file: Path | None) -> SigningKey:
    """Return the key that a command signs with: from the file, else from the environment.

    Raises:
        SigningKeyError: there is none, or it cannot be read.
    """
    from steerguard.signing.keys import KEY_VARIABLE, SigningKey

    key = SigningKey.from_environment() if file is None else SigningKey.from_file(file)
    if key is None:
        raise SigningKeyError(
            "There is no key to sign with.",
            expected=f"--key FILE, or {KEY_VARIABLE}",
            found="neither",
            next_step="Make one with `steerguard keys new PATH`.",
        )
    return key

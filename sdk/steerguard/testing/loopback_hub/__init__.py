"""A server on loopback that the real `huggingface_hub` client takes for the Hub: for tests, trials and closed networks.

    from huggingface_hub import HfApi
    from steerguard.testing import LoopbackHub

    with LoopbackHub() as hub:
        api = HfApi(endpoint=hub.endpoint, token=hub.token)
        api.create_repo("acme/probe")
        api.upload_file(path_or_fileobj=b"{}", path_in_repo="config.json", repo_id="acme/probe")

What works as on the Hub (contract of huggingface_hub 2.x): accounts and tokens; create, delete, move and settings of
model and data set repositories, private and gated ones; the check of cards; regular and large files, in one piece or in
parts; commits that compare the parent first; trees, paths, refs, tags, branches, logs; facts and lists with search,
filter and pages; downloads with ranges, entity tags and an optional redirect to another origin; errors by header. Blobs
and trees have git's own ids.

What does not: xet storage (set `HF_HUB_DISABLE_XET=1`, or serve with `large_files=False`), spaces, kernels, buckets, pull requests, discussions, webhooks,
squashed histories, large files over git itself, names without a namespace, and old names after a move. Accounts live in
memory. The check of cards knows the common fields only. Commit ids are not those that git would compute.

Not for production: no encryption, no limits, whole files in memory. What the client reads from the environment is read
at import, so pass `endpoint=` and `token=`, and do not set `HF_HUB_OFFLINE`.

    python -m steerguard.testing.loopback_hub --root DIR --port N
"""

from steerguard.testing.loopback_hub.faults import Fault, FaultKind
from steerguard.testing.loopback_hub.history import Commit
from steerguard.testing.loopback_hub.hub import LoopbackHub
from steerguard.testing.loopback_hub.journal import Exchange
from steerguard.testing.loopback_hub.repositories import Repository

__all__ = ["Commit", "Exchange", "Fault", "FaultKind", "LoopbackHub", "Repository"]

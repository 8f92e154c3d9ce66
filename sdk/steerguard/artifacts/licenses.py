"""How a manifest's SPDX licence is spelled in a card on the Hub, which knows a list of its own names."""

from __future__ import annotations

import re
from typing import Final

HUB_LICENSES: Final[frozenset[str]] = frozenset(
    """
    afl-3.0 agpl-3.0 apache-2.0 artistic-2.0 bsd bsd-2-clause bsd-3-clause bsd-3-clause-clear bsl-1.0 c-uda cc cc-by-2.0 cc-by-2.5
    cc-by-3.0 cc-by-4.0 cc-by-nc-2.0 cc-by-nc-3.0 cc-by-nc-4.0 cc-by-nc-nd-3.0 cc-by-nc-nd-4.0 cc-by-nc-sa-2.0
    cc-by-nc-sa-3.0 cc-by-nc-sa-4.0 cc-by-nd-4.0 cc-by-sa-3.0 cc-by-sa-4.0 cc0-1.0 cdla-permissive-1.0
    cdla-permissive-2.0 cdla-sharing-1.0 ecl-2.0 epl-1.0 epl-2.0 etalab-2.0 eupl-1.1 eupl-1.2 gfdl gpl gpl-2.0 gpl-3.0
    isc lgpl lgpl-2.1 lgpl-3.0 lppl-1.3c mit mpl-2.0 ms-pl ncsa odbl odc-by ofl-1.1 openmdw-1.0 osl-3.0 pddl postgresql
    unlicense wtfpl zlib
    """.split()  # noqa: SIM905  names in lines are easier to compare with the Hub's list
)
"""Names of open licences that the Hub has filters for (https://huggingface.co/docs/hub/repositories-licenses)."""


def license_fields(expression: str) -> dict[str, str]:
    """Return the licence fields of the front matter.

    Args:
        expression: SPDX expression of the manifest, for example `Apache-2.0`.

    Returns:
        `license` alone where the Hub has a name for it, else `license: other` with the expression as `license_name`.
    """
    name = expression.strip().lower()
    # SPDX writes the two readings of the GNU licences apart; the Hub does not.
    family = re.sub(r"-(?:only|or-later)$", "", name)
    if family in HUB_LICENSES:
        return {"license": family}
    spelled = re.sub(r"[^a-z0-9.]+", "-", name).strip("-.") or "unnamed"
    return {"license": "other", "license_name": spelled}

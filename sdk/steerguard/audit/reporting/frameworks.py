"""Which fields and commands help to meet which requirement, and what they do not do. Data, no claim of conformity.

Sources: Regulation (EU) 2024/1689 (AI Act), Art. 12, 19 and 26; ISO/IEC 42001:2023, Annex A; NIST AI RMF 1.0 (AI 100-1);
AICPA Trust Services Criteria 2017 (SOC 2), CC7 and CC8; Regulation (EU) 2016/679 (GDPR).
"""

from __future__ import annotations

from dataclasses import dataclass
from typing import Final, Literal, get_args

FrameworkName = Literal["eu-ai-act", "iso-42001", "nist-ai-rmf", "soc2", "gdpr"]
FRAMEWORK_NAMES: Final[tuple[FrameworkName, ...]] = get_args(FrameworkName)

TITLES: Final[dict[FrameworkName, str]] = {
    "eu-ai-act": "EU AI Act, Regulation (EU) 2024/1689",
    "iso-42001": "ISO/IEC 42001:2023",
    "nist-ai-rmf": "NIST AI RMF 1.0",
    "soc2": "SOC 2, Trust Services Criteria",
    "gdpr": "GDPR, Regulation (EU) 2016/679",
}

CERTAINTY: Final[dict[FrameworkName, str]] = {
    "eu-ai-act": "Taken from the regulation as it was published in 2024.",
    "iso-42001": "Written from general knowledge of the standard: check it against your copy.",
    "nist-ai-rmf": "Written from general knowledge of the framework: check it against its text.",
    "soc2": "Written from general knowledge of the criteria: check it with your auditor.",
    "gdpr": "Written from general knowledge of the regulation: check it against its text.",
}
"""How sure the rows of a framework are."""

CAUTION: Final = (
    "These rows say what helps you meet a requirement. They are no legal advice, and using the log does not by itself meet "
    "any of them. Whether a requirement applies to you, and from which day, is for you to find out: a deferral of dates of "
    "the EU AI Act was reported in 2026 and was not checked against the Official Journal, so look it up there."
)


@dataclass(frozen=True, slots=True, kw_only=True)
class Help:
    """One requirement and what of the log helps to meet it."""

    framework: FrameworkName
    control: str
    asks: str
    """What it asks for, in short."""
    helps: tuple[str, ...]
    """Record types, fields and commands that help you meet it."""
    lacks: str
    """What they do not cover."""


HELP: Final[tuple[Help, ...]] = (
    Help(
        framework="eu-ai-act",
        control="Art. 12(1)",
        asks="High-risk systems technically allow events to be recorded automatically over their lifetime.",
        helps=("guard.decision, guard.request, guard.error: one record before every output", "audit verify: gaps show"),
        lacks="What the system does outside the guarded model: retrieval, tools, people, other models.",
    ),
    Help(
        framework="eu-ai-act",
        control="Art. 12(2)(a)",
        asks="Events that show situations of risk, or a substantial modification.",
        helps=(
            "guard.decision: cause, rules, readings, intended, applied",
            "policy.load, policy.swap, policy.reject, artifact.load, artifact.revoked: every change by digest",
        ),
        lacks="Whether a change is a substantial modification, and risks that no detector reads.",
    ),
    Help(
        framework="eu-ai-act",
        control="Art. 12(2)(b), Art. 72",
        asks="Events that support monitoring after the system is on the market.",
        helps=(
            "audit stats, audit report: volume, refusals, scores, errors over time",
            "audit replay: another policy on past readings",
        ),
        lacks="The plan for post-market monitoring, and harm that only users or others notice.",
    ),
    Help(
        framework="eu-ai-act",
        control="Art. 12(2)(c), Art. 26(5)",
        asks="Events with which deployers monitor the operation.",
        helps=(
            "audit tail, audit query, audit stats",
            "guard.error, budget.exceeded, guard.bypass with reason and expiry",
        ),
        lacks="Telling the provider, distributor or authority of a risk or serious incident.",
    ),
    Help(
        framework="eu-ai-act",
        control="Art. 12(3)",
        asks="Minimum contents for remote biometric identification: period of use, reference database, matches, people who verified.",
        helps=("t of every record: the period of use",),
        lacks="Reference database, matched input and the people who verified: no record has them.",
    ),
    Help(
        framework="eu-ai-act",
        control="Art. 19",
        asks="Providers keep the logs as long as the purpose needs, at least six months unless other law says otherwise.",
        helps=(
            "retention of 400 days by default, with a floor of 183 days",
            "log.prune: a tombstone for what was deleted; log.hold: a legal hold",
        ),
        lacks="Which period suits your purpose or other law, and copies that outlive the machine.",
    ),
    Help(
        framework="eu-ai-act",
        control="Art. 26(6)",
        asks="Deployers keep the logs that are under their control, at least six months unless other law says otherwise.",
        helps=(
            "the same as for Art. 19",
            "audit verify with pinned keys: the logs that you kept are the ones that were written",
        ),
        lacks="Logs that the provider or a cloud service holds, and sector rules such as those for banks.",
    ),
    Help(
        framework="iso-42001",
        control="A.6.2.8",
        asks="Decide where in the life cycle event logs are kept, at the least while the system is in use.",
        helps=("the whole log", "registry/schemas/audit-record.v1.schema.json: what a record holds"),
        lacks="The decision itself and who answers for it.",
    ),
    Help(
        framework="iso-42001",
        control="A.6.2.6",
        asks="Operation and monitoring of the system.",
        helps=("audit stats, audit report", "guard.error, budget.exceeded, artifact.revoked"),
        lacks="Repair, updates and support.",
    ),
    Help(
        framework="iso-42001",
        control="A.9.4",
        asks="The system is used as it was intended.",
        helps=("policy.load: policy, version and digest in force", "guard.bypass: every exception with its reason"),
        lacks="Use that goes around the guarded model, and purposes that no policy states.",
    ),
    Help(
        framework="nist-ai-rmf",
        control="MEASURE 2.4",
        asks="Functionality and behaviour of the system are monitored in production.",
        helps=("audit report: volume, actions and scores over time", "guard.request: duration and overhead"),
        lacks="Drift of what users ask, beyond what the detectors' scores show.",
    ),
    Help(
        framework="nist-ai-rmf",
        control="MEASURE 2.7, 2.8",
        asks="Security and resilience, transparency and accountability are examined and documented.",
        helps=(
            "hash chain, tree and signed checkpoints",
            "artifact.load: signer and vetting level",
            "audit prove: one record with its proof",
        ),
        lacks="An examination of the system by people.",
    ),
    Help(
        framework="nist-ai-rmf",
        control="MANAGE 4.1",
        asks="Post-deployment monitoring, with ways to override, to respond to incidents and to manage change.",
        helps=(
            "audit tail, audit query",
            "policy.swap, policy.reject, artifact.revoked",
            "audit replay: the effect of a change",
        ),
        lacks="Input from users, appeals, decommissioning.",
    ),
    Help(
        framework="nist-ai-rmf",
        control="MANAGE 4.3",
        asks="Incidents and errors are tracked, and communicated.",
        helps=(
            "guard.error, artifact.verify_failed, budget.exceeded",
            "audit export: to the tools that track incidents",
        ),
        lacks="Communication to those affected, and recovery.",
    ),
    Help(
        framework="soc2",
        control="CC7.2",
        asks="The system is monitored for anomalies that point to malicious acts, disasters and errors.",
        helps=("audit verify: edits, gaps and rewritten logs", "artifact.verify_failed, artifact.revoked, guard.error"),
        lacks="Monitoring of hosts, networks and people; alerts are for your own tools.",
    ),
    Help(
        framework="soc2",
        control="CC7.3",
        asks="Security events are evaluated.",
        helps=("audit query, audit prove: what happened, with proof", "log.recovered: what a crash may have cost"),
        lacks="The evaluation, and the decision on whether it was an incident.",
    ),
    Help(
        framework="soc2",
        control="CC8.1",
        asks="Changes are authorised, documented, tested, approved and put in force.",
        helps=(
            "policy.load, policy.swap, policy.reject: what was in force when, by digest",
            "artifact.load: signer and vetting level",
        ),
        lacks="Who approved the change and why: keep that where the policy file is reviewed.",
    ),
    Help(
        framework="gdpr",
        control="Art. 5(1)(c), 5(1)(e)",
        asks="Data minimisation and storage limitation.",
        helps=(
            "content none or hmac: no text in the log",
            "redactors before anything is hashed",
            "log.prune: retention by whole segments",
        ),
        lacks="Context variables that you bind (tenant, request id): keep personal data out of them.",
    ),
    Help(
        framework="gdpr",
        control="Art. 17",
        asks="Erasure on request, where the right applies.",
        helps=("audit erase: the key of a request's content is destroyed", "content.erased; the chain stays valid"),
        lacks="Finding the requests of a person, and copies elsewhere. A legal hold stops erasure until it is released.",
    ),
    Help(
        framework="gdpr",
        control="Art. 4(5), 25",
        asks="Pseudonymisation, data protection by design and by default.",
        helps=(
            "keyed hashes under a key that can be rotated and destroyed (log.key_rotate)",
            "a closed schema without a place for text",
        ),
        lacks="A keyed hash is still personal data for whoever holds the key.",
    ),
    Help(
        framework="gdpr",
        control="Art. 32",
        asks="Security of processing: confidentiality, integrity, availability.",
        helps=("AES-256-GCM for sealed content", "file modes, hash chain and signed checkpoints", "audit verify"),
        lacks="Access control to the machine and to the keys, and backups.",
    ),
)


def help_for(framework: FrameworkName | None) -> tuple[Help, ...]:
    """Return the rows of one framework, all of them for None."""
    return tuple(entry for entry in HELP if framework is None or entry.framework == framework)

"""Every error that steerguard raises.

The tree is grouped by what the reader must change, so that the group is the first line of help::

    SteerguardError
    ├── PolicyError                   the document is wrong: edit the document
    │   ├── PolicyNotFoundError
    │   ├── PolicySyntaxError
    │   ├── PolicyValidationError
    │   ├── UnknownMethodError
    │   └── UnsupportedApiVersionError
    ├── ArtifactError                 the artifact is wrong or absent
    │   ├── ArtifactReferenceError
    │   ├── ArtifactNotFoundError
    │   ├── ArtifactIntegrityError
    │   └── ArtifactFormatError
    ├── TrustError                    the bytes are right, but nobody who is trusted vouches for them
    │   ├── TrustPolicyError
    │   ├── SigningKeyError
    │   ├── SignatureError
    │   ├── VettingError
    │   ├── RevokedError
    │   ├── RollbackError
    │   └── StaleError
    ├── RegistryError                 a registry could not be reached, or refused
    │   ├── RegistryUnavailableError
    │   ├── RegistryAccessError
    │   ├── PublishConflictError
    │   └── PublishRefusedError
    ├── LockError                     the lock file does not fit: lock again
    │   ├── LockFormatError
    │   ├── UnlockedArtifactError
    │   └── LockMismatchError
    ├── PlanError                     each part is fine, together they do not fit
    │   ├── UnsupportedArchitectureError
    │   ├── IncompatibleModelError
    │   ├── MissingVariantError
    │   ├── CalibrationError
    │   ├── BudgetInfeasibleError
    │   ├── LooserPolicyError
    │   └── UnsupportedPlanError
    ├── WrapError                     the model object is in the wrong state
    │   ├── AlreadyWrappedError
    │   ├── NotWrappedError
    │   └── GuardedModelCopyError
    ├── GuidanceError                 while generating
    │   ├── UnsupportedGenerationError
    │   ├── UnguidedForwardError
    │   ├── NonFiniteHiddenStateError
    │   ├── CandidateMemoryError
    │   ├── AnswerStoppedError
    │   ├── CostModelError
    │   └── GuidanceDidNotFireError
    ├── AuditError                    the record could not be written or does not verify
    │   ├── AuditSinkError
    │   ├── AuditKeyError
    │   ├── AuditContentError
    │   │   ├── ContentErasedError
    │   │   ├── ContentKeyError
    │   │   └── ContentAlteredError
    │   ├── LegalHoldError
    │   └── AuditVerificationError
    │       └── UnanchoredRecordError
    ├── BuildError                    a recipe could not be carried out
    │   └── RecipeError
    ├── EvaluationError               prompts, settings or results of an evaluation
    │   └── PromptFileError
    ├── ConformanceError              a method breaks a guarantee of the engine
    └── ContentError                  the package's own data files are missing

A message states what was expected, what was found, where, and one next step.
The same facts are attributes, so that the audit log need not parse prose.
No message carries prompt text, generated text, token ids or keys.
"""

from __future__ import annotations


class SteerguardError(Exception):
    """Base of every error that this package raises.

    Args:
        summary: what went wrong, one sentence, no prompt text.
        expected: what would have been right.
        found: what was there instead.
        where: file, field, block or argument.
        next_step: the one thing to do next.
    """

    def __init__(
        self,
        summary: str,
        *,
        expected: object = None,
        found: object = None,
        where: object = None,
        next_step: str | None = None,
    ) -> None:
        self.summary = summary
        self.expected = expected
        self.found = found
        self.where = where
        self.next_step = next_step
        super().__init__(self._render())

    def _render(self) -> str:
        lines = [self.summary]
        for label, value in (
            ("where", self.where),
            ("expected", self.expected),
            ("found", self.found),
            ("next step", self.next_step),
        ):
            if value is not None:
                lines.append(f"  {label}: {value}")
        return "\n".join(lines)

    @property
    def code(self) -> str:
        """Stable, opaque name for logs and callers: the class name."""
        return type(self).__name__


class PolicyError(SteerguardError):
    """The policy document is wrong: edit the document."""


class PolicyNotFoundError(PolicyError):
    """Raised when a policy name or path does not exist."""


class PolicySyntaxError(PolicyError):
    """Raised when a document is not the strict subset of YAML 1.2 that policies use."""


class PolicyValidationError(PolicyError):
    """Raised when a well-formed document breaks the policy schema."""


class UnknownMethodError(PolicyError):
    """Raised when a guidance entry names a method that the catalog does not have."""


class UnsupportedApiVersionError(PolicyError):
    """Raised when a document states an `apiVersion` or `kind` that this version does not read."""


class ArtifactError(SteerguardError):
    """The artifact is wrong or absent."""


class ArtifactReferenceError(ArtifactError):
    """Raised when an artifact reference cannot be parsed or names an unsupported backend."""


class ArtifactNotFoundError(ArtifactError):
    """Raised when no artifact of that family and version range exists in the store."""


class ArtifactIntegrityError(ArtifactError):
    """Raised when bytes differ from the digest or size that they were pinned to."""


class ArtifactFormatError(ArtifactError):
    """Raised when a manifest, header, dtype, shape or value is not what the format allows."""


class TrustError(SteerguardError):
    """The bytes are those that were pinned, but nobody who is trusted vouches for them."""


class TrustPolicyError(TrustError):
    """Raised when a trust policy is malformed or contradicts itself."""


class SigningKeyError(TrustError):
    """Raised when a signing or public key is missing, unreadable, open to others or malformed."""


class SignatureError(TrustError):
    """Raised when a signature is missing, malformed, wrong, or not by a key that may sign this."""


class VettingError(TrustError):
    """Raised when no valid vetting statement reaches the level that the trust policy requires."""


class RevokedError(TrustError):
    """Raised when an artifact, or every key that signed it, is revoked."""


class RollbackError(TrustError):
    """Raised when a registry shows an older state than one that was seen, or nothing says that it is not an older one."""


class StaleError(TrustError):
    """Raised when an index or a list of revocations has expired or is too old to rely on."""


class RegistryError(SteerguardError):
    """A registry could not be reached, or refused."""


class RegistryUnavailableError(RegistryError):
    """Raised when a remote registry does not answer, or the network is switched off."""


class RegistryAccessError(RegistryError):
    """Raised when a registry refuses access: no token, a wrong one, or no permission."""


class PublishConflictError(RegistryError):
    """Raised when somebody else published meanwhile, or the version exists with other content."""


class PublishRefusedError(RegistryError):
    """Raised when an artifact may not be published as it is."""


class LockError(SteerguardError):
    """The lock file does not fit what is asked."""


class LockFormatError(LockError):
    """Raised when a lock file is malformed or was edited."""


class UnlockedArtifactError(LockError):
    """Raised when a remote artifact is asked for that no lock file pins."""


class LockMismatchError(LockError):
    """Raised when a lock file was made for another policy, or pins what the reference does not admit."""


class PlanError(SteerguardError):
    """Policy, model and artifacts are each fine, but together they do not fit."""


class UnsupportedArchitectureError(PlanError):
    """Raised when the decoder blocks of a model cannot be reached in a known way."""


class IncompatibleModelError(PlanError):
    """Raised when an artifact was made for another model (shape, tokenizer, template or fingerprint)."""


class MissingVariantError(PlanError):
    """Raised when a family has no variant bound to the wrapped model."""


class CalibrationError(PlanError):
    """Raised when a calibrated threshold cannot be resolved from the artifact's calibration."""


class BudgetInfeasibleError(PlanError):
    """Raised when the estimated cost already exceeds the policy's budget."""


class LooserPolicyError(PlanError):
    """Raised when the policy of one request is not provably at least as strict as the policy in force."""


class UnsupportedPlanError(PlanError):
    """Raised when a policy asks for something that this version cannot execute."""


class WrapError(SteerguardError):
    """The model object is in the wrong state for the call."""


class AlreadyWrappedError(WrapError):
    """Raised when a wrapped model is wrapped again."""


class NotWrappedError(WrapError):
    """Raised when a model without a bound guard is used as a guarded one."""


class GuardedModelCopyError(WrapError):
    """Raised when a wrapped model is pickled or copied: unwrap it first."""


class GuidanceError(SteerguardError):
    """Something went wrong while generating; no text is returned."""


class UnsupportedGenerationError(GuidanceError):
    """Raised when a way of generating would leave the guard's control."""


class UnguidedForwardError(GuidanceError):
    """Raised when a wrapped model is called directly, outside a guided request."""


class NonFiniteHiddenStateError(GuidanceError):
    """Raised when a hidden state or score is NaN or infinite where a verdict is read."""


class CandidateMemoryError(GuidanceError):
    """Raised by a proposer when there is no memory for so many candidates; a search catches it and draws fewer."""

    forward_tokens: int = 0
    """Token positions that had passed through the decoder for the failed draw, where the proposer knows them."""


class AnswerStoppedError(GuidanceError):
    """A streamed answer was ended by a rolling guard after text of it had been released."""


class CostModelError(GuidanceError):
    """Raised when a cost model cannot judge an answer: it failed, or gave no finite number for it."""


class GuidanceDidNotFireError(GuidanceError):
    """Raised when an intervention acted on fewer or more positions than the plan requires."""


class AuditError(SteerguardError):
    """The audit record could not be written or does not verify."""


class AuditSinkError(AuditError):
    """Raised when an audit record could not be written."""


class AuditKeyError(AuditError):
    """Raised when a key for hashing or sealing content is missing, unreadable or too short."""


class AuditContentError(AuditError):
    """Raised when the encrypted content of a row cannot be read."""


class ContentErasedError(AuditContentError):
    """Raised when the encrypted content of a row was erased: its key was destroyed."""


class ContentKeyError(AuditContentError):
    """Raised when the sealing key given is not the one that a row was sealed with."""


class ContentAlteredError(AuditContentError):
    """Raised when the encrypted content of a row, or its wrapped key, is not what was written."""


class LegalHoldError(AuditError):
    """Raised when something would be pruned or erased while a legal hold is in force."""


class AuditVerificationError(AuditError):
    """Raised when an audit log does not verify."""


class UnanchoredRecordError(AuditVerificationError):
    """Raised when no checkpoint covers a record yet, so that it cannot be proven."""


class BuildError(SteerguardError):
    """An artifact could not be built."""


class RecipeError(BuildError):
    """Raised when a recipe document is wrong."""


class EvaluationError(SteerguardError):
    """An evaluation cannot run, cannot go on in its folder, or lacks what a figure needs."""


class PromptFileError(EvaluationError):
    """A file of prompts, answers or reference sentences is missing, malformed or lacks what was named."""


class ConformanceError(SteerguardError, AssertionError):
    """Raised by `steerguard.testing.assert_conforms`: a guarantee does not hold for a method on a model."""


class ContentError(SteerguardError):
    """Raised when the shipped policies or the embedded registry cannot be found."""

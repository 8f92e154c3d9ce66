"""Signing what a log holds: the note goes to the log's file of checkpoints and to every copy, each time in this order."""

from __future__ import annotations

from dataclasses import dataclass

from steerguard.audit.copies import CheckpointCopy
from steerguard.audit.evidence.chain_state import ChainState
from steerguard.audit.evidence.checkpoint import SignedHead, sign_head
from steerguard.audit.evidence.checkpoint_file import AGAIN, CheckpointFile
from steerguard.audit.evidence.note import NoteKey
from steerguard.errors import AuditSinkError, SteerguardError
from steerguard.signing.keys import Signer


@dataclass(frozen=True, slots=True)
class CheckpointSigner:
    """A signer and the name that it signs under."""

    name: str
    signer: Signer

    @property
    def key(self) -> NoteKey:
        """What a verifier pins.

        Raises:
            AuditKeyError: the name is not allowed.
        """
        return NoteKey(self.name, self.signer.public)


class Anchor:
    """Makes the checkpoints of one log. Not thread-safe: the log's writer calls it under its lock.

    Args:
        log: id of the log.
        signer: signs from now on.
        file: the log's file of checkpoints; None when it has none.
        copies: where checkpoints go besides.
        made: the last checkpoint of a log that is continued; the copies may lack it.
    """

    def __init__(
        self,
        log: str,
        signer: CheckpointSigner,
        file: CheckpointFile | None,
        copies: tuple[CheckpointCopy, ...],
        *,
        made: SignedHead | None = None,
    ) -> None:
        self._log = log
        self._signers: tuple[CheckpointSigner, ...] = (signer,)
        self._file = file
        self._copies = copies
        self._made = made
        self._kept: SignedHead | None = None

    @property
    def key(self) -> NoteKey:
        """The key in force: the new one from the moment that it was introduced."""
        return self._signers[-1].key

    @property
    def copies(self) -> int:
        """To how many other places a checkpoint goes."""
        return len(self._copies)

    def introduce(self, signer: CheckpointSigner) -> None:
        """Let another key sign from now on; the next checkpoint carries the signatures of both."""
        self._signers = (self._signers[0], signer)

    def anchor(self, state: ChainState) -> SignedHead:
        """Sign a state that is on the medium, and return when the note is in every place.

        May be called again after a failure or an interrupt; a state that is signed already is not signed anew.

        Raises:
            AuditSinkError: the note could not be signed or kept. Some places may have it.
        """
        made = self._made
        if made is None or made.head.size != state.seq:
            self._made = made = self._signed(state)
        if self._kept is not made:
            if self._file is not None:
                self._file.append(made)
            for copy in self._copies:
                self._publish(copy, made)
            self._kept = made
            self._signers = self._signers[-1:]
        return made

    def finish(self) -> None:
        """Say that the log is finished.

        Raises:
            AuditSinkError: the file's mode cannot be changed.
        """
        if self._file is not None:
            self._file.finish()

    def close(self) -> None:
        """Close the file of checkpoints."""
        if self._file is not None:
            self._file.close()

    def _signed(self, state: ChainState) -> SignedHead:
        try:
            return sign_head(state.head(self._log), [(one.name, one.signer) for one in self._signers])
        except Exception as error:
            raise AuditSinkError(
                "A checkpoint of the audit log could not be signed.",
                where=self._log,
                expected="a signer that signs",
                found=error.summary if isinstance(error, SteerguardError) else type(error).__name__,
                next_step="Repair the signer; the log tries again with its next record.",
            ) from error

    def _publish(self, copy: CheckpointCopy, head: SignedHead) -> None:
        try:
            copy.publish(self._log, head.note.content)
        except AuditSinkError:
            raise
        except Exception as error:
            raise AuditSinkError(
                "A checkpoint could not be copied to its second place.",
                where=type(copy).__name__,
                expected="a place that keeps it",
                found=type(error).__name__,
                next_step=AGAIN,
            ) from error

"""Whose signature counts under a checkpoint: the key that the log says is in force, and whether a pin leads to it."""

from __future__ import annotations

from collections.abc import Iterable

from steerguard.audit.evidence.note import Note, NoteKey
from steerguard.audit.verification.report import Fault, SeenKey
from steerguard.errors import AuditVerificationError


class KeyBook:
    """The keys that verification of one directory knows: pinned ones, those that they lead to, and those that logs name.

    Args:
        pinned: keys that the verifier trusts; none means that every log is checked against the key it names itself.
    """

    def __init__(self, pinned: Iterable[NoteKey] = ()) -> None:
        self._trusted = set(pinned)
        self._known = set(self._trusted)
        self.pins_given = bool(self._trusted)

    @property
    def trusted(self) -> frozenset[NoteKey]:
        """Pinned keys, and keys that a checkpoint signed by a pinned key introduced."""
        return frozenset(self._trusted)

    @property
    def known(self) -> frozenset[NoteKey]:
        """Every key that was seen."""
        return frozenset(self._known)

    def learn(self, key: NoteKey) -> None:
        """Remember a key that a log names; nothing is trusted because of it."""
        self._known.add(key)

    def trust(self, key: NoteKey) -> None:
        """Trust a key that a trusted one introduced."""
        self._trusted.add(key)


class KeyFaultError(Exception):
    """Leaves `KeysInForce` when the signatures of a checkpoint do not do."""

    def __init__(self, fault: Fault, detail: str = "") -> None:
        self.fault: Fault = fault
        self.detail = detail
        super().__init__(fault)


class KeysInForce:
    """Which key signs the checkpoints of one log, from record to record."""

    def __init__(self, book: KeyBook) -> None:
        self._book = book
        self._current: NoteKey | None = None
        self._before: NoteKey | None = None
        self._begun = False
        self._recovered = False
        self._seen: dict[NoteKey, None] = {}
        self.unpinned_after_recovery = False

    @property
    def signs(self) -> bool:
        """Whether the log signs checkpoints; a log whose beginning was pruned does."""
        return self._current is not None or not self._begun

    @property
    def seen(self) -> tuple[SeenKey, ...]:
        """The keys that the log named or was signed by, in that order."""
        return tuple(SeenKey(name=key.name, hash=key.hash, pinned=key in self._book.trusted) for key in self._seen)

    def open(self, key: NoteKey | None) -> None:
        """Take over what log.open names.

        Raises:
            KeyFaultError: keys are pinned, and this is none of them.
        """
        self._begun = True
        self._name(key)
        if self._book.pins_given and key not in self._book.trusted:
            raise KeyFaultError("unpinned", "no key" if key is None else f"key {key.name}+{key.hash}")

    def rotate(self, key: NoteKey) -> None:
        """Take over what log.key_rotate names; a key that has not signed yet is passed over."""
        self._before = self._before or self._current
        self._begun = True
        self._name(key)

    def recovered(self) -> None:
        """From now on another process signs: its key need not be introduced by the one before."""
        self._recovered = True

    def check(self, note: Note) -> bool:
        """Check the signatures of the next checkpoint, and return whether a trusted key signed it.

        Raises:
            KeyFaultError: it is not signed, or wrongly signed, by a key that must sign it, or not by a trusted one.
        """
        if self._begun and self._current is None:
            raise KeyFaultError("signature", "the log says that it signs no checkpoints")
        try:
            signers = note.signed_by(tuple(self._candidates()))
        except AuditVerificationError as error:
            raise KeyFaultError("signature", f"{error.where}: the signature is wrong") from None
        trusted = [key for key in signers if key in self._book.trusted]
        if not self._begun:
            if not signers:
                raise KeyFaultError("unpinned", "no record that is left names the key: pin it")
            self._begun = True
            self._name((trusted or list(signers))[0])
        current, before = self._current, self._before
        if current not in signers or current is None:
            raise KeyFaultError("signature", "the key in force did not sign it")
        if before is not None and before not in signers and not self._recovered:
            raise KeyFaultError("signature", "the key before did not sign the first checkpoint of the new one")
        self._before = None
        if trusted:
            self._book.trust(current)
            return True
        if self._book.pins_given:
            if not self._recovered:
                raise KeyFaultError("unpinned", f"key {current.name}+{current.hash}")
            self.unpinned_after_recovery = True
        return False

    def vouch_for(self, note: Note) -> bool:
        """Whether a checkpoint kept elsewhere anchors: when keys are pinned, only if a trusted one signed it."""
        if not self._book.pins_given:
            return True
        try:
            return bool(note.signed_by(tuple(self._book.trusted)))
        except AuditVerificationError:
            return False

    def _candidates(self) -> frozenset[NoteKey]:
        if not self._begun:
            return self._book.known
        return self._book.trusted | {key for key in (self._current, self._before) if key is not None}

    def _name(self, key: NoteKey | None) -> None:
        self._current = key
        if key is not None:
            self._seen[key] = None
            self._book.learn(key)

r"""Redactors for texts that a log hashes or encrypts: plain patterns, and honest about what they miss.

A redactor is any callable from text to text. These replace what they find with a fixed word in brackets:

    emails           name@host.tld                                        [email]
    ibans            country, check digits and account that pass mod 97   [iban]
    payment_cards    12 to 19 digits that pass the Luhn check             [card]
    phone_numbers    a plus or a leading zero and 7 to 15 digits          [phone]

What they miss: names, postal addresses, dates of birth, account numbers of other forms, numbers written as words or in
other scripts' digits, numbers broken over lines, addresses spelled out ("at", "dot"), phone numbers without a plus or a
leading zero, and anything that a model was asked to write in another form. What they take by mistake: a long number
that happens to pass the Luhn check (one in ten does), and numbers that look like a phone number.
Redaction makes a text less personal; it does not make it anonymous.
"""

from __future__ import annotations

import re
from typing import Final

# Quantifiers are bounded and neighbours exclude one another, so that no text makes a search slow.
_EMAIL: Final = re.compile(
    r"(?<![\w.+%-])[\w.+%-]{1,64}@(?:[\w-]{1,63}\.){1,8}[^\W\d_]{2,24}(?![\w-])",
)
_IBAN: Final = re.compile(r"(?<![A-Za-z0-9])[A-Za-z]{2}[0-9]{2}(?:[ -]?[A-Za-z0-9]){11,30}(?![A-Za-z0-9])")
_DIGITS: Final = re.compile(r"[0-9]+(?:[ -][0-9]+)*")
_GROUP: Final = re.compile(r"[0-9]+")
_PHONE: Final = re.compile(r"(?<![0-9A-Za-z+])(?:\+[1-9]|\(?0)(?:[ ./()-]{0,2}[0-9]){6,14}(?![0-9])")
_SHORTEST_IBAN: Final = 15
_CARD_DIGITS: Final = range(12, 20)


def emails(text: str) -> str:
    """Replace e-mail addresses with `[email]`."""
    return _EMAIL.sub("[email]", text)


def ibans(text: str) -> str:
    """Replace international bank account numbers whose check digits are right with `[iban]`."""
    parts, position = [], 0
    match = _IBAN.search(text)
    while match is not None:
        end = _iban_end(match[0])
        if end is None:
            match = _IBAN.search(text, match.start() + 1)
            continue
        parts += [text[position : match.start()], "[iban]"]
        position = match.start() + end
        match = _IBAN.search(text, position)
    return "".join([*parts, text[position:]])


def payment_cards(text: str) -> str:
    """Replace numbers of 12 to 19 digits that pass the Luhn check, grouped or not, with `[card]`."""
    return _DIGITS.sub(lambda match: _without_cards(match[0]), text)


def phone_numbers(text: str) -> str:
    """Replace phone numbers that begin with a plus or a zero with `[phone]`."""
    return _PHONE.sub("[phone]", text)


PLAIN_REDACTORS: Final = (emails, ibans, payment_cards, phone_numbers)
"""All of them, in an order in which none takes a part of what another would find."""


def _iban_end(found: str) -> int | None:
    """Return how long the longest account number at the front is, for words may follow it; None where there is none."""
    for end in range(len(found), 0, -1):
        if not found[end - 1].isalnum() or (end < len(found) and found[end].isalnum()):
            continue
        compact = re.sub(r"[ -]", "", found[:end]).upper()
        if len(compact) < _SHORTEST_IBAN:
            break
        digits = "".join(str(int(character, 36)) for character in compact[4:] + compact[:4])
        if int(digits) % 97 == 1:
            return end
    return None


def _without_cards(number: str) -> str:
    """Replace card numbers among groups of digits: whole groups, the longest that passes from the first on."""
    groups = [match.span() for match in _GROUP.finditer(number)]
    parts, position, first = [], 0, 0
    while first < len(groups):
        last = next(
            (last for last in _lasts(groups, first) if _passes_luhn(number[groups[first][0] : groups[last][1]])), None
        )
        if last is not None:
            parts += [number[position : groups[first][0]], "[card]"]
            position = groups[last][1]
        first = first + 1 if last is None else last + 1
    return "".join([*parts, number[position:]])


def _lasts(groups: list[tuple[int, int]], first: int) -> list[int]:
    """Return the groups that a card number which begins with group `first` may end with, the furthest first."""
    found, digits = [], 0
    for last in range(first, len(groups)):
        digits += groups[last][1] - groups[last][0]
        if digits >= _CARD_DIGITS.stop:
            break
        if digits in _CARD_DIGITS:
            found.append(last)
    return found[::-1]


def _passes_luhn(number: str) -> bool:
    digits = [int(character) for character in reversed(number) if character.isdigit()]
    doubled = (digit * 2 for digit in digits[1::2])
    return (sum(digits[0::2]) + sum(digit - 9 if digit > 9 else digit for digit in doubled)) % 10 == 0

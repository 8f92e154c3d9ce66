from __future__ import annotations

import time

import pytest

from steerguard.audit.privacy.redactors import PLAIN_REDACTORS, emails, ibans, payment_cards, phone_numbers


@pytest.mark.parametrize(
    ("text", "expected"),
    [
        ("write to jane.doe+x@mail.example.org today", "write to [email] today"),
        ("<a_b%c@example.co.uk>", "<[email]>"),
        ("jörg@münchen.de.", "[email]."),
        ("two: a@b.io,c@d.io", "two: [email],[email]"),
        ("not one: user@localhost, @home, a@b", "not one: user@localhost, @home, a@b"),
    ],
)
def test_email_addresses(text, expected):
    assert emails(text) == expected


@pytest.mark.parametrize(
    ("text", "expected"),
    [
        ("GB82 WEST 1234 5698 7654 32", "[iban]"),
        ("to DE89370400440532013000.", "to [iban]."),
        ("to gb82west12345698765432 please pay", "to [iban] please pay"),
        ("NO93 8601 1117 947 now", "[iban] now"),
        ("ref ab12 GB82 WEST 1234 5698 7654 32 end", "ref ab12 [iban] end"),
        ("DE89370400440532013000 and GB82WEST12345698765432", "[iban] and [iban]"),
        ("GB82 WEST 1234 5698 7654 33", "GB82 WEST 1234 5698 7654 33"),
        ("XX00 short", "XX00 short"),
    ],
)
def test_bank_accounts_whose_check_digits_are_right(text, expected):
    assert ibans(text) == expected


@pytest.mark.parametrize(
    ("text", "expected"),
    [
        ("4111 1111 1111 1111", "[card]"),
        ("4111-1111-1111-1111, 5500005555555559", "[card], [card]"),
        ("378282246310005", "[card]"),
        ("call 12345 4111 1111 1111 1111 now", "call 12345 [card] now"),
        ("4111 1111 1111 1111 5500 0055 5555 5559", "[card] [card]"),
        ("4111 1111 1111 1112", "4111 1111 1111 1112"),
        ("41111111111111111111111111", "41111111111111111111111111"),
        ("order 12345678", "order 12345678"),
    ],
)
def test_card_numbers_that_pass_the_luhn_check(text, expected):
    assert payment_cards(text) == expected


@pytest.mark.parametrize(
    ("text", "expected"),
    [
        ("+44 20 7946 0958", "[phone]"),
        ("call (030) 901820 now", "call [phone] now"),
        ("0171/1234567", "[phone]"),
        ("tel:+1-202-555-0143.", "tel:[phone]."),
        ("in 2024 there were 1500 of 3000000", "in 2024 there were 1500 of 3000000"),
        ("0.5 and 007", "0.5 and 007"),
    ],
)
def test_phone_numbers(text, expected):
    assert phone_numbers(text) == expected


def test_the_order_of_all_of_them_loses_nothing():
    text = "a@b.io GB82 WEST 1234 5698 7654 32, 4111 1111 1111 1111, +44 20 7946 0958, Jane"
    for redactor in PLAIN_REDACTORS:
        text = redactor(text)
    assert text == "[email] [iban], [card], [phone], Jane"


@pytest.mark.parametrize("redactor", PLAIN_REDACTORS)
@pytest.mark.parametrize("piece", ["a", "1", "1 ", "a.", "a@", "+1", "0 ", "ab12 ", "GB82", "x@a.", "0-", "12-"])
def test_no_text_makes_a_redactor_slow(redactor, piece):
    start = time.perf_counter()
    redactor(piece * (200_000 // len(piece)))
    assert time.perf_counter() - start < 10.0

"""Numbers and characters as a reader sees them."""

import math

import pytest

from interp.report.text import column, number, paragraphs, visible


@pytest.mark.parametrize(
    ("raw", "seen"),
    [
        ("plain é 日本 🙂", "plain é 日本 🙂"),
        ("a\nb\tc\r", "a↵b⇥c␍"),
        ("\u202eevil\u2066", "‹U+202E›evil‹U+2066›"),
        ("zero\u200bwidth\ufeff", "zero‹U+200B›width‹U+FEFF›"),
        ("\x00\x1b", "␀␛"),
        ("\u2028\u2029", "‹U+2028›‹U+2029›"),
        ("\ud800", "‹U+D800›"),
        ("no\xa0break", "no\xa0break"),
    ],
)
def test_what_cannot_be_seen_is_made_visible(raw, seen):
    assert visible(raw) == seen
    assert visible(seen) == seen


@pytest.mark.parametrize(
    ("value", "text"),
    [
        (0, "0"),
        (0.8, "0.80"),
        (0.84321, "0.8432"),
        (-1.5, "−1.50"),
        (3.0, "3"),
        (12345.6, "12,346"),
        (1e6, "1,000,000"),
        (1.25e-5, "1.25e-05"),
        (math.inf, "∞"),
        (-math.inf, "−∞"),
        (math.nan, "–"),
    ],
)
def test_numbers_read_well(value, text):
    assert number(value) == text


def test_numbers_in_a_column_share_their_decimals():
    assert column([0.83, 0.4023, None, math.nan, 0.0]) == ["0.830", "0.402", "–", "–", "0.000"]
    assert column([1.0, -0.0]) == ["1.00", "0.00"]
    assert column([12.0, 3.25]) == ["12.0", "3.2"]
    assert column(["a", True, 3]) == ["a", "True", "3"]


def test_a_small_number_in_a_column_of_large_ones_does_not_become_zero():
    assert column([0.9, 1e-7]) == ["0.900", "1e-07"]


def test_only_the_few_marks_are_understood():
    (lead, bullets) = paragraphs("Some **bold**, *soft* `a*b*c` and\n2 * 3 * 4 <b>.\n\n- one\n- two\n")
    assert lead.items[0] == (
        ("text", "Some "),
        ("strong", "bold"),
        ("text", ", "),
        ("em", "soft"),
        ("text", " "),
        ("code", "a*b*c"),
        ("text", " and 2 * 3 * 4 <b>."),
    )
    assert bullets.bullets and [line[0][1] for line in bullets.items] == ["one", "two"]

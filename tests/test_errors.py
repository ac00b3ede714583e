"""Texts of other libraries' errors in the sentences that users read."""

import pytest

from rc2l_d2.errors import first_line, one_line


@pytest.mark.parametrize(
    ("error", "first", "one"),
    [
        (OSError("No space left.\nOn device."), "No space left", "No space left. On device"),
        (ValueError("  two  words \r\n"), "two  words", "two words"),
        (KeyError("a b"), "a b", "a b"),
        (KeyError(), "KeyError", "KeyError"),
        (RuntimeError("..."), "RuntimeError", "RuntimeError"),
        (RuntimeError("\n"), "RuntimeError", "RuntimeError"),
        (ValueError("abcdefghi. Later"), "abcdefghi", "abcdefghi"),
    ],
)
def test_messages_are_shortened_to_a_part_of_a_sentence(error, first, one):
    limit = 10 if str(error).startswith("abc") else 300
    assert first_line(error, limit) == first
    assert one_line(error, limit) == one

"""Packed strings behave as the list of strings that they hold."""

from __future__ import annotations

import pickle
import subprocess
import sys

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from rc2l_d2.data.datasets.packed import PackedStrings, members, repeated, text_hash

# Also what Python makes of file names that are not UTF-8.
texts = st.text(st.characters(exclude_categories=["Cs"]) | st.sampled_from("aA.j/\udcff\udc80"), max_size=8)
short = st.lists(texts, max_size=12)
few_texts = st.lists(st.sampled_from(["", "a", "b", "ab", "é", "\udcff"]), max_size=8)


@settings(max_examples=200, deadline=None)
@given(short, texts, texts)
def test_a_sequence_of_strings(strings, prefix, suffix):
    packed = PackedStrings.of(strings, prefix, suffix)
    expected = [prefix + text + suffix for text in strings]
    assert list(packed) == expected and len(packed) == len(expected)
    assert [packed[-place] for place in range(1, len(expected) + 1)] == expected[::-1]
    for outside in (len(expected), -len(expected) - 1):
        with pytest.raises(IndexError):
            packed[outside]
    assert list(packed.between("<", ">")) == [f"<{text}>" for text in strings]
    assert list(reversed(packed)) == expected[::-1]


@settings(max_examples=100, deadline=None)
@given(short, st.randoms(use_true_random=False))
def test_taking_by_place_and_by_mask(strings, random):
    packed = PackedStrings.of(strings, "p", "s")
    expected = list(packed)
    places = [random.randrange(len(strings)) for _ in strings]
    assert list(packed.take(np.array(places, int))) == [expected[place] for place in places]
    mask = np.array([random.random() < 0.5 for _ in strings], bool)
    assert list(packed.take(mask)) == [text for text, wanted in zip(expected, mask, strict=True) if wanted]
    # What is taken is as good as what it was taken from.
    kept = [text for text, wanted in zip(strings, mask, strict=True) if wanted]
    # What is taken is as good as what it was taken from.
    assert list(packed.take(mask).between("", "").take(np.arange(len(kept))[::-1])) == kept[::-1]


@settings(max_examples=200, deadline=None)
@given(st.lists(st.text("aAjJpPgG._Üé", max_size=7), max_size=12))
def test_endings_in_any_case(strings):
    packed = PackedStrings.of(strings, "prefix.jpg", ".png")
    endings = (".jpg", ".gg", "_a", "p")
    expected = [
        any(text.lower().endswith(ending) and len(text.encode()) > len(ending) for ending in endings)
        for text in strings
    ]
    assert packed.end_with(endings).tolist() == expected
    assert not packed.end_with(()).any()


@pytest.mark.parametrize("text", ["a\x0ejpg", "a_jpg", "a.jpG\x00", "\x0e.jp", "jpg", ".jpg"])
def test_what_only_resembles_an_ending(text):
    assert not PackedStrings.of([text]).end_with([".jpg"]).any()


@settings(max_examples=100, deadline=None)
@given(short, texts, texts)
def test_pickles_leave_the_hashes_behind(strings, prefix, suffix):
    packed = PackedStrings.of(strings, prefix, suffix)
    assert packed.hashes.tolist() == [text_hash(prefix + text + suffix) for text in strings]
    assert "hashes" in packed.__dict__
    copy = pickle.loads(pickle.dumps(packed))
    assert "hashes" not in copy.__dict__
    assert list(copy) == list(packed)
    assert copy.hashes.tolist() == packed.hashes.tolist()


def test_hashes_of_another_process_are_not_taken_over(tmp_path):
    packed = PackedStrings.of(["a", "b", "a"], "x/")
    _ = packed.hashes
    (tmp_path / "packed").write_bytes(pickle.dumps(packed))
    program = (
        "import pickle, sys; from rc2l_d2.data.datasets.packed import members, repeated; "
        "packed = pickle.load(open(sys.argv[1], 'rb')); print(repeated([packed]), members(packed, ['x/b']).tolist())"
    )
    result = subprocess.run(
        [sys.executable, "-c", program, str(tmp_path / "packed")], capture_output=True, text=True, check=True
    )
    assert result.stdout.strip() == "['x/a'] [False, True, False]"


@settings(max_examples=150, deadline=None)
@given(st.lists(few_texts, max_size=3))
def test_repeated(lists):
    joined = [f"p{text}" for strings in lists for text in strings]
    expected = sorted({text for text in joined if joined.count(text) > 1})
    # The same text, cut in different places into prefix and rest.
    packed = [PackedStrings.of((f"p{text}" for text in strings), *(["", ""] if place % 2 else [])) for place, strings
              in enumerate(lists)]  # fmt: skip
    assert repeated(packed) == expected
    assert repeated([PackedStrings.of(strings, "p") for strings in lists]) == expected


@settings(max_examples=150, deadline=None)
@given(few_texts, few_texts)
def test_members(strings, others):
    packed = PackedStrings.of(strings, "p", "s")
    wanted = [f"p{text}s" for text in others]
    assert members(packed, wanted).tolist() == [text in wanted for text in packed]
    assert members(packed, PackedStrings.of(others, "p", "s")).tolist() == [text in wanted for text in packed]


def test_equal_hashes_are_not_taken_for_equal_strings():
    packed, others = PackedStrings.of(["a", "b", "c"]), PackedStrings.of(["d", "a"])
    # As if all four were by chance the same: only looking at the strings tells them apart.
    packed.__dict__["hashes"], others.__dict__["hashes"] = np.zeros(3, np.int64), np.zeros(2, np.int64)
    assert repeated([packed, others]) == ["a"]
    packed.__dict__["hashes"] = np.full(3, text_hash("a"))
    assert members(packed, ["a"]).tolist() == [True, False, False]


def test_large_lists_are_hashed_in_pieces():
    count = 1_000_010
    packed = PackedStrings.of((str(number) for number in range(count)), "x")
    assert packed.hashes[[0, 999_999, 1_000_000, -1]].tolist() == [
        text_hash(f"x{number}") for number in (0, 999_999, 1_000_000, count - 1)
    ]
    assert repeated([packed, PackedStrings.of(["x1000003"])]) == ["x1000003"]

"""Packed strings behave like a list of strings."""

import pickle

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from rc2l_d2.data.datasets.packed import PackedStrings, members, repeated

# Also surrogates, which Python uses for file names that are not UTF-8.
texts = st.text(st.characters(exclude_categories=["Cs"]) | st.sampled_from("aA.j/\udcff\udc80"), max_size=8)
short = st.lists(texts, max_size=12)
few_texts = st.lists(st.sampled_from(["", "a", "b", "ab", "é", "\udcff"]), max_size=8)


def text_hash(text: str) -> int:
    return hash(text.encode("utf-8", "surrogateescape"))


@settings(max_examples=100, deadline=None)
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
    assert packed.hashes.tolist() == [text_hash(text) for text in expected]
    copy = pickle.loads(pickle.dumps(packed))
    # Hashes are not pickled.
    assert "hashes" not in copy.__dict__ and list(copy) == expected
    assert copy.hashes.tolist() == packed.hashes.tolist()


@settings(max_examples=100, deadline=None)
@given(short, st.randoms(use_true_random=False))
def test_taking_by_place_and_by_mask(strings, random):
    packed = PackedStrings.of(strings, "p", "s")
    expected = list(packed)
    places = [random.randrange(len(strings)) for _ in strings]
    assert list(packed.take(np.array(places, int))) == [expected[place] for place in places]
    mask = np.array([random.random() < 0.5 for _ in strings], bool)
    assert list(packed.take(mask)) == [text for text, wanted in zip(expected, mask, strict=True) if wanted]
    kept = [text for text, wanted in zip(strings, mask, strict=True) if wanted]
    assert list(packed.take(mask).between("", "").take(np.arange(len(kept))[::-1])) == kept[::-1]


@settings(max_examples=100, deadline=None)
@given(st.lists(few_texts, max_size=3))
def test_repeated(lists):
    joined = [f"p{text}" for strings in lists for text in strings]
    expected = sorted({text for text in joined if joined.count(text) > 1})
    # The same text, cut in different places into prefix and rest.
    assert repeated([PackedStrings.of(f"p{text}" for text in strings) for strings in lists]) == expected
    assert repeated([PackedStrings.of(strings, "p") for strings in lists]) == expected


@settings(max_examples=100, deadline=None)
@given(few_texts, few_texts)
def test_members(strings, others):
    packed = PackedStrings.of(strings, "p", "s")
    wanted = [f"p{text}s" for text in others]
    assert members(packed, wanted).tolist() == [text in wanted for text in packed]
    assert members(packed, PackedStrings.of(others, "p", "s")).tolist() == [text in wanted for text in packed]


def test_equal_hashes_are_not_taken_for_equal_strings():
    packed, others = PackedStrings.of(["a", "b", "c"]), PackedStrings.of(["d", "a"])
    # As if all four hashes collided.
    packed.__dict__["hashes"], others.__dict__["hashes"] = np.zeros(3, np.int64), np.zeros(2, np.int64)
    assert repeated([packed, others]) == ["a"]
    packed.__dict__["hashes"] = np.full(3, text_hash("a"))
    assert members(packed, ["a"]).tolist() == [True, False, False]


def test_large_lists_are_hashed_in_chunks():
    count = 1_000_010
    packed = PackedStrings.of((str(number) for number in range(count)), "x")
    assert packed.hashes[[0, 999_999, 1_000_000, -1]].tolist() == [
        text_hash(f"x{number}") for number in (0, 999_999, 1_000_000, count - 1)
    ]
    assert repeated([packed, PackedStrings.of(["x1000003"])]) == ["x1000003"]

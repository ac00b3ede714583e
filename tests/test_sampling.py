"""Samples of images: the same for ever, covering every class, or leaving every class."""

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from rc2l_d2.data.datasets.sampling import sample_balanced, sample_held_out, sample_uniform
from rc2l_d2.errors import InputError

SEEDS = st.integers(0, 2**32 - 1)
# (n, K) bool: which image has which class.
PRESENCE = st.builds(
    lambda count, classes, seed, density: np.random.RandomState(seed).rand(count, classes) < density,
    st.integers(1, 30), st.integers(1, 5), SEEDS, st.floats(0.02, 0.6),
)  # fmt: skip


def test_samples_never_change():
    # A published split must not change: these are RandomState's numbers.
    assert sample_uniform(10, 4, 1).tolist() == [2, 4, 6, 9]
    assert sample_uniform(20, 5, 0).tolist() == [1, 8, 10, 18, 19]
    assert sample_uniform(3, 9, 0).tolist() == [0, 1, 2] and sample_uniform(0, 1, 0).tolist() == []


@settings(max_examples=100, deadline=None)
@given(PRESENCE, SEEDS, st.integers(1, 30))
def test_balanced_samples_cover_every_class(presence, seed, number):
    try:
        sampled = sample_balanced(presence, number, seed)
    except InputError as error:
        # Never more than an image per class.
        assert number < presence.any(axis=0).sum() and "images to have every class" in str(error)
        return
    assert (presence[sampled].any(axis=0) == presence.any(axis=0)).all()
    assert len(sampled) == len(set(sampled.tolist())) == min(number, len(presence)) and (np.diff(sampled) > 0).all()
    assert sampled.tolist() == sample_balanced(presence, number, seed).tolist()


def test_balanced_samples_are_refused_and_depend_on_the_seed():
    presence = np.eye(6, dtype=bool)
    with pytest.raises(InputError, match="With seed 0 it takes 6 images to have every class, more than 5"):
        sample_balanced(presence, 5, 0)
    assert sample_balanced(presence, 6, 0).tolist() == list(range(6))
    many = np.ones((50, 2), bool)
    assert sample_balanced(many, 5, 0).tolist() != sample_balanced(many, 5, 1).tolist()
    # If one image covers all, the sample is the uniform one.
    assert sample_balanced(many, 5, 3).tolist() == sample_uniform(50, 5, 3).tolist()
    assert sample_balanced(np.zeros((4, 3), bool), 2, 0).tolist() == sample_uniform(4, 2, 0).tolist()


@settings(max_examples=100, deadline=None)
@given(PRESENCE, SEEDS, st.integers(1, 30))
def test_images_held_out_leave_every_class(presence, seed, number):
    held_out = sample_held_out(presence, number, seed)
    staying = np.setdiff1d(np.arange(len(presence)), held_out)
    assert (presence[staying].any(axis=0) == presence.any(axis=0)).all()
    assert len(held_out) == len(set(held_out.tolist())) <= number and (np.diff(held_out) > 0).all()
    if len(held_out) < number:  # Every other image is the last one with some class.
        assert all((presence[staying][:, presence[index]].sum(axis=0) == 1).any() for index in staying)
    assert held_out.tolist() == sample_held_out(presence, number, seed).tolist()


def test_images_held_out_have_every_class_if_possible():
    # Two classes in two images each, one in all; the first of each pair in the seed's order is held out.
    presence = np.zeros((40, 3), bool)
    presence[:, 0] = presence[[3, 20], 1] = presence[[7, 31], 2] = True
    for seed in range(5):
        held_out = sample_held_out(presence, 4, seed)
        assert len(held_out) == 4 and presence[held_out].sum(axis=0).tolist() == [4, 1, 1]
    assert sample_held_out(np.eye(6, dtype=bool), 3, 0).tolist() == []

"""Sample images with a seed; a seed gives the same images on every machine."""

from __future__ import annotations

import re
from collections.abc import Sequence

import numpy as np

from ...errors import InputError

_COPY = re.compile(r"\.rf\.[0-9A-Za-z]+\.\w+$")


def sample_uniform(count: int, number: int, seed: int) -> np.ndarray:
    """The indices, ascending, of ``number`` of ``count`` things."""
    # RandomState, unlike Generator, guarantees its stream in every NumPy: a published split must not change.
    return np.sort(np.random.RandomState(seed).permutation(count)[:number])


def sample_balanced(presence: np.ndarray, number: int, seed: int) -> np.ndarray:
    """As :func:`sample_uniform`, but every class that occurs is in at least one of the sampled images.

    ``presence`` is (n, K) bool: which image has which class.

    Raises:
        InputError: ``number`` images cannot cover the classes in the seed's order; the message has the number needed.
    """
    covering = _rarest_first(presence, len(presence), seed, keep=0, fill=False)
    if len(covering) > number:
        raise InputError(
            f"With seed {seed} it takes {len(covering)} images to have every class, more than {number}; give a larger "
            f"number, or another seed."
        )
    return _rarest_first(presence, number, seed, keep=0)


def sample_held_out(presence: np.ndarray, number: int, seed: int) -> np.ndarray:
    """The indices, ascending, of at most ``number`` images to hold out, so that the others still have every class.

    The images held out have as many classes as possible. Arguments: :func:`sample_balanced`.
    """
    return _rarest_first(presence, number, seed, keep=1)


def split_held_out(
    images: Sequence[str], presence: np.ndarray, fraction: float, seed: int
) -> tuple[np.ndarray, np.ndarray]:
    """Hold out a fraction of the images; return the indices of training and held-out images, ascending.

    Copies of one image by Roboflow's augmentation, NAME.rf.HASH.jpg, stay together. Images without a class are left
    out. The other arguments: :func:`sample_balanced`.

    Raises:
        InputError: no image can be held out.
    """
    useful = np.flatnonzero(presence.any(axis=1))
    place: dict[str, int] = {}
    groups = np.array([place.setdefault(_COPY.sub("", images[index]), len(place)) for index in useful], np.int64)
    grouped = np.zeros((len(place), presence.shape[1]), bool)
    np.logical_or.at(grouped, groups, presence[useful])
    held_out = useful[np.isin(groups, sample_held_out(grouped, max(1, round(fraction * len(place))), seed))]
    if not len(held_out):
        copies = " (copies counted as one)" if len(place) < len(useful) else ""
        raise InputError(
            f"Each of the {len(place)} labelled images{copies} is the only one of some class; label more images."
        )
    return np.setdiff1d(useful, held_out), held_out


def _rarest_first(presence: np.ndarray, number: int, seed: int, keep: int, fill: bool = True) -> np.ndarray:
    """Choose, in the seed's order, the first image with each class not chosen yet (the rarest class first).

    With ``fill`` the first of the other images follow. An image is left where ``keep`` images of a class must stay.
    """
    order = np.random.RandomState(seed).permutation(len(presence))
    staying = presence.sum(axis=0)
    chosen: list[int] = []

    def choose(candidates: np.ndarray, most: int) -> None:
        for index in candidates.tolist():
            if most == 0 or len(chosen) == number:
                return
            if index not in chosen and (staying[presence[index]] > keep).all():
                chosen.append(index)
                staying[:] -= presence[index]
                most -= 1

    for label in np.argsort(staying, kind="stable"):
        if not presence[chosen, label].any():
            choose(order[presence[order, label]], most=1)
    if fill:
        choose(order, most=number)
    return np.sort(np.array(chosen, np.int64))

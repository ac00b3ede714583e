"""Sample images with a seed; a seed gives the same images on every machine."""

from __future__ import annotations

import numpy as np

from ...errors import InputError


def sample_uniform(count: int, number: int, seed: int) -> np.ndarray:
    """The indices, ascending, of ``number`` of ``count`` things."""
    # RandomState, unlike Generator, guarantees its stream in every NumPy: a published split must not change.
    return np.sort(np.random.RandomState(seed).permutation(count)[:number])


def sample_balanced(presence: np.ndarray, number: int, seed: int) -> np.ndarray:
    """As :func:`sample_uniform`, but every class that occurs is in at least one of the sampled images.

    In the seed's order, the first image with each class that is not covered yet is taken (the rarest class first), then
    the first of the rest.

    Args:
        presence: (n, K) bool, which image has which class.
        number: images to sample.
        seed: from 0.

    Raises:
        InputError: ``number`` images cannot cover the classes in this order; says how many can.
    """
    order = np.random.RandomState(seed).permutation(len(presence))
    shuffled = presence[order]
    chosen: list[int] = []
    for label in np.argsort(presence.sum(axis=0), kind="stable"):
        having = np.flatnonzero(shuffled[:, label])
        if len(having) and not shuffled[chosen, label].any():
            chosen.append(int(having[0]))
    if len(chosen) > number:
        raise InputError(
            f"With seed {seed} it takes {len(chosen)} images to have every class, more than {number}; give a larger "
            f"number, or another seed."
        )
    rest = np.setdiff1d(np.arange(len(order)), chosen)
    return np.sort(order[[*chosen, *rest[: number - len(chosen)]]])


def sample_held_out(presence: np.ndarray, number: int, seed: int) -> np.ndarray:
    """The indices, ascending, of at most ``number`` images to hold out, so that the others still have every class.

    In the seed's order, the first image with each class that is not held out yet is taken (the rarest class first),
    then the first of the rest. An image that is the last one with some class is never taken.

    Args:
        presence: (n, K) bool, which image has which class.
        number: images to hold out; fewer if the others would lose a class.
        seed: from 0.
    """
    order = np.random.RandomState(seed).permutation(len(presence))
    staying = presence.sum(axis=0)
    chosen: list[int] = []

    def hold_out(candidates: np.ndarray, at_most: int) -> None:
        for index in candidates.tolist():
            if at_most == 0 or len(chosen) == number:
                return
            if index not in chosen and (staying[presence[index]] > 1).all():
                chosen.append(index)
                staying[:] -= presence[index]
                at_most -= 1

    for label in np.argsort(staying, kind="stable"):
        if not presence[chosen, label].any():
            hold_out(order[presence[order, label]], at_most=1)
    hold_out(order, at_most=number)
    return np.sort(np.array(chosen, np.int64))

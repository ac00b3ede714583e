"""Strings packed into a few arrays: ten million paths take little more than their bytes, not gigabytes of objects."""

from __future__ import annotations

from array import array
from collections.abc import Iterable, Iterator, Sequence
from copy import copy
from functools import cached_property

import numpy as np
import torch

_CHUNK = 1_000_000


class PackedStrings(Sequence[str]):
    """An immutable sequence of strings: slices of one byte buffer, each between the same prefix and suffix.

    The arrays are tensors, which torch passes to worker processes by reference: all workers share one copy.
    """

    def __init__(self, buffer: np.ndarray, starts: np.ndarray, ends: np.ndarray, prefix: str = "", suffix: str = ""):
        """Slices, (n,) ``starts`` and ``ends``, of UTF-8 text: a uint8 array, writable (torch requires it)."""
        self._buffer = torch.from_numpy(buffer)
        self._starts = torch.from_numpy(np.ascontiguousarray(starts, np.int64))
        self._lengths = torch.from_numpy((ends - starts).astype(np.int32))
        self.prefix, self.suffix = prefix, suffix

    @classmethod
    def of(cls, strings: Iterable[str], prefix: str = "", suffix: str = "") -> PackedStrings:
        """Pack ``strings``."""
        buffer, ends = bytearray(), array("q", [0])
        for text in strings:
            # A file name that is not UTF-8 comes out of Python's file functions with surrogates.
            buffer += text.encode("utf-8", "surrogateescape")
            ends.append(len(buffer))
        bounds = np.array(ends, np.int64)
        return cls(np.frombuffer(buffer, np.uint8), bounds[:-1], bounds[1:], prefix, suffix)

    def __len__(self) -> int:
        return len(self._starts)

    def __getitem__(self, index: int) -> str:
        if not -len(self) <= index < len(self):
            raise IndexError(f"index {index} of {len(self)} strings")
        start = int(self._starts[index])
        packed = self._buffer[start : start + int(self._lengths[index])].numpy().tobytes()
        return self._text(packed)

    def __iter__(self) -> Iterator[str]:
        return map(self._text, self._packed())

    def _text(self, packed: bytes) -> str:
        return self.prefix + packed.decode("utf-8", "surrogateescape") + self.suffix

    def _packed(self) -> Iterator[bytes]:
        """The bytes of each string without prefix and suffix."""
        view = memoryview(self._buffer.numpy())
        # Chunks as lists: faster than indexing arrays, smaller than one list.
        for first in range(0, len(self), _CHUNK):
            chunk = slice(first, first + _CHUNK)
            for start, length in zip(self._starts[chunk].tolist(), self._lengths[chunk].tolist(), strict=True):
                yield bytes(view[start : start + length])

    def between(self, prefix: str, suffix: str) -> PackedStrings:
        """The same strings with another prefix and suffix, on the same buffer."""
        result = copy(self)  # without the hashes
        result.prefix, result.suffix = prefix, suffix
        return result

    def take(self, indices: np.ndarray) -> PackedStrings:
        """The strings at ``indices`` (or where a bool array is True), on the same buffer."""
        starts = self._starts.numpy()[indices]
        ends = starts + self._lengths.numpy()[indices]
        return type(self)(self._buffer.numpy(), starts, ends, self.prefix, self.suffix)

    @cached_property
    def hashes(self) -> np.ndarray:
        """(n,) int64, :func:`_hash` of each string; valid in this process only."""
        prefix, suffix = (text.encode("utf-8", "surrogateescape") for text in (self.prefix, self.suffix))
        hashes = (hash(b"%b%b%b" % (prefix, packed, suffix)) for packed in self._packed())
        return np.fromiter(hashes, np.int64, len(self))

    def __getstate__(self) -> dict:
        # Python's hashes differ between processes.
        return {name: value for name, value in self.__dict__.items() if name != "hashes"}


def repeated(lists: Sequence[PackedStrings]) -> list[str]:
    """The strings that occur more than once in all ``lists`` together, sorted."""
    order = np.concatenate([np.zeros(0, np.int64), *(strings.hashes for strings in lists)])
    order.sort()
    suspects = np.unique(order[1:][order[1:] == order[:-1]])
    found: set[str] = set()
    seen: set[str] = set()
    for strings in lists:
        for index in np.flatnonzero(np.isin(strings.hashes, suspects)):
            text = strings[int(index)]
            (found if text in seen else seen).add(text)
    return sorted(found)


def members(strings: PackedStrings, others: Iterable[str]) -> np.ndarray:
    """(n,) bool: which of ``strings`` are among ``others``. Exact: strings with equal hashes are compared."""
    wanted = set(others)
    result = np.isin(strings.hashes, np.array([*map(_hash, wanted)], np.int64))
    for index in np.flatnonzero(result):
        result[index] = strings[int(index)] in wanted
    return result


def _hash(text: str) -> int:
    return hash(text.encode("utf-8", "surrogateescape"))

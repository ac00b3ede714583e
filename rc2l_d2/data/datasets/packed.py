"""Many strings in a few arrays: as Python objects ten million paths cost gigabytes, here little but their bytes."""

from __future__ import annotations

from collections.abc import Iterable, Iterator, Sequence
from functools import cached_property

import numpy as np
import torch

_CHUNK = 1_000_000


class PackedStrings(Sequence[str]):
    """An immutable sequence of strings: slices of one byte buffer, all between one prefix and one suffix.

    The arrays are held as tensors, which torch hands to worker processes by reference: with any way of starting them
    the workers share one copy.
    """

    def __init__(self, buffer: np.ndarray, starts: np.ndarray, ends: np.ndarray, prefix: str = "", suffix: str = ""):
        """
        Args:
            buffer: uint8, UTF-8 text; writable (torch insists), never written.
            starts, ends: (n,), where each string begins and ends in it.
            prefix, suffix: stand before and after each of them.
        """
        self._buffer = torch.from_numpy(buffer)
        self._starts = torch.from_numpy(np.ascontiguousarray(starts, np.int64))
        self._lengths = torch.from_numpy((ends - starts).astype(np.int32))
        self.prefix, self.suffix = prefix, suffix

    @classmethod
    def of(cls, strings: Iterable[str], prefix: str = "", suffix: str = "") -> PackedStrings:
        """Pack ``strings``, one after the other."""
        buffer, ends = bytearray(), []
        for text in strings:
            # A file name that is not UTF-8 comes out of Python's file functions with surrogates.
            buffer += text.encode("utf-8", "surrogateescape")
            ends.append(len(buffer))
        stops = np.array(ends, np.int64)
        starts = np.concatenate([[0], stops[:-1]]) if ends else stops
        return cls(np.frombuffer(buffer, np.uint8).copy(), starts, stops, prefix, suffix)

    def __len__(self) -> int:
        return len(self._starts)

    def __getitem__(self, index: int) -> str:
        if not -len(self) <= index < len(self):
            raise IndexError(f"index {index} of {len(self)} strings")
        start = int(self._starts[index])
        packed = self._buffer[start : start + int(self._lengths[index])].numpy().tobytes()
        return self.prefix + packed.decode("utf-8", "surrogateescape") + self.suffix

    def __iter__(self) -> Iterator[str]:
        view = memoryview(self._buffer.numpy())
        for starts, lengths in self._chunks():
            for start, size in zip(starts, lengths, strict=True):
                yield self.prefix + str(view[start : start + size], "utf-8", "surrogateescape") + self.suffix

    def _chunks(self) -> Iterator[tuple[list[int], list[int]]]:
        # So many numbers at a time as lists: faster than arrays element by element, smaller than all at once.
        for first in range(0, len(self), _CHUNK):
            part = slice(first, first + _CHUNK)
            yield self._starts[part].tolist(), self._lengths[part].tolist()

    def between(self, prefix: str, suffix: str) -> PackedStrings:
        """The same strings with another prefix and suffix, on the same buffer."""
        starts = self._starts.numpy()
        return PackedStrings(self._buffer.numpy(), starts, starts + self._lengths.numpy(), prefix, suffix)

    def take(self, indices: np.ndarray) -> PackedStrings:
        """The strings at ``indices`` (or where a bool array is True), on the same buffer."""
        starts = self._starts.numpy()[indices]
        ends = starts + self._lengths.numpy()[indices]
        return PackedStrings(self._buffer.numpy(), starts, ends, self.prefix, self.suffix)

    def end_with(self, endings: Iterable[str]) -> np.ndarray:
        """(n,) bool: which of the strings without prefix and suffix end with one of ``endings``, in any case.

        Args:
            endings: ASCII, lower case.
        """
        starts, lengths, buffer = self._starts.numpy(), self._lengths.numpy(), self._buffer.numpy()
        found = np.zeros(len(self), bool)
        for ending in endings:
            left = np.flatnonzero(~found & (lengths > len(ending)))
            for back, letter in enumerate(reversed(ending), start=1):
                # Bit 5 is what tells a small letter from a capital.
                case = 0x20 if letter.isalpha() else 0
                left = left[buffer[starts[left] + lengths[left] - back] | case == ord(letter)]
            found[left] = True
        return found

    @cached_property
    def hashes(self) -> np.ndarray:
        """(n,) int64, equal for equal strings and, but for chance, for no others; of this process alone."""
        view = memoryview(self._buffer.numpy())
        prefix, suffix = (text.encode("utf-8", "surrogateescape") for text in (self.prefix, self.suffix))
        parts = [
            np.array([hash(b"%b%b%b" % (prefix, view[a : a + size], suffix)) for a, size in zip(*chunk, strict=True)])
            for chunk in self._chunks()
        ]
        return np.concatenate(parts) if parts else np.zeros(0, np.int64)

    def __getstate__(self) -> dict:
        # Hashes of strings differ between processes.
        return {name: value for name, value in self.__dict__.items() if name != "hashes"}


def text_hash(text: str) -> int:
    """The hash that :attr:`PackedStrings.hashes` has for ``text``."""
    return hash(text.encode("utf-8", "surrogateescape"))


def repeated(lists: Sequence[PackedStrings]) -> list[str]:
    """The strings that occur more than once in all ``lists`` together, sorted."""
    order = np.concatenate([np.zeros(0, np.int64), *(strings.hashes for strings in lists)])
    order.sort()
    suspects = np.unique(order[1:][order[1:] == order[:-1]])
    found: set[str] = set()
    seen: set[str] = set()
    if len(suspects):
        for strings in lists:
            for index in np.flatnonzero(_among(strings.hashes, suspects)):
                text = strings[int(index)]
                (found if text in seen else seen).add(text)
    return sorted(found)


def members(strings: PackedStrings, others: Iterable[str]) -> np.ndarray:
    """(n,) bool: which of ``strings`` are among ``others``. Exact: equal hashes are looked at as strings."""
    wanted = set(others)
    hashes = np.fromiter((text_hash(text) for text in wanted), np.int64, len(wanted))
    result = _among(strings.hashes, np.sort(hashes))
    for index in np.flatnonzero(result):
        result[index] = strings[int(index)] in wanted
    return result


def _among(values: np.ndarray, few: np.ndarray) -> np.ndarray:
    """(n,) bool: which ``values`` are among ``few``, which are sorted. (np.isin sorts both, in several copies.)"""
    result = np.zeros(len(values), bool)
    for first in range(0, len(values) if len(few) else 0, _CHUNK):
        part = slice(first, first + _CHUNK)
        place = np.searchsorted(few, values[part]).clip(max=len(few) - 1)
        result[part] = few[place] == values[part]
    return result

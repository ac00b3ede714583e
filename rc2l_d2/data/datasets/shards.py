"""Images in uncompressed tar shards (WebDataset's layout): found once, then each is read at its place in its shard."""

from __future__ import annotations

import glob
import logging
import os
import re
import tarfile
import time
from array import array
from collections.abc import Iterator
from concurrent.futures import ThreadPoolExecutor
from functools import cache, partial

import numpy as np
import torch

from ...errors import InputError, first_few
from .packed import PackedStrings

_RANGE = re.compile(r"\{(\d+)\.\.(\d+)\}")
_COMPRESSED = (b"\x1f\x8b", b"BZh", b"\xfd7zXZ", b"\x28\xb5\x2f\xfd")  # first bytes of gzip, bzip2, xz and zstd
_THREADS = 8  # On a network file system, reading headers is mostly waiting.
_logger = logging.getLogger(__name__)


class ShardImage(str):
    """Path of an image in a tar shard, ``<shard>/<member>``, that knows the place of the image's bytes."""

    shard: str  # path of the tar file
    offset: int  # in bytes
    size: int  # in bytes

    def read_bytes(self) -> bytes:
        """Return the content of the image file; raises OSError."""
        with open(self.shard, "rb") as file:
            file.seek(self.offset)
            return file.read(self.size)


class ShardImages(PackedStrings):
    """Paths of images in tar shards; the items are ShardImages.

    Attributes:
        shards: paths of the tar files.
        places: (n, 3) int64: index into ``shards``, offset and size in bytes.
    """

    shards: list[str]
    places: torch.Tensor

    def __getitem__(self, index: int) -> ShardImage:
        image = ShardImage(super().__getitem__(index))
        number, image.offset, image.size = self.places[index].tolist()
        image.shard = self.shards[number]
        return image

    def __iter__(self) -> Iterator[ShardImage]:
        return map(self.__getitem__, range(len(self)))

    def take(self, indices: np.ndarray) -> ShardImages:
        """The images at ``indices`` (or where a bool array is True)."""
        taken = super().take(indices)
        taken.shards, taken.places = self.shards, torch.from_numpy(np.ascontiguousarray(self.places.numpy()[indices]))
        return taken


@cache
def shard_images(root: str, pattern: str, suffixes: tuple[str, ...], where: str) -> ShardImages:
    """The images in the tar files that match a pattern, in the order of the files and of their members.

    All headers are read, once per process: 0.04 ms for each member, image or not, and more where the disk is slow. A
    shard that is damaged or holds no image is logged and left out.

    Args:
        root: an absolute folder with "/" at its end.
        pattern: a glob below it, perhaps with ranges: ``train-{000..127}.tar`` stands for 128 files, which must exist.
        suffixes: endings of the images' names, in any case. No dot is before them, as WebDataset's extensions begin at
            the first one: with ``.png``, ``1.seg.png`` is no image.
        where: begins messages.

    Raises:
        InputError: the pattern matches no file, a shard is compressed or cannot be opened, or no shard has an image.
    """
    start, shards = time.perf_counter(), _matching(root, pattern, where)
    places, problems, count = array("q"), [], 0

    def names() -> Iterator[str]:
        nonlocal count
        with ThreadPoolExecutor(_THREADS) as pool:
            found = pool.map(partial(_members, suffixes=suffixes), (root + shard for shard in shards))
            for number, (shard, (images, members, problem)) in enumerate(zip(shards, found, strict=True)):
                count += members
                if problem:
                    problems.append(f"{root}{shard}: the tar shard {problem}")
                    continue
                for name, *place in images:
                    places.extend((number, *place))
                    yield f"{shard}/{name}"

    images = ShardImages.of(names(), prefix=root)
    if not len(images):
        raise InputError(
            f"{where} holds no image, as none of {len(shards)} tar shards can be used ({problems[0]}); replace them, "
            f"or correct the key 'shards' or image_suffix."
        )
    for problem in problems:
        _logger.warning("%s; it is left out.", problem)
    images.shards = [root + shard for shard in shards]
    images.places = torch.from_numpy(np.array(places, np.int64).reshape(-1, 3))
    seconds = time.perf_counter() - start
    _logger.info("%s: %d of %d members of tar shards are images (%.1f s).", where, len(images), count, seconds)
    return images


def _matching(root: str, pattern: str, where: str) -> list[str]:
    """The files that match a pattern, as paths below the root; see :func:`shard_images`."""
    found = {name: sorted(glob.glob(name, root_dir=root, recursive=True)) for name in _expanded(pattern)}
    missing = [name for name, files in found.items() if not files]
    if missing:
        raise InputError(
            f"{where} names tar shards that are not below {root}: {first_few(missing)}; correct the key 'shards' or "
            f"complete the data set."
        )
    return list(dict.fromkeys(file for files in found.values() for file in files))


def _expanded(pattern: str) -> list[str]:
    """The patterns that one with ranges stands for, as in a shell: numbers are padded if one end of a range is."""
    found = _RANGE.search(pattern)
    if found is None:
        return [pattern]
    first, last = sorted(found.groups(), key=int)
    width = max(map(len, found.groups())) if any(re.match(r"0\d", end) for end in found.groups()) else 1
    before, after = pattern[: found.start()], _expanded(pattern[found.end() :])
    return [f"{before}{number:0{width}}{rest}" for number in range(int(first), int(last) + 1) for rest in after]


def _members(shard: str, suffixes: tuple[str, ...]) -> tuple[list[tuple[str, int, int]], int, str]:
    """Name, offset and size of each image in a shard; the number of members of any kind; what is wrong, or ""."""
    images, count = [], 0
    try:
        with open(shard, "rb") as file:
            if file.read(6).startswith(_COMPRESSED):
                raise InputError(
                    f"{shard}: the tar shard is compressed, so that single images cannot be read from it; decompress "
                    f"it and name the .tar file."
                )
            file.seek(0)
            with tarfile.open(fileobj=file, mode="r:") as tar:
                while (member := tar.next()) is not None:
                    tar.members.clear()  # It would keep all of them.
                    count += 1
                    if member.isreg() and not member.issparse() and _is_image(member.name, suffixes):
                        images.append((member.name.removeprefix("./"), member.offset_data, member.size))
                # tarfile stops also at a damaged header, and where the file was cut between two members.
                file.seek(tar.offset)
                if file.read(tarfile.BLOCKSIZE) != bytes(tarfile.BLOCKSIZE):
                    return [], count, f"is damaged or ends too early, at byte {tar.offset}"
    except OSError as error:
        raise InputError(f"{shard}: the tar shard cannot be read ({error.strerror}); check the data set.") from error
    except InputError:
        raise
    except (tarfile.TarError, ValueError) as error:
        return [], count, f"is damaged or no tar file ({error})"
    return images, count, "" if images else f"has no image whose name ends with {' or '.join(suffixes)}"


def _is_image(name: str, suffixes: tuple[str, ...]) -> bool:
    """Whether the name of a member ends with one of the suffixes, and has no dot before it."""
    name = os.path.basename(name).lower()
    stems = (name.removesuffix(suffix.lower()) for suffix in suffixes)
    return any(stem not in ("", name) and "." not in stem for stem in stems)

#!/usr/bin/env python3
"""Damage image and label files in every way that chance finds, and let both training mappers read them.

    python tools/dev/fuzz_files.py --config-file configs/camvid/rc2l_R18_1_8.yaml --files 5000

takes pictures and labels of DATASETS.TRAIN in turn, also saved as progressive, grey and CMYK JPEG, 16-bit and palette
PNG, WebP, TIFF, GIF and BMP, changes some bytes of each, and reads it in a process of its own. A mapper may return a
sample or refuse the file in a sentence (``InputError``); anything else, a dead process or one that takes longer than
``--seconds`` or more than ``--memory`` is a finding: the file is kept in ``--output``, and the exit status is 1.
"""

from __future__ import annotations

import argparse
import collections
import io
import multiprocessing
import os
import random
import sys
import time
import traceback
from collections.abc import Callable
from multiprocessing.connection import Connection
from pathlib import Path

import numpy as np
from PIL import Image
from tabulate import tabulate

sys.path.insert(0, str(Path(__file__).resolve().parents[2]))

from rc2l_d2.data import LabeledMapper, UnlabeledMapper, load_dataset  # noqa: E402
from rc2l_d2.engine import load_config  # noqa: E402
from rc2l_d2.errors import InputError  # noqa: E402
from rc2l_d2.host import CfgNode  # noqa: E402

STATUS = Path("/proc/self/status")  # Where there is none, memory is not looked at.
WARM_UP = 0.2  # Part of the files after which memory should not grow any more.
# File suffix, mode to convert to (None: as it is), options of Pillow's ``save``.
IMAGE_FORMS = [
    (".jpg", "RGB", {}),
    (".jpg", "RGB", {"progressive": True}),
    (".jpg", "L", {}),
    (".jpg", "CMYK", {}),
    (".png", "RGB", {}),
    (".png", "RGBA", {}),
    (".png", "P", {}),
    (".png", "I;16", {}),
    (".webp", "RGB", {}),
    (".tif", "RGB", {"compression": "tiff_lzw"}),
    (".gif", "P", {}),
    (".bmp", "RGB", {}),
]
LABEL_FORMS = [(".png", None, {}), (".png", "L", {}), (".png", "I;16", {}), (".tif", "L", {}), (".gif", "L", {})]


def saved(picture: Image.Image, mode: str | None, suffix: str, options: dict) -> bytes:
    """The bytes of the picture in another form."""
    if mode == "I;16":
        picture = Image.fromarray(np.asarray(picture.convert("L"), np.uint16))
    elif mode is not None:
        picture = picture.convert(mode)
    buffer = io.BytesIO()
    picture.save(buffer, Image.registered_extensions()[suffix], **options)
    return buffer.getvalue()


def damaged(data: bytes, chance: random.Random) -> bytes:
    """``data`` with one to four changes, more of them near the start, where the header is."""
    changed = bytearray(data)
    for _ in range(chance.randint(1, 4)):
        end = chance.choice([64, 1024, len(changed)])
        start = chance.randrange(max(1, min(end, len(changed))))
        length = chance.choice([1, 2, 4, 64, 1024])
        kind = chance.choice(["flip", "random", "zeros", "ones", "delete", "insert", "repeat", "cut"])
        block = changed[start : start + length]
        if kind == "flip":
            block = bytes([byte ^ 1 << chance.randrange(8) for byte in block])
        elif kind in ("random", "insert"):
            block = chance.randbytes(len(block)) + (bytes(block) if kind == "insert" else b"")
        elif kind in ("zeros", "ones"):
            block = (b"\0" if kind == "zeros" else b"\xff") * len(block)
        elif kind == "repeat":
            block = bytes(block) * 3
        elif kind == "delete":
            block = b""
        changed[start : len(changed) if kind == "cut" else start + length] = b"" if kind == "cut" else block
    return bytes(changed)


def memory(key: str) -> int:
    """MB of this process: VmRSS, what it has, or VmHWM, the most that it had."""
    lines = STATUS.read_text().splitlines() if STATUS.exists() else []
    return next((int(line.split()[1]) // 1000 for line in lines if line.startswith(key)), 0)


def read_files(connection: Connection, cfg: CfgNode) -> None:
    """Work of the child: reads each file that it is told of, and says what came of it and how much memory it has."""
    os.dup2(os.open(os.devnull, os.O_WRONLY), 2)  # The decoders' own words about each file.
    labeled, unlabeled = LabeledMapper(cfg), UnlabeledMapper(cfg)
    while True:
        entry = connection.recv()
        if STATUS.exists():
            STATUS.with_name("clear_refs").write_text("5")  # The highest memory so far is the present one.
        try:
            sample = unlabeled(entry, np.random.default_rng(0))
            if "sem_seg_file_name" in entry:
                sample |= labeled(entry, np.random.default_rng(0))
            found = "read"
        except InputError as error:
            found = "refused"
            if Path(entry["damaged"]).name not in str(error):
                found = f"a sentence without the file's name: {error}"
        except Exception:
            found = traceback.format_exc()
        connection.send((found, memory("VmRSS"), memory("VmHWM")))


class Reader:
    """A child process that reads files, replaced when it dies or takes too long.

    Attributes:
        memory: MB that it had after each file, of the present child.
    """

    def __init__(self, cfg: CfgNode, seconds: float, most_memory: int):
        self.cfg, self.seconds, self.most_memory = cfg, seconds, most_memory
        self._start()

    def _start(self) -> None:
        context = multiprocessing.get_context("spawn")
        self.connection, other = context.Pipe()
        self.process = context.Process(target=read_files, args=(other, self.cfg), daemon=True)
        self.process.start()
        other.close()
        self.memory: list[int] = []

    def read(self, entry: dict) -> str:
        """What came of it: "read", "refused" or a finding."""
        self.connection.send(entry)
        # A new child imports torch before it reads.
        if not self.connection.poll(self.seconds + (0 if self.memory else 60)):
            return self._replaced(f"longer than {self.seconds} s")
        try:
            found, present, peak = self.connection.recv()
        except EOFError:
            self.process.join()
            return self._replaced(f"the process died ({self.process.exitcode})")
        self.memory.append(present)
        return found if peak <= self.most_memory else f"{peak} MB of memory, and {found}"

    def _replaced(self, found: str) -> str:
        self.process.kill()
        self._start()
        return found


def fuzz(args: argparse.Namespace, tell: Callable[[str], None]) -> int:
    """Read ``args.files`` damaged files; returns how many findings there are."""
    cfg = load_config(args.config_file, args.opts)
    entries = load_dataset(cfg.DATASETS.TRAIN[0], labels="all", key="DATASETS.TRAIN")
    chance = random.Random(args.seed)
    output = Path(args.output)
    output.mkdir(parents=True, exist_ok=True)
    counts: collections.Counter[tuple[str, str]] = collections.Counter()
    reader, findings, slowest = Reader(cfg, args.seconds, args.memory), 0, 0.0
    for number in range(args.files):
        entry = dict(entries[chance.randrange(len(entries))])
        damage_label = number % 3 == 0
        key = "sem_seg_file_name" if damage_label else "file_name"
        suffix, mode, options = chance.choice(LABEL_FORMS if damage_label else IMAGE_FORMS)
        with Image.open(entry[key]) as picture:
            data = damaged(saved(picture, mode, suffix, options), chance)
        file = output / f"{number:06d}{suffix}"
        file.write_bytes(data)
        entry[key] = entry["damaged"] = str(file)
        if not damage_label:
            del entry["sem_seg_file_name"]
        start = time.perf_counter()
        is_new = not reader.memory
        found = reader.read(entry)
        slowest = max(slowest, 0.0 if is_new else time.perf_counter() - start)
        counts["label" if damage_label else "image", suffix, found if found in ("read", "refused") else "finding"] += 1
        if found in ("read", "refused"):
            file.unlink()
        else:
            findings += 1
            tell(f"{file}: {found.strip()}")
    kinds = sorted({(what, suffix) for what, suffix, _ in counts})
    titles = ["read", "refused", "finding"]
    rows = [[what, suffix, *(counts[what, suffix, title] for title in titles)] for what, suffix in kinds]
    tell(tabulate(rows, ["file", "as", *titles], tablefmt="github"))
    sizes = reader.memory or [0]
    settled = sizes[int(WARM_UP * len(sizes))]
    tell(f"{args.files} files, {findings} findings; slowest {slowest:.2f} s; memory of the reading process (the last) "
         f"after {WARM_UP:.0%} of its files {settled} MB, at the end {sizes[-1]} MB")  # fmt: skip
    return findings


def main() -> int:
    """0 without findings, 1 with, 2 where it cannot be done."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--config-file", required=True, metavar="FILE", help="whose training data and sizes are used")
    parser.add_argument("--files", type=int, default=5000, help="how many (%(default)s)")
    parser.add_argument("--seed", type=int, default=0, help="of the damage (%(default)s)")
    parser.add_argument("--seconds", type=float, default=10.0, help="a file that takes longer hangs (%(default)s)")
    parser.add_argument("--memory", type=int, default=2000, help="a file that takes more MB is a bomb (%(default)s)")
    parser.add_argument("--output", default="output/fuzz", metavar="FOLDER", help="where findings are kept")
    parser.add_argument("opts", nargs=argparse.REMAINDER, help="KEY VALUE pairs")
    args = parser.parse_args()
    try:
        return 1 if fuzz(args, lambda text: print(text, flush=True)) else 0
    except (InputError, OSError) as error:
        print(f"fuzz_files.py: {error}", file=sys.stderr)
        return 2


if __name__ == "__main__":
    sys.exit(main())

"""Damage image and label files at random and read each with a training mapper, in a process of its own.

    python tools/dev/fuzz_files.py --config-file configs/camvid/rc2l_R18_1_8.yaml --files 5000

takes images and labels of DATASETS.TRAIN, saved in many formats. A mapper may return a sample or raise InputError with
the file's name. All else is a finding: the file is kept in --output, and the exit status is 1.
"""

import argparse
import collections
import io
import os
import random
import resource
import signal
import sys
import traceback
from collections.abc import Callable
from pathlib import Path

import numpy as np
import psutil
from PIL import Image

from rc2l_d2.data import LabeledMapper, UnlabeledMapper, load_dataset
from rc2l_d2.engine import load_config
from rc2l_d2.errors import InputError

# Pillow's format and mode.
IMAGES = "JPEG RGB,JPEG L,JPEG CMYK,PNG RGB,PNG RGBA,PNG P,PNG I;16,WEBP RGB,TIFF RGB,GIF P,BMP RGB".split(",")
LABELS = "PNG P,PNG L,PNG I;16,TIFF L,GIF L".split(",")


def damaged(data: bytes, rng: random.Random) -> bytes:
    """Replace one to three blocks by others, most of them near the start, where the header is."""
    changed = bytearray(data)
    for _ in range(rng.randint(1, 3)):
        start = rng.randrange(min(rng.choice([64, 1024, len(changed)]), len(changed)) or 1)
        length = rng.choice([0, 1, 1, 1, 4, 4, 64, rng.randint(1, len(data))])
        noise = rng.randbytes(rng.choice([1, 4, 64]))
        changed[start : start + length] = rng.choice([noise, noise, b"", bytes(len(noise)), b"\xff" * len(noise)])
    return bytes(changed)


def read(entry: dict, mapper: Callable, seconds: int, memory: int) -> str:
    """Read a file in a child process; return "read", "refused" or what else happened."""
    child = os.fork()
    if child:
        code = os.waitstatus_to_exitcode(os.waitpid(child, 0)[1])
        named = {0: "read", 1: "refused", 4: f"more than {memory} MB of memory", -signal.SIGALRM: f"over {seconds} s"}
        return named.get(code, f"exit status {code}")
    code = 2
    try:
        signal.alarm(seconds)  # ends the child
        limit = psutil.Process().memory_info().vms + memory * 2**20
        resource.setrlimit(resource.RLIMIT_AS, (limit, limit))
        os.dup2(os.open(os.devnull, os.O_WRONLY), 2)  # the decoders' messages
        mapper(entry, np.random.default_rng(0))
        code = 0
    except InputError as error:
        code = 1 if entry["damaged"] in str(error) else 3
    except MemoryError:
        code = 4
    except Exception:
        print(traceback.format_exc(), flush=True)
    os._exit(code)


def main() -> int:
    """Return 0 without findings, 1 with some."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--config-file", required=True, metavar="FILE", help="its training data and sizes are used")
    parser.add_argument("--files", type=int, default=5000, help="number of files (%(default)s)")
    parser.add_argument("--seed", type=int, default=0, help="seed of the damage (%(default)s)")
    parser.add_argument("--seconds", type=int, default=10, help="time limit per file (%(default)s)")
    parser.add_argument("--memory", type=int, default=2000, help="memory limit in MB (%(default)s)")
    parser.add_argument("--output", type=Path, default=Path("output/fuzz"), help="where findings are kept")
    parser.add_argument("opts", nargs=argparse.REMAINDER, help="KEY VALUE pairs")
    args = parser.parse_args()
    cfg = load_config(args.config_file, args.opts)
    entries = load_dataset(cfg.DATASETS.TRAIN[0], labels="all", key="DATASETS.TRAIN")
    mappers = {"file_name": UnlabeledMapper(cfg), "sem_seg_file_name": LabeledMapper(cfg)}
    rng, counts = random.Random(args.seed), collections.Counter()
    args.output.mkdir(parents=True, exist_ok=True)
    for number in range(args.files):
        entry, key = dict(rng.choice(entries)), rng.choice(list(mappers))
        form, mode = rng.choice(IMAGES if key == "file_name" else LABELS).split()
        image, buffer = Image.open(entry[key]), io.BytesIO()
        image = Image.fromarray(np.array(image.convert("L"), np.uint16)) if mode == "I;16" else image.convert(mode)
        image.save(buffer, form, progressive=rng.random() < 0.5)
        entry[key] = entry["damaged"] = str(args.output / f"{number:06d}.{form.lower()}")
        Path(entry[key]).write_bytes(damaged(buffer.getvalue(), rng))
        found = read(entry, mappers[key], args.seconds, args.memory)
        counts[found if found in ("read", "refused") else "finding"] += 1
        if found in ("read", "refused"):
            os.remove(entry[key])
        else:
            print(f"{entry[key]}: {found}", flush=True)
    print(f"{args.files} files: {counts['read']} read, {counts['refused']} refused, {counts['finding']} findings")
    return 1 if counts["finding"] else 0


if __name__ == "__main__":
    sys.exit(main())

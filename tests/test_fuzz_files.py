"""The tool that damages files: it finds what it should, and nothing in the mappers."""

from __future__ import annotations

import random
import subprocess
import sys

from conftest import REPO

sys.path.insert(0, str(REPO / "tools" / "dev"))
import fuzz_files


def test_damaged_files_are_read_or_refused_in_a_sentence(tiny_options, tmp_path):
    command = [
        sys.executable, "tools/dev/fuzz_files.py", "--config-file", "configs/toy/rc2l_R18.yaml", "--files", "60",
        "--output", str(tmp_path), *tiny_options,
    ]  # fmt: skip
    result = subprocess.run(command, cwd=REPO, capture_output=True, text=True)
    assert result.returncode == 0, result.stdout + result.stderr
    assert "60 files, 0 findings" in result.stdout
    assert not [*tmp_path.iterdir()]
    lines = [line for line in result.stdout.splitlines() if line.startswith(("| image", "| label"))]
    rows = [line.split("|")[1:-1] for line in lines]
    assert sum(int(number) for row in rows for number in row[2:]) == 60
    assert sum(int(row[3]) for row in rows) >= 10, "some are damaged enough to be refused"


def test_one_seed_damages_alike_and_never_leaves_a_file_as_it_was():
    data = bytes(range(256)) * 8
    once, again = ([fuzz_files.damaged(data, random.Random(seed)) for seed in range(50)] for _ in range(2))
    assert once == again and len(set(once)) == 50
    assert sum(each == data for each in once) == 0


FAULTS = {
    "os._exit(3)": "the process died (3)",
    "time.sleep(60)": "longer than 4.0 s",
    "1 / 0": "ZeroDivisionError",
    "b'x' * 600_000_000": "MB of memory, and read",
    "raise fuzz_files.InputError('no')": "a sentence without the file's name: no",
}


def test_what_is_no_sentence_is_found_and_the_next_file_is_read(tmp_path):
    """A mapper with faults, in the children that the tool starts."""
    script = f"""
import os, sys, time
sys.path[:0] = [{str(REPO / "tools" / "dev")!r}]
import fuzz_files

class Faulty:
    def __init__(self, cfg):
        pass
    def __call__(self, entry, generator):
        exec(entry["damaged"])
        return {{}}

fuzz_files.LabeledMapper = fuzz_files.UnlabeledMapper = Faulty
if __name__ == "__main__":
    reader = fuzz_files.Reader(None, 4.0, 600)
    for fault in {[*FAULTS]!r}:
        # The first file of a child may take longer.
        print(reader.read({{"damaged": "pass"}}))
        print("--", reader.read({{"damaged": fault}}))
"""
    (tmp_path / "faulty.py").write_text(script)
    result = subprocess.run([sys.executable, "faulty.py"], cwd=tmp_path, capture_output=True, text=True)
    assert result.stdout.count("read\n--") == len(FAULTS), result.stdout + result.stderr
    for found, said in zip(result.stdout.split("--")[1:], FAULTS.values(), strict=True):
        assert said in found

"""tools/dev/fuzz_files.py: it finds faults of a mapper, and none in the package."""

import json
import os
import random
import signal
import time

import numpy as np
import pytest
from conftest import call_command, load_script

fuzz_files = load_script("tools/dev/fuzz_files.py")

pytestmark = pytest.mark.skipif(not hasattr(os, "fork"), reason="needs fork")


def test_damaged_files_are_read_or_refused_in_a_sentence(tiny_options, tmp_path, monkeypatch):
    config = ("--config-file", "configs/toy/rc2l_R18.yaml")
    result = call_command(
        monkeypatch, "fuzz_files.py", fuzz_files.main, *config, "--files", "30", "--output", tmp_path, *tiny_options
    )
    assert result.returncode == 0 and not [*tmp_path.iterdir()], result.stdout
    words = result.stdout.split()
    assert words[0] == "30" and int(words[2]) + int(words[4]) == 30 and int(words[4]) >= 10


def test_one_seed_damages_alike_and_always():
    data = bytes(range(256)) * 8
    once, again = ([fuzz_files.damaged(data, random.Random(seed)) for seed in range(50)] for _ in range(2))
    assert once == again and len(set(once)) == 50 and data not in once


@pytest.mark.parametrize("form", fuzz_files.ANNOTATIONS)
def test_annotations_are_read_before_they_are_damaged(form, tmp_path):
    label = np.array([[0] * 40 + [255] * 8] * 24 + [[3] * 48] * 24, np.uint8)
    file, image = tmp_path / f"0.{form}.json", tmp_path / "a.png"
    content = fuzz_files.annotated(form, image.name, label)
    file.write_text(json.dumps(content))
    entry = {"file_name": str(image), "sem_seg_file_name": str(file)}
    read = fuzz_files.annotation_mapper(lambda found, _: found["label_map"].draw(found["sem_seg_file_name"]))
    found = read(entry, np.random.default_rng(0))
    assert {*np.unique(found)} <= {0, 3, 255} and found[40, 10] == 3
    text = json.dumps(content)
    once, again = (
        [json.dumps(fuzz_files.changed(json.loads(text), random.Random(seed))) for seed in range(20)] for _ in range(2)
    )
    assert once == again and len({*once}) > 10


def refuse(name: str):
    raise fuzz_files.InputError(f"{name}: no")


@pytest.mark.parametrize(
    ("mapper", "expected"),
    [
        (lambda *_: None, "read"),
        (lambda *_: refuse("file.png"), "refused"),
        (lambda *_: refuse("another"), "exit status 3"),
        (lambda *_: refuse("file.png" + " " * 1000), "exit status 3"),
        (lambda *_: os._exit(9), "exit status 9"),
        (lambda *_: os.kill(os.getpid(), signal.SIGKILL), "exit status -9"),
        (lambda *_: 1 / 0, "exit status 2"),
        (lambda *_: time.sleep(60), "over 1 s"),
        # More than the process of a long test run may have free already, which would not count.
        (lambda *_: len(b"x" * 5_000_000_000), "MB of memory"),
    ],
)
def test_every_fault_is_found(mapper, expected):
    assert expected in fuzz_files.read({"damaged": "file.png"}, mapper, 1 if "over" in expected else 60, 200)

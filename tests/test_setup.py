"""load_config: configuration files that are none, or more than data, are told in one sentence on either host."""

from __future__ import annotations

import subprocess
import sys

import pytest

from rc2l_d2.engine import load_config
from rc2l_d2.errors import InputError


@pytest.mark.parametrize(
    "text, fragment",
    [
        ("SEED: !!python/object/apply:os.mkdir [{folder}/ran]\n", "constructor"),
        ("_BASE_: hostile_base.yaml\nSEED: 3\n", "constructor"),
        ("SEED: [1\n", "line"),
        ("", ""),
        ("- SEED\n", ""),
        ("SEED\n", ""),
        ("_BASE_: gone.yaml\n", "gone.yaml"),
        ("_BASE_: broken.yaml\n", ""),
        ("_BASE_: 7\n", ""),
        ("SOLVER: 3\n", "SOLVER"),
        ("SEED: word\n", "SEED"),
        ("VERSION: 7\n", ""),
    ],
)
def test_a_file_that_is_no_configuration_is_refused(tmp_path, text, fragment):
    (tmp_path / "hostile_base.yaml").write_text(f"SEED: !!python/object/apply:os.mkdir [{tmp_path}/ran]\n")
    path = tmp_path / "broken.yaml"
    path.write_text(text.replace("{folder}", str(tmp_path)))
    with pytest.raises(InputError) as caught:
        load_config(str(path))
    message = str(caught.value)
    assert "broken.yaml" in message and fragment in message
    assert "used: None" not in message and "\n" not in message
    assert not (tmp_path / "ran").exists()


def test_one_data_set_without_its_brackets_is_told_how_it_is_written():
    with pytest.raises(InputError, match=r'DATASETS\.TRAIN.*; give .* \(one data set is written \("name",\)\)\.'):
        load_config("", ["DATASETS.TRAIN", "toy_train"])


@pytest.mark.parametrize(
    "overrides, fragment",
    [(["SEED"], "SEED"), (["SEED", "many"], "SEED"), (["SOLVER", "3"], "SOLVER"), (["NO.KEY", "3"], "NO")],
)
def test_overrides_that_do_not_fit_are_refused(overrides, fragment):
    with pytest.raises(InputError, match=fragment):
        load_config("", overrides)


@pytest.mark.skipif(not sys.platform.startswith("linux"), reason="speaks of the GNU C library")
def test_freed_memory_is_kept_for_the_next_step():
    script = """
import resource, torch
from rc2l_d2.engine import keep_freed_memory
def pages_cleared():
    before = resource.getrusage(resource.RUSAGE_SELF).ru_minflt
    x = torch.ones(16_000_000)
    for _ in range(3):
        x = x + 1
    return resource.getrusage(resource.RUSAGE_SELF).ru_minflt - before
pages_cleared()
kept_back = pages_cleared()
keep_freed_memory()
for _ in range(3):
    pages_cleared()
print(kept_back, pages_cleared())
"""
    result = subprocess.run([sys.executable, "-c", script], capture_output=True, text=True)
    before, after = map(int, result.stdout.split())
    assert before > 10 * after, "of 256 MB"

"""docs/tutorial.md: its commands, run in an empty folder, lead from images to a model; its keys exist."""

import json
import os
import re
import shutil
import subprocess
import sys
from pathlib import Path

import numpy as np
import pytest
from conftest import REPO
from PIL import Image

from rc2l_d2.config import add_rc2l_config
from rc2l_d2.host import get_cfg

NAMES = "sky,mountain,meadow,lake,tree,house"
TUTORIAL = (REPO / "docs/tutorial.md").read_text()
ENVIRONMENT = {
    "RC2L": str(REPO),
    "PYTHONPATH": str(REPO),
    "PATH": os.pathsep.join([str(Path(sys.executable).parent), os.environ["PATH"]]),
    "OMP_NUM_THREADS": "1",
}


@pytest.mark.slow
@pytest.mark.skipif(shutil.which("rc2l-train", path=ENVIRONMENT["PATH"]) is None, reason="needs pip install -e .")
def test_the_tutorial_works_as_written(tmp_path):
    outputs = []
    for block in re.findall(r"^```sh\n(.*?)^```$", TUTORIAL, re.DOTALL | re.MULTILINE):
        result = subprocess.run(
            ["bash", "-eu", "-o", "pipefail", "-c", block],
            cwd=tmp_path, env={**os.environ, **ENVIRONMENT}, capture_output=True, text=True, timeout=300,
        )  # fmt: skip
        assert result.returncode == 0, f"{block}\n{result.stdout}\n{result.stderr}"
        outputs.append(result.stdout)
    drawn, started, checked, trained, metrics, predicted = outputs
    assert "wrote 20 images to photos, their labels to masks, 80 images to more" in drawn
    assert f"classes, from value 0 on: {NAMES}; 255 has no class" in drawn
    assert "16 labelled images to train on, 4 held out, 80 unlabelled." in started
    assert checked.endswith("Problems: 0, warnings: 0.\n")
    # The text explains these names of the log and the metrics.
    assert "eta: " in trained
    metrics = json.loads(metrics)
    assert {"sem_seg/mIoU", "sem_seg_teacher/mIoU", "sem_seg_teacher/IoU-lake"} <= metrics.keys()
    assert metrics["sem_seg_teacher/IoU-sky"] > 50
    logged = (tmp_path / "quickstart/run/metrics.json").read_text()
    assert '"pseudo/classes_present"' in logged and '"pseudo/confident_share"' in logged

    assert "wrote the results of 80 files to seen" in predicted
    names = sorted(path.stem for path in (tmp_path / "more").iterdir())
    assert names == sorted(path.stem for path in (tmp_path / "seen").glob("*.png"))
    assert names == sorted(path.stem for path in (tmp_path / "seen/labels").iterdir())
    label = np.array(Image.open(tmp_path / f"seen/labels/{names[0]}.png"))
    assert label.shape == (64, 64) and label.max() < 6


def test_the_keys_in_the_text_exist():
    cfg = add_rc2l_config(get_cfg()).dump()
    keys = set(re.findall(r"\b(?:MODEL|INPUT|SOLVER)(?:\.[A-Z0-9_]+)+", TUTORIAL))
    assert len(keys) > 5
    assert all(re.search(rf"^ *{key.split('.')[-1]}:", cfg, re.MULTILINE) for key in keys)

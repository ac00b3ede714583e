"""demo/demo.py through its command line: overlays, label images, teacher and student, mistakes."""

from __future__ import annotations

import os
import subprocess
import sys
from pathlib import Path

import numpy as np
import pytest
import torch
from PIL import Image

from rc2l_d2.engine import EMATeacher, RegionCheckpointer, load_config
from rc2l_d2.engine.model_file import write_model_file
from rc2l_d2.host import MetadataCatalog, build_model

REPO = Path(__file__).resolve().parent.parent
CONFIG = "configs/toy/rc2l_R18.yaml"


def demo(*arguments, model: tuple = ("--config-file", CONFIG)) -> subprocess.CompletedProcess:
    return subprocess.run(
        [sys.executable, "demo/demo.py", *map(str, model), *map(str, arguments)],
        cwd=REPO, env={**os.environ, "OMP_NUM_THREADS": "1"}, capture_output=True, text=True, timeout=120,
    )  # fmt: skip


@pytest.fixture
def trained(tiny_options, tmp_path) -> list[str]:
    """Options that name a checkpoint whose student says class 3 everywhere, and its teacher class 5."""
    cfg = load_config(CONFIG, tiny_options)
    student = build_model(cfg)
    teacher = EMATeacher(student, num_classes=8, max_decay=0.9)
    for model, answer in ((student, 3), (teacher.model, 5)):
        with torch.no_grad():
            model.sem_seg_head.predictor.class_embed.bias[answer] = 50.0
    RegionCheckpointer(student, str(tmp_path), ema=teacher).save("model")
    write_model_file(str(tmp_path / "teacher_final.pth"), cfg, teacher.model, 1)
    return [*tiny_options, "MODEL.WEIGHTS", str(tmp_path / "model.pth")]


def test_pictures_and_labels_are_written_in_the_data_sets_colours(trained, toy_definition, tmp_path):
    images = Path(toy_definition).parent / "data" / "JPEGImages"
    first, second, *_ = sorted(images.glob("*.jpg"))
    (tmp_path / "some").mkdir()
    Image.open(first).resize((50, 70)).save(tmp_path / "some" / "small.png")
    (tmp_path / "some" / "notes.txt").write_text("no picture")
    out = tmp_path / "seen"
    result = demo("--input", tmp_path / "some", second, "--output", out, "--labels", "--opts", *trained)
    assert result.returncode == 0, result.stderr
    assert "wrote 2 pictures" in result.stdout and "Loaded" in result.stdout
    names = {"small.png", f"{second.stem}.png"}
    assert {path.name for path in out.glob("*.png")} == {path.name for path in out.glob("labels/*")} == names
    with Image.open(out / "small.png") as drawn:
        assert drawn.size == (50, 70)
        original = np.asarray(Image.open(tmp_path / "some" / "small.png").convert("RGB")).astype(int)
        assert np.abs(np.asarray(drawn.convert("RGB")).astype(int) - original).mean() > 5
    with Image.open(out / "labels" / "small.png") as labels:
        assert labels.size == (50, 70) and labels.mode == "P"
        assert (np.asarray(labels) == 5).all()
        color = MetadataCatalog.get("tiny_val").stuff_colors[5]
        assert np.asarray(labels.convert("RGB"))[0, 0].tolist() == list(color)

    pattern = str(images / f"{first.stem[:-1]}[0-1].jpg")
    result = demo("--input", pattern, "--output", out, "--labels", "--student", "--opts", *trained)
    assert result.returncode == 0, result.stderr
    assert (np.asarray(Image.open(out / "labels" / f"{first.stem}.png")) == 3).all()


def test_the_file_of_a_finished_run_is_enough(trained, toy_definition, tmp_path):
    picture = next((Path(toy_definition).parent / "data" / "JPEGImages").glob("*.jpg"))
    model = ("--weights", tmp_path / "teacher_final.pth")
    result = demo("--input", picture, "--output", tmp_path / "out", "--labels", model=model)
    assert result.returncode == 0, result.stderr
    with Image.open(tmp_path / "out" / "labels" / f"{picture.stem}.png") as labels:
        assert (np.asarray(labels) == 5).all()
        assert np.asarray(labels.convert("RGB"))[0, 0].tolist() == list(MetadataCatalog.get("tiny_val").stuff_colors[5])
    assert (tmp_path / "out" / f"{picture.stem}.png").is_file()
    result = demo("--input", picture, "--student", model=model)
    assert result.returncode == 2 and "--student are for a checkpoint" in result.stderr


def test_mistakes_are_told_in_one_sentence(trained, toy_definition, tmp_path):
    picture = sorted((Path(toy_definition).parent / "data" / "JPEGImages").glob("*.jpg"))[0]
    (tmp_path / "text.png").write_text("no picture")
    (tmp_path / f"{picture.stem}.png").write_bytes(picture.read_bytes())
    cases = [
        (("--input", tmp_path / "nothing*"), trained, "nothing*"),
        (("--input", picture), trained[:-2], "MODEL.WEIGHTS is empty"),
        (("--input", picture), [*trained, "MODEL.WEIGHTS", "gone.pth"], "gone.pth does not exist"),
        (("--input", picture), [*trained, "DATASETS.TEST", "('tiny_wal',)"], "did you mean tiny_val"),
        (("--input", tmp_path / "text.png"), trained, "text.png"),
        (("--input", picture, tmp_path / f"{picture.stem}.png"), trained, "would both be written"),
    ]
    for arguments, words, fragment in cases:
        result = demo(*arguments, "--output", tmp_path / "out", "--opts", *words)
        assert result.returncode == 2 and "Traceback" not in result.stderr, result.stderr
        message = result.stderr.strip().splitlines()[-1]
        assert message.startswith("demo.py: ") and fragment in message

"""demo/demo.py through its command line: overlays, labels, videos, comparisons, teacher and student, mistakes."""

from __future__ import annotations

import os
import subprocess
import sys
from pathlib import Path

import cv2
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


def test_what_can_be_done_of_many_inputs_is_done_and_the_rest_named(trained, toy_definition, tmp_path):
    data = Path(toy_definition).parent / "data"
    first, second, third, *_ = sorted((data / "JPEGImages").glob("*.jpg"))
    given, truth, out = tmp_path / "given", tmp_path / "truth", tmp_path / "out"
    given.mkdir()
    truth.mkdir()
    for picture in (first, second, third):
        (given / picture.name).write_bytes(picture.read_bytes())
    (given / "cut.jpg").write_bytes(first.read_bytes()[:500])
    for picture, label in ((first, 2), (second, 255)):
        Image.fromarray(np.full((64, 64), label, np.uint8)).save(truth / f"{picture.stem}.png")
    writer = cv2.VideoWriter(str(given / "film.avi"), cv2.VideoWriter_fourcc(*"MJPG"), 12.5, (64, 48))
    for shade in range(4):
        writer.write(np.full((48, 64, 3), 40 * shade, np.uint8))
    writer.release()

    wanted = ("--labels", "--confidence", "--compare", truth)
    model = ("--weights", tmp_path / "teacher_final.pth")
    result = demo("--input", given, "--output", out, *wanted, model=model)
    assert result.returncode == 2 and "Traceback" not in result.stderr, result.stderr
    told = [line for line in result.stderr.splitlines() if line.startswith("demo.py: ")]
    assert len(told) == 2 and "cut.jpg: the image file ends too early" in told[0]
    assert f"no label for {given / third.name} (looked for {third.stem}.png)" in told[1]
    assert "wrote 2 pictures and 1 video to" in result.stdout
    assert result.stderr.count("\n") == 2 and "\r" not in result.stderr, "a progress bar where nobody watches"

    stems = [picture.stem for picture in (first, second, third)]
    assert {path.name for path in out.glob("*.*")} == {*(f"{stem}.png" for stem in stems), "film.mp4", "legend.svg"}
    video = cv2.VideoCapture(str(out / "film.mp4"))
    assert video.get(cv2.CAP_PROP_FPS) == pytest.approx(12.5) and video.get(cv2.CAP_PROP_FRAME_COUNT) == 4
    films = [f"film/{number:06d}" for number in range(4)]
    labels = {str(path.relative_to(out / "labels").with_suffix("")) for path in out.glob("labels/**/*.png")}
    assert labels == {*stems, *films}
    for name in (*stems, *films):
        (confidence,) = (out / "confidence" / name).iterdir()  # of the only class that is seen
        assert confidence.name == "5_star.png"
        with Image.open(confidence) as share:
            assert share.mode == "L" and np.asarray(share).min() > 250
            assert share.size == ((64, 64) if name in stems else (64, 48))
    assert {path.stem for path in out.glob("comparison/*")} == set(stems[:2])

    # Ground truth: class 2 over all of the first picture, nothing over the second. Prediction: class 5 over both.
    colors = MetadataCatalog.get("tiny_val").stuff_colors
    for picture, seen in ((first, (2, 5)), (second, (None, 5))):
        panels = np.asarray(Image.open(out / "comparison" / f"{picture.stem}.png").convert("RGB")).astype(int)
        mean = np.asarray(Image.open(picture)).astype(float).mean(axis=(0, 1))
        width = panels.shape[1] // 3
        for column, label in enumerate((None, *seen)):
            middle = panels[60:-120, column * width + 60 : (column + 1) * width - 60].mean(axis=(0, 1))
            expected = mean if label is None else 0.35 * mean + 0.65 * np.array(colors[label])
            assert np.abs(middle - expected).max() < 25, (picture.name, column)
    legend = (out / "legend.svg").read_text()
    shown = [label for label, (red, green, blue) in enumerate(colors) if f"#{red:02x}{green:02x}{blue:02x}" in legend]
    assert shown == [5]


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
        (("--input", picture, "--compare", tmp_path / "gone"), trained, "gone is not a folder"),
    ]
    for arguments, words, fragment in cases:
        result = demo(*arguments, "--output", tmp_path / "out", "--opts", *words)
        assert result.returncode == 2 and "Traceback" not in result.stderr, result.stderr
        message = result.stderr.strip().splitlines()[-1]
        assert message.startswith("demo.py: ") and fragment in message

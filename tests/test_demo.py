"""rc2l-predict and demo/demo.py: overlays, labels, videos, comparisons, teacher and student, mistakes."""

import json
import re
from pathlib import Path

import cv2
import numpy as np
import pytest
import torch
import yaml
from conftest import REPO, call_command, start_script
from PIL import Image

from rc2l_d2.commands.predict import main
from rc2l_d2.prediction import Segmenter

BIAS = "sem_seg_head.predictor.classifier.bias"
COLORS = yaml.safe_load((REPO / "configs/toy/dataset.yaml").read_text())["palette"]


@pytest.fixture
def demo(monkeypatch):
    return lambda *arguments: call_command(monkeypatch, "demo.py", main, *arguments)


@pytest.fixture
def run(trained_run) -> Path:
    """A finished run whose student predicts class 3 everywhere and whose teacher predicts class 5."""
    checkpoint, final = (torch.load(trained_run / name) for name in ("model_final.pth", "teacher_final.pth"))
    checkpoint["model"][BIAS][3] = checkpoint["ema"]["model"][BIAS][5] = final["model"][BIAS][5] = 50.0
    torch.save(checkpoint, trained_run / "model_final.pth")
    torch.save(final, trained_run / "teacher_final.pth")
    return trained_run


@pytest.fixture
def images(toy_definition) -> list[Path]:
    return sorted((Path(toy_definition).parent / "data" / "JPEGImages").glob("*.jpg"))


def test_images_and_labels_are_written_in_the_data_sets_colours(demo, run, images, tmp_path):
    first, second, *_ = images
    (tmp_path / "some").mkdir()
    Image.open(first).resize((50, 70)).save(tmp_path / "some" / "small.png")
    (tmp_path / "some" / "notes.txt").write_text("no image")
    out, config = tmp_path / "seen", ("--config-file", run / "config.yaml")
    weights = ("--opts", "MODEL.WEIGHTS", run / "model_final.pth")
    result = demo(*config, "--input", tmp_path / "some", second, "--output", out, "--labels", *weights)
    assert result.returncode == 0, result.stderr
    assert "wrote the results of 2 files" in result.stdout and "Loaded" in result.stdout
    names = {"small.png", f"{second.stem}.png"}
    assert {path.name for path in out.glob("*.png")} == {path.name for path in out.glob("labels/*")} == names
    drawn, original, labels = (Image.open(tmp_path / f"{where}/small.png") for where in ("seen", "some", "seen/labels"))
    assert drawn.size == labels.size == (50, 70) and labels.mode == "P" and (np.asarray(labels) == 5).all()
    difference = np.asarray(drawn.convert("RGB")).astype(int) - np.asarray(original.convert("RGB"))
    assert np.abs(difference).mean() > 5
    assert np.asarray(labels.convert("RGB"))[0, 0].tolist() == COLORS[5]

    pattern = str(first.with_name(f"{first.stem[:-1]}[0-1].jpg"))
    result = demo(*config, "--input", pattern, "--output", out, "--labels", "--student", *weights)
    assert result.returncode == 0, result.stderr
    assert (np.asarray(Image.open(out / "labels" / f"{first.stem}.png")) == 3).all()


def test_readable_inputs_are_segmented_and_the_others_reported(run, images, tmp_path):
    """In an own process: progress bars and the messages of FFmpeg's library must not reach stderr."""
    first, second, third, *_ = images
    given, truth, out = tmp_path / "given", tmp_path / "truth", tmp_path / "out"
    given.mkdir()
    truth.mkdir()
    for image in (first, second, third):
        (given / image.name).write_bytes(image.read_bytes())
    (given / "cut.jpg").write_bytes(first.read_bytes()[:500])
    for image, label in ((first, 2), (second, 255)):
        Image.fromarray(np.full((64, 64), label, np.uint8)).save(truth / f"{image.stem}.png")
    writer = cv2.VideoWriter(str(given / "film.avi"), cv2.VideoWriter_fourcc(*"MJPG"), 12.5, (64, 48))
    for shade in range(4):
        writer.write(np.full((48, 64, 3), 40 * shade, np.uint8))
    writer.release()

    options = ("--labels", "--confidence", "--compare", truth)
    given_and_out = ("--input", given, "--output", out)
    result = start_script("demo/demo.py", "--weights", run / "teacher_final.pth", *given_and_out, *options)
    assert result.returncode == 2, result.stderr
    errors = result.stderr.splitlines()
    assert len(errors) == 2 and all(line.startswith("demo.py: ") for line in errors) and "\r" not in result.stderr
    assert "cut.jpg: the image file ends too early" in errors[0]
    assert f"no label for {given / third.name} (looked for {third.stem}.png)" in errors[1]
    assert "wrote the results of 3 files to" in result.stdout and "earlier call" not in result.stdout

    stems = [image.stem for image in (first, second, third)]
    assert {path.name for path in out.glob("*.*")} == {*(f"{stem}.png" for stem in stems), "film.mp4", "legend.svg"}
    video = cv2.VideoCapture(str(out / "film.mp4"))
    assert video.get(cv2.CAP_PROP_FPS) == pytest.approx(12.5) and video.get(cv2.CAP_PROP_FRAME_COUNT) == 4
    films = [f"film/{number:06d}" for number in range(4)]
    labels = {str(path.relative_to(out / "labels").with_suffix("")) for path in out.glob("labels/**/*.png")}
    assert labels == {*stems, *films}
    with Image.open(out / "labels" / f"{first.stem}.png") as label:
        assert (np.asarray(label.convert("RGB")) == COLORS[5]).all()
    for name in (*stems, *films):
        (confidence,) = (out / "confidence" / name).iterdir()  # of the only predicted class
        assert confidence.name == "5_star.png"
        with Image.open(confidence) as fraction:
            assert fraction.mode == "L" and np.asarray(fraction).min() > 250
            assert fraction.size == ((64, 64) if name in stems else (64, 48))
    assert {path.stem for path in out.glob("comparison/*")} == set(stems[:2])

    # Ground truth: class 2 over all of the first image, no class over the second. Prediction: class 5 over both.
    for image, shown in ((first, (2, 5)), (second, (None, 5))):
        panels = np.asarray(Image.open(out / "comparison" / f"{image.stem}.png").convert("RGB")).astype(int)
        mean = np.asarray(Image.open(image)).astype(float).mean(axis=(0, 1))
        width = panels.shape[1] // 3
        for column, label in enumerate((None, *shown)):
            middle = panels[60:-120, column * width + 60 : (column + 1) * width - 60].mean(axis=(0, 1))
            expected = mean if label is None else 0.35 * mean + 0.65 * np.array(COLORS[label])
            assert np.abs(middle - expected).max() < 25, (image.name, column)
    legend = (out / "legend.svg").read_text()
    shown = [label for label, (red, green, blue) in enumerate(COLORS) if f"#{red:02x}{green:02x}{blue:02x}" in legend]
    assert shown == [5]


def test_a_second_call_says_that_the_folder_has_results_and_replaces_the_images(demo, run, images, tmp_path):
    first, second, *_ = images
    weights = ("--opts", "MODEL.WEIGHTS", run / "model_final.pth")
    call = ("--config-file", run / "config.yaml", "--output", tmp_path, "--labels", "--confidence")
    assert "earlier call" not in demo(*call, "--input", first, second, *weights).stdout
    student = demo(*call, "--input", first, "--student", *weights)
    assert f"{tmp_path} has results of an earlier call" in student.stdout
    predicted = {path.relative_to(tmp_path / "confidence").as_posix() for path in tmp_path.glob("confidence/*/*")}
    assert predicted == {f"{first.stem}/3_rectangle.png", f"{second.stem}/5_star.png"}


def test_results_replace_no_file_of_another_origin(demo, run, images, tmp_path):
    weights, tree, out = ("--weights", run / "teacher_final.pth"), tmp_path / "tree", tmp_path / "out"
    for path in (tree / "sub/a.png", tree / "truth/sub/a.png"):
        path.parent.mkdir(parents=True)
        Image.open(images[0]).convert("L").save(path)
    before = {path: path.read_bytes() for path in tree.rglob("*.png")}
    sub = ("--input", tree / "sub")
    label_is_lost = (*weights, "--input", str(tree / "**/sub/a.png"), "--compare", tree / "truth", "--output", tree)
    for call in ((*weights, "--input", tree, "--output", tree), label_is_lost):
        refused = demo(*call)
        assert refused.returncode == 2 and "a.png is an input, which a result would replace" in refused.stderr
    for file, options in (("a.png", ()), ("labels/a.tif", ["--labels"]), ("comparison/a.png", ["--compare", tree])):
        (out / file).parent.mkdir(parents=True, exist_ok=True)
        (out / file).write_text("of the user")
        refused = demo(*weights, *sub, "--output", out, *options)
        assert refused.returncode == 2 and f"{out / file} exists and is no result of an earlier call" in refused.stderr
        (out / file).unlink()
    (tmp_path / "c_dataset.json").write_text("annotations")
    refused = demo(*weights, *sub, "--output", out, "--coco", tmp_path / "c.json")
    assert refused.returncode == 2 and "--coco would replace" in refused.stderr and not (out / "a.png").exists()
    assert (tmp_path / "c_dataset.json").read_text() == "annotations"
    assert all(path.read_bytes() == content for path, content in before.items())
    (out / "legend.svg").write_text("<svg/>")  # also of the user
    (out / "a.png").write_text("of the user")
    assert demo(*weights, *sub, "--output", out).returncode == 2 and (out / "a.png").read_text() == "of the user"
    (out / "a.png").unlink()
    for _ in range(2):  # Results of an earlier call are replaced.
        assert demo(*weights, *sub, "--output", out, "--coco", tmp_path / "d.json").returncode == 0
    (tmp_path / "truth").mkdir()
    Image.fromarray(np.full((64, 64), 2, np.uint8)).save(tmp_path / "truth/a.png")
    for _ in range(2):  # also in the folder of the labels
        result = demo(*weights, *sub, "--output", tmp_path / "truth/out", "--compare", tmp_path / "truth")
        assert result.returncode == 0, result.stderr


def test_an_interrupted_call_keeps_what_it_has_finished(demo, run, images, tmp_path, monkeypatch):
    segment, calls = Segmenter.__call__, []

    def interrupted(self, image):
        calls.append(image)
        if len(calls) == 3:
            raise KeyboardInterrupt
        return segment(self, image)

    monkeypatch.setattr(Segmenter, "__call__", interrupted)
    out, coco = tmp_path / "out", tmp_path / "c.json"
    result = demo("--weights", run / "teacher_final.pth", "--input", *images[:4], "--output", out, "--coco", coco)
    assert result.returncode == 130 and f"interrupted; finished results are in {out}" in result.stderr
    assert {path.name for path in out.iterdir()} == {*(f"{image.stem}.png" for image in images[:2]), "legend.svg"}
    assert [image["id"] for image in json.loads((tmp_path / "c_dataset.json").read_text())["images"]] == [1, 2]


def test_one_label_is_not_compared_with_two_images(demo, run, images, tmp_path):
    for name in ("a/1.jpg", "b/1.jpg"):
        (tmp_path / "given" / name).parent.mkdir(parents=True)
        (tmp_path / "given" / name).write_bytes(images[0].read_bytes())
    (tmp_path / "truth").mkdir()
    Image.fromarray(np.full((64, 64), 2, np.uint8)).save(tmp_path / "truth/1.png")
    given = ("--input", tmp_path / "given", "--compare", tmp_path / "truth", "--output", tmp_path / "out")
    result = demo("--weights", run / "teacher_final.pth", *given)
    problem = r"truth/1\.png would be the label of .*a/1\.jpg too; compare one folder of images at a time"
    assert result.returncode == 2 and re.search(problem, result.stderr), result.stderr
    assert [path.name for path in (tmp_path / "out/comparison").rglob("*.png")] == ["1.png"]


def test_mistakes_give_one_sentence(demo, run, images, tmp_path):
    image = images[0]
    (tmp_path / "text.png").write_text("no image")
    (tmp_path / image.name).write_bytes(image.read_bytes())
    given = ("--input", image)
    checkpoint, final = ("--config-file", run / "config.yaml"), ("--weights", run / "teacher_final.pth")
    cases = [
        ((*final, "--input", tmp_path / "nothing*"), "nothing*"),
        ((*checkpoint, *given), "MODEL.WEIGHTS is empty"),
        ((*checkpoint, *given, "--opts", "MODEL.WEIGHTS", "gone.pth"), "gone.pth does not exist"),
        ((*checkpoint, *given, "--opts", "DATASETS.TEST", "('tiny_wal',)"), "did you mean tiny_val"),
        ((*checkpoint, *given, "--opts", "MODEL.WEIGHTS", "a.pth", "MODEL.RESNETS.DEPTH", "51"), "No model can be"),
        ((*final, "--input", tmp_path / "text.png"), "text.png"),
        ((*final, *given, tmp_path / image.name), "would both be written"),
        ((*final, *given, "--compare", tmp_path / "gone"), "gone is not a folder"),
        ((*final, *given, "--student"), "--student are for a checkpoint"),
    ]
    for arguments, fragment in cases:
        result = demo("--output", tmp_path / "out", *arguments)
        message = result.stderr.strip().splitlines()[-1]
        assert result.returncode == 2 and message.startswith("demo.py: ") and fragment in message

"""Segmentation of images of any size, videos, and the choice of input files."""

import ast
import re
from dataclasses import asdict
from pathlib import Path

import cv2
import numpy as np
import pytest
import torch
from conftest import REPO
from torch import nn

from rc2l_d2.data import LabelFiles, load_definition, read_label
from rc2l_d2.engine import load_config
from rc2l_d2.errors import InputError
from rc2l_d2.host import MetadataCatalog, build_model
from rc2l_d2.prediction import Segmenter, segmenter
from rc2l_d2.prediction.inputs import find_inputs, refuse_one_path
from rc2l_d2.prediction.video import VideoReader, VideoWriter


@pytest.fixture
def tiny(tiny_options):
    """A model with random weights, its configuration and metadata."""
    torch.manual_seed(0)
    # Group normalisation of 32 channels fails on a map of one pixel, which an image of one pixel leads to.
    cfg = load_config("configs/toy/rc2l_R18.yaml", [*tiny_options, "MODEL.SEM_SEG_HEAD.CONVS_DIM", "64"])
    return build_model(cfg).eval(), cfg, MetadataCatalog.get("tiny_val")


@pytest.mark.parametrize("size", [(1, 1), (1, 3000), (2000, 1), (71, 33)])
def test_segmentations_have_the_size_of_their_image(tiny, size):
    image = np.random.default_rng(0).integers(0, 256, (*size, 3), np.uint8)
    segmentation = Segmenter(*tiny)(image)
    labels = segmentation.labels
    maps = np.stack([segmentation.confidence(label) for label in range(8)])
    assert labels.shape == size and maps.shape == (8, *size) and labels.dtype == maps.dtype == np.uint8
    # Eight fractions that sum to 255, each rounded to an integer.
    assert np.abs(maps.astype(int).sum(axis=0) - 255).max() <= 4
    winner = np.take_along_axis(maps, labels[None].astype(int), axis=0)[0]
    assert (winner == maps.max(axis=0)).all()


@pytest.mark.parametrize("array", [np.zeros((9, 9), np.uint8), np.zeros((9, 9, 4), np.uint8), np.zeros((9, 9, 3))])
def test_arrays_of_another_kind_are_refused(tiny, array):
    with pytest.raises(InputError, match=r"this model takes uint8 of shape \(height, width, 3\)"):
        Segmenter(*tiny)(array)


def test_labels_and_confidence_come_from_the_models_scores(tiny):
    image = np.random.default_rng(1).integers(0, 256, (40, 56, 3), np.uint8)
    segmentation = Segmenter(*tiny)(image)
    with torch.no_grad():  # The toy configuration reads RGB, at the image's own size.
        rgb = torch.from_numpy(image[:, :, ::-1].copy()).permute(2, 0, 1)
        scores = tiny[0]([{"image": rgb, "height": 40, "width": 56}])[0]["sem_seg"]
    assert (segmentation.labels == scores.argmax(dim=0).numpy()).all()
    fraction = (scores[2] / scores.sum(dim=0)).numpy()
    assert np.abs(segmentation.confidence(2) - 255 * fraction).max() <= 0.51


def test_the_python_example_of_the_readme_segments_a_file_as_its_array(trained_run, toy_definition, capsys):
    image = Path(toy_definition).parent / "data/JPEGImages/val_00001.jpg"
    example = re.search(r"```python\n(.*?)```", (REPO / "README.md").read_text(), re.DOTALL)[1]
    photo = "datasets/landscapes/JPEGImages/val_00001.jpg"
    for given, own in (("output/demo", trained_run), (photo, image), ('"lake"', '"disc"')):
        assert given in example
        example = example.replace(given, str(own))
    names: dict = {}
    exec(example, names)
    segment, labels = names["segmenter"], names["result"].labels
    assert labels.shape == (64, 64) and (labels == segment(cv2.imread(str(image))).labels).all()
    expected = {MetadataCatalog.get("tiny_val").stuff_classes[label] for label in np.unique(labels)}
    assert set(ast.literal_eval(capsys.readouterr().out)) == expected
    disc = segment.class_names.index("disc")
    assert (names["confidence"] == names["result"].confidence(disc)).all()
    # The class colours are over the image at 60 %, and here and there a name.
    own_colors = np.asarray(segment.metadata.stuff_colors)[labels][..., ::-1]
    painted = 0.6 * own_colors + 0.4 * cv2.imread(str(image))
    assert names["overlay"].dtype == np.uint8 and np.median(np.abs(names["overlay"] - painted)) <= 1
    with pytest.raises(InputError, match="square.*is not a class"):
        names["result"].confidence("squares")
    with pytest.raises(InputError, match=r"gone\.jpg"):
        segment("gone.jpg")


def test_a_sliding_window_is_used_as_in_evaluation(tiny):
    model, cfg, metadata = tiny
    cfg = cfg.clone()
    cfg.defrost()
    cfg.TEST.SLIDING_WINDOW.ENABLED = True
    cfg.TEST.SLIDING_WINDOW.CROP_SIZE, cfg.TEST.SLIDING_WINDOW.STRIDE = [32, 32], [16, 16]
    samples = []
    model.register_forward_pre_hook(lambda module, given: samples.extend(given[0]))
    Segmenter(model, cfg, metadata)(np.zeros((48, 48, 3), np.uint8))
    assert [tuple(sample["image"].shape) for sample in samples] == [(3, 32, 32)] * 4


def test_the_largest_images_are_shrunk_for_the_model(tiny, monkeypatch):
    monkeypatch.setattr(segmenter, "MAX_PIXELS", 64 * 64)
    image = np.zeros((160, 320, 3), np.uint8)
    image[:, 160:] = 255
    segmentation = Segmenter(*tiny)(image)
    height, width = segmentation.scores.shape[-2:]
    assert height * width <= 64 * 64 and abs(width / height - 2) < 0.05
    assert segmentation.labels.shape == segmentation.confidence(0).shape == (160, 320)


class OutOfMemory(nn.Module):
    """Allocates more memory than there are addresses."""

    def forward(self, samples):
        return [{"sem_seg": torch.zeros(2**45)}]


def test_an_image_that_exceeds_the_memory_is_refused(tiny):
    with pytest.raises(InputError, match="5 x 4 pixels are too many"):
        Segmenter(OutOfMemory().eval(), *tiny[1:])(np.zeros((4, 5, 3), np.uint8))


def test_a_video_keeps_its_rate_and_its_frames(tmp_path):
    frames = [np.full((33, 47, 3), 20 * number + 10, np.uint8) for number in range(7)]
    writer = VideoWriter(tmp_path / "film.mp4", 12.5)
    for frame in frames:
        writer.write(frame)
        assert not (tmp_path / "film.mp4").exists()
    writer.close()
    assert [file.name for file in tmp_path.iterdir()] == ["film.mp4"]
    reader = VideoReader(tmp_path / "film.mp4")
    assert reader.rate == pytest.approx(12.5) and reader.frames == 7
    read = list(reader)
    assert all(frame.shape == (34, 48, 3) for frame in read)  # padded to even sizes
    assert np.abs([frame.mean() for frame in read] - np.arange(7) * 20 - 10).max() < 4
    with pytest.raises(InputError, match=r"film\.mp4 cannot be written; give another --output"):
        VideoWriter(tmp_path / "gone" / "film.mp4", 10).write(frames[0])


@pytest.mark.parametrize("error", [KeyboardInterrupt, InputError])
def test_a_video_that_is_interrupted_replaces_none(tmp_path, error):
    (tmp_path / "film.mp4").write_text("of an earlier call")
    with pytest.raises(error), VideoWriter(tmp_path / "film.mp4", 10) as writer:
        writer.write(np.zeros((32, 48, 3), np.uint8))
        raise error
    assert [file.name for file in tmp_path.iterdir()] == ["film.mp4"]
    # Of a damaged video there are the frames before the damage.
    assert cv2.VideoCapture(str(tmp_path / "film.mp4")).isOpened() == (error is InputError)


def test_a_damaged_video_raises_after_its_last_frame(tmp_path, caplog):
    writer = cv2.VideoWriter(str(tmp_path / "film.avi"), cv2.VideoWriter_fourcc(*"MJPG"), 10, (48, 32))
    for frame in np.random.default_rng(0).integers(0, 256, (40, 32, 48, 3), np.uint8):
        writer.write(frame)
    writer.release()
    whole = (tmp_path / "film.avi").read_bytes()
    (tmp_path / "film.avi").write_bytes(whole[: len(whole) // 2])
    read = []
    with pytest.raises(InputError, match=r"film\.avi: the video is damaged after \d+ of 40 frames"):
        read.extend(frame for frame in VideoReader(tmp_path / "film.avi"))
    (tmp_path / "film.avi").write_bytes(whole[: len(whole) * 6 // 7])  # less than a second is missing
    frames = len(list(VideoReader(tmp_path / "film.avi")))
    assert 30 < frames < 40 and f"film.avi has {frames} frames, and its header says 40." in caplog.text
    (tmp_path / "text.mp4").write_text("no video")
    with pytest.raises(InputError, match=r"text\.mp4: the file is not a video"):
        VideoReader(tmp_path / "text.mp4")


def test_inputs_are_found_and_never_overwritten(tmp_path):
    (tmp_path / "images" / "more").mkdir(parents=True)
    for name in ("a.jpg", "b.PNG", "c.mp4", "notes.txt", "more/d.jpg"):
        (tmp_path / "images" / name).write_bytes(b"x")
    folder, out = tmp_path / "images", tmp_path / "out"
    found = find_inputs([str(folder), str(folder / "**/d.*"), str(folder / "a.jpg")], out)
    assert [given.file.name for given in found] == ["a.jpg", "b.PNG", "c.mp4", "d.jpg"]
    assert [given.overlay for given in found] == ["a.png", "b.png", "c.mp4", "more/d.png"]
    with pytest.raises(InputError, match="nowhere is no image or video"):
        find_inputs([str(tmp_path / "nowhere")], out)
    with pytest.raises(InputError, match=r"^--input .*a\.jpg lies where results would be written; give another"):
        find_inputs([str(folder)], folder)


def test_folders_are_walked_and_their_tree_is_kept(tmp_path):
    files = "top.jpg a/000.jpg a/x.y.tif b/000.jpg b/deep/c.JFIF .hidden/no.jpg b/.no.jpg a/no.txt"
    for name in files.split():
        (tmp_path / "tree" / name).parent.mkdir(parents=True, exist_ok=True)
        (tmp_path / "tree" / name).touch()
    names = ["a/000", "a/x.y", "b/000", "b/deep/c", "top"]
    out = tmp_path / "tree" / "out"  # results of an earlier call are no inputs
    (out / "labels/a").mkdir(parents=True)
    for old in (out / "top.png", out / "labels/a/000.png"):
        old.touch()
    assert sorted(given.name for given in find_inputs([str(tmp_path / "tree")], out)) == names
    globs = [str(tmp_path / "tree/**/*.jpg"), str(tmp_path / "tree/b/*.jpg")]
    assert [given.name for given in find_inputs(globs, out)] == ["a/000", "b/000", "top"]
    assert [given.name for given in find_inputs(globs[::-1], out)] == ["000", "a/000", "top"]
    with pytest.raises(InputError, match=r"a/000.jpg and .*b/000.jpg would both be written to 000.png; give one at a"):
        find_inputs([str(tmp_path / "tree/a/000.jpg"), str(tmp_path / "tree/b/000.jpg")], out)


@pytest.mark.parametrize("first, second, option", [
    ("a.jpg", "labels/a.png", "labels"), ("a.jpg", "comparison/a.jpg", "comparison"),
    ("a.jpg", "confidence/a/4_star.png", "confidence"), ("clip.mp4", "clip/000000.jpg", "labels"),
    ("labels/clip.mp4", "labels/clip/000000.jpg", "labels"), ("clip.mp4", "labels/clip/000000.png", "labels"),
])  # fmt: skip
def test_results_of_one_path_are_refused(tmp_path, first, second, option):
    for name in (first, second, "labels/a/x.png", "clip/cover.jpg", "x/clip/000001.jpg", "clip2/0.jpg"):
        (tmp_path / "tree" / name).parent.mkdir(parents=True, exist_ok=True)
        (tmp_path / "tree" / name).touch()
    found = find_inputs([str(tmp_path / "tree")], tmp_path / "out")
    nothing = {"labels": False, "confidence": False, "comparison": False}
    refuse_one_path(found, **nothing)
    with pytest.raises(InputError, match=r"would have results of one path; give one at a time, each with") as caught:
        refuse_one_path(found, **(nothing | {option: True}))
    assert all(str(tmp_path / "tree" / name) in str(caught.value) for name in (first, second))
    (tmp_path / "tree" / first).unlink()
    rest = find_inputs([str(tmp_path / "tree")], tmp_path / "out")
    refuse_one_path(rest, labels=True, confidence=True, comparison=True)


@pytest.mark.parametrize("where", ["", "labels", "confidence/a", "comparison"])
def test_folders_below_the_output_are_neither_inputs_nor_labels(tmp_path, where):
    (tmp_path / "a.png").touch()
    out = tmp_path / "out"
    (out / where).mkdir(parents=True)
    with pytest.raises(InputError, match=r"^--compare .* lies where results would be written; give another --output"):
        find_inputs([str(tmp_path / "a.png")], out, truth=out / where)
    assert find_inputs([str(tmp_path / "a.png")], out, truth=tmp_path) == [(tmp_path / "a.png", "a")]
    (out / where / "b.png").touch()
    with pytest.raises(InputError, match=r"give another --output"):
        find_inputs([str(out / where)], out)


def test_labels_are_found_by_the_data_sets_naming_rule(tmp_path):
    cityscapes = load_definition("rc2l_d2/data/datasets/definitions/cityscapes.yaml")
    files = LabelFiles.from_plain(asdict(LabelFiles.of(cityscapes)))
    image = tmp_path / "images" / "jena_000078_000019_leftImg8bit.png"
    with pytest.raises(InputError, match=r"no label for .*leftImg8bit\.png \(looked for jena_000078_000019_gtFine_"):
        files.find(tmp_path, image)
    for name, raw in ((image.name, [0, 18, 255]), ("jena_000078_000019_gtFine_labelIds.png", [7, 33, 4])):
        cv2.imwrite(str(tmp_path / name), np.array([raw], np.uint8))
        assert read_label(*files.find(tmp_path, image)).tolist() == [[0, 18, 255]]
    # Without a YAML file: the image's own name, and values as they are.
    assert LabelFiles().find(tmp_path, image) == (tmp_path / image.name, None)

"""Asking a trained model about pictures and videos of any size and kind, and writing what it says."""

from __future__ import annotations

import cv2
import numpy as np
import pytest
import torch
from torch import nn

from rc2l_d2.data import LabelFiles, load_definition, read_label
from rc2l_d2.engine import load_config
from rc2l_d2.errors import InputError
from rc2l_d2.host import MetadataCatalog, build_model
from rc2l_d2.prediction import Segmenter, segmenter
from rc2l_d2.prediction.inputs import find_inputs
from rc2l_d2.prediction.video import VideoReader, VideoWriter


@pytest.fixture
def tiny(tiny_options):
    """A model with random weights and its configuration."""
    torch.manual_seed(0)
    # Group normalisation of 32 channels knows no map of a single position, which a picture of one pixel becomes.
    cfg = load_config("configs/toy/rc2l_R18.yaml", [*tiny_options, "MODEL.SEM_SEG_HEAD.CONVS_DIM", "64"])
    return build_model(cfg).eval(), cfg


@pytest.mark.parametrize("size", [(1, 1), (1, 3000), (2000, 1), (71, 33)])
def test_pictures_of_any_shape_keep_their_size(tiny, size):
    segment = Segmenter(*tiny, MetadataCatalog.get("tiny_val"))
    image = np.random.default_rng(0).integers(0, 256, (*size, 3), np.uint8)
    seen = segment(image)
    assert seen.labels.shape == size and seen.labels.dtype == np.uint8 and seen.labels.max() < 8
    maps = np.stack([seen.confidence(label) for label in range(8)])
    assert maps.shape == (8, *size) and maps.dtype == np.uint8
    # The shares of all classes, each rounded to a whole number.
    assert np.abs(maps.astype(int).sum(axis=0) - 255).max() <= 4
    winner = np.take_along_axis(maps, seen.labels[None].astype(int), axis=0)[0]
    assert (winner == maps.max(axis=0)).all()


def test_the_answer_is_the_models_own(tiny):
    model, cfg = tiny
    image = np.random.default_rng(1).integers(0, 256, (40, 56, 3), np.uint8)
    seen = Segmenter(model, cfg, MetadataCatalog.get("tiny_val"))(image)
    with torch.no_grad():  # The toy configuration reads RGB, at the image's own size.
        rgb = torch.from_numpy(image[:, :, ::-1].copy()).permute(2, 0, 1)
        scores = model([{"image": rgb, "height": 40, "width": 56}])[0]["sem_seg"]
    assert (seen.labels == scores.argmax(dim=0).numpy()).all()
    share = (scores[2] / scores.sum(dim=0)).numpy()
    assert np.abs(seen.confidence(2) - 255 * share).max() <= 0.51


def test_a_sliding_window_is_used_as_in_evaluation(tiny):
    model, cfg = tiny
    cfg = cfg.clone()
    cfg.defrost()
    cfg.TEST.SLIDING_WINDOW.ENABLED = True
    cfg.TEST.SLIDING_WINDOW.CROP_SIZE, cfg.TEST.SLIDING_WINDOW.STRIDE = [32, 32], [16, 16]
    asked = []
    model.register_forward_pre_hook(lambda module, given: asked.extend(given[0]))
    Segmenter(model, cfg, MetadataCatalog.get("tiny_val"))(np.zeros((48, 48, 3), np.uint8))
    assert [tuple(sample["image"].shape) for sample in asked] == [(3, 32, 32)] * 4


def test_the_largest_pictures_are_asked_about_smaller(tiny, monkeypatch):
    monkeypatch.setattr(segmenter, "MAX_PIXELS", 64 * 64)
    image = np.zeros((160, 320, 3), np.uint8)
    image[:, 160:] = 255
    seen = Segmenter(*tiny, MetadataCatalog.get("tiny_val"))(image)
    height, width = seen.scores.shape[-2:]
    assert height * width <= 64 * 64 and abs(width / height - 2) < 0.05
    assert seen.labels.shape == seen.confidence(0).shape == (160, 320)


class Glutton(nn.Module):
    """Asks for more memory than there are addresses, as a large picture may for more than there is."""

    def forward(self, samples):
        return [{"sem_seg": torch.zeros(2**45)}]


def test_a_picture_that_memory_does_not_suffice_for_is_refused(tiny):
    segment = Segmenter(Glutton().eval(), tiny[1], MetadataCatalog.get("tiny_val"))
    with pytest.raises(InputError, match="5 x 4 pixels are too many"):
        segment(np.zeros((4, 5, 3), np.uint8))


def frames(count: int, size: tuple[int, int]) -> list[np.ndarray]:
    return [np.full((*size, 3), 20 * number + 10, np.uint8) for number in range(count)]


def test_a_video_comes_back_at_its_rate_with_every_frame(tmp_path):
    writer = VideoWriter(tmp_path / "film.mp4", 12.5)
    for frame in frames(7, (33, 47)):
        writer.write(frame)
        assert not (tmp_path / "film.mp4").exists()
    writer.close()
    assert [file.name for file in tmp_path.iterdir()] == ["film.mp4"]
    reader = VideoReader(tmp_path / "film.mp4")
    assert reader.rate == pytest.approx(12.5) and reader.frames == 7
    read = list(reader)
    assert all(frame.shape == (34, 48, 3) for frame in read)  # even sizes: the last row and column stand there twice
    assert np.abs([frame.mean() for frame in read] - np.arange(7) * 20 - 10).max() < 4


def test_a_damaged_video_is_told_after_what_can_be_read(tmp_path):
    writer = cv2.VideoWriter(str(tmp_path / "film.avi"), cv2.VideoWriter_fourcc(*"MJPG"), 10, (48, 32))
    for frame in np.random.default_rng(0).integers(0, 256, (40, 32, 48, 3), np.uint8):
        writer.write(frame)
    writer.release()
    whole = (tmp_path / "film.avi").read_bytes()
    (tmp_path / "film.avi").write_bytes(whole[: len(whole) // 2])
    read = []
    with pytest.raises(InputError, match=r"film\.avi: the video is damaged, \d+ of 40 frames can be read"):
        read.extend(frame for frame in VideoReader(tmp_path / "film.avi"))
    (tmp_path / "text.mp4").write_text("no video")
    with pytest.raises(InputError, match=r"text\.mp4: the file is not a video"):
        VideoReader(tmp_path / "text.mp4")


def test_a_video_that_cannot_be_written_is_told(tmp_path):
    writer = VideoWriter(tmp_path / "gone" / "film.mp4", 10)
    with pytest.raises(OSError, match=r"film\.mp4 cannot be written"):
        writer.write(frames(1, (32, 32))[0])


def test_inputs_are_found_and_nothing_is_written_over_them(tmp_path):
    (tmp_path / "pictures" / "more").mkdir(parents=True)
    for name in ("a.jpg", "b.PNG", "c.mp4", "notes.txt", "more/d.jpg"):
        (tmp_path / "pictures" / name).write_bytes(b"x")
    folder, out = tmp_path / "pictures", tmp_path / "out"
    names = [file.name for file in find_inputs([str(folder), str(folder / "**/d.*"), str(folder / "a.jpg")], out)]
    assert names == ["a.jpg", "b.PNG", "c.mp4", "d.jpg"]
    with pytest.raises(InputError, match="nowhere is neither a picture"):
        find_inputs([str(tmp_path / "nowhere")], out)
    with pytest.raises(InputError, match=r"written over .*c\.mp4; give another --output"):
        find_inputs([str(folder)], folder)
    assert [file.name for file in find_inputs([str(folder / "a.jpg")], folder)] == ["a.jpg"]


@pytest.mark.parametrize("where", ["", "labels", "confidence/a", "comparison"])
def test_nothing_is_written_over_labels_to_compare_with_or_inputs_below_the_output(tmp_path, where):
    (tmp_path / "a.png").touch()
    out = tmp_path / "out"
    (out / where).mkdir(parents=True)
    with pytest.raises(InputError, match=r"^--compare .* lies where results would be written; give another --output"):
        find_inputs([str(tmp_path / "a.png")], out, truth=out / where)
    assert find_inputs([str(tmp_path / "a.png")], out, truth=tmp_path) == [tmp_path / "a.png"]
    (out / where / "b.png").touch()
    with pytest.raises(InputError, match=r"give another --output"):
        find_inputs([str(out / where)], out)


def test_labels_are_found_as_the_data_set_calls_them(tmp_path, toy_definition):
    cityscapes = load_definition("rc2l_d2/data/datasets/definitions/cityscapes.yaml")
    files = LabelFiles.from_plain(LabelFiles.of(cityscapes).plain())
    image = tmp_path / "images" / "jena_000078_000019_leftImg8bit.png"
    with pytest.raises(InputError, match=r"no label for .*leftImg8bit\.png \(looked for jena_000078_000019_gtFine_"):
        files.find(tmp_path, image)
    cv2.imwrite(str(tmp_path / image.name), np.array([[0, 18, 255]], np.uint8))
    assert read_label(*files.find(tmp_path, image)).tolist() == [[0, 18, 255]]
    cv2.imwrite(str(tmp_path / "jena_000078_000019_gtFine_labelIds.png"), np.array([[7, 33, 4]], np.uint8))
    assert read_label(*files.find(tmp_path, image)).tolist() == [[0, 18, 255]]
    # Without a YAML file: the image's own name, values as they are.
    assert LabelFiles().find(tmp_path, image) == (tmp_path / image.name, None)

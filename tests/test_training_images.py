"""Training images: their content, TensorBoard, and that they change nothing else."""

from types import SimpleNamespace

import cv2
import numpy as np
import pytest
import torch
from step_cases import watched_step
from tensorboard.backend.event_processing.event_accumulator import EventAccumulator

from rc2l_d2.engine.step_log import StepLog
from rc2l_d2.engine.training_images import IMAGE_NAME, TrainingImages, draw_row, query_map
from rc2l_d2.regions import Regions

COLORS = np.array([[200, 0, 0], [0, 100, 50]])


def test_tiles_by_hand():
    """An image of 2 x 3 mask pixels of stride four."""
    weak, mixed = np.full((8, 12, 3), 10, np.uint8), np.full((8, 12, 3), 100, np.uint8)
    weak[0, 0, 0] = 255
    maps = ([[0, 1, -1], [-1, -1, -1]], [[5, 5, 7], [5, 5, 7]], [[0, 0, 1], [0, 0, 1]])
    image = draw_row([weak, mixed], [np.array(index, np.int16) for index in maps], COLORS)
    assert image.shape == (8 + 4, 4 * (12 + 4), 3) and image.dtype == np.uint8
    tiles = [image[:8, 16 * i : 16 * i + 12] for i in range(4)]
    assert all((image[:, 16 * i + 12 : 16 * i + 16] == 255).all() for i in range(4)) and (image[8:] == 255).all()
    assert tiles[0][0, 0].tolist() == [255, 10, 10] and (tiles[0][1:] == 10).all() and (tiles[1] == 100).all()
    # 0.4 of the image's 100 and 0.6 of the colour; without a pseudo label the image alone.
    assert tiles[2][0, 0].tolist() == [160, 40, 40] and tiles[2][3, 7].tolist() == [40, 100, 70]
    assert (tiles[2][:4, 8:] == 100).all() and (tiles[2][4:] == 100).all()
    assert tiles[3][7, 0].tolist() == [160, 40, 40] and tiles[3][0, 11].tolist() == [40, 100, 70]
    assert (tiles[3][:, 7] == 255).all() and (tiles[3][:, 6, 1] < 255).all(), "the border between two regions"
    assert (tiles[3][:, 8] == [40, 100, 70]).all()
    # Large images are made smaller.
    views = [np.full((300, 600, 3), value, np.uint8) for value in (20, 40)]
    image = draw_row(views, [np.full((75, 150), -1, np.int16)] * 3, COLORS)
    assert image.shape == (128 + 4, 4 * (256 + 4), 3) and (image[:128, :256] == 20).all()
    assert (image[:128, 260:516] == 40).all()


def test_a_mask_pixel_belongs_to_the_query_that_is_surest_of_a_class():
    torch.manual_seed(0)
    regions = Regions(torch.randn(2, 5, 4), torch.randn(2, 5, 3, 4), torch.zeros(2, 1, 3, 4))
    queries, labels = query_map(regions)
    scores = regions.class_logits.softmax(-1)[..., :3, None, None] * regions.mask_logits.sigmoid()[:, :, None]
    best = scores.flatten(1, 2).argmax(dim=1)  # over all pairs of a query and one of three classes
    assert torch.equal(queries, best // 3) and torch.equal(labels, best % 3)


@pytest.mark.parametrize("key, value", [("STRONG_VIEWS", "2"), ("FEATURE_DROPOUT", "0.5")])
def test_one_view_of_each_image_is_drawn(make_trainer, monkeypatch, key, value):
    images = []
    monkeypatch.setattr("rc2l_d2.engine.training_images.get_event_storage", lambda: SimpleNamespace(
        put_image=lambda name, image: images.append(image)
    ))  # fmt: skip
    watched_step(make_trainer("VIS_PERIOD", "1", f"MODEL.SEMI_SUPERVISED.{key}", value))
    assert images[0].shape == (3, 2 * 64 + 4, 4 * 64 + 3 * 4)


def test_tensorboard_has_them_and_nothing_else_changes(make_trainer, tmp_path, monkeypatch):
    """Two runs of one seed end with the same weights and losses, with and without images and measured pseudo labels."""
    drawn, draw = [], TrainingImages.draw
    streams, add = [], StepLog.add

    def watch_draw(self, weak, strong, pseudo, regions):
        drawn.append((weak, strong.clone()))
        draw(self, weak, strong, pseudo, regions)

    def watch_losses(self, iteration, losses, *rest):
        streams[-1].append({name: loss.item() for name, loss in losses.items()})
        add(self, iteration, losses, *rest)

    monkeypatch.setattr(TrainingImages, "draw", watch_draw)
    monkeypatch.setattr(StepLog, "add", watch_losses)
    weights, events = [], []
    for period, measured in (("0", "False"), ("2", "True")):
        out = tmp_path / period
        streams.append([])
        trainer = make_trainer(
            "DATASETS.TEST", "()", "INPUT.FORMAT", "BGR", "OUTPUT_DIR", str(out), "VIS_PERIOD", period,
            "MODEL.SEM_SEG_HEAD.ASPP_DROPOUT", "0.2", "MODEL.SEMI_SUPERVISED.MEASURE_PSEUDO_LABELS", measured,
        )  # fmt: skip
        trainer.train()
        weights.append([*trainer.model.state_dict().values(), *trainer.teacher.model.state_dict().values()])
        events.append(EventAccumulator(str(out), size_guidance={"images": 0}).Reload())
        assert ("pseudo/accuracy" in events[-1].Tags()["scalars"]) == (measured == "True")
    assert all(torch.equal(*pair) for pair in zip(*weights, strict=True))
    assert streams[0] == streams[1] and len(streams[0]) == 6 and "loss_smc" in streams[0][-1]

    assert events[0].Tags()["images"] == [] and events[1].Tags()["images"] == [IMAGE_NAME]
    images = events[1].Images(IMAGE_NAME)
    assert [image.step for image in images] == [3, 5], "none in burn-in"
    for image, (weak, strong) in zip(images, drawn, strict=True):
        assert (image.height, image.width) == (2 * 64 + 4, 4 * 64 + 3 * 4)
        pixels = cv2.imdecode(np.frombuffer(image.encoded_image_string, np.uint8), cv2.IMREAD_COLOR)
        pixels = torch.from_numpy(pixels).movedim(-1, 0)
        assert torch.equal(pixels[:, :64, :64], weak[0]) and torch.equal(pixels[:, 68:, :64], weak[1])
        assert (pixels[:, :64, 68:132].float() - strong[0]).abs().max() <= 1
    assert {"total_loss", "pseudo/confident_share", "images_per_second"} <= set(events[1].Tags()["scalars"])

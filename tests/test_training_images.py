"""Training pictures: what is drawn, that TensorBoard has it, and that training goes on as if nothing had been drawn."""

from __future__ import annotations

import cv2
import numpy as np
import pytest
import torch
from tensorboard.backend.event_processing.event_accumulator import EventAccumulator

from rc2l_d2.engine import RC2LTrainer, load_config
from rc2l_d2.engine.training_images import PICTURE_NAME, TrainingPictures, draw_views, query_map
from rc2l_d2.regions import Regions

COLORS = torch.tensor([[200, 0, 0], [0, 100, 50]])


def test_tiles_by_hand():
    """One image of 2 x 3 positions, four pixels each."""
    weak, mixed = torch.full((1, 3, 8, 12), 10.0), torch.full((1, 3, 8, 12), 100.0)
    weak[0, 0, 0, 0] = 255
    pseudo = torch.tensor([[[0, 1, -1], [-1, -1, -1]]])
    queries, labels = torch.tensor([[[5, 5, 7], [5, 5, 7]]]), torch.tensor([[[0, 0, 1], [0, 0, 1]]])
    picture = draw_views(weak, mixed, pseudo, queries, labels, COLORS)
    assert picture.shape == (3, 8, 4 * 12 + 3 * 4) and picture.dtype == torch.uint8
    tiles = [picture[:, :, 16 * i : 16 * i + 12] for i in range(4)]
    assert all((picture[:, :, 16 * i + 12 : 16 * i + 16] == 255).all() for i in range(3))
    assert tiles[0][:, 0, 0].tolist() == [255, 10, 10] and (tiles[0][:, 1:] == 10).all() and (tiles[1] == 100).all()
    # 0.4 of the image's 100 and 0.6 of the colour; without a pseudo label the image alone.
    assert tiles[2][:, 0, 0].tolist() == [160, 40, 40] and tiles[2][:, 3, 7].tolist() == [40, 100, 70]
    assert (tiles[2][:, :4, 8:] == 100).all() and (tiles[2][:, 4:] == 100).all()
    assert tiles[3][:, 7, 0].tolist() == [160, 40, 40] and tiles[3][:, 0, 11].tolist() == [40, 100, 70]
    assert (tiles[3][:, :, 7] == 255).all() and (tiles[3][:, :, 6] < 255).all(), "the border between two regions"
    assert (tiles[3][:, :, 8].T == torch.tensor([40, 100, 70])).all()


def test_rows_are_images_and_large_ones_are_made_smaller():
    views = torch.stack([torch.full((3, 300, 600), value) for value in (20.0, 40.0)])
    nothing = torch.full((2, 75, 150), -1)
    picture = draw_views(views, views, nothing, nothing, torch.zeros_like(nothing), COLORS)
    assert picture.shape == (3, 2 * 128 + 4, 4 * 256 + 3 * 4)
    assert (picture[:, :128, :256] == 20).all() and (picture[:, 132:, :256] == 40).all()
    assert (picture[:, 128:132] == 255).all()


def test_a_position_belongs_to_the_query_that_is_surest_of_a_class():
    torch.manual_seed(0)
    regions = Regions(torch.randn(2, 5, 4), torch.randn(2, 5, 3, 4), torch.zeros(2, 1, 3, 4))
    queries, labels = query_map(regions)
    classes, masks = regions.class_logits.softmax(-1), regions.mask_logits.sigmoid()
    for image in range(2):
        for y in range(3):
            for x in range(4):
                best = max(
                    (float(classes[image, i, c] * masks[image, i, y, x]), i, c)
                    for i in range(5) for c in range(3)
                )  # fmt: skip
                assert (int(queries[image, y, x]), int(labels[image, y, x])) == best[1:]


def test_due_every_period_iterations():
    assert [i for i in range(10) if TrainingPictures(3, [], "RGB").due(i)] == [2, 5, 8]
    assert not any(TrainingPictures(0, [], "RGB").due(i) for i in range(10))


@pytest.mark.parametrize("architecture, channels", [("RC2L", "RGB"), ("PixelConsistency", "BGR")])
def test_tensorboard_has_them_and_nothing_else_changes(tiny_options, tmp_path, monkeypatch, architecture, channels):
    drawn, draw = [], TrainingPictures.draw

    def watch(self, weak, strong, pseudo, regions):
        drawn.append((weak, strong.clone()))
        draw(self, weak, strong, pseudo, regions)

    monkeypatch.setattr(TrainingPictures, "draw", watch)
    weights = []
    for period, out in (("0", tmp_path / "without"), ("2", tmp_path / "with")):
        torch.manual_seed(0)
        trainer = RC2LTrainer(load_config("configs/toy/rc2l_R18.yaml", [
            *tiny_options, "DATASETS.TEST", "()", "MODEL.META_ARCHITECTURE", architecture, "INPUT.FORMAT", channels,
            "VIS_PERIOD", period, "OUTPUT_DIR", str(out), "MODEL.MASK_FORMER.DROPOUT", "0.2",
        ]))  # fmt: skip
        trainer.resume_or_load(resume=False)
        trainer.train()
        weights.append([*trainer.model.state_dict().values(), *trainer.teacher.model.state_dict().values()])
        events = EventAccumulator(str(out), size_guidance={"images": 0}).Reload()
        if period == "0":
            assert events.Tags()["images"] == [] and not drawn
            continue
        assert events.Tags()["images"] == [PICTURE_NAME]
        images = events.Images(PICTURE_NAME)
        assert [image.step for image in images] == [3, 5], "none in burn-in"
        for image, (weak, strong) in zip(images, drawn, strict=True):
            assert (image.height, image.width) == (2 * 64 + 4, 4 * 64 + 3 * 4)
            pixels = cv2.imdecode(np.frombuffer(image.encoded_image_string, np.uint8), cv2.IMREAD_COLOR)
            pixels = torch.from_numpy(pixels if channels == "BGR" else pixels[..., ::-1].copy()).movedim(-1, 0)
            assert torch.equal(pixels[:, :64, :64], weak[0]) and torch.equal(pixels[:, 68:, :64], weak[1])
            assert (pixels[:, :64, 68:132].float() - strong[0]).abs().max() <= 1
        assert {"total_loss", "pseudo/confident_share", "images_per_second"} <= set(events.Tags()["scalars"])
    assert all(torch.equal(*pair) for pair in zip(*weights, strict=True))

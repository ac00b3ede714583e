"""The per-pixel yardstick: its loss against float64 loops, and its place in the pipeline of the region predictor."""

import math

import numpy as np
import pytest
import torch
from scipy.special import log_softmax
from torch.nn import functional as F

from rc2l_d2.errors import InputError
from rc2l_d2.modeling.per_pixel import PixelCriterion
from rc2l_d2.regions import Regions, semantic_probabilities

CLASSES, IGNORE = 3, 255


def random_case() -> tuple[Regions, torch.Tensor]:
    generator = torch.Generator().manual_seed(0)
    logits = torch.randn(2, CLASSES, 4, 6, generator=generator, requires_grad=True)
    labels = torch.randint(CLASSES, (2, 16, 24), generator=generator, dtype=torch.uint8)
    labels[0, :5], labels[1, 3, 7], labels[1, 9, 1] = IGNORE, 7, 200  # the last two are no class either
    return Regions(20 * torch.eye(CLASSES, CLASSES + 1).expand(2, -1, -1), logits, torch.zeros(2, 1, 4, 6)), labels


def test_loss_equals_independent_loops():
    regions, labels = random_case()
    loss = PixelCriterion(CLASSES)(regions, labels)
    large = F.interpolate(regions.mask_logits.detach().double(), size=(16, 24), mode="bilinear", align_corners=False)
    log_probability, label = log_softmax(large.numpy(), axis=1), labels.numpy()
    terms = [-log_probability[b, label[b, y, x], y, x] for b, y, x in np.argwhere(label < CLASSES)]
    assert len(terms) == 2 * 16 * 24 - 5 * 24 - 2
    assert set(loss) == {"loss_sem_seg"} and loss["loss_sem_seg"].item() == pytest.approx(np.mean(terms), rel=1e-5)


def test_no_labelled_pixel_gives_zero_with_a_graph():
    regions, labels = random_case()
    (loss,) = PixelCriterion(CLASSES)(regions, torch.full_like(labels, IGNORE)).values()
    loss.backward()
    assert loss == 0 and not regions.mask_logits.grad.any()


def test_scores_are_the_softmax_of_resized_logits(make_model):
    model = make_model("PerPixelSegmentor").eval()
    image = torch.randint(256, (3, 50, 70), dtype=torch.uint8, generator=torch.Generator().manual_seed(0))
    with torch.no_grad():
        (result,) = model([{"image": image}])
        regions = model.regions(model.preprocess([image]).tensor)
    logits = F.interpolate(regions.mask_logits, size=(64, 96), mode="bilinear", align_corners=False)
    torch.testing.assert_close(result["sem_seg"], logits.softmax(dim=1)[0, :, :50, :70])
    torch.testing.assert_close(model.semantic_map(regions), regions.mask_logits.softmax(dim=1))
    # A query is sure of its class, as the drawing of training images expects.
    probability = regions.class_logits.softmax(dim=-1)
    assert (
        torch.equal(probability.argmax(dim=-1), torch.arange(8).expand(1, 8)) and probability.amax(dim=-1).min() > 0.999
    )
    assert not torch.allclose(
        semantic_probabilities(regions.class_logits, regions.mask_logits), model.semantic_map(regions)
    )


@pytest.mark.parametrize("dilations", [[1, 2, 3], [6]])
def test_every_parameter_is_trained_and_dilations_are_read(make_model, dilations):
    model = make_model("PerPixelSegmentor", "MODEL.SEM_SEG_HEAD.ASPP_DILATIONS", str(dilations)).train()
    images = torch.randint(256, (2, 3, 64, 64), dtype=torch.uint8, generator=torch.Generator().manual_seed(0))
    torch.nn.init.normal_(model.sem_seg_head.predictor.weight, std=0.001)  # close to equal scores
    torch.nn.init.zeros_(model.sem_seg_head.predictor.bias)
    losses = model([{"image": image, "sem_seg": image[0] % 8} for image in images])
    assert losses["loss_sem_seg"].item() == pytest.approx(math.log(8), abs=0.05)
    losses["loss_sem_seg"].backward()
    assert all(p.grad is not None and p.grad.isfinite().all() for p in model.parameters() if p.requires_grad)
    convolutions = [module for module in model.sem_seg_head.modules() if isinstance(module, torch.nn.Conv2d)]
    assert [c.dilation[0] for c in convolutions if c.kernel_size == (3, 3) and c.dilation[0] > 1] == [
        dilation for dilation in dilations if dilation > 1
    ]


def test_a_backbone_without_fine_maps_is_refused(make_model):
    with pytest.raises(InputError, match="IN_FEATURES"):
        make_model("PerPixelSegmentor", "MODEL.SEM_SEG_HEAD.IN_FEATURES", "['res4']")

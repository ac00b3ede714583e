"""Parameter groups and learning rate, against numbers worked out by hand."""

import pytest
import torch
from conftest import REPO
from torch import nn

from rc2l_d2 import add_rc2l_config
from rc2l_d2.engine import build_lr_scheduler, build_optimizer, learning_rate
from rc2l_d2.errors import InputError
from rc2l_d2.host import get_cfg


class Model(nn.Module):
    def __init__(self):
        super().__init__()
        self.backbone = nn.Sequential(nn.Conv2d(1, 1, 1), nn.BatchNorm2d(1))
        self.query_embed = nn.Embedding(2, 2)
        self.head = nn.Linear(2, 2)
        self.frozen = nn.Parameter(torch.zeros(1), requires_grad=False)


@pytest.fixture
def cfg():
    cfg = add_rc2l_config(get_cfg())
    cfg.SOLVER.BASE_LR = 1.0
    cfg.SOLVER.BACKBONE_MULTIPLIER = 0.1
    cfg.SOLVER.WEIGHT_DECAY = 0.5
    cfg.SOLVER.WEIGHT_DECAY_NORM = 0.25
    cfg.SOLVER.WEIGHT_DECAY_EMBED = 0.125
    cfg.SOLVER.MAX_ITER = 100
    cfg.SOLVER.WARMUP_ITERS = 10
    cfg.SOLVER.WARMUP_FACTOR = 0.2
    cfg.SOLVER.POLY_LR_POWER = 2.0
    return cfg


def test_each_parameter_has_its_rate_and_decay(cfg):
    model = Model()
    optimizer = build_optimizer(cfg, model)
    found = {id(p): (g["lr"], g["weight_decay"]) for g in optimizer.param_groups for p in g["params"]}
    assert found[id(model.backbone[0].weight)] == (0.1, 0.5)
    assert found[id(model.backbone[1].weight)] == (0.1, 0.25)
    assert found[id(model.query_embed.weight)] == (1.0, 0.125)
    assert found[id(model.head.bias)] == (1.0, 0.5)
    assert id(model.frozen) not in found


def test_learning_rate_warms_up_and_decays(cfg):
    optimizer = build_optimizer(cfg, nn.Linear(1, 1))
    scheduler = build_lr_scheduler(cfg, optimizer)
    rates = []
    for _ in range(100):
        rates.append(optimizer.param_groups[0]["lr"])
        optimizer.step()
        scheduler.step()
    assert rates[0] == pytest.approx(0.2)
    assert rates[5] == pytest.approx(0.6 * 0.95**2)
    assert rates[50] == pytest.approx(0.25)
    assert rates[99] == pytest.approx(0.01**2)


@pytest.mark.parametrize("key", ["OPTIMIZER", "LR_SCHEDULER_NAME"])
def test_an_unknown_name_is_told(cfg, key):
    cfg.SOLVER[key] = "nonsense"
    with pytest.raises(InputError, match=f"SOLVER.{key}.*nonsense"):
        build_lr_scheduler(cfg, build_optimizer(cfg, nn.Linear(1, 1)))


@pytest.mark.parametrize("optimizer", ["ADAMW", "SGD"])
@pytest.mark.parametrize(
    "batch, reference, rate", [(4, 16, 0.25), (16, 16, 1.0), (24, 16, 1.5), (1, 3, 1 / 3), (4, 0, 1.0)]
)
def test_learning_rate_is_in_proportion_to_the_batch(cfg, optimizer, batch, reference, rate):
    cfg.SOLVER.OPTIMIZER = optimizer
    cfg.SOLVER.IMS_PER_BATCH, cfg.SOLVER.REFERENCE_IMS_PER_BATCH = batch, reference
    assert learning_rate(cfg) == rate
    groups = build_optimizer(cfg, Model()).param_groups
    assert {group["lr"] for group in groups} == {rate, rate * 0.1}


CONFIGS = [path for path in sorted((REPO / "configs").rglob("*.yaml")) if path.parent.name != "comparison"]


@pytest.mark.parametrize("path", [path for path in CONFIGS if path.name != "dataset.yaml"], ids=lambda path: path.stem)
def test_every_configuration_of_ours_has_the_rate_that_it_names_and_scales_it(path):
    cfg = add_rc2l_config(get_cfg())
    cfg.merge_from_file(str(path), allow_unsafe=False)
    assert learning_rate(cfg) == cfg.SOLVER.BASE_LR
    cfg.SOLVER.IMS_PER_BATCH *= 2
    assert learning_rate(cfg) == 2 * cfg.SOLVER.BASE_LR

"""Parameter groups and learning rate schedule, against numbers computed by hand."""

import pytest
import torch
from conftest import REPO
from torch import nn

from rc2l_d2 import add_rc2l_config
from rc2l_d2.engine import build_lr_scheduler, build_optimizer, learning_rate
from rc2l_d2.host import get_cfg
from rc2l_d2.modeling.class_queries import ClassProbe


class Model(nn.Module):
    def __init__(self):
        super().__init__()
        self.backbone = nn.Sequential(nn.Conv2d(1, 1, 1), nn.BatchNorm2d(1))
        self.query_embed = nn.Embedding(2, 2)
        self.head = nn.Linear(2, 2)
        self.probe = ClassProbe(2, 2)
        self.norms = nn.Sequential(nn.GroupNorm(1, 2), nn.LayerNorm(2))
        self.frozen = nn.Parameter(torch.zeros(1), requires_grad=False)


@pytest.fixture
def cfg():
    cfg = add_rc2l_config(get_cfg())
    options = """
        SOLVER.BASE_LR 1.0 SOLVER.BACKBONE_MULTIPLIER 0.1 SOLVER.WEIGHT_DECAY 0.5 SOLVER.WEIGHT_DECAY_NORM 0.25
        SOLVER.WEIGHT_DECAY_EMBED 0.125 SOLVER.MAX_ITER 100 SOLVER.WARMUP_ITERS 10 SOLVER.WARMUP_FACTOR 0.2
        SOLVER.POLY_LR_POWER 2.0
    """
    cfg.merge_from_list(options.split())
    return cfg


def test_each_parameter_has_its_rate_and_decay(cfg):
    model = Model()
    optimizer = build_optimizer(cfg, model)
    found = {id(p): (g["lr"], g["weight_decay"]) for g in optimizer.param_groups for p in g["params"]}
    assert found[id(model.backbone[0].weight)] == (0.1, 0.5)
    assert found[id(model.backbone[1].weight)] == (0.1, 0.25)
    assert found[id(model.query_embed.weight)] == (1.0, 0.125)
    assert found[id(model.head.bias)] == (1.0, 0.5)
    assert found[id(model.probe.weight)] == (2.0, 0.5)
    assert {found[id(norm.weight)] for norm in model.norms} == {(1.0, 0.25)}
    assert id(model.frozen) not in found


def test_sgd_has_the_configured_momentum(cfg):
    cfg.merge_from_list(["SOLVER.OPTIMIZER", "SGD", "SOLVER.MOMENTUM", 0.75, "SOLVER.NESTEROV", True])
    optimizer = build_optimizer(cfg, Model())
    assert {(group["momentum"], group["nesterov"]) for group in optimizer.param_groups} == {(0.75, True)}


def test_learning_rate_warms_up_and_decays(cfg):
    optimizer = build_optimizer(cfg, nn.Linear(1, 1))
    scheduler = build_lr_scheduler(cfg, optimizer)
    rates = []
    for _ in range(100):
        rates.append(optimizer.param_groups[0]["lr"])
        optimizer.step()
        scheduler.step()
    expected = [0.2, 0.6 * 0.95**2, 0.25, 0.01**2]
    assert [rates[iteration] for iteration in (0, 5, 50, 99)] == pytest.approx(expected)


@pytest.mark.parametrize("batch, reference, rate", [(4, 16, 0.25), (24, 16, 1.5), (1, 3, 1 / 3), (4, 0, 1.0)])
def test_learning_rate_scales_with_the_batch_size(cfg, batch, reference, rate):
    cfg.SOLVER.IMS_PER_BATCH, cfg.SOLVER.REFERENCE_IMS_PER_BATCH = batch, reference
    assert learning_rate(cfg) == rate
    for cfg.SOLVER.OPTIMIZER in ("ADAMW", "SGD"):
        assert {group["lr"] for group in build_optimizer(cfg, Model()).param_groups} == {rate, rate * 0.1, rate * 2.0}


def test_every_config_has_its_base_rate_at_its_batch_size():
    files = [file for file in (REPO / "configs").rglob("*.yaml") if file.name != "dataset.yaml"]
    for path in (file for file in files if file.parent.name != "comparison"):
        cfg = add_rc2l_config(get_cfg())
        cfg.merge_from_file(str(path), allow_unsafe=False)
        assert learning_rate(cfg) == cfg.SOLVER.BASE_LR, path
        cfg.SOLVER.IMS_PER_BATCH *= 2
        assert learning_rate(cfg) == 2 * cfg.SOLVER.BASE_LR, path

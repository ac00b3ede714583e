"""The add-on changes nothing of Detectron2, and works with its backbones and with other scripts."""

import ast
import importlib
import os
import subprocess
import sys

import pytest
import torch
from conftest import REPO

from rc2l_d2.config import add_rc2l_config
from rc2l_d2.errors import InputError
from rc2l_d2.host import HOST, HOST_REASON

if HOST != "detectron2":
    pytest.skip(f"the host under test is the embedded one: {HOST_REASON}", allow_module_level=True)

from detectron2.config import get_cfg
from detectron2.modeling import BACKBONE_REGISTRY, Backbone, build_model
from detectron2.modeling.backbone import regnet, swin, vit

STAGES = ["res2", "res3", "res4", "res5"]
BESIDE = """
import detectron2.data.datasets
from detectron2.data import DatasetCatalog, MetadataCatalog
from detectron2.modeling import (BACKBONE_REGISTRY, META_ARCH_REGISTRY, PROPOSAL_GENERATOR_REGISTRY,
                                 ROI_HEADS_REGISTRY, SEM_SEG_HEADS_REGISTRY)
for project in ("point_rend", "deeplab", "panoptic_deeplab"):
    try:
        __import__(f"detectron2.projects.{project}")
    except ImportError:
        print("without", project)
registries = [BACKBONE_REGISTRY, META_ARCH_REGISTRY, PROPOSAL_GENERATOR_REGISTRY, ROI_HEADS_REGISTRY,
              SEM_SEG_HEADS_REGISTRY]
def state():
    names = {("registry", r._name, name): id(thing) for r in registries for name, thing in r}
    names |= {("data", "", name): id(DatasetCatalog[name]) for name in DatasetCatalog.list()}
    names |= {("metadata", "", name): str(MetadataCatalog.get(name).as_dict()) for name in MetadataCatalog.list()}
    return names
before = state()
import rc2l_d2
after = state()
assert all(after.get(name) == thing for name, thing in before.items()), "something of Detectron2's changed"
print(sorted(name[2] for name in after.keys() - before.keys() if name[0] == "registry"))
print(sorted(name[2] for name in after.keys() - before.keys() if name[0] == "data"))
assert "cityscapes_fine_sem_seg_train" in DatasetCatalog.list()
"""


def test_importing_changes_nothing_of_detectron2_or_its_projects():
    result = subprocess.run(
        [sys.executable, "-W", "ignore", "-c", BESIDE], cwd=REPO, capture_output=True, text=True, timeout=120,
        env={**os.environ, "PYTHONPATH": os.pathsep.join([str(REPO), os.environ.get("PYTHONPATH", "")])},
    )  # fmt: skip
    assert result.returncode == 0, result.stderr
    registered, datasets = map(ast.literal_eval, result.stdout.strip().splitlines()[-2:])
    architectures = ["PerPixelSegmentor", "PixelConsistency", "PixelContrast", "RC2L"]
    assert registered == [*architectures, "RegionHead", "RegionSegmentor", "UniMatch", "build_timm_backbone"]
    assert datasets and all(name.startswith(("voc2012_", "cityscapes_")) for name in datasets), datasets


def config(backbone: str, features: list[str], architecture: str = "RegionSegmentor"):
    """Configuration of another script: Detectron2's defaults, the add-on's keys, and a small head."""
    if "swin" in backbone or "vit" in backbone:
        pytest.importorskip("timm.models.layers", reason="timm, which Detectron2's Swin and ViT need, is not installed")
    cfg = add_rc2l_config(get_cfg())
    small = """
        BACKBONE.FREEZE_AT 0 RESNETS.DEPTH 18 RESNETS.RES2_OUT_CHANNELS 64 RESNETS.NORM BN SEM_SEG_HEAD.NUM_CLASSES 3
        SEM_SEG_HEAD.CONVS_DIM 32 SEM_SEG_HEAD.MASK_DIM 32 MASK_FORMER.HIDDEN_DIM 32 MASK_FORMER.DIM_FEEDFORWARD 32
        MASK_FORMER.DEC_LAYERS 1 MASK_FORMER.NUM_OBJECT_QUERIES 4 DEVICE cpu
    """.split()
    options = {"META_ARCHITECTURE": architecture, "BACKBONE.NAME": backbone, "SEM_SEG_HEAD.IN_FEATURES": features}
    options |= {"RESNETS.OUT_FEATURES": STAGES, "MASK_FORMER.TRANSFORMER_IN_FEATURE": features[-1]}
    options |= dict(zip(small[::2], small[1::2], strict=True))
    cfg.merge_from_list([word for key, value in options.items() for word in (f"MODEL.{key}", value)])
    return cfg


def assert_trains(model) -> None:
    sample = {"image": torch.randint(0, 256, (3, 64, 96), dtype=torch.uint8)}
    labels = torch.zeros(64, 96, dtype=torch.uint8)
    labels[20:40] = 1
    losses = model.train()([{**sample, "sem_seg": labels}] * 2)
    sum(losses.values()).backward()
    assert all(torch.isfinite(loss) for loss in losses.values())
    gradient = next(p.grad for p in model.backbone.parameters() if p.requires_grad)
    assert gradient is not None and torch.isfinite(gradient).all()
    with torch.no_grad():
        assert model.eval()([sample])[0]["sem_seg"].shape == (3, 64, 96)


# Detectron2 registers no function for these: each project that uses one brings its own.
@BACKBONE_REGISTRY.register()
def build_swin_for_test(cfg, input_shape):
    return swin.SwinTransformer(
        embed_dim=24, depths=(1, 1, 1, 1), num_heads=(1, 2, 4, 8), window_size=4, out_indices=(0, 1, 2, 3)
    )


@BACKBONE_REGISTRY.register()
def build_regnet_for_test(cfg, input_shape):
    return regnet.RegNet(
        stem_class=regnet.SimpleStem, stem_width=32, block_class=regnet.ResBottleneckBlock, depth=8, w_a=36, w_0=24,
        w_m=2.5, group_width=8, norm="BN", out_features=["s1", "s2", "s3", "s4"],
    )  # fmt: skip


def _vit() -> vit.ViT:
    return vit.ViT(
        img_size=64, embed_dim=32, depth=2, num_heads=2, window_size=4, window_block_indexes=[0], use_rel_pos=False,
        pretrain_img_size=64, out_feature="last_feat",
    )  # fmt: skip


@BACKBONE_REGISTRY.register()
def build_vit_pyramid_for_test(cfg, input_shape):
    return vit.SimpleFeaturePyramid(
        net=_vit(), in_feature="last_feat", out_channels=32, scale_factors=(4.0, 2.0, 1.0, 0.5), norm="LN",
        square_pad=0,
    )  # fmt: skip


@BACKBONE_REGISTRY.register()
def build_plain_vit_for_test(cfg, input_shape):
    return _vit()


@pytest.mark.parametrize(
    "backbone, features, architecture",
    [
        ("build_resnet_backbone", STAGES, "RC2L"),
        ("build_resnet_backbone", STAGES, "RegionSegmentor"),
        ("build_resnet_fpn_backbone", ["p2", "p3", "p4", "p5"], "RegionSegmentor"),
        ("build_swin_for_test", ["p0", "p1", "p2", "p3"], "RegionSegmentor"),
        ("build_regnet_for_test", ["s1", "s2", "s3", "s4"], "RegionSegmentor"),
        ("build_vit_pyramid_for_test", ["p2", "p3", "p4", "p5"], "RegionSegmentor"),
    ],
)
def test_another_script_builds_the_architectures_on_detectron2s_backbones(backbone, features, architecture):
    cfg = config(backbone, features, architecture)
    cfg.MODEL.FPN.IN_FEATURES = STAGES
    model = build_model(cfg)
    assert type(model).__name__ == architecture and isinstance(model.backbone, Backbone)
    assert_trains(model)


def test_the_resnet_with_deeplabs_stem_works():
    try:
        deeplab = importlib.import_module("detectron2.projects.deeplab")
    except ImportError as error:
        pytest.skip(f"this Detectron2 comes without its DeepLab project ({error})")
    cfg = get_cfg()
    deeplab.add_deeplab_config(cfg)
    head = cfg.MODEL.SEM_SEG_HEAD.NAME
    add_rc2l_config(cfg)
    assert cfg.MODEL.SEM_SEG_HEAD.NAME != head
    small = config("build_resnet_deeplab_backbone", STAGES)
    cfg.MODEL.RESNETS.STEM_TYPE = "deeplab"
    for key in ("META_ARCHITECTURE", "DEVICE", "MASK_FORMER"):
        setattr(cfg.MODEL, key, getattr(small.MODEL, key))
    cfg.MODEL.SEM_SEG_HEAD.update({k: small.MODEL.SEM_SEG_HEAD[k] for k in small.MODEL.SEM_SEG_HEAD})
    cfg.MODEL.BACKBONE.NAME, cfg.MODEL.BACKBONE.FREEZE_AT = small.MODEL.BACKBONE.NAME, 0
    cfg.MODEL.RESNETS.DEPTH, cfg.MODEL.RESNETS.NORM = 50, "BN"
    cfg.MODEL.RESNETS.OUT_FEATURES = small.MODEL.RESNETS.OUT_FEATURES
    model = build_model(cfg)
    assert hasattr(model.backbone.stem, "conv3")
    assert_trains(model)


@pytest.mark.parametrize(
    "backbone, features, transformer_feature, message",
    [
        ("build_regnet_for_test", STAGES, "s4", r"IN_FEATURES names \['res2'.* but the backbone gives \['s1', 's2'"),
        ("build_regnet_for_test", ["s1", "s2", "s3", "s4"], "res5", "IN_FEATURE is 'res5', but the backbone gives"),
        ("build_resnet_backbone", ["res3", "res4", "res5"], "res5", "finest has to have stride 4"),
        ("build_plain_vit_for_test", ["last_feat"], "last_feat", r"\{'last_feat': 16\}, but the finest has to have"),
    ],
)
def test_unsuitable_backbones_are_refused(backbone, features, transformer_feature, message):
    cfg = config(backbone, features)
    cfg.MODEL.MASK_FORMER.TRANSFORMER_IN_FEATURE = transformer_feature
    cfg.MODEL.MASK_FORMER.MATCHING = "hungarian"  # which alone reads this feature
    with pytest.raises(InputError, match=message):
        build_model(cfg)

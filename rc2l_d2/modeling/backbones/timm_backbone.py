"""Backbones of timm by name: convolutional ones and plain ViTs (DINOv2, DINOv3), with maps "res2" to "res5".

The only module that imports timm, and only when such a backbone is wanted.
"""

from __future__ import annotations

import difflib
import logging
import math
import sys
from collections.abc import Collection
from functools import partial
from types import ModuleType
from typing import Any

import torch
from torch import Tensor, nn

from ...errors import InputError, first_line, one_line
from ...host import BACKBONE_REGISTRY, Backbone, CfgNode, ShapeSpec
from ..pixel_decoder import maps_with_gradient
from .simple_pyramid import STRIDES, SimpleFeaturePyramid

logger = logging.getLogger(__name__)
# Detectron2's names of the maps of strides 4, 8, 16 and 32.
MAPS = dict(zip(STRIDES, ("res2", "res3", "res4", "res5"), strict=True))
BODY = "body"  # the map of a ViT's last block
STAGE = "blocks."  # start of the names of other stages' maps


class TimmBackbone(Backbone):
    """A convolutional model of timm, by its ``features_only`` interface.

    Some models (EfficientNet, MobileNet) have several stages of one stride, of which timm gives the last. The maps of
    the others are given too, as "blocks.3" and so on.

    Attributes:
        body: the model of timm.
        size_divisibility: divisor of image height and width; 0: any size.
    """

    size_divisibility = 0
    body: Any

    def __init__(
        self,
        name: str,
        in_channels: int,
        *,
        drop_path: float = 0.0,
        norm_eval: bool = False,
        channels_last: bool = False,
    ):
        """
        Args:
            name: of the model in timm.
            in_channels: bands of the images.
            drop_path: rate of stochastic depth.
            norm_eval: whether batch norms stay in eval mode.
            channels_last: memory format of the images.
        """
        super().__init__()
        self.name, self.in_channels, self.norm_eval, self.channels_last = name, in_channels, norm_eval, channels_last
        self.options = {"in_chans": in_channels, **({"drop_path_rate": drop_path} if drop_path else {})}
        self._stages: dict[str, Tensor] = {}
        self.body = self.build_body()
        self._setup()

    @staticmethod
    def named(name: str, in_channels: int = 3, pyramid_dim: int = 64, **settings) -> TimmBackbone:
        """Build the backbone of a name with random weights; a plain ViT gets a pyramid of ``pyramid_dim`` channels.

        Raises:
            InputError: timm cannot be imported, does not have the model, or the model has no suitable maps.
        """
        _require_model(name)
        if _is_plain_vit(name):
            return PlainViTBackbone(name, in_channels, pyramid_dim=pyramid_dim, **settings)
        return TimmBackbone(name, in_channels, **settings)

    def build_body(self, **weights) -> Any:
        """Build the model of timm; ``weights`` are timm's arguments for pretrained ones."""
        return _create(self.name, features_only=True, **self.options, **weights)

    def _setup(self) -> None:
        info = self.body.feature_info.info
        by_stride = {level["reduction"]: index for index, level in enumerate(info)}  # the last map of a stride
        missing = [stride for stride in STRIDES if stride not in by_stride]
        if missing:
            raise InputError(
                f"MODEL.TIMM.NAME is {self.name!r}, which has no maps of stride {', '.join(map(str, missing))}; choose "
                "a model with strides 4, 8, 16 and 32."
            )
        self._levels = {MAPS[stride]: by_stride[stride] for stride in STRIDES}
        self._shapes = {
            name: ShapeSpec(channels=info[index]["num_chs"], stride=info[index]["reduction"])
            for name, index in self._levels.items()
        }
        names = [name for name, _ in self.body.named_parameters()]
        prefixes = [info[index]["module"].replace(".", "_") + "_" for index in self._levels.values()]
        plain = [name.replace(".", "_") for name in names]
        if not all(any(name.startswith(prefix) for name in plain) for prefix in prefixes):
            raise InputError(f"MODEL.TIMM.NAME is {self.name!r}, whose weights do not name its stages; choose another.")
        starts = [next(i for i, name in enumerate(plain) if name.startswith(prefix)) for prefix in prefixes]
        ends = [max(i for i, name in enumerate(plain) if name.startswith(prefix)) for prefix in prefixes]
        # Stem 0, then one depth for each map; what lies between two maps belongs to the later one.
        self._depths = {
            name: 0 if i < starts[0] else 1 + sum(i > end for end in ends[:-1]) for i, name in enumerate(names)
        }
        self.last_depth = len(STRIDES)
        self._add_stages({info[index]["module"] for index in self._levels.values()})

    def _add_stages(self, known: Collection[str]) -> None:
        """Keep the maps of those stages that timm does not give; InputError if a small image has no usual maps."""
        blocks = getattr(self.body, "blocks", None)
        # Bound methods: in a copy of this module they are bound to the copy.
        hooks = {
            name: self.body.get_submodule(name).register_forward_hook(partial(self._keep, name))
            for name in (f"{STAGE}{index}" for index in range(len(blocks) if isinstance(blocks, nn.Sequential) else 0))
            if name not in known
        }
        size = 2 * STRIDES[-1]
        try:
            with torch.no_grad():
                maps = self.body.eval()(torch.zeros(1, self.in_channels, size, size))
        except (AssertionError, RuntimeError) as error:
            problem = f"which takes no small images ({first_line(error, 200)})"
            raise InputError(f"MODEL.TIMM.NAME is {self.name!r}, {problem}; choose another.") from error
        self.body.train()
        for name, index in self._levels.items():
            if maps[index].shape[1] != self._shapes[name].channels:
                raise InputError(f"MODEL.TIMM.NAME is {self.name!r}, whose maps have other channels; choose another.")
        stages, self._stages = self._stages, {}
        for name, x in stages.items():
            if (stride := size // x.shape[-1]) in STRIDES:
                self._shapes[name] = ShapeSpec(channels=x.shape[1], stride=stride)
            else:
                hooks[name].remove()

    def _keep(self, name: str, module: nn.Module, inputs: tuple, output: Tensor) -> None:
        self._stages[name] = output

    def output_shape(self) -> dict[str, ShapeSpec]:
        """Return channels and stride of each map by name."""
        return self._shapes

    def forward(self, images: Tensor) -> dict[str, Tensor]:
        """Return the maps (B, C_s, ceil(H / s), ceil(W / s)) of images (B, in_channels, H, W) by name."""
        maps = self.body(self._in_memory_format(images))
        stages, self._stages = self._stages, {}
        of_strides = {name: maps[index] for name, index in self._levels.items()}
        return of_strides | stages

    def _in_memory_format(self, images: Tensor) -> Tensor:
        return images.contiguous(memory_format=torch.channels_last) if self.channels_last else images

    def train(self, mode: bool = True) -> TimmBackbone:
        """Set the mode, except of batch norms that are frozen or in eval mode by configuration."""
        super().train(mode)
        for module in self.body.modules():
            if isinstance(module, nn.modules.batchnorm._BatchNorm):
                frozen = module.weight is not None and not module.weight.requires_grad
                if self.norm_eval or frozen:
                    module.eval()
        if not any(parameter.requires_grad for parameter in self.body.parameters()):
            self.body.eval()  # Stochastic depth would change the maps of a frozen body.
        return self

    def depth_of(self, parameter: str) -> int | None:
        """Return the depth of a parameter of this module by name, 0 for the stem; None outside the body."""
        return self._depths.get(parameter.removeprefix("body.")) if parameter.startswith("body.") else None

    def freeze(self, stages: int) -> None:
        """Freeze the stem and the first ``stages - 1`` stages (blocks of a ViT); 0 freezes nothing, -1 all of them."""
        for name, parameter in self.named_parameters():
            depth = self.depth_of(name)
            if depth is not None and (stages < 0 or depth < stages):
                parameter.requires_grad_(False)

    def load_pretrained(self, state: dict[str, Tensor] | None = None, source: str = "") -> None:
        """Load ImageNet (or other pretrained) weights into the body.

        Args:
            state: weights by name, of timm, torchvision or EfficientNet-PyTorch; None: from timm's hub or its cache.
            source: of ``state``, for the log and errors.

        Raises:
            InputError: the weights do not fit, or the hub cannot be reached.
        """
        if state is None:
            settings = _timm().get_pretrained_cfg(self.name)
            source = f"timm's hub ({settings and (settings.hf_hub_id or settings.url)})"
            try:
                weights = self.build_body(pretrained=True).state_dict()
            except Exception as error:  # no network: requests, urllib and hub raise errors of their own
                raise InputError(
                    f"MODEL.TIMM.PRETRAINED is True, but the weights of {self.name} cannot be fetched from {source} "
                    f"({first_line(error, 200)}); download them elsewhere and give MODEL.TIMM.CHECKPOINT the file."
                ) from error
        else:
            state = self._checked(state, source)
            try:
                weights = self.build_body(pretrained=True, pretrained_cfg_overlay={"state_dict": state}).state_dict()
            except RuntimeError as error:
                raise InputError(
                    f"{source} does not fit MODEL.TIMM.NAME {self.name!r} ({one_line(error, 200)}); {_ADVICE}."
                ) from error
        self.body.load_state_dict(weights)
        count = sum("num_batches_tracked" not in name for name in weights)
        logger.info("Backbone %s: all of its %d weights from %s", self.name, count, source)

    def _checked(self, state: dict[str, Tensor], source: str) -> dict[str, Tensor]:
        """Return ``state`` with the names of timm; refuse missing and unexpected weights."""
        model = _create(self.name, pretrained=False, in_chans=self.in_channels)
        own = model.state_dict()
        state = _timm_names({name.removeprefix("module."): value for name, value in state.items()}, own)
        convert = getattr(sys.modules[type(model).__module__], "checkpoint_filter_fn", None)
        try:
            converted = convert(dict(state), model) if convert else state
        except (KeyError, RuntimeError, ValueError, TypeError, IndexError, AttributeError):
            converted = state  # of another architecture: the comparison below says so
        classifier = tuple(f"{name}." for name in _classifiers(model))
        ignored = (*classifier, "mask_token")
        wanted = {name for name in own if "num_batches_tracked" not in name and not name.startswith(ignored)}
        given = {name for name in converted if "num_batches_tracked" not in name and not name.startswith(ignored)}
        missing, unexpected = sorted(wanted - given), sorted(given - wanted)
        if missing or unexpected:
            found = [f"{len(missing)} of {len(wanted)} weights missing ({missing[0]})"] if missing else []
            found += [f"{len(unexpected)} unexpected ({unexpected[0]})"] if unexpected else []
            raise InputError(f"{source} does not fit MODEL.TIMM.NAME {self.name!r}: {', '.join(found)}; {_ADVICE}.")
        return state


class PlainViTBackbone(TimmBackbone):
    """A plain ViT of timm (DINOv2, DINOv3, with or without registers) with a simple feature pyramid.

    The pyramid takes the map of the last block, as ViTDet does, normed where the model norms each patch: the last norm
    of models with average pooling belongs to their classifier. Position embeddings are resized to the image.
    This map is also given as it is, as "body": the pyramid has no pretrained weights.
    """

    def __init__(self, name: str, in_channels: int, *, pyramid_dim: int, **settings):
        """``pyramid_dim``: channels of each map; the rest as in :class:`TimmBackbone`."""
        self.pyramid_dim = pyramid_dim
        super().__init__(name, in_channels, **settings)

    def build_body(self, **weights) -> Any:
        body = _create(self.name, num_classes=0, dynamic_img_size=True, **self.options, **weights)
        # They belong to the classifier. Parameters without a gradient would stop DistributedDataParallel.
        body.fc_norm, body.attn_pool = nn.Identity(), None
        return body

    def _setup(self) -> None:
        self.patch = self.body.patch_embed.patch_size[0]
        # The finest map has stride 4 exactly; images are padded to whole patches.
        self.size_divisibility = math.lcm(self.patch, STRIDES[0])
        self.pyramid = SimpleFeaturePyramid(self.body.embed_dim, self.pyramid_dim, self.patch)
        self._shapes = {name: ShapeSpec(channels=self.pyramid_dim, stride=stride) for stride, name in MAPS.items()}
        self._shapes[BODY] = ShapeSpec(channels=self.body.embed_dim, stride=self.patch)
        self.last_depth = len(self.body.blocks) + 1
        self._depths = {name: self._depth(name) for name, _ in self.body.named_parameters()}

    def _depth(self, name: str) -> int:
        if name.startswith("blocks."):
            return 1 + int(name.split(".")[1])
        return self.last_depth if name.startswith(("norm.", "fc_norm.")) else 0

    def forward(self, images: Tensor) -> dict[str, Tensor]:
        last = len(self.body.blocks) - 1
        maps = self.body.forward_intermediates(
            self._in_memory_format(images), indices=[last], norm=True, intermediates_only=True
        )
        pyramid = dict(zip(MAPS.values(), self.pyramid(maps[0], images.shape[-2:]), strict=True))
        return pyramid | {BODY: maps[0]}

    def train_levels(self, names: Collection[str]) -> None:
        """Train the levels of these maps alone: parameters without a gradient would stop DistributedDataParallel."""
        for name, level in zip(MAPS.values(), self.pyramid.levels, strict=True):
            level.requires_grad_(name in names)


@BACKBONE_REGISTRY.register()
def build_timm_backbone(cfg: CfgNode, input_shape: ShapeSpec) -> TimmBackbone:
    """Build the backbone MODEL.TIMM.NAME with random weights; :meth:`TimmBackbone.load_pretrained` loads others.

    Raises:
        InputError: see :meth:`TimmBackbone.named`.
    """
    settings = cfg.MODEL.TIMM
    backbone = TimmBackbone.named(
        settings.NAME,
        input_shape.channels,
        cfg.MODEL.SEM_SEG_HEAD.CONVS_DIM,
        drop_path=settings.DROP_PATH,
        norm_eval=settings.NORM_EVAL,
        channels_last=settings.CHANNELS_LAST,
    )
    backbone.freeze(settings.FREEZE_STAGES)
    if isinstance(backbone, PlainViTBackbone):
        backbone.train_levels(maps_with_gradient(cfg, backbone.output_shape()))
    if settings.GRAD_CHECKPOINTING:
        norms = [x for x in backbone.train().body.modules() if isinstance(x, nn.modules.batchnorm._BatchNorm)]
        if any(norm.training for norm in norms):
            raise InputError(
                f"MODEL.TIMM.GRAD_CHECKPOINTING repeats the forward pass of {settings.NAME}, whose batch norms would "
                "count each image twice; set MODEL.TIMM.NORM_EVAL True, or SOLVER.IMS_PER_PASS instead."
            )
        backbone.body.set_grad_checkpointing(True)
    return backbone


def preprocessing_of(name: str) -> tuple[list[float], list[float]]:
    """Return mean and standard deviation (RGB, 0 to 255) of the images that timm's weights were trained with.

    Raises:
        InputError: see :func:`build_timm_backbone`.
    """
    _require_model(name)
    settings = _timm().get_pretrained_cfg(name)
    mean, std = (settings.mean, settings.std) if settings else ((0.485, 0.456, 0.406), (0.229, 0.224, 0.225))
    return [round(255 * value, 4) for value in mean], [round(255 * value, 4) for value in std]


def cached_weights(name: str) -> str:
    """Return the file of timm's pretrained weights in the hub's cache; "" where they were never downloaded.

    Raises:
        InputError: see :func:`build_timm_backbone`.
    """
    settings = _timm().get_pretrained_cfg(name)
    if not settings or not settings.hf_hub_id:
        return ""
    from huggingface_hub import try_to_load_from_cache  # comes with timm

    found = (try_to_load_from_cache(settings.hf_hub_id, file) for file in ("model.safetensors", "pytorch_model.bin"))
    return next((file for file in found if isinstance(file, str)), "")


_ADVICE = "give MODEL.TIMM.CHECKPOINT a file of this model, or change MODEL.TIMM.NAME"


def _timm() -> ModuleType:
    try:
        import timm
    except Exception as error:  # a torchvision that does not fit torch raises RuntimeError
        raise InputError(
            f"MODEL.BACKBONE.NAME is build_timm_backbone, but timm cannot be imported ({first_line(error)}); install "
            "it by pip install 'rc2l_d2[timm]', with a torchvision that fits torch."
        ) from error
    return timm


def _create(name: str, **options) -> Any:
    try:
        return _timm().create_model(name, **options)
    except TypeError as error:
        raise InputError(
            f"MODEL.TIMM.NAME is {name!r}, which timm cannot build with these settings ({error}); check MODEL.TIMM."
        ) from error


def _require_model(name: str) -> None:
    timm = _timm()
    tagged = "." in name  # a name of weights, as resnet18.a1_in1k
    if not (timm.is_model_pretrained(name) if tagged else timm.is_model(name)):
        known = timm.list_pretrained() if tagged else timm.list_models()
        near = difflib.get_close_matches(name, known, n=3, cutoff=0.5)
        advice = f"near ones are {', '.join(near)}" if near else "timm.list_models() lists its models"
        raise InputError(f"MODEL.TIMM.NAME is {name!r}, which timm {timm.__version__} does not have; {advice}.")


def _is_plain_vit(name: str) -> bool:
    """Return whether the model is a ViT without stages, whose map has one stride."""
    module = _timm().models.model_entrypoint(name).__module__.rpartition(".")[2]
    return module in ("vision_transformer", "eva", "deit", "beit")


def _classifiers(model: Any) -> tuple[str, ...]:
    names = model.pretrained_cfg.get("classifier") or ()
    return (names,) if isinstance(names, str) else tuple(names)


def _timm_names(state: dict[str, Tensor], own: dict[str, Tensor]) -> dict[str, Tensor]:
    """Rename the weights of EfficientNet-PyTorch, which have timm's order and shapes, to timm's names."""
    if not any(name.startswith("_blocks.") for name in state):
        return state
    same = len(state) == len(own) and all(a.shape == b.shape for a, b in zip(state.values(), own.values(), strict=True))
    return dict(zip(own, state.values(), strict=True)) if same else state

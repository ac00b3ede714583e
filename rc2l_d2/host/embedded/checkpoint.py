"""Loading weights whose names differ from the model's by a prefix, and from Detectron2's model zoo."""

from __future__ import annotations

import logging
from typing import Any

from fvcore.common.checkpoint import Checkpointer
from iopath.common.file_io import PathHandler
from torch import Tensor, nn

from . import comm


class _ModelZooHandler(PathHandler):
    """``detectron2://ImageNetPretrained/...``: files of Detectron2's model zoo, downloaded once."""

    def __init__(self, path_manager):
        super().__init__()
        self._path_manager = path_manager

    def _get_supported_prefixes(self) -> list[str]:
        return ["detectron2://"]

    def _get_local_path(self, path: str, force: bool = False, **kwargs) -> str:
        url = "https://dl.fbaipublicfiles.com/detectron2/" + path.removeprefix("detectron2://")
        return self._path_manager.get_local_path(url, force=force)


class DetectionCheckpointer(Checkpointer):
    """fvcore's Checkpointer that also reads Detectron2's model zoo; only rank 0 writes unless ``save_to_disk`` says."""

    def __init__(self, model: nn.Module, save_dir: str = "", *, save_to_disk: bool | None = None, **checkpointables):
        save_to_disk = comm.is_main_process() if save_to_disk is None else save_to_disk
        super().__init__(model, save_dir, save_to_disk=save_to_disk, **checkpointables)
        self.path_manager.register_handler(_ModelZooHandler(self.path_manager))

    def _load_model(self, checkpoint: dict[str, Any]):
        weights, model = checkpoint["model"], self.model.state_dict()
        if not any(name.startswith(("backbone.", "module.")) or name in model for name in weights):
            self._convert_ndarray_to_tensor(weights)
            checkpoint["model"] = match_names_by_suffix(model, weights)
        incompatible = super()._load_model(checkpoint)
        for name in {"pixel_mean", "pixel_std"}.intersection(incompatible.missing_keys):
            incompatible.missing_keys.remove(name)  # they come from the config, older files lack them
        return incompatible


def match_names_by_suffix(model: dict[str, Tensor], weights: dict[str, Tensor]) -> dict[str, Tensor]:
    """Give weights the names that a model has for them, where a model's name ends in ".<name of the weight>".

    The longest such ending wins: ``stem.conv1.weight`` becomes ``backbone.stem.conv1.weight``. Weights that match
    nothing, or something of another shape, keep their name.

    Raises:
        ValueError: one weight would go to two parameters.
    """
    logger = logging.getLogger(__name__)
    matched: dict[str, str] = {}  # name of the weight -> name in the model
    for name in sorted(model):
        parts = name.split(".")
        suffixes = (".".join(parts[start:]) for start in range(len(parts)))
        source = next((suffix for suffix in suffixes if suffix in weights), None)
        if source is None:
            continue
        if weights[source].shape != model[name].shape:
            logger.warning("%s is not loaded: its shape is not that of the model's %s.", source, name)
            continue
        if source in matched:
            raise ValueError(f"The checkpoint's {source} fits {matched[source]} and {name}, so it can't be loaded.")
        matched[source] = name
    logger.info("%d of %d weights of the checkpoint matched by the end of their name.", len(matched), len(weights))
    return {matched.get(name, name): value for name, value in weights.items()}

"""Checkpoints, and Detectron2's model zoo to take them from."""

from __future__ import annotations

from fvcore.common.checkpoint import Checkpointer
from iopath.common.file_io import PathHandler
from torch import nn

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

"""fvcore's checkpointer, with paths into Detectron2's model zoo."""

from __future__ import annotations

from fvcore.common.checkpoint import Checkpointer
from iopath.common.file_io import PathHandler
from torch import nn

from . import comm


class _ModelZooHandler(PathHandler):
    """Download ``detectron2://ImageNetPretrained/...`` once and return the local path."""

    def __init__(self, path_manager):
        super().__init__()
        self._path_manager = path_manager

    def _get_supported_prefixes(self) -> list[str]:
        return ["detectron2://"]

    def _get_local_path(self, path: str, force: bool = False, **kwargs) -> str:
        url = "https://dl.fbaipublicfiles.com/detectron2/" + path.removeprefix("detectron2://")
        return self._path_manager.get_local_path(url, force=force)


class DetectionCheckpointer(Checkpointer):
    """fvcore's Checkpointer; only rank 0 writes, and ``detectron2://`` paths are downloaded."""

    def __init__(self, model: nn.Module, save_dir: str = "", **checkpointables):
        super().__init__(model, save_dir, save_to_disk=comm.is_main_process(), **checkpointables)
        self.path_manager.register_handler(_ModelZooHandler(self.path_manager))

"""The student on several ranks."""

from __future__ import annotations

from torch import nn

from ..errors import InputError
from ..host import CfgNode, comm
from ..modeling import RegionSegmentor
from ..modeling.pixel_decoder import maps_with_gradient


def data_parallel(cfg: CfgNode, model: RegionSegmentor) -> nn.Module:
    """Return ``model`` in DistributedDataParallel, or ``model`` itself if there is one rank.

    Raises:
        InputError: the model has norms that several ranks have on GPUs alone.
    """
    if comm.get_world_size() == 1:
        return model
    on_cpu = cfg.MODEL.DEVICE == "cpu"
    if on_cpu and any(isinstance(module, nn.SyncBatchNorm) for module in model.modules()):
        raise InputError('SyncBN averages over GPUs alone; set MODEL.RESNETS.NORM to "BN" or "GN" on a CPU.')
    return nn.parallel.DistributedDataParallel(
        model,
        device_ids=None if on_cpu else [comm.get_local_rank()],
        # The teacher's hook broadcasts batch statistics before it averages them.
        broadcast_buffers=False,
        gradient_as_bucket_view=True,  # saves the memory of one gradient
        # Otherwise buckets change after the first iteration, and with them the order in which gloo adds the gradients
        # of more than two ranks: a resumed run would differ by rounding.
        find_unused_parameters=on_cpu or has_unread_stages(cfg, model),
    )


def has_unread_stages(cfg: CfgNode, model: RegionSegmentor) -> bool:
    """Return whether the backbone has stages behind the last map that the head passes a gradient to."""
    shapes = model.backbone.output_shape()
    read = maps_with_gradient(cfg, shapes)
    return max(shape.stride for shape in shapes.values()) > max(shapes[name].stride for name in read)

"""Export of a trained model as one graph: a ``torch.export`` program and ONNX."""

from __future__ import annotations

import json

import onnxruntime
import torch
from torch import Tensor, nn
from torch.export import Dim

from ..engine import load_model_file
from ..modeling import RegionSegmentor

LARGEST = 8192  # pixels of an edge
INFORMATION = "rc2l_d2.json"  # name of the description in both files


class WholeImagePredictor(nn.Module):
    """Prediction of a :class:`RegionSegmentor` for one image, in operations that export for dynamic sizes.

    Padding and cropping are gathers: their shapes do not depend on whether there is anything to pad.
    """

    def __init__(self, model: RegionSegmentor):
        super().__init__()
        self.model = model

    def forward(self, image: Tensor) -> Tensor:
        """Return scores (1, K, H, W), float32, of an image (1, C, H, W), uint8, in channel order INPUT.FORMAT."""
        model, size = self.model, image.shape[-2:]
        normalised = (image - model.pixel_mean) / model.pixel_std
        multiple = max(model.size_divisibility, 1)
        for dim, length in zip((2, 3), size, strict=True):
            position = torch.arange((length + multiple - 1) // multiple * multiple, device=image.device)
            inside = (position < length).view(-1, *[1] * (3 - dim))
            normalised = normalised.index_select(dim, position.clamp(max=length - 1)) * inside
        scores = model.scores_at(model.regions(normalised), normalised.shape[-2:])
        for dim, length in zip((2, 3), size, strict=True):
            scores = scores.index_select(dim, torch.arange(length, device=image.device))
        return scores


def load_for_export(path: str) -> tuple[RegionSegmentor, dict]:
    """Load ``teacher_final.pth`` of a run on the CPU.

    Returns:
        The model in eval mode, and its description: "classes", "palette", "ignore_value", "format" (order of the first
        three channels), the limits "min_size_test" of the short and "max_size_test" of the long edge (0: no resizing),
        "window" and "stride" of sliding windows (null without), and "files": how image files that are not plain 8-bit
        colour become channels, as the keys bands and range of datasets/README.md (empty for plain ones).

    Raises:
        InputError: see :func:`rc2l_d2.engine.load_model_file`.
    """
    model, cfg, metadata = load_model_file(path)
    windows, bands = cfg.TEST.SLIDING_WINDOW, metadata.get("bands")
    return model.cpu(), {
        "classes": metadata.stuff_classes,
        "palette": metadata.stuff_colors,
        "ignore_value": metadata.ignore_label,
        "format": cfg.INPUT.FORMAT,
        "files": bands.keys() if bands else {},
        "min_size_test": cfg.INPUT.MIN_SIZE_TEST,
        "max_size_test": cfg.INPUT.MAX_SIZE_TEST,
        "window": list(windows.CROP_SIZE) if windows.ENABLED else None,
        "stride": list(windows.STRIDE) if windows.ENABLED else None,
    }


@torch.no_grad()
def export_model(model: RegionSegmentor, information: dict, program_file: str, graph_file: str) -> int:
    """Export :class:`WholeImagePredictor` for edges up to ``LARGEST`` pixels, and return the shortest edge.

    Args:
        model: the model, on the CPU.
        information: is stored in both files under ``INFORMATION``: an extra file, and a metadata property of ONNX.
        program_file: file for ``torch.export.load``.
        graph_file: ONNX file, from "image" to "scores".
    """
    # A coarsest feature map, of stride 32 at most, of length 1 would specialise the graph; so would an example that is
    # square or a multiple of the divisibility.
    smallest = max(model.size_divisibility, 32) + 1
    example = torch.zeros(1, len(model.pixel_mean), 3 * smallest, 4 * smallest + 1, dtype=torch.uint8)
    height, width = (Dim(name, min=smallest, max=LARGEST) for name in ("height", "width"))
    shapes = ({2: height, 3: width},)
    program = torch.export.export(WholeImagePredictor(model).eval(), (example,), dynamic_shapes=shapes)
    torch.export.save(program, program_file, extra_files={INFORMATION: json.dumps(information)})
    names = {"input_names": ["image"], "output_names": ["scores"], "dynamic_shapes": ({2: "height", 3: "width"},)}
    graph = torch.onnx.export(program, dynamo=True, verbose=False, **names)
    graph.model.metadata_props[INFORMATION] = json.dumps(information)
    graph.save(graph_file)
    return smallest


def differences(model: RegionSegmentor, program: str, graph: str, size: tuple[int, int], seed: int) -> dict[str, float]:
    """Return the largest difference of a score of each file, as a fraction of the model's highest score.

    The files are those of :func:`export_model`, the image is random, of (height, width) ``size``.
    """
    shape, generator = (1, len(model.pixel_mean), *size), torch.Generator().manual_seed(seed)
    image = torch.randint(0, 256, shape, dtype=torch.uint8, generator=generator)
    with torch.no_grad():
        expected = model([{"image": image[0]}])[0]["sem_seg"]
        exported = {"torch.export": torch.export.load(program).module()(image)[0]}
    session = onnxruntime.InferenceSession(graph, providers=["CPUExecutionProvider"])
    exported["ONNX"] = torch.from_numpy(session.run(None, {"image": image.numpy()})[0][0])
    return {name: float((scores - expected).abs().max() / expected.max()) for name, scores in exported.items()}

"""Export of a trained model as one graph: a ``torch.export`` program and ONNX."""

from __future__ import annotations

import json

import onnxruntime
import torch
from torch import Tensor, nn
from torch.export import Dim, ExportedProgram

from ..engine import load_model_file
from ..modeling.meta_arch import RegionSegmentor, scores_at

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
        """Return scores (1, K, H, W), float32, of an image (1, 3, H, W), uint8, in channel order INPUT.FORMAT."""
        model, size = self.model, image.shape[-2:]
        normalised = (image - model.pixel_mean) / model.pixel_std
        multiple = max(model.size_divisibility, 1)
        for dim, length in zip((2, 3), size, strict=True):
            position = torch.arange((length + multiple - 1) // multiple * multiple, device=image.device)
            inside = (position < length).view(-1, *[1] * (3 - dim))
            normalised = normalised.index_select(dim, position.clamp(max=length - 1)) * inside
        scores = scores_at(model.regions(normalised), normalised.shape[-2:])
        for dim, length in zip((2, 3), size, strict=True):
            scores = scores.index_select(dim, torch.arange(length, device=image.device))
        return scores


def load_for_export(path: str) -> tuple[RegionSegmentor, dict]:
    """Load ``teacher_final.pth`` of a run on the CPU.

    Returns:
        The model in eval mode, and the description that goes into the exported files: "classes", "palette",
        "ignore_value", "format" (channel order), and "min_size_test" and "max_size_test": the caller resizes the
        image's short edge to the first, within the second for its long edge (0: no resizing).

    Raises:
        InputError: see :func:`rc2l_d2.engine.load_model_file`.
    """
    model, cfg, metadata = load_model_file(path)
    information = {
        "classes": metadata.stuff_classes,
        "palette": metadata.stuff_colors,
        "ignore_value": metadata.ignore_label,
        "format": cfg.INPUT.FORMAT,
        "min_size_test": cfg.INPUT.MIN_SIZE_TEST,
        "max_size_test": cfg.INPUT.MAX_SIZE_TEST,
    }
    return model.cpu(), information


def smallest_edge(model: RegionSegmentor) -> int:
    """Return the shortest edge in pixels that an exported model takes.

    Below it the coarsest feature map, of stride 32 at most, would have length 1, for which torch exports another graph.
    """
    return max(model.size_divisibility, 32) + 1


@torch.no_grad()
def export_program(model: RegionSegmentor) -> ExportedProgram:
    """Export :class:`WholeImagePredictor` for edges from :func:`smallest_edge` to ``LARGEST`` pixels."""
    smallest = smallest_edge(model)
    # An example that is square or a multiple of the divisibility would specialise the graph.
    example = torch.zeros(1, 3, 3 * smallest, 4 * smallest + 1, dtype=torch.uint8)
    height, width = (Dim(name, min=smallest, max=LARGEST) for name in ("height", "width"))
    return torch.export.export(WholeImagePredictor(model).eval(), (example,), dynamic_shapes=({2: height, 3: width},))


def save_program(program: ExportedProgram, information: dict, path: str) -> None:
    """Write a file for ``torch.export.load``, with ``information`` in its extra file ``INFORMATION``."""
    torch.export.save(program, path, extra_files={INFORMATION: json.dumps(information)})


def save_onnx(program: ExportedProgram, information: dict, path: str) -> None:
    """Write ONNX, from "image" to "scores", with ``information`` in its metadata property ``INFORMATION``."""
    graph = torch.onnx.export(
        program,
        dynamo=True,
        input_names=["image"],
        output_names=["scores"],
        dynamic_shapes=({2: "height", 3: "width"},),
        verbose=False,
    )
    graph.model.metadata_props[INFORMATION] = json.dumps(information)
    graph.save(path)


def differences(model: RegionSegmentor, program: str, graph: str, size: tuple[int, int], seed: int) -> dict[str, float]:
    """Compare two saved files with the model on a random image.

    Args:
        model: the exported model.
        program, graph: paths, from :func:`save_program` and :func:`save_onnx`.
        size: height and width in pixels.
        seed: seed of the image.

    Returns:
        For "torch.export" and "ONNX" the largest difference of a score, as a fraction of the model's highest score.
    """
    image = torch.randint(0, 256, (1, 3, *size), dtype=torch.uint8, generator=torch.Generator().manual_seed(seed))
    with torch.no_grad():
        expected = model([{"image": image[0]}])[0]["sem_seg"]
        exported = {"torch.export": torch.export.load(program).module()(image)[0]}
    session = onnxruntime.InferenceSession(graph, providers=["CPUExecutionProvider"])
    exported["ONNX"] = torch.from_numpy(session.run(None, {"image": image.numpy()})[0][0])
    return {name: float((scores - expected).abs().max() / expected.max()) for name, scores in exported.items()}

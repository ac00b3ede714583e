"""A trained model as one graph, for other runtimes: a ``torch.export`` program and ONNX."""

from __future__ import annotations

import json

import onnxruntime
import torch
from torch import Tensor, nn
from torch.export import Dim, ExportedProgram

from ..engine import load_model_file
from ..modeling.meta_arch import RegionSegmentor, scores_at

LARGEST = 8192  # pixels of an edge
INFORMATION = "rc2l_d2.json"  # name of what the files say about themselves


class WholeImagePredictor(nn.Module):
    """What a :class:`RegionSegmentor` does with one image in evaluation, in operations that export at any size.

    Padding and cutting are gathers: their shapes do not depend on whether there is anything to pad.
    """

    def __init__(self, model: RegionSegmentor):
        super().__init__()
        self.model = model

    def forward(self, image: Tensor) -> Tensor:
        """Scores (1, K, H, W), float32, of an image (1, 3, H, W), uint8, in the order of channels of INPUT.FORMAT."""
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
    """The model of a file that describes itself, on the CPU, and what a runtime has to know beside the graph.

    Returns:
        The model in eval mode; "classes", "palette", "ignore_value", "format" (order of channels), "min_size_test" and
        "max_size_test" (to which the image's short edge is brought first, and the limit of its long one; 0: as it is).

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
    """Pixels of the shortest edge that an exported model takes.

    With fewer its coarsest map, of stride 32 at most, would have one position, and torch takes that for another shape.
    """
    return max(model.size_divisibility, 32) + 1


@torch.no_grad()
def export_program(model: RegionSegmentor) -> ExportedProgram:
    """:class:`WholeImagePredictor` as a program, for edges from :func:`smallest_edge` to ``LARGEST`` pixels."""
    smallest = smallest_edge(model)
    # Neither a multiple of the divisibility nor square, lest the trace take the example for the rule.
    example = torch.zeros(1, 3, 3 * smallest, 4 * smallest + 1, dtype=torch.uint8)
    height, width = (Dim(name, min=smallest, max=LARGEST) for name in ("height", "width"))
    return torch.export.export(WholeImagePredictor(model).eval(), (example,), dynamic_shapes=({2: height, 3: width},))


def save_program(program: ExportedProgram, information: dict, path: str) -> None:
    """Write a program that ``torch.export.load`` reads, with ``information`` as its extra file ``INFORMATION``."""
    torch.export.save(program, path, extra_files={INFORMATION: json.dumps(information)})


def save_onnx(program: ExportedProgram, information: dict, path: str) -> None:
    """Write a program as ONNX, "image" to "scores", with ``information`` as its metadata property ``INFORMATION``."""
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
    """How far two saved files are from the model on a random picture.

    Args:
        program, graph: paths, as of :func:`save_program` and :func:`save_onnx`.
        size: height and width in pixels.

    Returns:
        For "torch.export" and "ONNX" the largest difference of a score, as a share of the model's highest score.
    """
    image = torch.randint(0, 256, (1, 3, *size), dtype=torch.uint8, generator=torch.Generator().manual_seed(seed))
    with torch.no_grad():
        expected = model([{"image": image[0]}])[0]["sem_seg"]
        answers = {"torch.export": torch.export.load(program).module()(image)[0]}
    session = onnxruntime.InferenceSession(graph, providers=["CPUExecutionProvider"])
    answers["ONNX"] = torch.from_numpy(session.run(None, {"image": image.numpy()})[0][0])
    return {name: float((answer - expected).abs().max() / expected.max()) for name, answer in answers.items()}

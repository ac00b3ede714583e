#!/usr/bin/env python3
"""Write a trained model as a torch.export program and as ONNX, and compare both with it.

    python tools/export.py --weights output/demo/teacher_final.pth --output output/exported

writes predictor.pt2, for torch.export.load, and predictor.onnx. Both take "image", uint8 (1, 3, height, width), of any
size within the limits that are printed, in the order of channels that "format" in their information says (rc2l_d2.json:
extra file of the one, metadata property of the other; classes and palette are there too), and give "scores", float32
(1, classes, height, width): the class of a pixel is where they are highest. Bringing a picture to its size for testing
("min_size_test") is the caller's, as are sliding windows. Exit status 1 where a file differs from the model, 2 for a
mistake in what was given. It takes the extra "export": pip install -e '.[export]'.
"""

from __future__ import annotations

import argparse
import importlib.util
import logging
import sys
from pathlib import Path

from tabulate import tabulate

sys.path.insert(0, str(Path(__file__).resolve().parents[1]))

from rc2l_d2.errors import InputError  # noqa: E402

TOLERANCE = 1e-4  # of the highest score


def export(weights: str, folder: Path) -> bool:
    """Write both files, print how far they are from the model; whether they are near enough.

    Raises:
        InputError, OSError: the weights cannot be used, the folder not be written, or the extra is not installed.
    """
    for package in ("onnx", "onnxscript", "onnxruntime"):
        if importlib.util.find_spec(package) is None:
            raise InputError(f"{package} is not installed; run: pip install -e '.[export]'.")
    from rc2l_d2.prediction import export as exporting

    model, information = exporting.load_for_export(weights)
    folder.mkdir(parents=True, exist_ok=True)
    files = tuple(str(folder / name) for name in ("predictor.pt2", "predictor.onnx"))
    program = exporting.export_program(model)
    exporting.save_program(program, information, files[0])
    exporting.save_onnx(program, information, files[1])
    smallest = exporting.smallest_edge(model)
    # One that needs no padding, and two that have to be padded in both directions.
    sizes = ((4 * smallest - 4, 5 * smallest - 5), (3 * smallest - 2, 7 * smallest + 10), (9 * smallest, 6 * smallest))
    far = [exporting.differences(model, *files, size, seed) for seed, size in enumerate(sizes)]
    rows = [[f"{height} x {width}", *each.values()] for (height, width), each in zip(sizes, far, strict=True)]
    print(f"{' and '.join(files)}: edges of {smallest} to {exporting.LARGEST} pixels")
    print(tabulate(rows, ["size", *far[0]], floatfmt=".1e", tablefmt="github"))
    print(f"largest difference of a score, as a share of the highest; allowed: {TOLERANCE:.0e}")
    return all(value <= TOLERANCE for each in far for value in each.values())


def main() -> int:
    """Export what the command line says; 0, 1 where a file differs from the model, 2 where it cannot be done."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--weights", required=True, metavar="FILE", help="teacher_final.pth of a run")
    parser.add_argument("--output", type=Path, default=Path("output/exported"), metavar="FOLDER", help="(%(default)s)")
    args = parser.parse_args()
    for name in ("torch.onnx", "onnxscript", "onnx_ir"):
        logging.getLogger(name).setLevel(logging.ERROR)  # they tell each thing that they had no need to do
    try:
        return 0 if export(args.weights, args.output) else 1
    except (InputError, OSError) as error:
        print(f"export.py: {error}", file=sys.stderr)
        return 2


if __name__ == "__main__":
    sys.exit(main())

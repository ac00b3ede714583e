"""Write a trained model as a torch.export program and as ONNX, and compare both with it.

    python tools/export.py --weights output/demo/teacher_final.pth --output output/exported

writes predictor.pt2, for torch.export.load, and predictor.onnx. Both map "image", uint8 (1, channels, height, width) of
any size within the printed limits, to "scores", float32 (1, classes, height, width); the class with the highest score
is the prediction. Channel order ("format"), classes and palette are in rc2l_d2.json: an extra file of the program, a
metadata property of ONNX. The caller reads files as "files" says, resizes the image to its test size ("min_size_test")
and cuts sliding windows ("window", "stride").
Exit status 1 if a file differs from the model, 2 after a user's mistake. Needs pip install -e '.[export]'.
"""

import argparse
import importlib.util
import logging
import sys
from pathlib import Path

from tabulate import tabulate

from rc2l_d2.commands.cli import run_cli
from rc2l_d2.errors import InputError

TOLERANCE = 1e-4  # as a fraction of the highest score


def export(args: argparse.Namespace) -> int:
    """Write both files and print their differences from the model; return 1 if one exceeds the tolerance, else 0.

    Raises:
        InputError: the weights cannot be used, the folder cannot be written, or the extra is not installed.
    """
    for package in ("onnx", "onnxscript", "onnxruntime"):
        if importlib.util.find_spec(package) is None:
            raise InputError(f"{package} is not installed; run: pip install -e '.[export]'.")
    from rc2l_d2.prediction import export as exporting

    for name in ("torch.onnx", "onnxscript", "onnx_ir"):
        logging.getLogger(name).setLevel(logging.ERROR)
    model, information = exporting.load_for_export(args.weights)
    files = tuple(str(args.output / name) for name in ("predictor.pt2", "predictor.onnx"))
    try:
        args.output.mkdir(parents=True, exist_ok=True)
        smallest = exporting.export_model(model, information, *files)
    except OSError as error:
        raise InputError(f"{args.output} cannot be written ({error.strerror or error}); name another.") from error
    # The first size needs no padding, the others need it in both directions.
    sizes = ((4 * smallest - 4, 5 * smallest - 5), (3 * smallest - 2, 7 * smallest + 10), (9 * smallest, 6 * smallest))
    found = [exporting.differences(model, *files, size, seed) for seed, size in enumerate(sizes)]
    rows = [[f"{height} x {width}", *each.values()] for (height, width), each in zip(sizes, found, strict=True)]
    print(f"{' and '.join(files)}: edges of {smallest} to {exporting.LARGEST} pixels")
    print(tabulate(rows, ["size", *found[0]], floatfmt=".1e", tablefmt="github"))
    print(f"largest difference of a score, as a fraction of the highest score; allowed: {TOLERANCE:.0e}")
    return int(any(value > TOLERANCE for each in found for value in each.values()))


def main() -> int:
    """Run the command line; return the exit status."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--weights", required=True, metavar="FILE", help="teacher_final.pth of a run")
    parser.add_argument("--output", type=Path, default=Path("output/exported"), metavar="FOLDER", help="(%(default)s)")
    return run_cli(parser, export)


if __name__ == "__main__":
    sys.exit(main())

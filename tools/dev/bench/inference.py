#!/usr/bin/env python3
"""Images a second of an evaluation, beside the straightforward loop.

    python tools/dev/bench/inference.py --config-file configs/camvid/rc2l_R18_1_8.yaml [--images 20] [KEY VALUE ...]

Both ask the same model (MODEL.WEIGHTS, or as it was drawn) about the same images as ``cfg.TEST`` says, whole or with
TEST.SLIDING_WINDOW.ENABLED True by window. The straightforward loop is the field's: windows go through the model one by
one, each one's scores are brought to the host and added up there, and NumPy counts the confusion matrix, of which
the table has the share of right pixels, the same but for rounding.
"""

from __future__ import annotations

import argparse
import sys
from itertools import product
from pathlib import Path

import cv2
import numpy as np
import torch
from tabulate import tabulate
from torch.nn import functional as F

sys.path.insert(0, str(Path(__file__).resolve().parents[3]))

from measure import in_turn, machine, median_ms, quartiles, ratio, run  # noqa: E402

from rc2l_d2.data import TestMapper, load_dataset, read_label  # noqa: E402
from rc2l_d2.engine import RegionCheckpointer, load_config  # noqa: E402
from rc2l_d2.evaluation import Predictor, SemanticEvaluator  # noqa: E402
from rc2l_d2.evaluation.inference import window_starts  # noqa: E402
from rc2l_d2.host import CfgNode, build_model  # noqa: E402


class Evaluation:
    """This project's, in percent of pixels that are right: the confusion matrix is kept where the model is."""

    def __init__(self, cfg: CfgNode, model: torch.nn.Module, entries: list[dict]):
        self.mapper, self.entries = TestMapper(cfg), entries
        self.predictor, self.evaluator = Predictor(cfg, model), SemanticEvaluator(cfg.DATASETS.TEST[0])

    @torch.no_grad()
    def __call__(self) -> float:
        self.evaluator.reset()
        for entry in self.entries:
            sample = self.mapper(entry)
            self.evaluator.process([sample], self.predictor([sample]))
        return self.evaluator.evaluate()["sem_seg"]["pACC"]


class StraightforwardEvaluation:
    """The same, one window after the other and on the host."""

    def __init__(self, cfg: CfgNode, model: torch.nn.Module, entries: list[dict]):
        self.mapper, self.model, self.entries = TestMapper(cfg), model, entries
        window = cfg.TEST.SLIDING_WINDOW
        self.window, self.stride = (window.CROP_SIZE, window.STRIDE) if window.ENABLED else (None, None)
        self.classes, self.ignored = cfg.MODEL.SEM_SEG_HEAD.NUM_CLASSES, cfg.MODEL.SEM_SEG_HEAD.IGNORE_VALUE

    @torch.no_grad()
    def __call__(self) -> float:
        confusion = np.zeros((self.classes, self.classes), np.int64)
        for entry in self.entries:
            sample = self.mapper(entry)
            size = (sample["height"], sample["width"])
            scores = F.interpolate(self.scores(sample["image"])[None], size, mode="bilinear")[0]
            prediction = scores.argmax(dim=0).numpy()
            label = read_label(entry["sem_seg_file_name"], entry.get("label_map"))
            counted = label != self.ignored
            index = self.classes * prediction[counted].astype(np.int64) + label[counted]
            confusion += np.bincount(index, minlength=self.classes**2).reshape(self.classes, self.classes)
        return 100 * np.trace(confusion) / confusion.sum()

    def scores(self, image: torch.Tensor) -> torch.Tensor:
        """(K, h, w) on the host."""
        if self.window is None:
            return self.model([{"image": image}])[0]["sem_seg"].cpu()
        height, width = window = tuple(map(min, image.shape[-2:], self.window))
        total = torch.zeros(self.classes, *image.shape[-2:])
        count = torch.zeros(image.shape[-2:])
        for y, x in product(*map(window_starts, image.shape[-2:], window, self.stride)):
            part = image[:, y : y + height, x : x + width]
            total[:, y : y + height, x : x + width] += self.model([{"image": part}])[0]["sem_seg"].cpu()
            count[y : y + height, x : x + width] += 1
        return total / count


def main() -> int:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--config-file", required=True)
    parser.add_argument("--images", type=int, default=20)
    parser.add_argument("--rounds", type=int, default=5)
    parser.add_argument("opts", nargs=argparse.REMAINDER, help="KEY VALUE pairs, as train_net.py takes them")
    args = parser.parse_args()
    cv2.setNumThreads(0)
    cfg = load_config(args.config_file, args.opts)
    torch.manual_seed(0)
    model = build_model(cfg).eval()
    if cfg.MODEL.WEIGHTS:
        RegionCheckpointer(model).load(cfg.MODEL.WEIGHTS)
    entries = [*load_dataset(cfg.DATASETS.TEST[0], labels="all", key="DATASETS.TEST")][: args.images]
    parts = {
        "evaluation": Evaluation(cfg, model, entries),
        "straightforward": StraightforwardEvaluation(cfg, model, entries),
    }
    seconds = in_turn(parts, args.rounds, model.device, warmup=1)
    windows = cfg.TEST.SLIDING_WINDOW
    print(f"{args.config_file} {' '.join(args.opts)}: " + (
        f"windows of {windows.CROP_SIZE} every {windows.STRIDE}" if windows.ENABLED else "whole images"
    ))  # fmt: skip
    print(f"{machine(model.device)}; {args.rounds} rounds of {len(entries)} images\n")
    rows = []
    for name, work in parts.items():
        rate = 1e3 * len(entries) / median_ms(seconds, name)
        rows.append([name, work(), rate, quartiles(ratio(seconds, "straightforward", name))])
    print(tabulate(rows, ["", "right pixels, %", "images/s", "times as fast"], floatfmt=".3f"))
    return 0


if __name__ == "__main__":
    run(main)

"""Images per second of an evaluation, compared with the simple loop.

    python tools/dev/bench/inference.py --config-file configs/camvid/rc2l_R18_1_8.yaml [--images 20] [KEY VALUE ...]

The simple loop runs windows one by one, sums their scores on the host, and uses NumPy's confusion matrix.
"""

from collections.abc import Callable
from itertools import product

import cv2
import numpy as np
import torch
from measure import in_turn, median_ms, options, print_table, ratio, run
from torch.nn import functional as F

from rc2l_d2.data import TestMapper, load_dataset, read_label
from rc2l_d2.engine import RegionCheckpointer, load_config
from rc2l_d2.evaluation import Predictor, SemanticEvaluator
from rc2l_d2.evaluation.inference import window_starts
from rc2l_d2.host import CfgNode, build_model


def evaluation(cfg: CfgNode, model: torch.nn.Module, entries: list[dict]) -> Callable[[], float]:
    """Return a function that computes the pixel accuracy (percent) with this project's evaluation."""
    mapper, predictor, evaluator = TestMapper(cfg), Predictor(cfg, model), SemanticEvaluator(cfg.DATASETS.TEST[0])

    @torch.no_grad()
    def accuracy() -> float:
        evaluator.reset()
        for sample in map(mapper, entries):
            evaluator.process([sample], predictor([sample]))
        return evaluator.evaluate()["sem_seg"]["pACC"]

    return accuracy


def simple_loop(cfg: CfgNode, model: torch.nn.Module, entries: list[dict]) -> Callable[[], float]:
    """Return a function that computes the same window by window and on the host."""
    mapper, sliding = TestMapper(cfg), cfg.TEST.SLIDING_WINDOW
    classes, ignored = cfg.MODEL.SEM_SEG_HEAD.NUM_CLASSES, cfg.MODEL.SEM_SEG_HEAD.IGNORE_VALUE

    def scores_of(image: torch.Tensor) -> torch.Tensor:  # (K, h, w)
        if not sliding.ENABLED:
            return model([{"image": image}])[0]["sem_seg"].cpu()
        height, width = window = tuple(map(min, image.shape[-2:], sliding.CROP_SIZE))
        total = torch.zeros(classes, *image.shape[-2:])
        count = torch.zeros(image.shape[-2:])
        for y, x in product(*map(window_starts, image.shape[-2:], window, sliding.STRIDE)):
            crop = image[:, y : y + height, x : x + width]
            total[:, y : y + height, x : x + width] += model([{"image": crop}])[0]["sem_seg"].cpu()
            count[y : y + height, x : x + width] += 1
        return total / count

    @torch.no_grad()
    def accuracy() -> float:
        confusion = np.zeros((classes, classes), np.int64)
        for entry in entries:
            sample = mapper(entry)
            scores = scores_of(sample["image"])[None]
            scores = F.interpolate(scores, (sample["height"], sample["width"]), mode="bilinear")[0]
            label = read_label(entry["sem_seg_file_name"], entry.get("label_map"))
            counted = label != ignored
            index = classes * scores.argmax(dim=0).numpy()[counted] + label[counted]
            confusion += np.bincount(index, minlength=classes**2).reshape(classes, classes)
        return 100 * np.trace(confusion) / confusion.sum()

    return accuracy


def main() -> None:
    args = options(__doc__, rounds=5, config=True, images=20).parse_args()
    cv2.setNumThreads(0)
    cfg = load_config(args.config_file, args.opts)
    torch.manual_seed(0)
    model = build_model(cfg).eval()
    if cfg.MODEL.WEIGHTS:
        RegionCheckpointer(model).load(cfg.MODEL.WEIGHTS)
    entries = [*load_dataset(cfg.DATASETS.TEST[0], labels="all", key="DATASETS.TEST")][: args.images]
    parts = {"evaluation": evaluation(cfg, model, entries), "simple loop": simple_loop(cfg, model, entries)}
    seconds = in_turn(parts, args.rounds, model.device, warmup=1)
    window = cfg.TEST.SLIDING_WINDOW
    images = f"images, windows of {window.CROP_SIZE} every {window.STRIDE}" if window.ENABLED else "whole images"
    rows = []
    for name, work in parts.items():
        rows.append([name, work(), 1e3 * len(entries) / median_ms(seconds, name), ratio(seconds, "simple loop", name)])
    subject, columns = f"{len(entries)} {images}", ["", "pixel accuracy, %", "images/s", "speed-up"]
    print_table(args, subject, model.device, rows, columns, floatfmt=".3f")


if __name__ == "__main__":
    run(main)

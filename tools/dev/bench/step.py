"""Time of a whole RC2L training step, of its parts, and of its floor.

    python tools/dev/bench/step.py --config-file configs/toy/rc2l_R18.yaml [--rounds 20] [KEY VALUE ...]

The step is the trainer's own, after burn-in, with the teacher's update, on batches that were read before. The parts:

    floor      student forward and backward on all images with the supervised losses, and the teacher's forward pass
    regions    views, selection, mixing, pseudo regions and the four losses, forward and backward
    optimizer  clipping and update
    ema        the teacher's update
    reading    one batch, read and augmented in this process

Ratios are medians over rounds with quartiles.
"""

import itertools
import tempfile
from collections.abc import Callable
from unittest import mock

import cv2
import torch
from measure import in_turn, median_ms, options, print_table, ratio, run

from rc2l_d2.engine import RC2LTrainer, load_config
from rc2l_d2.host import CfgNode, EventStorage
from rc2l_d2.regions import Regions


class Step:
    """The parts of a training step of ``cfg``, as functions without arguments."""

    def __init__(self, cfg: CfgNode):
        cfg = cfg.clone()
        cfg.defrost()
        cfg.MODEL.SEMI_SUPERVISED.BURN_IN_ITERS = 0  # Before its end no unlabelled image is read.
        self.trainer = RC2LTrainer(cfg)
        self.trainer.resume_or_load(resume=False)
        self.loop = self.trainer._trainer
        self.student = self.loop.model
        self.device = self.loop.device
        self.teacher = self.trainer.teacher
        self.reader = iter(self.loop.data_loader)
        self.batches = [next(self.reader) for _ in range(4)]
        self.loop.data_loader = itertools.cycle(self.batches)
        # From here on the unlabelled losses have their full weight.
        self.loop.iter = cfg.MODEL.SEMI_SUPERVISED.RAMP_UP_ITERS

        labeled, self.unlabeled = self.batches[0]
        prepared = self.student.preprocess
        self.labels = self.student.preprocess_labels([sample["sem_seg"] for sample in labeled])
        self.weak = prepared([sample["image"] for sample in self.unlabeled]).tensor
        self.number_labeled = len(labeled)
        images, labeler = prepared([sample["image"] for sample in labeled]).tensor, self.teacher.labeler
        with self.autocast():
            selected = labeler.select(self.teacher.predict(self.unlabeled))
            views, _, _ = self.loop.views(self.unlabeled, selected, images, self.labels, 0, 0)
            self.images = torch.cat([images, views])
            self.of_teacher = self.regions_of_teacher()
            self.of_student = self.student.regions(self.images).images(self.number_labeled, len(self.images))

    def parts(self) -> dict[str, Callable[[], object]]:
        """Return the parts by their names in the table."""
        return {
            "step": self.step,
            "floor": self.floor,
            "regions": self.regions,
            "optimizer": self.optimizer,
            "ema": lambda: self.teacher.update(self.student),
            "reading": lambda: next(self.reader),
        }

    def autocast(self) -> torch.autocast:
        """Return the autocast context of the training loop."""
        return torch.autocast(self.device.type, self.loop.amp_dtype, enabled=self.loop.amp_dtype is not None)

    def step(self) -> None:
        self.loop.run_step()
        self.teacher.update(self.student)
        self.loop.iter += 1

    @torch.no_grad()
    def regions_of_teacher(self) -> Regions:
        return self.teacher.model.regions(self.weak)

    def floor(self) -> None:
        with self.autocast():
            self.regions_of_teacher()
            regions = self.student.regions(self.images, self.number_labeled)
            losses = self.student.supervised_losses(regions.images(0, self.number_labeled), self.labels)
            rest = regions.images(self.number_labeled, len(self.images))
            outputs = (rest.class_logits, rest.mask_logits, rest.features)
            losses["rest"] = sum(output.float().mean() for output in outputs)
        self.loop.optimizer.zero_grad()
        sum(losses.values()).backward()

    def regions(self) -> None:
        outputs = (self.of_student.class_logits, self.of_student.mask_logits, self.of_student.features)
        student = Regions(*(output.detach().requires_grad_() for output in outputs))
        with self.autocast(), mock.patch.object(self.teacher.model, "regions", return_value=self.of_teacher):
            prediction, labeler = self.teacher.predict(self.unlabeled), self.teacher.labeler
            labeler.observe(prediction)
            images, labels = self.images[: self.number_labeled], self.labels
            _, prediction, _ = self.loop.views(self.unlabeled, labeler.select(prediction), images, labels, 0, 0)
            pseudo = labeler.regions(prediction)
            semantic_map = self.student.semantic_map(student)
            losses = self.student.unlabeled_losses(student, semantic_map, pseudo)
            losses = self.loop.weighted_losses({}, losses)
        sum(losses.values()).backward()

    def optimizer(self) -> None:
        torch.nn.utils.clip_grad_norm_(self.student.parameters(), 1.0)
        self.loop.optimizer.step()


def main() -> None:
    args = options(__doc__, rounds=20, config=True).parse_args()
    cv2.setNumThreads(0)
    with tempfile.TemporaryDirectory() as folder, EventStorage(0):
        step = Step(load_config(args.config_file, [*args.opts, "OUTPUT_DIR", folder]))
        step.step()  # creates the optimizer's state
        seconds = in_turn(step.parts(), args.rounds, step.device)
    rows = [[name, median_ms(seconds, name), ratio(seconds, name, "step")] for name in seconds]
    print_table(args, "", step.device, rows, ["part", "ms", "of the step"], floatfmt=".1f")
    print(f"\nstep / floor: {ratio(seconds, 'step', 'floor')}")


if __name__ == "__main__":
    run(main)

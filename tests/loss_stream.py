"""Train and write the losses of each step: ``loss_stream.py FILE.json resume|start [KEY VALUE ...]``."""

import json
import sys

import torch

from rc2l_d2.engine import RC2LTrainer, load_config
from rc2l_d2.engine.checkpoint import unwrap
from rc2l_d2.engine.step_log import StepLog
from rc2l_d2.host import HOST, HookBase, default_setup


class SeedAtTen(HookBase):
    """Seeds torch at iteration 10, in an uninterrupted run as in one that is resumed there."""

    def before_step(self):
        if self.trainer.iter == 10:
            torch.manual_seed(10)


def main(file: str, mode: str, options: list[str]) -> None:
    torch.set_num_threads(1)
    cfg = load_config("configs/toy/rc2l_R18.yaml", options)
    default_setup(cfg, None)
    trainer = RC2LTrainer(cfg)
    trainer.register_hooks([SeedAtTen()])
    trainer.resume_or_load(resume=mode == "resume")
    student, losses = unwrap(trainer.model), []
    weights = {name: value.double().abs().sum().item() for name, value in student.state_dict().items()}

    def keep(log, iteration, values, *rest):
        losses.append({name: value.item() for name, value in values.items()})
        add(log, iteration, values, *rest)

    add, StepLog.add = StepLog.add, keep
    trainer.train()
    report = {"host": HOST, "start": trainer.start_iter, "weights": weights, "losses": losses}
    with open(file, "w", encoding="utf-8") as out:
        json.dump({**report, "results": trainer.last_results}, out)


if __name__ == "__main__":
    main(sys.argv[1], sys.argv[2], sys.argv[3:])

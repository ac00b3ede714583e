"""Train on two CPU processes and leave what each ended with: ``two_ranks.py FOLDER [KEY VALUE ...]``."""

import sys

import torch

from rc2l_d2.engine import RC2LTrainer, load_config
from rc2l_d2.engine.checkpoint import unwrap
from rc2l_d2.host import comm, default_setup, launch


def train(folder: str, options: list[str]) -> None:
    torch.set_num_threads(1)
    cfg = load_config("configs/toy/rc2l_R18.yaml", options)
    default_setup(cfg, None)
    trainer = RC2LTrainer(cfg)
    trainer.resume_or_load(resume=False)
    trainer.train()
    state = {"student": unwrap(trainer.model).state_dict(), **trainer.teacher.state_dict()}
    torch.save(state, f"{folder}/rank{comm.get_rank()}.pth")


if __name__ == "__main__":
    launch(train, 2, dist_url="auto", args=(sys.argv[1], sys.argv[2:]))

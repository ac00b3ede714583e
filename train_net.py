#!/usr/bin/env python3
"""Train and evaluate RC2L, or the supervised baseline: the command line of every Detectron2 project.

    python train_net.py --config-file configs/toy/rc2l_R18.yaml [--num-gpus N] [--resume | --eval-only] [KEY VALUE ...]

``--dry-run`` prints the plan and stops. Under torchrun the number of processes is torchrun's. A mistake in what was
given is told in one sentence, with exit status 2.
SIGTERM and SIGINT end a run after its step and a checkpoint, with exit status 143 and 130; a second one does at once.
"""

from rc2l_d2.commands.train import main, run, setup

__all__ = ["main", "run", "setup"]

if __name__ == "__main__":
    run()

#!/usr/bin/env python3
"""Train and evaluate RC2L, or the supervised baseline: the command line of every Detectron2 project.

    python train_net.py --config-file configs/toy/rc2l_R18.yaml [--num-gpus N] [--resume | --eval-only] [KEY VALUE ...]

``--dry-run`` prints the plan and stops. Under torchrun, torchrun sets the number of ranks. A user's mistake ends the
command with one sentence and exit status 2. After SIGTERM or SIGINT a run finishes its step, writes a checkpoint and
exits with status 143 or 130; a second signal ends it at once.
"""

import sys

from rc2l_d2.commands.train import run

if __name__ == "__main__":
    sys.exit(run())

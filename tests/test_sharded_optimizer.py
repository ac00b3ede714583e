"""A run with sharded optimizer state on two ranks: the weights and checkpoints of one without, and exact resume."""

import os
import pickle
from pathlib import Path

import pytest
import torch
from conftest import give_regions_classes, launch_ranks, tiny_overrides
from torch import nn

from rc2l_d2.engine import RC2LTrainer, build_lr_scheduler, build_optimizer, load_config
from rc2l_d2.engine.checkpoint import unwrap
from rc2l_d2.host import comm, default_setup

CONFIG = "configs/toy/rc2l_R18.yaml"
SHARDED = ("SOLVER.SHARD_OPTIMIZER", "True")
# An image of rank 1 makes the gradient of the second of four steps non-finite.
RUN = ("SOLVER.MAX_ITER", "4", "SOLVER.CHECKPOINT_PERIOD", "3", "SOLVER.MAX_BAD_STEPS", "1", "DATASETS.TEST", "()",
       "MODEL.SEMI_SUPERVISED.BURN_IN_ITERS", "0")  # fmt: skip
SAVED = "model_0000002.pth"
RUNS = {"whole": (), "sharded": SHARDED, "resumed": SHARDED}


def train(cfg, resume: bool) -> int:
    """Return the number of this rank's parameters with state."""
    torch.manual_seed(0)
    trainer = RC2LTrainer(cfg)
    give_regions_classes(unwrap(trainer.model))
    trainer.resume_or_load(resume=resume)

    def one_bad_image(module, images):
        return (images[0] * (float("nan") if trainer.iter == 1 and comm.get_rank() == 1 else 1.0),)

    unwrap(trainer.model).backbone.register_forward_pre_hook(one_bad_image)
    trainer.train()
    return len(getattr(trainer.optimizer, "optim", trainer.optimizer).state)


def weights_after_steps(cfg, *, scaled: bool) -> list[torch.Tensor]:
    """Update two layers with different learning rates; the first gradient is infinite."""
    torch.manual_seed(0)
    model = nn.ModuleDict({"backbone": nn.Conv2d(3, 4, 3), "head": nn.Linear(2, 3)}).to(
        memory_format=torch.channels_last
    )
    optimizer, scaler = build_optimizer(cfg, model), torch.amp.GradScaler("cpu", enabled=scaled)
    scheduler = build_lr_scheduler(cfg, optimizer)
    for factor in (float("inf"), 1.0, 2.0):
        optimizer.zero_grad()
        scaler.scale(factor * sum((p**3).sum() for p in model.parameters())).backward()
        scaler.unscale_(optimizer)
        if not scaled:
            optimizer.found_inf = torch.tensor(float(factor == float("inf")))
        scaler.step(optimizer)
        scaler.update()
        scheduler.step()
    return [parameter.detach() for parameter in model.parameters()]


def run_rank(folder: str, options: list[str]) -> None:
    torch.set_num_threads(1)
    results: dict = {"states": {}, "weights": {}}
    default_setup(load_config(CONFIG, options), None)
    for name, key in RUNS.items():
        out = Path(folder, name)
        if name == "resumed" and comm.is_main_process():
            out.mkdir()
            os.link(Path(folder, "sharded", SAVED), out / SAVED)
            (out / "last_checkpoint").write_text(SAVED)
        comm.synchronize()
        cfg = load_config(CONFIG, [*options, *key, "OUTPUT_DIR", str(out)])
        results["states"][name] = train(cfg, resume=name == "resumed")
    for optimizer in ("ADAMW", "SGD"):
        for scaled in (False, True):
            both = [load_config(CONFIG, [*options, *key, "SOLVER.OPTIMIZER", optimizer]) for key in ((), SHARDED)]
            results["weights"][optimizer, scaled] = [weights_after_steps(cfg, scaled=scaled) for cfg in both]
    Path(folder, f"rank{comm.get_rank()}").write_bytes(pickle.dumps(results))


@pytest.fixture(scope="module")
def folder(toy_definition, tmp_path_factory) -> Path:
    """The OUTPUT_DIR of each run, and the results of both ranks."""
    folder = tmp_path_factory.mktemp("sharded")
    options = [*tiny_overrides(toy_definition), *RUN, "OUTPUT_DIR", str(folder / "log")]
    launch_ranks(run_rank, 2, str(folder), options)
    return folder


@pytest.fixture(scope="module")
def ranks(folder) -> list[dict]:
    return [pickle.loads((folder / f"rank{rank}").read_bytes()) for rank in range(2)]


@pytest.mark.parametrize(
    "name, file", [("sharded", SAVED), ("sharded", "model_final.pth"), ("resumed", "model_final.pth")]
)
def test_checkpoints_are_those_of_a_run_that_is_not_sharded(folder, name, file):
    """Weights, teacher and optimizer, bit by bit and in the same form: a run may resume with or without sharding."""
    whole, other = (torch.load(folder / run / file, weights_only=True) for run in ("whole", name))
    for key in ("classes", "settings"):
        assert whole.pop(key) == other.pop(key)
    torch.testing.assert_close(other, whole, rtol=0, atol=0)
    steps = {state["step"].item() for state in whole["trainer"]["_trainer"]["optimizer"]["state"].values()}
    assert steps == {2 if file == SAVED else 3}, "one step is skipped"


def test_each_rank_stores_the_state_of_its_share_of_the_parameters(ranks):
    for name, key in RUNS.items():
        one, other = (rank["states"][name] for rank in ranks)
        number = ranks[0]["states"]["whole"]
        assert (0 < one < number and one + other == number) if key else one == other == number


@pytest.mark.parametrize("optimizer", ["ADAMW", "SGD"])
@pytest.mark.parametrize("scaled", [False, True], ids=["plain", "scaled"])
def test_updates_are_skipped_as_without_sharding(ranks, optimizer, scaled):
    whole, sharded = ranks[0]["weights"][optimizer, scaled]
    for weights in (whole, sharded, ranks[1]["weights"][optimizer, scaled][1]):
        assert all(torch.equal(*pair) for pair in zip(whole, weights, strict=True))
    assert all(weight.isfinite().all() for weight in whole)


def test_one_rank_has_nothing_to_shard(make_trainer, logged):
    optimizer = make_trainer(*SHARDED).optimizer
    assert type(optimizer) is torch.optim.AdamW
    assert ("INFO", "SOLVER.SHARD_OPTIMIZER has no effect on a run with one rank.") in logged

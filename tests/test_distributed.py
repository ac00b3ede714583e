"""Two CPU processes train one model."""

import os
import pickle
import subprocess
import sys
from dataclasses import fields
from pathlib import Path

import pytest
import torch

from rc2l_d2.engine import RC2LTrainer, load_config
from rc2l_d2.host import comm, launch

REPO = Path(__file__).resolve().parent.parent


def test_both_ranks_end_with_the_same_student_and_teacher(tiny_options, tmp_path):
    result = subprocess.run(
        [sys.executable, "tests/two_ranks.py", str(tmp_path), *tiny_options, "SOLVER.IMS_PER_BATCH", "4",
         "SOLVER.IMS_PER_BATCH_UNLABELED", "4"],
        cwd=REPO, env={**os.environ, "OMP_NUM_THREADS": "1", "PYTHONPATH": str(REPO)}, capture_output=True, text=True,
        timeout=300,
    )  # fmt: skip
    assert result.returncode == 0, result.stderr
    one, other = (torch.load(tmp_path / f"rank{rank}.pth", weights_only=True) for rank in (0, 1))
    assert one["updates"] == other["updates"] == 6
    assert torch.equal(one["class_confidence"], other["class_confidence"])
    assert not torch.equal(one["class_confidence"], torch.full((8,), 0.7)), "the teacher was never asked"
    for part in ("student", "model"):
        assert len(one[part]) > 100 and any("running_mean" in name for name in one[part])
        for name in one[part]:
            assert torch.equal(one[part][name], other[part][name]), f"{part} {name}"


def of_images(value, images: list[int]):
    """The part of a step's input that is about some images."""
    if isinstance(value, list):
        return [value[index] for index in images]
    if isinstance(value, torch.Tensor):
        return value[images]
    return type(value)(*(of_images(getattr(value, field.name), images) for field in fields(value)))


def losses_and_gradients(options: list[str], step_input: tuple) -> tuple[dict, list[torch.Tensor]]:
    torch.manual_seed(0)
    model = RC2LTrainer.build_model(load_config("configs/toy/rc2l_R18.yaml", options))
    losses = model(*step_input)
    sum(losses.values()).backward()
    return {name: loss.item() for name, loss in losses.items()}, [parameter.grad for parameter in model.parameters()]


def half_of_a_step(folder: str, options: list[str]) -> None:
    torch.set_num_threads(1)
    rank = comm.get_rank()
    step_input = pickle.loads(Path(folder, "input").read_bytes())
    mine = tuple(of_images(part, [2 * rank, 2 * rank + 1]) for part in step_input)
    losses, gradients = losses_and_gradients(options, mine)
    for gradient in gradients:  # as DistributedDataParallel does
        torch.distributed.all_reduce(gradient)
        gradient /= comm.get_world_size()
    Path(folder, f"rank{rank}").write_bytes(pickle.dumps((losses, gradients)))


@pytest.mark.parametrize("matching", ["class", "hungarian"])
@pytest.mark.parametrize("empty", ["nothing", "pseudo regions", "labels"])
def test_two_processes_have_the_losses_and_gradients_of_the_joint_batch(tiny_options, tmp_path, empty, matching):
    """Also where one of them has no pseudo region or no labelled pixel at all, and the number of targets differs."""
    options = [
        *tiny_options, "SOLVER.IMS_PER_BATCH", "4", "SOLVER.IMS_PER_BATCH_UNLABELED", "4", "MODEL.RESNETS.NORM", "GN",
        "MODEL.RC2L.MATCHING", matching,
    ]  # fmt: skip
    trainer = RC2LTrainer(load_config("configs/toy/rc2l_R18.yaml", options))
    trainer.resume_or_load(resume=False)
    labeled, unlabeled = next(iter(trainer.data_loader))
    strong, pseudo, view = trainer._trainer.teach(unlabeled)
    if empty == "labels":
        for sample in labeled[2:]:
            sample["sem_seg"][:] = 255
    if empty == "pseudo regions":
        for name in ("masks", "present", "valid", "weights", "features"):
            getattr(pseudo, name)[2:] = 0
    step_input = labeled, strong, pseudo, view
    (tmp_path / "input").write_bytes(pickle.dumps(step_input))
    joint_losses, joint = losses_and_gradients(options, step_input)
    launch(half_of_a_step, 2, dist_url="auto", args=(str(tmp_path), options))
    halves = [pickle.loads((tmp_path / f"rank{rank}").read_bytes()) for rank in (0, 1)]
    for name, loss in joint_losses.items():
        assert sum(losses[name] for losses, _ in halves) / 2 == pytest.approx(loss, rel=1e-5, abs=1e-6), name
    length = torch.stack([gradient.norm() for gradient in joint]).norm()
    for _, gradients in halves:
        apart = torch.stack([(mine - whole).norm() for mine, whole in zip(gradients, joint, strict=True)]).norm()
        assert apart < 1e-5 * length
    assert joint_losses["loss_rfc"] > 0
    assert all(torch.equal(*pair) for pair in zip(halves[0][1], halves[1][1], strict=True))

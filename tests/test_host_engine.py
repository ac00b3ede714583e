"""The embedded host's training half: loop, hooks, evaluation, logging and several ranks; test_train_net.py has runs."""

import atexit
import json
import logging
import sys
from contextlib import suppress
from pathlib import Path

import pytest
import torch
from torch import nn

from rc2l_d2.host.embedded import comm, hooks
from rc2l_d2.host.embedded.config import get_cfg
from rc2l_d2.host.embedded.engine import default_argument_parser, default_setup
from rc2l_d2.host.embedded.evaluation import inference_on_dataset
from rc2l_d2.host.embedded.events import EventStorage, TensorboardXWriter, get_event_storage
from rc2l_d2.host.embedded.launch import launch
from rc2l_d2.host.embedded.logger import setup_logger
from rc2l_d2.host.embedded.train_loop import HookBase, SimpleTrainer


class Batches:
    """Batch i is a function of i alone; a new iterator starts at batch 0."""

    def __iter__(self):
        index = 0
        while True:
            inputs = torch.arange(6.0).view(2, 3).add(index % 5).div(10)
            yield inputs, inputs.sum(1, keepdim=True)
            index += 1


class Regression(SimpleTrainer):
    """Linear regression."""

    def __init__(self):
        torch.manual_seed(0)
        model = nn.Linear(3, 1)
        super().__init__(model, Batches(), torch.optim.AdamW(model.parameters(), lr=0.1))

    def run_step(self):
        inputs, targets = next(self._data_loader_iter)
        loss = (self.model(inputs) - targets).square().mean()
        self.optimizer.zero_grad()
        loss.backward()
        self.optimizer.step()
        get_event_storage().put_scalar("loss", loss.detach())


def test_hooks_run_in_order_and_after_a_failure_without_evaluation():
    calls = []

    class Log(HookBase):
        def __getattribute__(self, name):
            if name.startswith(("before_", "after_")):
                calls.append(name)
            return super().__getattribute__(name)

        def state_dict(self):
            return {"calls": len(calls)}

    class FailsAtNine(Regression):
        def run_step(self):
            super().run_step()
            assert self.iter < 9, "on purpose"

    trainer = FailsAtNine()
    trainer.register_hooks([Log(), hooks.EvalHook(0, lambda: calls.append("evaluated"))])
    trainer.train(7, 9)
    complete = ["before_train", *["before_step", "after_step"] * 2, "after_train", "evaluated"]
    assert calls == complete
    state = trainer.state_dict()
    assert state["iteration"] == 9 and list(state["hooks"]) == [Log.__qualname__] and "optimizer" in state
    with pytest.raises(AssertionError, match="on purpose"):
        trainer.train(9, 12)
    assert calls == [*complete, "before_train", "before_step", "after_train"]


def test_inference_restores_the_mode_even_after_a_failure():
    class Half(nn.Module):
        def forward(self, batch):
            assert not self.training and not torch.is_grad_enabled()
            return [value / 2 for value in batch]

    class Mean(list):
        reset = list.clear

        def process(self, inputs, outputs):
            self += outputs

        def evaluate(self):
            return sum(self) / len(self)

    model = Half()
    assert inference_on_dataset(model, [[1, 2], [6]], Mean([100])) == 1.5 and model.training
    with pytest.raises(TypeError):
        inference_on_dataset(model, [["no number"]], Mean())
    assert model.training


def test_storage_smooths_noisy_scalars_and_keeps_images_for_tensorboard(tmp_path):
    with pytest.raises(AssertionError):
        get_event_storage()
    with EventStorage(5) as storage:
        for value in (9.0, 1.0, 2.0, 6.0):
            storage.put_scalars(noisy=value)
            storage.put_scalar("exact", value, smoothing_hint=False)
            storage.iter += 8
        # the median is over the values of the last 20 iterations
        assert storage.latest_with_smoothing_hint() == {"noisy": (2.0, 29), "exact": (6.0, 29)}
        assert storage.histories()["noisy"].values()[0] == (9.0, 5)
        with pytest.raises(AssertionError, match="noisy"):
            storage.put_scalar("noisy", 1.0, smoothing_hint=False)
        storage.put_image("image", torch.zeros(3, 8, 8, dtype=torch.uint8))
        writer = TensorboardXWriter(str(tmp_path))
        writer.write()
        writer.close()
        assert storage.images == []
    assert sum(path.stat().st_size for path in tmp_path.iterdir()) > 100


def test_storage_keeps_the_last_1000_values():
    """An unbounded history would grow for as long as the run does."""
    with EventStorage(0) as storage:
        for storage.iter in range(2500):
            storage.put_scalar("time", float(storage.iter))
    values = storage.histories()["time"].values()
    assert len(values) == 1000 and values[-1] == (2499.0, 2499)


def test_logger_has_no_double_handlers_and_one_file_per_rank(tmp_path, capsys):
    for _ in range(2):
        setup_logger(name="host_test")
        logger = setup_logger(str(tmp_path), name="host_test")
    assert len(logger.handlers) == 2
    logging.getLogger("host_test.child").warning("twice?")
    assert capsys.readouterr().out.count("twice?") == 1
    text = (tmp_path / "log.txt").read_text()
    assert text.count("twice?") == 1 and "host_test.child WARNING" in text
    setup_logger(str(tmp_path), distributed_rank=1, name="host_test_1").error("here")
    assert "here" in (tmp_path / "log.txt.rank1").read_text() and capsys.readouterr().out == ""


def test_setup_writes_config_and_seeds(tmp_path):
    args = default_argument_parser().parse_args(["--num-gpus", "2", "SEED", "3"])
    assert args.opts == ["SEED", "3"] and args.dist_url.startswith("tcp://127.0.0.1:") and not args.resume
    cfg = get_cfg()
    cfg.OUTPUT_DIR, cfg.SEED = str(tmp_path / "out"), 3
    samples = []
    for _ in range(2):
        default_setup(cfg, args)
        samples.append(torch.rand(1).item())
    assert samples[0] == samples[1]
    again = get_cfg()
    again.merge_from_file(str(tmp_path / "out" / "config.yaml"))
    assert again == cfg
    assert "torch" in (tmp_path / "out" / "log.txt").read_text()


def test_a_single_rank_runs_in_this_process():
    calls = []
    launch(calls.append, 1, args=(1,))
    assert calls == [1]
    assert (comm.get_world_size(), comm.get_rank(), comm.get_local_rank(), comm.gather(5)) == (1, 0, 0, [5])
    with pytest.raises(AssertionError, match="auto"):
        launch(calls.append, 2, num_machines=2, dist_url="auto")


THREADS = Path("/proc/self/task")  # Linux


def write_thread_names(path):
    names = []
    for task in THREADS.iterdir() if THREADS.exists() else ():
        with suppress(FileNotFoundError):  # the thread has ended
            names.append(task.joinpath("comm").read_text().strip())
    path.write_text(" ".join(names))


def on_each_rank(folder):
    rank = comm.get_rank()
    write_thread_names(folder / f"{rank}.during")
    atexit.register(write_thread_names, folder / f"{rank}.after")
    result = {
        "size": comm.get_world_size(),
        "local": comm.get_local_rank(),
        "all": comm.all_gather({"rank": rank}),
        "gathered": comm.gather(rank),
        "seed": comm.shared_random_seed(),
    }
    comm.synchronize()
    (folder / f"{rank}.json").write_text(json.dumps(result))


@pytest.mark.slow
def test_two_ranks_communicate_and_leave_no_thread(tmp_path):
    launch(on_each_rank, 2, dist_url="auto", args=(tmp_path,))
    one, other = (json.loads((tmp_path / f"{rank}.json").read_text()) for rank in range(2))
    assert one["size"] == other["size"] == 2
    assert (one["local"], other["local"]) == (0, 1)
    assert one["all"] == other["all"] == [{"rank": 0}, {"rank": 1}]
    assert (one["gathered"], other["gathered"]) == ([0, 1], [])
    assert one["seed"] == other["seed"]
    for rank in range(2 if THREADS.exists() else 0):  # a thread that frees a Python object at shutdown aborts it
        assert "gloo" in (tmp_path / f"{rank}.during").read_text()
        assert "gloo" not in (tmp_path / f"{rank}.after").read_text()


def exit_as_after_sigterm(folder):
    atexit.register(write_thread_names, folder / f"{comm.get_rank()}.after")
    comm.all_gather("some work")
    sys.exit(143)


@pytest.mark.slow
def test_ranks_that_exit_after_a_signal_leave_their_group_first(tmp_path):
    with pytest.raises(torch.multiprocessing.ProcessExitedException) as ended:
        launch(exit_as_after_sigterm, 2, dist_url="auto", args=(tmp_path,))
    assert ended.value.exit_code == 143
    left = [*tmp_path.iterdir()]  # of at least one rank: the launcher ends the other
    assert left and all("gloo" not in file.read_text() for file in left)

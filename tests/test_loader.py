"""The streams: the same whatever the workers, the processes and the interruptions; errors arrive as one sentence."""

from __future__ import annotations

from itertools import islice

import pytest
import torch
from data_files import small_config, write_dataset, write_definition, write_label

from rc2l_d2.data import build_test_loader, build_train_loader, register_definition
from rc2l_d2.data.loader import StepSampler, share
from rc2l_d2.errors import InputError


@pytest.fixture
def name(tmp_path):
    content = write_dataset(tmp_path / "data")
    register_definition(write_definition(tmp_path / "set.yaml", content))
    return content["name"]


def _take(cfg, steps, start_iter=0):
    return list(islice(build_train_loader(cfg, start_iter=start_iter), steps))


def _assert_same(first, second):
    assert len(first) == len(second)
    for steps in zip(first, second, strict=True):
        for samples in zip(*steps, strict=True):
            for one, other in zip(*samples, strict=True):
                assert one.keys() == other.keys()
                for key, value in one.items():
                    assert torch.equal(value, other[key]) if torch.is_tensor(value) else value == other[key]


def test_batches(name):
    for labeled, unlabeled in _take(small_config(name), 3):
        assert len(labeled) == 2 and len(unlabeled) == 4
        assert all(set(sample) == {"file_name", "image", "sem_seg"} for sample in labeled)
        assert all(set(sample) == {"file_name", "image", "strong", "inside"} for sample in unlabeled)


def test_without_unlabeled_data(name):
    cfg = small_config(name)
    cfg.DATASETS.UNLABELED = ()
    cfg.SOLVER.IMS_PER_BATCH_UNLABELED = 0
    assert all(len(labeled) == 2 and unlabeled == [] for labeled, unlabeled in _take(cfg, 3))


def test_workers_change_nothing(name):
    cfg = small_config(name)
    expected = _take(cfg, 6)
    cfg.DATALOADER.NUM_WORKERS = 2
    _assert_same(_take(cfg, 6), expected)


def test_resuming_is_continuing(name):
    cfg = small_config(name)
    _assert_same(_take(cfg, 4, start_iter=5), _take(cfg, 9)[5:])


def test_seeds_differ_and_torch_generator_is_left_alone(name):
    cfg = small_config(name)
    state = torch.get_rng_state()
    first = _take(cfg, 2)
    assert torch.equal(state, torch.get_rng_state())
    cfg.SEED = 8
    second = _take(cfg, 2)
    assert any((a["image"] != b["image"]).any() for a, b in zip(first[0][0], second[0][0], strict=True))


def test_an_image_is_seen_anew_in_each_epoch(name):
    cfg = small_config(name)  # 4 labelled images, 2 a step: an epoch is two steps.
    epochs = [{}, {}]
    for step, (labeled, _) in enumerate(_take(cfg, 4)):
        for sample in labeled:
            epochs[step // 2][sample["file_name"]] = sample["image"]
    assert epochs[0].keys() == epochs[1].keys() and len(epochs[0]) == 4
    assert any((epochs[0][file] != epochs[1][file]).any() for file in epochs[0])


def test_each_epoch_holds_each_image_once_in_another_order():
    keys = [key for step in islice(StepSampler([7], [2], seed=3), 14) for key in step]
    assert [position for _, position, _ in keys] == list(range(28))
    epochs = [[index for _, _, index in keys[start : start + 7]] for start in range(0, 28, 7)]
    assert all(sorted(epoch) == list(range(7)) for epoch in epochs)
    assert len({tuple(epoch) for epoch in epochs}) > 1


def test_streams_have_orders_of_their_own():
    step = next(iter(StepSampler([20, 20], [20, 20], seed=0)))
    orders = [[index for stream, _, index in step if stream == wanted] for wanted in (0, 1)]
    assert sorted(orders[0]) == sorted(orders[1]) and orders[0] != orders[1]


@pytest.mark.parametrize("world_size", [2, 4])
def test_processes_share_each_step_of_one_process(world_size):
    sizes, batch_sizes = [8, 12], [4, 8]
    alone = list(islice(StepSampler(sizes, batch_sizes, seed=5), 6))
    shares = [list(islice(StepSampler(sizes, batch_sizes, 5, 0, rank, world_size), 6)) for rank in range(world_size)]
    for step, expected in enumerate(alone):
        keys = [key for part in shares for key in part[step]]
        assert len(keys) == len(set(keys)) and sorted(keys) == sorted(expected)
    # Disjoint within an epoch: the labelled stream's first is steps 0 and 1.
    seen = [{index for step in part[:2] for stream, _, index in step if stream == 0} for part in shares]
    assert sum(map(len, seen)) == 8 and set.union(*seen) == set(range(8))


@pytest.mark.parametrize("workers", [0, 2])
def test_a_bad_label_is_one_sentence_whoever_meets_it(name, tmp_path, workers):
    for file in (tmp_path / "data/labels").iterdir():
        write_label(file, torch.full((24, 32), 9, dtype=torch.uint8).numpy())
    cfg = small_config(name)
    cfg.DATALOADER.NUM_WORKERS = workers
    with pytest.raises(InputError) as caught:
        _take(cfg, 1)
    message = str(caught.value)
    assert message.startswith(str(tmp_path)) and ": 9; correct" in message
    assert "\n" not in message and "Traceback" not in message


def test_bad_batch_sizes_and_empty_parts(name, tmp_path):
    cfg = small_config(name)
    cfg.SOLVER.IMS_PER_BATCH_UNLABELED = 0
    with pytest.raises(InputError, match=r"SOLVER.IMS_PER_BATCH_UNLABELED is 0"):
        build_train_loader(cfg)
    (tmp_path / "data/train.txt").write_text("")
    with pytest.raises(InputError, match=r"DATASETS.TRAIN = .* holds no image"):
        build_train_loader(cfg)


@pytest.mark.parametrize("workers", [0, 2])
def test_test_loader_shows_each_image_once_in_order(name, workers):
    cfg = small_config(name)
    cfg.DATALOADER.NUM_WORKERS = workers
    loader = build_test_loader(cfg, f"{name}_val")
    assert len(loader) == 3
    for _ in range(2):
        assert [[sample["image_id"] for sample in batch] for batch in loader] == [["val_000"], ["val_001"], ["val_002"]]


def test_test_loader_passes_on_what_is_wrong(name, tmp_path):
    cfg = small_config(name)
    (tmp_path / "data/images/val_001.png").write_bytes(b"")
    with pytest.raises(InputError, match=r"val_001\.png: the image file is empty"):
        list(build_test_loader(cfg, f"{name}_val"))


@pytest.mark.parametrize(("count", "world_size"), [(10, 3), (2, 4), (0, 2), (101, 8)])
def test_shares_are_contiguous_even_and_complete(count, world_size):
    shares = [range(*share(count, rank, world_size)) for rank in range(world_size)]
    assert [index for part in shares for index in part] == list(range(count))
    assert max(map(len, shares)) - min(map(len, shares)) <= 1

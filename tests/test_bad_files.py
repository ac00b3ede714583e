"""Images that cannot be used, met in training: replaced, told by name, and too many of them end the run."""

from __future__ import annotations

import logging
import os
from itertools import islice

import pytest
import torch
from data_files import small_config, write_dataset, write_definition

from rc2l_d2.data import build_train_loader, register_definition
from rc2l_d2.errors import InputError


@pytest.fixture
def cfg(tmp_path):
    """A configuration with 4 labelled and 6 unlabelled images, of which a third may be bad."""
    content = write_dataset(tmp_path / "data")
    register_definition(write_definition(tmp_path / "set.yaml", content))
    cfg = small_config(content["name"])
    cfg.DATALOADER.MAX_BAD_SHARE = 0.34
    return cfg


def unlabeled_files(cfg) -> list[str]:
    return [entry["file_name"] for entry in build_train_loader(cfg).loader.dataset.entries[1]]


def take(cfg, steps: int) -> list:
    return list(islice(build_train_loader(cfg), steps))


@pytest.mark.parametrize("workers", [0, 2])
def test_a_neighbour_takes_the_place_of_an_image_that_cannot_be_used(cfg, workers, caplog):
    files = unlabeled_files(cfg)
    before = take(cfg, 6)
    cut, gone = files[2], files[3]
    with open(cut, "r+b") as file:
        file.truncate(40)
    cfg.DATALOADER.NUM_WORKERS = workers
    loader = build_train_loader(cfg)
    os.remove(gone)  # while the run goes on: at its start a missing file would be told
    with caplog.at_level(logging.WARNING):
        after = list(islice(loader, 6))
    seen = 0
    for (labeled, unlabeled), (same, replaced) in zip(before, after, strict=True):
        assert [sample["file_name"] for sample in labeled] == [sample["file_name"] for sample in same]
        for sample, other in zip(unlabeled, replaced, strict=True):
            # Both give way to the first good image behind them.
            expected = files[4] if sample["file_name"] in (cut, gone) else sample["file_name"]
            assert other["file_name"] == expected
            seen += sample["file_name"] in (cut, gone)
            if expected == sample["file_name"]:
                assert torch.equal(sample["strong"], other["strong"])
    assert seen == 8, "6 steps of 4 images are 4 epochs of 6"
    told = [record.getMessage() for record in caplog.records if "takes its place" in record.getMessage()]
    assert len(told) == 2 and sum(cut in line for line in told) == sum(gone in line for line in told) == 1
    assert told[-1].endswith("(2 of 6 so far).")


def test_one_more_than_may_be_ends_the_run(cfg):
    for file in unlabeled_files(cfg)[:3]:
        open(file, "wb").close()
    with pytest.raises(InputError, match=r"is empty; .* 3 of 6 images are as bad, more than DATALOADER.MAX_BAD_SHARE"):
        take(cfg, 6)


def test_where_none_may_be_the_first_one_ends_the_run(cfg):
    cfg.DATALOADER.MAX_BAD_SHARE = 0.1
    open(unlabeled_files(cfg)[5], "wb").close()
    with pytest.raises(InputError, match=r"the image file is empty; replace it or take it out of the data set\.$"):
        take(cfg, 6)


def test_a_label_that_does_not_fit_counts_too(cfg):
    entry = build_train_loader(cfg).loader.dataset.entries[0][0]
    good = take(cfg, 4)
    with open(entry["sem_seg_file_name"], "wb") as file:
        file.write(b"no label")
    shown = {sample["file_name"] for labeled, _ in take(cfg, 4) for sample in labeled}
    assert shown == {sample["file_name"] for labeled, _ in good for sample in labeled} - {entry["file_name"]}

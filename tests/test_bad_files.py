"""Unusable images in training: the next image is used instead, each is logged once, and too many end the run."""

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
def test_the_next_image_is_used_instead_of_an_unusable_one(cfg, workers, caplog):
    files = unlabeled_files(cfg)
    before = take(cfg, 6)
    cut, gone = files[2], files[3]
    with open(cut, "r+b") as file:
        file.truncate(40)
    cfg.DATALOADER.NUM_WORKERS = workers
    loader = build_train_loader(cfg)
    os.remove(gone)  # during the run: its start would refuse a missing file
    with caplog.at_level(logging.WARNING):
        after = list(islice(loader, 6))
    seen = 0
    for (labeled, unlabeled), (same, replaced) in zip(before, after, strict=True):
        assert [sample["file_name"] for sample in labeled] == [sample["file_name"] for sample in same]
        for sample, other in zip(unlabeled, replaced, strict=True):
            # The first good image after both.
            expected = files[4] if sample["file_name"] in (cut, gone) else sample["file_name"]
            assert other["file_name"] == expected
            seen += sample["file_name"] in (cut, gone)
            if expected == sample["file_name"]:
                assert torch.equal(sample["strong"], other["strong"])
    assert seen == 8, "6 steps of 4 images are 4 epochs of 6"
    logged = [record.getMessage() for record in caplog.records if "is used instead" in record.getMessage()]
    assert len(logged) == 2 and sum(cut in line for line in logged) == sum(gone in line for line in logged) == 1
    assert logged[-1].endswith("(2 of 6 so far).")


@pytest.mark.parametrize(
    ("fraction", "count", "message"),
    [
        (0.34, 3, r"is empty; .* 3 of 6 images are unusable, more than DATALOADER.MAX_BAD_SHARE allows\.$"),
        (0.1, 1, r"the image file is empty; replace it or take it out of the data set\.$"),
    ],
)
def test_one_more_than_allowed_ends_the_run(cfg, fraction, count, message):
    cfg.DATALOADER.MAX_BAD_SHARE = fraction
    for file in unlabeled_files(cfg)[:count]:
        open(file, "wb").close()
    with pytest.raises(InputError, match=message):
        take(cfg, 6)


def test_a_label_that_does_not_fit_counts_too(cfg):
    entry = build_train_loader(cfg).loader.dataset.entries[0][0]
    good = take(cfg, 4)
    with open(entry["sem_seg_file_name"], "wb") as file:
        file.write(b"no label")
    shown = {sample["file_name"] for labeled, _ in take(cfg, 4) for sample in labeled}
    assert shown == {sample["file_name"] for labeled, _ in good for sample in labeled} - {entry["file_name"]}

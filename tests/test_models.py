"""The models that come with the project: small, described, without paths, and found by name."""

import re

import numpy as np
import pytest
import timm_import  # noqa: F401
import torch
import yaml
from conftest import REPO

from rc2l_d2 import load_segmenter
from rc2l_d2.config_files import find_model_file, model_names

CARDS = (REPO / "models/README.md").read_text()


def test_each_model_has_a_card():
    described = re.findall(r"^## (\w+) \(", CARDS, re.MULTILINE)
    assert model_names() == sorted(described) and "msrc21" in described


@pytest.mark.parametrize("name", model_names())
def test_a_model_is_small_and_holds_no_paths(name):
    file = find_model_file(name)
    content = torch.load(file, weights_only=True)
    assert sum(x.numel() * x.element_size() for x in content["model"].values()) < 12e6
    assert all(x.dtype == torch.float16 for x in content["model"].values() if x.is_floating_point())
    config = yaml.safe_load(content["config"])
    assert "/" not in str(config["DATASETS"]) and config["OUTPUT_DIR"] == "./output"
    card = CARDS.split(f"## {name} ")[1].split("\n## ")[0]
    assert all(name in card for name in content["classes"])


def test_a_folder_does_not_hide_a_model_of_its_name(tmp_path, monkeypatch):
    monkeypatch.chdir(tmp_path)
    (tmp_path / "camvid").mkdir()
    assert find_model_file("camvid").endswith("models/camvid.pth") and load_segmenter("camvid").class_names[0] == "sky"
    (tmp_path / "camvid").rmdir()
    (tmp_path / "camvid").write_text("a file")
    assert find_model_file("camvid") == "camvid"


@pytest.mark.parametrize("name", model_names())
def test_a_model_predicts_an_array(name):
    image = np.random.default_rng(0).integers(0, 256, (90, 120, 3), dtype=np.uint8)
    assert load_segmenter(name)(image).labels.shape == (90, 120)

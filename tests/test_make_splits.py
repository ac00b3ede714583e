"""tools/make_splits.py: the lists that it writes, and input that it refuses before reading labels."""

import numpy as np
import pytest
from conftest import call_command, load_script
from data_files import SmallTree, write_definition, write_label

from rc2l_d2.data.datasets.description import load_definition
from rc2l_d2.data.datasets.image_lists import read_list
from rc2l_d2.data.datasets.splits import split_images
from rc2l_d2.errors import InputError

make_splits = load_script("tools/make_splits.py")


@pytest.fixture
def tree(tmp_path):
    tree = SmallTree(tmp_path)
    write_definition(tree.yaml, tree.content)
    return tree


@pytest.fixture
def run(tree, tmp_path, monkeypatch):
    def call(*options, output=tmp_path / "lists"):
        given = (*tree.named("train"), "--definition", tree.yaml, "--output", output, *options)
        result = call_command(monkeypatch, "make_splits.py", make_splits.main, *given)
        return result.returncode, result.stdout, result.stderr.strip().split("\n")[-1]

    return call


def images(folder, name):
    return list(read_list(folder / f"{name}.txt", "here")[0])


def test_uniform_and_balanced_samples(run, tree, tmp_path):
    # Class 2 is in one image alone.
    for number in range(10):
        label = np.full((40, 48), 2 if number == 7 else 0, np.uint8)
        write_label(tree.folder / f"labels/train_{number:03d}.png", label)
    status, output, _ = run("--number", 4, "--seed", 1)
    assert status == 0 and "4 labelled and 6 unlabelled images" in output
    # The sample of the split "labeled", which has the same fraction and seed.
    assert images(tmp_path / "lists", "labeled") == [f"images/train_{n:03d}.png" for n in (2, 4, 6, 9)]
    assert "classes without a labelled image: class1, class2" in output
    status, output, _ = run("--fraction", 0.4, "--seed", 1, "--balanced", output=tmp_path / "balanced")
    assert status == 0 and output.endswith("classes without a labelled image: class1\n")
    labeled, unlabeled = (images(tmp_path / "balanced", name) for name in ("labeled", "unlabeled"))
    assert "images/train_007.png" in labeled and len(labeled) == 4 and len(set(labeled + unlabeled)) == 10
    # The same sample in a YAML file.
    splits = {"train": tree.content["parts"]["train"]}
    splits["some"] = {"of": "train", "fraction": 0.4, "seed": 1, "balanced": True}
    splits["few"] = {**splits["some"], "fraction": 0.1}
    definition = load_definition(write_definition(tree.folder / "balanced.yaml", {**tree.content, "parts": splits}))
    found = [path.removeprefix(f"{tree.folder}/") for path in split_images(definition, "some").images]
    assert found == labeled
    with pytest.raises(
        InputError, match="balanced.yaml: split 'few': With seed 1 it takes 2 images to have every class"
    ):
        split_images(definition, "few")


def refused(result, *fragments):
    status, output, message = result
    assert status == 2 and output == "" and message.startswith("make_splits.py: ") and message.endswith(".")
    assert all(fragment in message for fragment in fragments), message


def test_the_output_is_checked_before_any_label_is_read(run, tree, tmp_path, monkeypatch):
    monkeypatch.setattr(make_splits, "class_presence", None)
    (tmp_path / "file").write_text("")
    refused(run("--number", 4, output=tmp_path / "file/lists"), "file/lists cannot be written (Not a dir")
    (tmp_path / "lists").mkdir()
    (tmp_path / "lists/unlabeled.txt").write_text("mine")
    refused(run("--number", 4), "lists/unlabeled.txt exists already; remove it, or name another --output")
    assert (tmp_path / "lists/unlabeled.txt").read_text() == "mine"


def test_refused_numbers_and_seeds(run):
    refused(run("--number", 11), "11 labelled images are more or fewer than small", "give 1 to 10.")
    refused(run("--fraction", 1.5), "--fraction is 1.5; give")
    refused(run("--number", 1, "--seed", -1), "--seed is -1; give")


@pytest.mark.parametrize("options", [(), ("--balanced",)])
def test_label_values_of_no_class_are_refused(run, tree, options):
    write_label(tree.folder / "labels/train_002.png", np.full((40, 48), 7, np.uint8))
    refused(run("--number", 4, "--seed", 1, *options), "train_002.png: the label has values that are no class (0 to 2)")

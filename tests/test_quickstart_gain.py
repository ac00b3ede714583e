"""tools/dev/quickstart_gain.py: what is labelled, unlabelled and tested, and the mIoU of finished runs."""

from types import SimpleNamespace

import numpy as np
import pytest
from conftest import call_command, load_script
from data_files import write_image, write_label
from PIL import Image

from rc2l_d2.engine import load_config
from rc2l_d2.engine.model_file import write_model_file
from rc2l_d2.errors import InputError
from rc2l_d2.host import MetadataCatalog, build_model
from rc2l_d2.prediction import load_segmenter

tool = load_script("tools/dev/quickstart_gain.py")


def names(folder, part):
    return sorted(path.stem for path in (folder / part).iterdir())


def test_finished_runs_on_drawn_images_are_measured_on_the_others(tiny_options, tmp_path, monkeypatch):
    monkeypatch.setattr(tool, "TEST_IMAGES", 3)
    folder = tmp_path / "gain"
    drawn = SimpleNamespace(source="landscapes", folder=folder, labeled=2, unlabeled=1, size=48, seed=0)
    tool.make_images(drawn)
    cfg = load_config("configs/toy/rc2l_R18.yaml", [*tiny_options, "MODEL.SEM_SEG_HEAD.NUM_CLASSES", "3"])
    # As quickstart names the values 2, 4 and 1: pixels of other values are not counted.
    MetadataCatalog.get("gain").set(stuff_classes=["class2", "class4", "class1"], ignore_label=255)
    cfg.defrost()
    cfg.DATASETS.TRAIN = ("gain",)
    runs = ("rc2l", "labels_alone", "changed")
    for run in runs:
        (folder / run).mkdir(parents=True)
        write_model_file(str(folder / run / "teacher_final.pth"), cfg, build_model(cfg), 1)
    (folder / "quickstart").mkdir()
    arguments = ("landscapes", folder, "--labeled", 2, "--unlabeled", 1, "--size", 48)
    arguments += ("--also", "changed", "MODEL.RC2L.RMC_WEIGHT", "0.0")
    result = call_command(monkeypatch, "quickstart_gain.py", tool.main, *arguments)
    assert result.returncode == 0, result.stderr
    assert names(folder, "photos") == names(folder, "masks") == ["00000", "00001"]
    assert names(folder, "more") == ["00002"]
    assert names(folder, "test/photos") == names(folder, "test/masks") == ["00003", "00004", "00005"]
    for run, line in zip(runs, result.stdout.splitlines(), strict=True):
        segmenter = load_segmenter(str(folder / run / "teacher_final.pth"))
        both = []
        for name in names(folder, "test/photos"):
            truth = np.array(Image.open(folder / f"test/masks/{name}.png"))
            both.append((truth, segmenter(str(folder / f"test/photos/{name}.jpg")).labels))
        truth, predicted = (np.concatenate([np.ravel(pair[side]) for pair in both]) for side in (0, 1))
        ious = []
        for index, value in enumerate((2, 4, 1)):
            counted = np.isin(truth, (2, 4, 1))
            is_true, is_predicted = (truth == value) & counted, (predicted == index) & counted
            ious.append((is_true & is_predicted).sum() / (is_true | is_predicted).sum())
        assert line == f"{run}: mIoU {100 * np.mean(ious):.1f}"


@pytest.mark.parametrize("name", ["rc2l", "photos"])
def test_a_further_run_has_a_folder_of_its_own(tmp_path, monkeypatch, name):
    arguments = ("shapes", tmp_path / "gain", "--labeled", 2, "--unlabeled", 1, "--also", name)
    result = call_command(monkeypatch, "quickstart_gain.py", tool.main, *arguments)
    assert result.returncode == 2 and f"--also {name} is the name of a folder" in result.stderr
    assert not (tmp_path / "gain").exists()


def test_photographs_are_sampled_until_every_class_is_labelled(tmp_path):
    root, folder = tmp_path / "voc", tmp_path / "gain"
    for index in range(9):
        write_image(root / f"JPEGImages/{index}.jpg", np.full((8, 8, 3), index, np.uint8))
        label = np.full((8, 8), 255, np.uint8)
        label[0] = index % 3
        write_label(root / f"SegmentationClass/{index}.png", label)
    (root / "ImageSets/Segmentation").mkdir(parents=True)
    (root / "ImageSets/Segmentation/train.txt").write_text("".join(f"{index}\n" for index in range(7)))
    (root / "ImageSets/Segmentation/val.txt").write_text("7\n8\n")
    asked = SimpleNamespace(source=str(root), folder=folder, labeled=3, unlabeled=3, seed=0, size=64)
    tool.make_images(asked)
    labeled, unlabeled, tested = (names(folder, part) for part in ("photos", "more", "test/photos"))
    assert {int(name) % 3 for name in labeled} == {0, 1, 2} and len(labeled) == 3 and labeled == names(folder, "masks")
    assert len(unlabeled) == 3 and not {*labeled} & {*unlabeled}
    asked.seed = 1
    with pytest.raises(InputError, match="gain is not a folder of these images; name another, or remove it"):
        tool.make_images(asked)
    asked.folder, asked.labeled = tmp_path / "few", 2
    with pytest.raises(InputError, match="--labeled is 2, too few for all 3 classes"):
        tool.make_images(asked)
    assert not asked.folder.exists()
    assert tested == sorted({*map(str, range(9))} - {*labeled}) == names(folder, "test/masks")


def test_a_wrong_folder_is_one_sentence(tmp_path, monkeypatch):
    arguments = (tmp_path / "none", tmp_path / "gain", "--labeled", 2, "--unlabeled", 1)
    result = call_command(monkeypatch, "quickstart_gain.py", tool.main, *arguments)
    assert result.returncode == 2 and "none" in result.stderr and len(result.stderr.splitlines()) == 1
    assert not (tmp_path / "gain").exists()

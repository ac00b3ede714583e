"""The labelled images that checkpoints remember: of a starting point, and of a resumed run."""

from dataclasses import replace

import pytest
from torch import nn

from rc2l_d2.data.labels.drawn import NamedClasses
from rc2l_d2.data.labels.label_map import LabelMap
from rc2l_d2.data.labels.labelme import LabelmeLabel
from rc2l_d2.data.loading.bands import BandRule
from rc2l_d2.engine import RegionCheckpointer
from rc2l_d2.engine.learned_images import LearnedImages


def test_images_that_a_starting_point_has_learned_stay_known(tmp_path, logged):
    """Through a link too, and beside those of the run itself."""
    names = [str(tmp_path / f"images/{number}.png") for number in range(4)]
    (tmp_path / "images").mkdir()
    (tmp_path / "link").symlink_to("images")
    first = RegionCheckpointer(nn.Linear(2, 2), str(tmp_path), learned=LearnedImages())
    first.checkpointables["learned"].add([{"file_name": names[0], "image_id": "0"}])
    first.save("first")
    learned = LearnedImages()
    RegionCheckpointer(nn.Linear(2, 2), str(tmp_path), learned=learned).load(str(tmp_path / "first.pth"), [])
    learned.add([{"file_name": names[1], "image_id": "1"}])
    learned.warn_of_test("test", [{"file_name": name} for name in (names[2], names[3])])
    assert not any("were trained on" in message for _, message in logged)
    linked = str(tmp_path / "link/0.png")
    learned.warn_of_test("test", [{"file_name": name} for name in (linked, names[1], names[2])])
    level, message = logged[-1]
    assert level == "WARNING" and message.startswith("2 of the 3 images of 'test' are labelled images")


def labelled(*numbers, folder="a", label_map=None) -> list[dict]:
    return [{"file_name": f"/{folder}/{n}.png", "image_id": f"{n}", "label_map": label_map} for n in numbers]


FIRST_MAP = LabelMap((0, 9), (0, 1), None, False)
OTHER_IMAGES = "The run resumes with other labelled images than before: of {}; and {} are no longer used."
OTHER_MAP = "The run resumes with another label map, other bands or another range for {} of its labelled images, "


def drawn(image, *targets) -> list[dict]:
    return labelled(1, 2, label_map=LabelmeLabel(NamedClasses(("a", "b"), targets, None, 255), image))


@pytest.mark.parametrize(
    ("entries", "expected"),
    [
        (labelled(2, 1, label_map=FIRST_MAP), []),
        (labelled(1, 2, folder="moved", label_map=FIRST_MAP), []),
        (labelled(1, 2, label_map=replace(FIRST_MAP, keys=(9, 0), targets=(1, 0))), []),
        (labelled(1, 2, 3, label_map=FIRST_MAP), [OTHER_IMAGES.format("3, 1 are new (/a/3.png)", 0)]),
        (labelled(1, 2, 3), [OTHER_IMAGES.format("3, 1 are new (/a/3.png)", 0), OTHER_MAP.format(2)]),
        (labelled(1, label_map=FIRST_MAP), [OTHER_IMAGES.format("1, 0 are new", 1)]),
        (labelled(1, label_map=FIRST_MAP) + labelled(2), [OTHER_MAP.format(1)]),
        (labelled(1, 2, label_map=replace(FIRST_MAP, targets=(1, 0))), [OTHER_MAP.format(2)]),
        ([{**x, "bands": BandRule((3, 2, 1))} for x in labelled(1, 2, label_map=FIRST_MAP)], [OTHER_MAP.format(2)]),
    ],
)
def test_a_resumed_run_warns_of_what_differs_in_its_labelled_images(tmp_path, logged, entries, expected):
    first, again = LearnedImages(), LearnedImages()
    first.add(labelled(1, 2, label_map=FIRST_MAP))
    RegionCheckpointer(nn.Linear(2, 2), str(tmp_path), learned=first).save("first")
    RegionCheckpointer(nn.Linear(2, 2), str(tmp_path), learned=again).load(str(tmp_path / "first.pth"))
    again.add(entries, resumed=True)
    found = [message for level, message in logged if level == "WARNING"]
    assert len(found) == len(expected) and all(map(str.startswith, found, expected))
    again.add(entries, resumed=True)  # known from now on
    assert len([message for level, message in logged if level == "WARNING"]) == len(expected)
    new_run = LearnedImages()
    new_run.load_state_dict({"hashes": first.state_dict()["hashes"]})  # of a file of an earlier version
    new_run.add(entries, resumed=True)
    assert len([message for level, message in logged if level == "WARNING"]) == len(expected)


@pytest.mark.parametrize(
    ("before", "after", "expected"),
    [
        (labelled(1, 2) + labelled(1, folder="b"), labelled(1, 2), [OTHER_IMAGES.format("2, 0 are new", 1)]),
        (drawn("a/1.png", 0, 1), drawn("b/1.png", 0, 1), []),  # The images were moved.
        (drawn("a/1.png", 0, 1), drawn("a/1.png", 1, 0), [OTHER_MAP.format(2)]),
        (drawn("a/1.png", 0, 1), labelled(1, 2), [OTHER_MAP.format(2)]),
        (labelled(1, label_map=LabelMap.of_threshold(128)), labelled(1, label_map=LabelMap.of_threshold(128.0)), []),
        (labelled(1, label_map=LabelMap.of_threshold(128)), labelled(1, label_map=LabelMap.of_threshold(1)),
         [OTHER_MAP.format(1)]),
        (labelled("\udcff"), labelled("\udcff"), []),  # a name that is not UTF-8
    ],
)  # fmt: skip
def test_images_of_several_data_sets_and_annotations_are_told_apart(logged, before, after, expected):
    learned = LearnedImages()
    learned.add(before)
    learned.add(after, resumed=True)
    found = [message for level, message in logged if level == "WARNING"]
    assert len(found) == len(expected) and all(map(str.startswith, found, expected))

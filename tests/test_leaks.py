"""Copies of held-out images and images made from others are found; neighbouring frames and empty tiles are not."""

import numpy as np
import pytest
from data_files import write_image
from PIL import Image

from rc2l_d2.data.checks.leaks import derived, leaks
from rc2l_d2.data.checks.scan import Split, scan

SIZE = (96, 128)


def photograph(seed: int, shift: int = 0) -> np.ndarray:
    """An image of random colours with some texture, moved by ``shift`` pixels."""
    rng = np.random.default_rng(seed)
    large = (SIZE[1] + 16, SIZE[0])
    layers = [
        np.array(Image.fromarray(rng.integers(0, top, shape).astype(np.uint8)).resize(large, Image.Resampling.BICUBIC))
        for top, shape in ((200, (7, 9, 3)), (56, (24, 36, 3)))
    ]
    return sum(layers)[:, shift : shift + SIZE[1], ::-1]


def report(folder, images, **split):
    files = []
    for name, image in images.items():
        files.append({"file_name": str(folder / name), "image_id": name})
        if not (folder / name).exists():
            write_image(folder / name, image)
    return scan(Split(split.pop("name", "UNLABELED"), files, split.pop("labelled", False), ("a", "b"), 255, **split))


@pytest.mark.parametrize("make", ["encoded", "resized", "both", "png"])
def test_copies_of_held_out_images(tmp_path, make):
    test = {f"test/{index}.png": photograph(index) for index in range(4)}
    held_out = report(tmp_path, test, held_out=True, name="TEST")
    image = Image.fromarray(photograph(2)[:, :, ::-1])
    if make in ("resized", "both"):
        image = image.resize((SIZE[1] // 2, SIZE[0] // 2))
    name = "other name.png" if make in ("png", "resized") else "other name.jpg"
    (tmp_path / "more").mkdir()
    image.save(tmp_path / "more" / name, quality=30)
    others = {f"more/{index}.png": photograph(index + 10) for index in range(3)}
    (remark,) = leaks([report(tmp_path, {**others, f"more/{name}": None}), held_out])
    assert (
        remark.fatal and remark.count == 1 and "UNLABELED has 1 images that are copies of held-out ones" in remark.what
    )
    assert remark.names == (f"{tmp_path}/more/{name} (copy of {tmp_path}/test/2.png)",)


def test_frames_of_a_video_and_empty_tiles_are_no_copies(tmp_path):
    black = np.zeros((*SIZE, 3), np.uint8)
    held_out = report(tmp_path, {"test/a.png": photograph(0), "test/b.png": black}, held_out=True)
    others = report(tmp_path, {"more/a.png": photograph(0, shift=3), "more/b.png": black, "more/c.png": photograph(1)})
    assert leaks([others, held_out]) == []


def test_photographs_of_one_scene_are_no_copies(tmp_path):
    rng = np.random.default_rng(4)
    scene = np.kron(rng.integers(20, 230, (2, 2, 3)), np.ones((48, 64, 1)))
    noisy = [(scene + rng.integers(-10, 10, scene.shape)).clip(0, 255).astype(np.uint8) for _ in range(4)]
    held_out = report(tmp_path, {"test/a.png": noisy[0]}, held_out=True)
    assert leaks([report(tmp_path, {f"more/{i}.png": image for i, image in enumerate(noisy[1:])}), held_out]) == []
    copy = report(tmp_path, {"more/copy.jpg": noisy[0]})
    assert [remark.count for remark in leaks([copy, held_out])] == [1]


def test_images_made_from_labelled_ones(tmp_path):
    labelled = report(tmp_path, {f"all/photos/{index}.png": photograph(index) for index in range(3)}, labelled=True)
    more = {"all/vis/0.png": photograph(5), "all/7.png": photograph(7), "all/night/1.png": photograph(8)}
    (remark,) = derived([report(tmp_path, more), labelled])
    assert not remark.fatal and remark.names == (f"{tmp_path}/all/vis/0.png",)

"""Images and labels paired by name, copies left out of the unlabelled images, and folders that are refused."""

import os

import pytest

from rc2l_d2.data.labels.pairing import PairedImages, pair_images
from rc2l_d2.errors import InputError


@pytest.fixture
def folder(tmp_path, monkeypatch):
    """An empty current directory. The content of a file is its name by default; nothing here decodes it."""
    monkeypatch.chdir(tmp_path)
    return tmp_path


def write(*names: str, content: str = "") -> None:
    for name in names:
        os.makedirs(os.path.dirname(name), exist_ok=True)
        with open(name, "w") as file:
            file.write(content or name)


def below(paths) -> list[str]:
    return [os.path.relpath(path) for path in paths]


def test_labels_have_the_names_of_their_images(folder):
    write("photos/b c.JPG", "photos/a/x.jpeg", "photos/d.png", "photos/.hidden.png", "photos/notes.txt")
    write("masks/a/x.png", "masks/b c.png", "masks/odd.tif", "more/1.jpg", "more/deep/2.webp")
    found = pair_images("photos", "masks", "more/")
    assert below(found.images) == ["photos/b c.JPG", "photos/a/x.jpeg"]
    assert below(found.labels) == ["masks/b c.png", "masks/a/x.png"]
    assert below(found.unlabeled) == ["more/1.jpg", "more/deep/2.webp"]
    assert below(found.without_label) == ["photos/d.png"]
    assert below(found.without_image) == ["masks/odd.tif"]
    assert all(os.path.isabs(path) for path in (*found.images, *found.labels, *found.unlabeled))


@pytest.mark.parametrize("unlabeled", [None, "photos", "./photos/"])
def test_images_without_label_are_unlabelled_by_default(folder, unlabeled):
    write("photos/a.jpg", "photos/b.jpg", "photos/c.jpg", "masks/b.png")
    found = pair_images("photos", "masks", unlabeled)
    assert below(found.images) == ["photos/b.jpg"]
    assert below(found.unlabeled) == ["photos/a.jpg", "photos/c.jpg"]
    assert found.without_label == () and found.copies == 0


def test_copies_of_labelled_images_are_left_out(folder):
    write("photos/a.jpg", "photos/b.jpg", "masks/a.png", "masks/b.png")
    write("all/a.jpg", content="another image of that name")
    write("all/renamed.jpg", content="photos/b.jpg")
    write("all/x.jpg", content="photos/c.jpg")  # as long as the labelled ones
    os.symlink(os.path.abspath("photos/a.jpg"), "all/link.jpg")
    found = pair_images("photos", "masks", "all")
    assert below(found.unlabeled) == ["all/a.jpg", "all/x.jpg"] and found.copies == 2
    # The parent folder, with photos, masks and all.
    found = pair_images("photos", "masks", ".")
    assert below(found.unlabeled) == ["all/a.jpg", "all/x.jpg"] and found.copies == 4


def test_companions_of_labelled_images(folder):
    """Left out beside the labelled images as long as others remain, and never from a folder of their own."""
    write(*(f"photos/{name}.jpg" for name in range(4)), *(f"masks/{name}.png" for name in range(4)))
    write(*(f"photos/{name}_right.jpg" for name in range(4)))
    right = [f"photos/{name}_right.jpg" for name in range(4)]
    found = pair_images("photos", "masks")
    assert below(found.unlabeled) == below(found.companions) == right and not found.derived
    write("more/5.jpg", *(f"more/{name}_right.jpg" for name in range(4)), content="other")
    found = pair_images("photos", "masks", "more")
    assert len(found.unlabeled) == 5 and not found.derived and not found.companions
    write("photos/4.jpg")
    found = pair_images("photos", "masks")
    assert below(found.unlabeled) == ["photos/4.jpg"] and below(found.derived) == right and not found.companions
    assert not found.without_label and not found.copies


@pytest.mark.parametrize("labels", ["data/masks", "data"])
def test_one_folder_may_lie_in_the_other(folder, labels):
    images, more = ("data", "data/more") if labels == "data/masks" else ("data/photos", "data/more")
    write(f"{images}/a.jpg", f"{images}/b.jpg", f"{labels}/a.png", "data/more/c.jpg")
    found = pair_images(images, labels, more)
    assert below(found.images) == [f"{images}/a.jpg"] and below(found.labels) == [f"{labels}/a.png"]
    assert below(found.unlabeled) == ["data/more/c.jpg"] and below(found.without_label) == [f"{images}/b.jpg"]


def test_labels_with_an_ending_of_their_own(folder):
    write("data/a.png", "data/a_mask.png", "data/b.png")
    found = pair_images("data", "data", label_suffix="_mask.png")
    assert below(found.images) == ["data/a.png"] and below(found.labels) == ["data/a_mask.png"]
    assert below(found.unlabeled) == ["data/b.png"]
    with pytest.raises(InputError, match="IMAGES and LABELS are one folder, .*data; give the .*--label-suffix"):
        pair_images("data", "data")


def test_images_with_an_ending_of_their_own(folder):
    write("data/1_sat.JPG", "data/1_mask.png", "data/2_sat.jpg", "data/2_mask.png", "more/3_sat.jpg", "more/4.png")
    found = pair_images("data", "data", "more", "_mask.png", image_suffix="_sat.jpg")
    assert below(found.images) == ["data/1_sat.JPG", "data/2_sat.jpg"]
    assert below(found.labels) == ["data/1_mask.png", "data/2_mask.png"]
    assert below(found.unlabeled) == ["more/3_sat.jpg", "more/4.png"]
    assert not found.without_label and not found.without_image


@pytest.mark.parametrize(
    ("images", "labels", "options"),
    [
        (["top_1_RGB.tif", "top_2_RGB.tif"], ["top_1_label.tif", "top_2_label.tif"],
         "--image-suffix _RGB.tif --label-suffix _label.tif"),
        (["P0.png", "P1.png"], ["P0_color.png", "P1_color.png"], "--label-suffix _color.png"),
        (["a.jpg", "b.jpg"], ["a.jpg.png", "b.jpg.png"], "--label-suffix .jpg.png"),
        (["img_001.jpg", "img_002.jpg"], ["img_mask_1.png", "img_mask_2.png"], "--label-suffix _mask.png"),
        (["1.jpg", "2.jpg"], ["10_mask.png", "20_mask.png"], "--label-suffix _mask.png"),
    ],
)  # fmt: skip
def test_the_endings_are_proposed_where_the_files_show_them(folder, images, labels, options):
    write(*(f"p/{name}" for name in images), *(f"m/{name}" for name in labels))
    with pytest.raises(InputError, match=rf"endings in which they differ \({options}\)"):
        pair_images("p", "m")


@pytest.mark.parametrize(
    ("files", "given", "message"),
    [
        (["p/a.jpg"], ("p", "m"), "LABELS is m, which is not a folder"),
        (["p/a.jpg", "m/a.png"], ("p", "m", "u"), "UNLABELED is u, which is not a folder"),
        (["p/a.txt", "m/a.png"], ("p", "m"), "p holds no image"),
        (["p/a.txt"], ("p", "p"), "p holds no image"),
        (["p/a.jpg", "m/a.txt"], ("p", "m"), "m holds no label .*--label-suffix .gif"),
        (["p/a.jpg", "m/a.npy", "m/b.npy", "m/x.txt"], ("p", "m"), "m holds no label .*.webp. but .npy files; name"),
        (
            ["p/x/a.jpg", "m/car/a.png", "m/dog/a.png"],
            ("p", "m"),
            r"\(car/a.png, dog/a.png\) have the names of images in "
            r".*p \(x/a.jpg\), but lie in other subfolders; name .* with labels: \{masks: '\{class\}/\{id\}.png'\}",
        ),
        (["p/a.jpg", "m/a_mask.png"], ("p", "m"), r"\(expected a.png, found a_mask.png\); give"),
        (["p/a.jpg", "m/a.png"], ("p", "m"), "Every image in .*p has a label; name the folder of unlabelled"),
        (["p/a.jpg", "m/a.png", "u/x.txt"], ("p", "m", "u"), "UNLABELED, .*u, holds no image without a label"),
        (["p/a.jpg", "p/a.png", "m/a.png", "p/b.jpg"], ("p", "m"), "p/a.jpg and .*p/a.png have one name"),
        (["p/a.jpg", "m/a.png", "m/a.tif", "p/b.jpg"], ("p", "m"), "m/a.png and .*m/a.tif have one name"),
    ],
)
def test_refused_folders(folder, files, given, message):
    write(*files)
    with pytest.raises(InputError, match=message) as caught:
        pair_images(*given)
    assert str(caught.value).endswith(".") and "\n" not in str(caught.value)


def test_only_copies_and_broken_links_are_refused(folder):
    write("p/a.jpg", "m/a.png")
    write("u/copy.jpg", content="p/a.jpg")
    with pytest.raises(InputError, match="holds nothing but the 1 labelled images"):
        pair_images("p", "m", "u")
    os.symlink("nowhere.jpg", "u/broken.jpg")
    with pytest.raises(InputError, match="u/broken.jpg cannot be read .No such file"):
        pair_images("p", "m", "u")


@pytest.mark.parametrize(("image_suffix", "images", "labels", "keys"), [
    ("", ("a.jpg", "b.png"), ("a.png", "b.png"), {}),
    ("", ("a.jpg", "b.png"), ("a.tif", "b.tif"), {"label_suffix": ".tif"}),
    ("", ("a.jpg", "b.jpg"), ("a_mask.png", "b_mask.png"), {"label_suffix": "_mask.png"}),
    ("", ("a.jpg", "b.jpg"), ("a.png", "b.tif"), {}),
    ("_sat.jpg", ("a_sat.jpg",), ("a_l.png",), {"image_suffix": "_sat.jpg", "label_suffix": "_l.png"}),
    ("jpg", ("a.jpg",), ("a.png",), {}),  # a data set's YAML file wants endings with their dot
])  # fmt: skip
def test_endings_become_keys_where_all_pairs_share_them(image_suffix, images, labels, keys):
    pairs = PairedImages(images, labels, (), (), (), 0, (), ())
    assert pairs.suffix_keys(image_suffix) == keys

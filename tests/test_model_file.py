"""The self-contained model file that a run leaves for prediction."""

from pathlib import Path

import numpy as np
import pytest
import torch
import yaml
from conftest import call_command, load_script

from rc2l_d2 import __version__
from rc2l_d2.data import LabelFiles, register_definition
from rc2l_d2.engine import load_config, load_model_file
from rc2l_d2.engine.model_file import write_model_file
from rc2l_d2.errors import InputError
from rc2l_d2.host import MetadataCatalog, build_model

CONFIG = "configs/toy/rc2l_R18.yaml"


@pytest.fixture
def written(tiny_options, tmp_path):
    cfg = load_config(CONFIG, tiny_options)
    torch.manual_seed(0)
    model = build_model(cfg).eval()
    file = tmp_path / "moved" / "teacher_final.pth"
    file.parent.mkdir()
    write_model_file(str(file), cfg, model, 20)
    return file, model


def test_the_loaded_model_predicts_the_same(written):
    file, model = written
    loaded, cfg, metadata = load_model_file(str(file))
    sample = [{"image": torch.randint(0, 256, (3, 70, 90), dtype=torch.uint8), "height": 35, "width": 45}]
    with torch.no_grad():
        assert torch.equal(loaded(sample)[0]["sem_seg"], model(sample)[0]["sem_seg"])
    known = MetadataCatalog.get("tiny_val")
    assert metadata.stuff_classes == known.stuff_classes and metadata.stuff_colors == known.stuff_colors
    assert not loaded.training and cfg.INPUT.CROP.SIZE == [64, 64] and metadata.ignore_label == 255
    # Optional and unknown keys.
    content = torch.load(file, weights_only=True)
    config = yaml.safe_load(content["config"])
    assert content["iteration"] == 20 and content["version"] == __version__
    assert str(file.parents[1]) not in content["config"] and config["OUTPUT_DIR"] == "./output"
    config["MODEL"]["ROI_HEADS"] = {"NAME": "only Detectron2 has this key"}
    del content["label_files"]
    torch.save({**content, "config": yaml.safe_dump(config)}, file)
    assert load_model_file(str(file))[2].label_files == LabelFiles()


def test_keys_of_older_configurations_keep_their_values(written):
    file, _ = written
    content = torch.load(file, weights_only=True)
    config = yaml.safe_load(content["config"])
    del config["MODEL"]["MASK_FORMER"]["CLASS_MEANS"], config["MODEL"]["SEMI_SUPERVISED"]["EMA_DECAY"]
    config["MODEL"]["MASK_FORMER"]["CLASS_MEMORY"], config["MODEL"]["RC2L"]["EMA_DECAY"] = 0.0, 0.75
    torch.save({**content, "config": yaml.safe_dump(config)}, file)
    cfg = load_model_file(str(file))[1]
    assert cfg.MODEL.MASK_FORMER.CLASS_MEANS == 0.0 and cfg.MODEL.SEMI_SUPERVISED.EMA_DECAY == 0.75
    assert "CLASS_MEMORY" not in cfg.MODEL.MASK_FORMER and "EMA_DECAY" not in cfg.MODEL.RC2L
    config["MODEL"]["MASK_FORMER"]["CLASS_MEMORY"] = 10.0  # a layer that the file does not have
    torch.save({**content, "config": yaml.safe_dump(config)}, file)
    with pytest.raises(InputError, match=r"written by version .*Missing key.*classifier.*; use the version or commit"):
        load_model_file(str(file))


def test_a_model_of_the_package_is_found_by_its_name_and_may_be_half_precision(written, tmp_path, monkeypatch):
    file, model = written
    (tmp_path / "models").mkdir()
    monkeypatch.setattr("rc2l_d2.config_files._MODELS", tmp_path / "models")
    with pytest.raises(InputError, match="There is no file and no model 'shapes'; known models: none"):
        load_model_file("shapes")
    shrink_model = load_script("tools/shrink_model.py")
    small = tmp_path / "models/shapes.pth"
    result = call_command(monkeypatch, "shrink_model.py", shrink_model.main, file, small)
    assert result.returncode == 0 and small.stat().st_size < 0.55 * file.stat().st_size
    loaded, _, metadata = load_model_file("shapes")
    for name, value in model.state_dict().items():
        torch.testing.assert_close(loaded.state_dict()[name], value, rtol=1e-3, atol=1e-7)
        assert loaded.state_dict()[name].dtype == value.dtype
    assert metadata.stuff_classes == MetadataCatalog.get("tiny_val").stuff_classes
    with pytest.raises(InputError, match="no model 'shape'; known models: shapes"):
        load_model_file("shape")
    content = torch.load(file, weights_only=True)
    next(iter(content["model"].values())).view(-1)[0] = 1e5
    torch.save(content, tmp_path / "large.pth")
    result = call_command(monkeypatch, "shrink_model.py", shrink_model.main, tmp_path / "large.pth", tmp_path / "s.pth")
    assert result.returncode == 2 and "has values above 65504; keep the larger file." in result.stderr
    assert not (tmp_path / "s.pth").exists()


def test_files_that_do_not_fit_are_refused_in_one_sentence(written, tmp_path):
    content = torch.load(written[0], weights_only=True)
    torch.save({"model": content["model"]}, tmp_path / "model_final.pth")
    with pytest.raises(InputError, match="model_final.pth is not a model file; give a teacher_final.pth"):
        load_model_file(str(tmp_path / "model_final.pth"))
    with pytest.raises(InputError, match=r"gone.pth cannot be read \(No such file or directory\); correct the path"):
        load_model_file(str(tmp_path / "gone.pth"))
    torch.save({**content, "palette": content["palette"][1:]}, tmp_path / "short.pth")
    with pytest.raises(InputError, match=r"short.pth names other classes than its weights have; use the file as"):
        load_model_file(str(tmp_path / "short.pth"))
    content["config"] = content["config"].replace("CONVS_DIM: 32", "CONVS_DIM: 64")
    torch.save({**content, "version": "9.0"}, tmp_path / "other.pth")
    with pytest.raises(InputError, match=r"other.pth was written by version 9.0 and does not fit .* \(.*size"):
        load_model_file(str(tmp_path / "other.pth"))


def test_label_files_are_described(written, tiny_options, toy_definition, tmp_path):
    file, model = written
    definition = yaml.safe_load(Path(toy_definition).read_text())
    definition |= {"name": "masks", "label_suffix": "_mask.png", "label_map": {0: "background", 255: "disc"}}
    (tmp_path / "masks.yaml").write_text(yaml.safe_dump(definition, sort_keys=False))
    register_definition(tmp_path / "masks.yaml")
    cfg = load_config(CONFIG, [*tiny_options, "DATASETS.TRAIN", "('masks_train',)"])
    write_model_file(str(file), cfg, model, 20)
    (tmp_path / "a_mask.png").touch()
    found, label_map = load_model_file(str(file))[2].label_files.find(tmp_path, Path("elsewhere/a.jpg"))
    assert found == tmp_path / "a_mask.png"
    assert label_map.apply(np.array([[0, 255]], np.uint8)).tolist() == [[0, 1]]

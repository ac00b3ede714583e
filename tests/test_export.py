"""tools/export.py: both files give the model's scores, also at sizes that the tool does not try."""

import json

import numpy as np
import onnxruntime
import pytest
import torch
from conftest import call_command, load_script

from rc2l_d2.engine import load_model_file
from rc2l_d2.prediction.export import WholeImagePredictor, load_for_export

SIZES = ((33, 33), (64, 512), (65, 127))


@pytest.fixture
def export(monkeypatch):
    return lambda *arguments: call_command(monkeypatch, "export.py", load_script("tools/export.py").main, *arguments)


@pytest.mark.slow
def test_both_files_give_the_models_scores_at_any_size(export, trained_run, tmp_path):
    weights = str(trained_run / "teacher_final.pth")
    done = export("--weights", weights, "--output", tmp_path / "exported")
    assert done.returncode == 0, done.stderr
    assert "edges of 33 to 8192 pixels" in done.stdout and "| 97 x 241 " in done.stdout

    model = load_model_file(weights)[0].cpu()
    described = {"rc2l_d2.json": ""}
    program = torch.export.load(str(tmp_path / "exported/predictor.pt2"), extra_files=described).module()
    session = onnxruntime.InferenceSession(str(tmp_path / "exported/predictor.onnx"))
    information = json.loads(described["rc2l_d2.json"])
    assert information == json.loads(session.get_modelmeta().custom_metadata_map["rc2l_d2.json"])
    assert session.get_inputs()[0].shape == [1, 3, "height", "width"]
    for size in SIZES:
        image = torch.randint(0, 256, (1, 3, *size), dtype=torch.uint8)
        with torch.no_grad():
            expected = model([{"image": image[0]}])[0]["sem_seg"].numpy()
            of_program = program(image)[0].numpy()
        (of_onnx,) = session.run(["scores"], {"image": image.numpy()})
        np.testing.assert_allclose(of_program, expected, atol=1e-6)
        np.testing.assert_allclose(of_onnx[0], expected, atol=1e-5)


def test_the_exported_module_gives_the_models_scores(trained_run):
    model, information = load_for_export(str(trained_run / "teacher_final.pth"))
    assert information["classes"][4] == "triangle" and information["format"] == "RGB"
    assert information["files"] == {} and information["window"] is information["stride"] is None
    for size in SIZES:
        image = torch.randint(0, 256, (1, 3, *size), dtype=torch.uint8)
        with torch.no_grad():
            torch.testing.assert_close(WholeImagePredictor(model)(image)[0], model([{"image": image[0]}])[0]["sem_seg"])


@pytest.mark.parametrize("content", [None, b"no weights"])
def test_a_file_that_is_no_model_gives_one_sentence(export, tmp_path, content):
    weights = tmp_path / "teacher_final.pth"
    if content is not None:
        weights.write_bytes(content)
    done = export("--weights", weights, "--output", tmp_path / "exported")
    assert done.returncode == 2 and not (tmp_path / "exported").exists()
    assert done.stderr.startswith("export.py: ") and str(weights) in done.stderr and done.stderr.count("\n") == 1

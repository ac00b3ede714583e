"""tools/export.py: both files answer as the model does, at sizes that the tool itself does not try."""

from __future__ import annotations

import json
import subprocess
import sys

import numpy as np
import onnxruntime
import pytest
import torch

from rc2l_d2.engine import load_config, load_model_file
from rc2l_d2.engine.model_file import write_model_file
from rc2l_d2.host import build_model


def export(*arguments: str) -> subprocess.CompletedProcess:
    return subprocess.run([sys.executable, "tools/export.py", *arguments], capture_output=True, text=True, timeout=300)


def test_both_files_answer_as_the_model_at_any_size(tiny_options, tmp_path):
    cfg = load_config("configs/toy/rc2l_R18.yaml", tiny_options)
    torch.manual_seed(0)
    weights = str(tmp_path / "teacher_final.pth")
    write_model_file(weights, cfg, build_model(cfg), 20)
    done = export("--weights", weights, "--output", str(tmp_path / "exported"))
    assert done.returncode == 0, done.stderr
    assert "edges of 33 to 8192 pixels" in done.stdout and "| 97 x 241 " in done.stdout

    model = load_model_file(weights)[0].cpu()
    described = {"rc2l_d2.json": ""}
    program = torch.export.load(str(tmp_path / "exported/predictor.pt2"), extra_files=described).module()
    session = onnxruntime.InferenceSession(str(tmp_path / "exported/predictor.onnx"))
    information = json.loads(described["rc2l_d2.json"])
    assert information == json.loads(session.get_modelmeta().custom_metadata_map["rc2l_d2.json"])
    assert information["classes"][4] == "triangle" and information["format"] == "RGB"
    assert session.get_inputs()[0].shape == [1, 3, "height", "width"]
    for size in ((33, 33), (64, 512), (65, 127)):
        image = torch.randint(0, 256, (1, 3, *size), dtype=torch.uint8)
        with torch.no_grad():
            expected = model([{"image": image[0]}])[0]["sem_seg"].numpy()
            of_program = program(image)[0].numpy()
        (of_onnx,) = session.run(["scores"], {"image": image.numpy()})
        np.testing.assert_allclose(of_program, expected, atol=1e-6)
        np.testing.assert_allclose(of_onnx[0], expected, atol=1e-5)


@pytest.mark.parametrize("content", [None, b"no weights"])
def test_what_is_no_model_is_told_in_one_sentence(tmp_path, content):
    weights = tmp_path / "teacher_final.pth"
    if content is not None:
        weights.write_bytes(content)
    done = export("--weights", str(weights), "--output", str(tmp_path / "exported"))
    assert done.returncode == 2 and not (tmp_path / "exported").exists()
    assert done.stderr.startswith("export.py: ") and str(weights) in done.stderr and done.stderr.count("\n") == 1

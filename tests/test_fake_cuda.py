"""Whole training steps on fake CUDA tensors: nothing stays on the host. Needs a torch built with CUDA, and no GPU."""

import pytest
import torch
from conftest import REPO, TINY, load_script

from rc2l_d2.host import HOST
from rc2l_d2.modeling import RegionSegmentor

pytestmark = [
    pytest.mark.skipif(not torch.backends.cuda.is_built(), reason="torch is built without CUDA"),
    pytest.mark.skipif(HOST != "embedded", reason="Detectron2's ImageList reads values, which fake tensors lack"),
]

with pytest.MonkeyPatch.context() as patch:
    patch.syspath_prepend(REPO / "tools" / "dev")
    fake_cuda = load_script("tools/dev/fake_cuda.py")

CONFIG = "configs/toy/rc2l_R18.yaml"
RC2L = ("", "RC2L", "labeled", 0)


@pytest.mark.slow
@pytest.mark.parametrize("case", fake_cuda.cases(), ids=lambda case: "-".join(map(str, case)).lstrip("-"))
def test_forward_pass_of_a_step(case):
    fake_cuda.forward_on_fake_cuda(CONFIG, TINY, case)


def test_rc2l_passes_and_labels_left_on_the_host_are_found(monkeypatch):
    fake_cuda.forward_on_fake_cuda(CONFIG, TINY, RC2L)
    monkeypatch.setattr(RegionSegmentor, "preprocess_labels", lambda model, labels: torch.stack(labels))
    with pytest.raises(RuntimeError, match="cuda:0 and cpu"):
        fake_cuda.forward_on_fake_cuda(CONFIG, TINY, RC2L)

"""The teacher follows the student by the stated average, and nothing flows back."""

import pytest
import torch
from torch import nn

from rc2l_d2.engine import EMAHook, EMATeacher


def student(value: float) -> nn.Module:
    model = nn.Sequential(nn.Linear(2, 1, bias=False), nn.BatchNorm1d(1))
    nn.init.constant_(model[0].weight, value)
    return model


def test_decay_follows_the_schedule_by_hand():
    model = student(1.0)
    teacher = EMATeacher(model, num_classes=3, max_decay=0.6)
    expected = None
    for step, value in enumerate([5.0, 2.0, -1.0, 4.0]):
        nn.init.constant_(model[0].weight, value)
        teacher.update(model)
        decay = min(0.6, 1 - 1 / (step + 1))  # 0, 0.5, 0.6, 0.6
        expected = value if step == 0 else decay * expected + (1 - decay) * value
        assert teacher.model[0].weight.flatten().tolist() == pytest.approx([expected] * 2, rel=1e-6)
    assert teacher.updates == 4


def test_statistics_are_averaged_counters_copied_and_gradients_off():
    model = student(1.0)
    teacher = EMATeacher(model, num_classes=3, max_decay=0.6)
    model.train()(torch.randn(8, 2)).sum().backward()
    for mean in (5.0, 2.0, -1.0):
        nn.init.constant_(model[1].running_mean, mean)
        teacher.update(model)
    # Decays 0, 0.5, 0.6: 5, 3.5, 0.6 * 3.5 - 0.4.
    assert teacher.model[1].running_mean.item() == pytest.approx(1.7, rel=1e-6)
    assert teacher.model[1].num_batches_tracked == 1
    assert not teacher.model.training
    assert all(p.grad is None and not p.requires_grad for p in teacher.model.parameters())
    assert all(p.requires_grad for p in model.parameters())


def test_state_survives_a_checkpoint():
    model = student(1.0)
    teacher = EMATeacher(model, num_classes=3, max_decay=0.9)
    teacher.class_confidence = torch.tensor([0.1, 0.2, 0.3])
    teacher.update(model)
    other = EMATeacher(student(7.0), num_classes=3, max_decay=0.9)
    other.load_state_dict(teacher.state_dict())
    assert other.updates == 1
    assert torch.equal(other.model[0].weight, model[0].weight)
    assert other.class_confidence.tolist() == pytest.approx([0.1, 0.2, 0.3])


def test_hook_updates_after_each_step():
    model = student(1.0)
    teacher = EMATeacher(model, num_classes=3, max_decay=0.9)
    hook = EMAHook(teacher, model)
    nn.init.constant_(model[0].weight, 3.0)
    hook.after_step()
    assert teacher.model[0].weight.flatten().tolist() == [3.0, 3.0]

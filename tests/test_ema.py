"""The teacher: moving average of the student, no gradient, state in a checkpoint."""

import pytest
import torch
from torch import nn

from rc2l_d2.engine import EMAHook, EMATeacher
from rc2l_d2.regions import PseudoLabeler, Selection


def student(value: float) -> nn.Module:
    model = nn.Sequential(nn.Linear(2, 1, bias=False), nn.BatchNorm1d(1))
    nn.init.constant_(model[0].weight, value)
    return model


def teacher_of(model: nn.Module) -> EMATeacher:
    return EMATeacher(model, max_decay=0.6, labeler=PseudoLabeler(3, Selection("region", 0.0, 0.9)))


def test_average_by_hand():
    model = student(1.0)
    model.train()(torch.randn(8, 2)).sum().backward()
    teacher = teacher_of(model)
    hook, expected = EMAHook(teacher, model), None
    for step, value in enumerate([5.0, 2.0, -1.0, 4.0]):
        nn.init.constant_(model[0].weight, value)
        nn.init.constant_(model[1].running_mean, 2 * value)
        model[1].num_batches_tracked += 1
        hook.after_step()
        decay = min(0.6, 1 - 1 / (step + 1))  # 0, 0.5, 0.6, 0.6
        expected = value if step == 0 else decay * expected + (1 - decay) * value
        assert teacher.model[0].weight.flatten().tolist() == pytest.approx([expected] * 2, rel=1e-6)
        assert teacher.model[1].running_mean.item() == pytest.approx(2 * expected, rel=1e-6)
    assert teacher.updates == 4 and teacher.model[1].num_batches_tracked == 5
    assert not teacher.model.training
    assert all(p.grad is None and not p.requires_grad for p in teacher.model.parameters())
    assert all(p.requires_grad for p in model.parameters())


def test_state_survives_a_checkpoint():
    model = student(1.0)
    teacher, other = teacher_of(model), teacher_of(student(7.0))
    teacher.labeler.kappa = torch.tensor([0.1, 0.2, 0.3])
    teacher.update(model)
    other.load_state_dict(teacher.state_dict())
    assert other.updates == 1
    assert torch.equal(other.model[0].weight, model[0].weight)
    assert torch.equal(other.labeler.kappa, teacher.labeler.kappa)
    without = EMATeacher(model, max_decay=0.6)
    assert set(without.state_dict()) == {"model", "updates"}
    without.load_state_dict(without.state_dict())

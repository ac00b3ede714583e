"""The memory of regions: sums, similarities, its updates in a step, and its place in evaluation."""

import numpy as np
import torch
from step_cases import watched_step
from test_class_queries import CLASSES, DIM, SHAPES, inputs

from rc2l_d2.modeling.class_queries import ClassQueryPredictor
from rc2l_d2.modeling.region_memory import RegionMemory

MEMORY = ("MODEL.MASK_FORMER.CLASS_MEMORY", "10.0")


def random(*shape: int, seed: int = 0) -> torch.Tensor:
    return torch.randn(*shape, generator=torch.Generator().manual_seed(seed))


def test_sums_decay_and_similarities_are_cosines_around_the_mean_of_all_regions():
    memory = RegionMemory(3, 4)
    assert (memory(random(1, 2, 4)) == 0).all(), "an empty memory knows no class"
    steps = [(random(2, 3, 4, seed=s) + 2, random(2, 3, 3, seed=10 + s).abs()) for s in range(3)]
    for _, weights in steps:
        weights[..., 1] = 0  # no region of class 1
    for features, weights in steps:
        memory.update(features, weights)
    sums, total = np.zeros((3, 4)), np.zeros(3)
    for features, weights in steps:
        sums, total = 0.99 * sums, 0.99 * total
        for b, n in np.ndindex(2, 3):
            for c in range(3):
                sums[c] += weights[b, n, c].item() * features[b, n].double().numpy()
                total[c] += weights[b, n, c].item()
    mean = sums.sum(axis=0) / total.sum()
    query = random(1, 2, 4, seed=5) + 2
    for n in range(2):
        a = query[0, n].double().numpy() - mean
        for c in (0, 2):
            b = sums[c] / total[c] - mean
            expected = a @ b / np.linalg.norm(a) / np.linalg.norm(b)
            np.testing.assert_allclose(memory(query)[0, n, c].item(), expected, rtol=1e-4, atol=1e-5)
    assert (memory(query)[..., 1] == 0).all()


def test_autocast_changes_nothing():
    plain, cast = RegionMemory(3, 64), RegionMemory(3, 64)
    features, weights = random(2, 3, 64) + 5, random(2, 3, 3, seed=1).abs()
    plain.update(features, weights)
    with torch.autocast("cpu", dtype=torch.bfloat16):
        cast.update(features, weights)
        similarity = cast(features)
    assert torch.equal(cast.sums, plain.sums) and torch.equal(similarity, plain(features))


def test_the_memory_counts_outside_of_training_alone():
    torch.manual_seed(0)
    model = ClassQueryPredictor(SHAPES, DIM, num_classes=CLASSES, class_prior=1.0, class_memory=10.0)
    ((trained, _),), features = model(*inputs())
    model.memory.update(features, torch.eye(CLASSES).expand(2, -1, -1))
    ((again, _),), _ = model(*inputs())
    assert torch.equal(trained, again)
    ((evaluated, _),), _ = model.eval()(*inputs())
    torch.testing.assert_close(evaluated[..., :-1], trained[..., :-1] + 10 * model.memory(features))
    assert ClassQueryPredictor(SHAPES, DIM, num_classes=CLASSES, class_prior=1.0).memory is None


def test_a_step_remembers_labelled_regions_and_those_of_the_teacher(make_trainer):
    trainer = make_trainer(*MEMORY)
    predictor, teacher = trainer.model.sem_seg_head.predictor, trainer.teacher
    labeled, unlabeled = batch = next(iter(trainer.data_loader))
    seen = []
    update, predictor.memory.update = predictor.memory.update, lambda *added: seen.append(added) or update(*added)
    watched_step(trainer, batch)
    ((features, weights),) = seen
    assert features.shape == (4, 8, features.shape[2]) and weights.shape == (4, 8, 8)
    labels = [sample["sem_seg"] for sample in labeled]
    for image, label in enumerate(labels):
        classes = [c for c in range(8) if (label == c).any()]
        assert weights[image].nonzero().tolist() == [[c, c] for c in classes], "query k is of class k"
    # On weak views each region counts for one class, as its linear layer predicts it, by its area and probability.
    teacher.predict(unlabeled)
    masks = teacher.regions.mask_logits.sigmoid().mean(dim=(2, 3)).sqrt()
    probability, label = predictor.class_probe(teacher.regions.region_features).softmax(dim=2).max(dim=2)
    for image in range(2):
        for query in range(8):
            expected = torch.zeros(8)
            expected[label[image, query]] = masks[image, query] * probability[image, query]
            torch.testing.assert_close(weights[2 + image, query], expected)
    assert (predictor.memory.weights > 0).any() and (teacher.model.sem_seg_head.predictor.memory.weights == 0).all()


def test_labels_alone_fill_the_memory_too(make_trainer):
    trainer = make_trainer(*MEMORY, "MODEL.META_ARCHITECTURE", "RegionSegmentor")
    labeled, _ = next(iter(trainer.data_loader))
    trainer.model.train()(labeled)
    weights = trainer.model.sem_seg_head.predictor.memory.weights
    present = {c for sample in labeled for c in range(8) if (sample["sem_seg"] == c).any()}
    assert {c for c in range(8) if weights[c] > 0} == present


def test_a_pixel_level_method_remembers_labels_alone(make_trainer):
    trainer = make_trainer(*MEMORY, "MODEL.META_ARCHITECTURE", "PixelConsistency")
    seen, memory = [], trainer.model.sem_seg_head.predictor.memory
    memory.update = lambda features, weights: seen.append(weights)
    labeled, _ = batch = next(iter(trainer.data_loader))
    watched_step(trainer, batch)
    assert len(seen[0]) == len(labeled) == 2

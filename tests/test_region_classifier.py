"""Classes of regions that are fitted to whole images: values, what counts in the fit, and its place in a run."""

import numpy as np
import pytest
import torch
from test_class_queries import CLASSES, DIM, SHAPES, inputs
from torch.nn import functional as F

from rc2l_d2.data import TestMapper, build_whole_image_loader, read_label, stream_entries
from rc2l_d2.data.loading import loader
from rc2l_d2.engine import load_config
from rc2l_d2.engine.region_classes import RegionClassHook, check_whole_images, fit_region_classes, region_classifier
from rc2l_d2.errors import InputError
from rc2l_d2.host import META_ARCH_REGISTRY
from rc2l_d2.modeling import RegionClassifier, RegionSample
from rc2l_d2.modeling.class_queries import ClassQueryPredictor

CLASSIFIED = ("MODEL.MASK_FORMER.CLASS_MEANS", "10.0")


def blobs(count: int, noise: float = 0.5, seed: int = 0) -> RegionSample:
    """Regions of classes 0, 1 and 3, around 5 + a unit vector each."""
    generator = torch.Generator().manual_seed(seed)
    label = torch.tensor([0, 1, 3])[torch.randint(3, (count,), generator=generator)]
    features = 5 + F.one_hot(label, 6) + noise * torch.randn(count, 6, generator=generator)
    return RegionSample(features, torch.rand(count, generator=generator), label)


def test_logits_are_those_of_the_linear_layer_and_cosines_around_the_mean_of_all_regions():
    labeled, unlabeled = blobs(30), blobs(50, 1.0, seed=1)
    classifier = RegionClassifier(4, 6, factor=10.0)
    classifier.fit(labeled, unlabeled)
    weight, bias = classifier.weight.double().numpy(), classifier.bias.double().numpy()
    sums, totals = np.zeros((4, 6)), np.zeros(4)
    for z, area, label in zip(labeled.features.double().numpy(), labeled.area.numpy(), labeled.query, strict=True):
        sums[label] += np.sqrt(area) * z
        totals[label] += np.sqrt(area)
    for z, area in zip(unlabeled.features.double().numpy(), unlabeled.area.numpy(), strict=True):
        scores = np.exp(weight @ z + bias)
        label = scores.argmax()
        count = np.sqrt(area) * scores[label] / scores.sum()
        sums[label] += count * z
        totals[label] += count
    mean = sums.sum(axis=0) / totals.sum()
    for z in blobs(4, seed=2).features:
        a, logits = z.double().numpy() - mean, classifier(z).numpy()
        for c in (0, 1, 3):
            b = sums[c] / totals[c] - mean
            expected = weight[c] @ z.numpy() + bias[c] + 10 * a @ b / np.linalg.norm(a) / np.linalg.norm(b)
            np.testing.assert_allclose(logits[c], expected, rtol=1e-4, atol=1e-3)
        np.testing.assert_allclose(logits[2], weight[2] @ z.numpy() + bias[2], rtol=1e-4, atol=1e-3)


def test_the_linear_layer_learns_from_labelled_regions_alone():
    labeled, classifier, other = blobs(60), RegionClassifier(4, 6, 10.0), RegionClassifier(4, 6, 10.0)
    state = torch.get_rng_state()
    classifier.fit(labeled, dropout=0.5)
    other.fit(labeled, blobs(90, 3.0, seed=1), dropout=0.5)
    assert torch.equal(torch.get_rng_state(), state), "a run's random numbers do not depend on its fits"
    assert torch.equal(classifier.weight, other.weight) and torch.equal(classifier.bias, other.bias)
    assert not torch.equal(classifier.prototypes, other.prototypes)
    unseen = blobs(300, seed=3)
    right = (classifier(unseen.features).argmax(dim=1) == unseen.query).float().mean()
    best = (unseen.features[:, :4].argmax(dim=1) == unseen.query).float().mean()  # knows the centres but for class 2
    assert right > best - 0.05 and not classifier.weight.requires_grad


def adamw(features: np.ndarray, labels: np.ndarray, classes: int) -> tuple[np.ndarray, np.ndarray]:
    """400 steps of AdamW (torch's defaults) from zero on the smoothed cross-entropy, in float64."""
    x = np.c_[features, np.ones(len(features))]
    target = 0.95 * np.eye(classes)[labels] + 0.05 / classes
    w, m, v = (np.zeros((classes, x.shape[1])) for _ in range(3))
    for step in range(400):
        rate = 1e-3 * (1 - step / 400) ** 0.9
        scores = np.exp(x @ w.T)
        gradient = (scores / scores.sum(axis=1, keepdims=True) - target).T @ x / len(x)
        m, v = 0.9 * m + 0.1 * gradient, 0.999 * v + 0.001 * gradient**2
        corrected = (m / (1 - 0.9 ** (step + 1))) / (np.sqrt(v / (1 - 0.999 ** (step + 1))) + 1e-8)
        w = w * (1 - 0.01 * rate) - rate * corrected
    return w[:, :-1], w[:, -1]


def test_the_linear_layer_equals_a_second_implementation_and_dropout_changes_it():
    labeled, classifier = blobs(40), RegionClassifier(4, 6, 10.0)
    classifier.fit(labeled)
    weight, bias = adamw(labeled.features.double().numpy(), labeled.query.numpy(), 4)
    np.testing.assert_allclose(classifier.weight.numpy(), weight, atol=1e-3)
    np.testing.assert_allclose(classifier.bias.numpy(), bias, atol=1e-3)
    classifier.fit(labeled, dropout=0.5)
    assert np.abs(classifier.weight.numpy() - weight).max() > 1e-2


def test_regions_without_area_leave_finite_logits():
    classifier, few = RegionClassifier(4, 6, 10.0), blobs(3)
    classifier.fit(RegionSample(few.features, torch.zeros(3), few.query))
    assert classifier(few.features).isfinite().all()


def test_autocast_changes_nothing():
    plain, cast = RegionClassifier(4, 6, 10.0), RegionClassifier(4, 6, 10.0)
    plain.fit(blobs(30), blobs(50, seed=1))
    with torch.autocast("cpu", dtype=torch.bfloat16):
        cast.fit(blobs(30), blobs(50, seed=1))
        logits = cast(blobs(5).features)
    assert torch.equal(logits, plain(blobs(5).features))


def test_it_predicts_outside_of_training_once_it_was_fitted():
    torch.manual_seed(0)
    model = ClassQueryPredictor(SHAPES, DIM, num_classes=CLASSES, class_prior=1.0, class_means=10.0)
    torch.nn.init.normal_(model.class_probe.weight)
    ((trained, _),), features = model(*inputs())
    assert torch.equal(model.eval()(*inputs())[0][0][0], trained), "not fitted yet"
    regions = features.flatten(0, 1)
    model.classifier.fit(RegionSample(regions, torch.ones(len(regions)), torch.arange(CLASSES).repeat(2)))
    expected = model.classifier(features) + torch.eye(CLASSES)
    torch.testing.assert_close(model(*inputs())[0][0][0][..., :-1], expected)
    assert torch.equal(model.train()(*inputs())[0][0][0], trained)
    assert ClassQueryPredictor(SHAPES, DIM, num_classes=CLASSES, class_prior=1.0).classifier is None


def sampled(trainer, stream: str) -> list[tuple[torch.Tensor, torch.Tensor, torch.Tensor]]:
    """Return features, areas and queries of the regions that take part, image by image."""
    rows, mapper = [], TestMapper(trainer.cfg)
    for entry in stream_entries(trainer.cfg, stream):
        image = trainer.teacher.model.preprocess([mapper(entry)["image"]]).tensor
        with torch.no_grad():
            regions = trainer.teacher.model.regions(image)
        area = regions.mask_logits.sigmoid().mean(dim=(2, 3))[0]
        if stream == "TRAIN":
            label = read_label(entry["sem_seg_file_name"], entry["label_map"])
            queries = torch.tensor([c for c in range(8) if (label == c).any()])
        else:
            queries = torch.tensor([c for c in range(8) if area[c] > 1e-3])
        rows.append((regions.region_features[0, queries], area[queries], queries))
    return rows


@pytest.mark.parametrize("architecture", ["RC2L", "PixelConsistency", "RegionSegmentor"])
def test_the_fit_takes_regions_of_whole_images_and_of_unlabelled_ones_in_rc2l_alone(make_trainer, architecture):
    trainer = make_trainer(*CLASSIFIED, "MODEL.META_ARCHITECTURE", architecture)
    teacher, student = trainer.teacher.model, trainer.model
    teacher.sem_seg_head.predictor.mask_embed.bias.data[5] -= 12  # too small a mask to count where there is no label
    labeled, unlabeled = (
        RegionSample(*map(torch.cat, zip(*sampled(trainer, stream), strict=True))) for stream in ("TRAIN", "UNLABELED")
    )
    assert not (unlabeled.query == 5).any() and (labeled.query == 5).any()
    expected = RegionClassifier(8, labeled.features.shape[1], 10.0)
    expected.fit(labeled, unlabeled if architecture == "RC2L" else None, trainer.cfg.MODEL.MASK_FORMER.CLASS_DROPOUT)
    fit_region_classes(trainer.cfg, teacher, student)
    for model in (teacher, student):
        for buffer, value in expected.state_dict().items():
            torch.testing.assert_close(region_classifier(model).state_dict()[buffer], value, msg=buffer)


def test_images_that_cannot_be_read_are_left_out(make_trainer, logged, monkeypatch):
    trainer = make_trainer(*CLASSIFIED)

    def entries(cfg, stream):
        good = stream_entries(cfg, stream)
        more = [{**good[0], "file_name": "gone.jpg"}]
        return [*good, *more, {**good[0], "sem_seg_file_name": "gone.png"}] if stream == "TRAIN" else [*good, *more]

    fit_region_classes(trainer.cfg, trainer.teacher.model, trainer.model)
    expected = region_classifier(trainer.model).state_dict()
    expected = {name: value.clone() for name, value in expected.items()}
    monkeypatch.setattr(loader, "stream_entries", entries)
    fit_region_classes(trainer.cfg, trainer.teacher.model, trainer.model)
    warnings = [message for level, message in logged if level == "WARNING"]
    assert sum("gone.jpg" in message for message in warnings) == 2 and any("gone.png" in text for text in warnings)
    assert all(
        torch.equal(value, expected[name]) for name, value in region_classifier(trainer.model).state_dict().items()
    )


def test_a_run_fits_after_burn_in_after_ramp_up_and_at_its_end(make_trainer, logged):
    trainer = make_trainer(
        *CLASSIFIED, "SOLVER.MAX_ITER", "5", "MODEL.SEMI_SUPERVISED.BURN_IN_ITERS", "1",
        "MODEL.SEMI_SUPERVISED.RAMP_UP_ITERS", "2", "TEST.EVAL_PERIOD", "0",
    )  # fmt: skip
    (hook,) = [hook for hook in trainer._hooks if isinstance(hook, RegionClassHook)]
    after, fitted = hook.after_step, []

    def watched() -> None:
        before = len(logged)
        after()
        fitted.append(any("were fitted" in message for _, message in logged[before:]))

    hook.after_step = watched
    trainer.train()
    assert fitted == [True, False, True, False, True]
    plain = make_trainer()
    assert not any(isinstance(hook, RegionClassHook) for hook in plain._hooks)


def test_of_many_images_some_take_part_and_the_ranks_share_them(make_trainer, monkeypatch):
    trainer = make_trainer()
    files = [entry["file_name"] for entry in stream_entries(trainer.cfg, "UNLABELED")]

    def used(limit: int) -> list[str]:
        return [sample["file_name"] for sample in build_whole_image_loader(trainer.cfg, "UNLABELED", limit)]

    assert used(1000) == files and len(files) > 4
    assert used(3) == [files[0], files[round((len(files) - 1) / 2)], files[-1]]
    monkeypatch.setattr(loader.comm, "get_world_size", lambda: 2)
    first = used(3)
    monkeypatch.setattr(loader.comm, "get_rank", lambda: 1)
    assert [*first, *used(3)] == [files[0], files[round((len(files) - 1) / 2)], files[-1]] and len(first) == 1


def test_without_a_readable_label_nothing_is_fitted(make_trainer, logged, monkeypatch):
    trainer = make_trainer(*CLASSIFIED)
    monkeypatch.setattr(loader, "stream_entries", lambda cfg, stream: [{"file_name": "gone.jpg", "image_id": 0}])
    fit_region_classes(trainer.cfg, trainer.teacher.model, trainer.model)
    assert region_classifier(trainer.model).fitted == 0
    assert any("are not fitted" in message for _, message in logged)


def test_a_new_run_does_not_start_with_the_classes_of_another(make_trainer, tmp_path):
    trainer = make_trainer(*CLASSIFIED)
    fit_region_classes(trainer.cfg, trainer.teacher.model, trainer.model)
    torch.save({"model": trainer.model.state_dict()}, tmp_path / "other.pth")
    new = make_trainer(*CLASSIFIED, "MODEL.WEIGHTS", str(tmp_path / "other.pth"))
    for model in (new.model, new.teacher.model):
        assert torch.equal(region_classifier(model).weight, region_classifier(trainer.model).weight)
        assert region_classifier(model).fitted == 0


def test_windows_are_refused(make_trainer, caplog):
    trainer = make_trainer(*CLASSIFIED, "TEST.SLIDING_WINDOW.ENABLED", "True")
    with pytest.raises(InputError, match="CLASS_MEANS fits classes to whole images"):
        trainer.check_data(trainer.cfg)
    trainer.check_data(trainer.cfg, eval_only=True)
    assert "predicts their windows: classes may be less accurate than without" in caplog.text


def test_windows_are_refused_where_classes_are_fitted_to_whole_images(monkeypatch):
    foreign = type("Foreign", (torch.nn.Module,), {"uses_unlabeled": False})  # of another project
    monkeypatch.setitem(META_ARCH_REGISTRY._obj_map, "Foreign", foreign)
    keys = ("MODEL.MASK_FORMER.CLASS_MEANS", "10.0", "TEST.SLIDING_WINDOW.ENABLED", "True", "MODEL.META_ARCHITECTURE")
    for name in ("RC2L", "Foreign"):
        with pytest.raises(InputError, match="fits classes to whole images, but TEST.SLIDING_WINDOW"):
            check_whole_images(load_config("", [*keys, name]))
    for name in ("PerPixelSegmentor", "UniMatch"):  # They have no such classes.
        check_whole_images(load_config("", [*keys, name]))

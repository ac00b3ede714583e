"""The real command line, end to end, on a small drawn set: training, resuming, evaluating, two processes, mistakes."""

import json
from pathlib import Path

import cv2
import numpy as np
import pytest
import torch
import yaml
from PIL import Image

CONFIG = ("--config-file", "configs/toy/rc2l_R18.yaml")


def metrics(folder: Path) -> list[dict]:
    return [json.loads(line) for line in (folder / "metrics.json").read_text().splitlines()]


def last_losses(folder: Path) -> dict:
    return [entry for entry in metrics(folder) if "total_loss" in entry][-1]


def final_scores(folder: Path) -> dict:
    last = [entry for entry in metrics(folder) if "sem_seg/mIoU" in entry][-1]
    return {key: value for key, value in last.items() if key.startswith("sem_seg")}


def assert_one_sentence(result, *fragments: str) -> None:
    assert result.returncode == 2, result.stderr
    assert "Traceback" not in result.stderr
    message = result.stderr.strip().splitlines()[-1]
    assert message.startswith("train_net.py: ")
    for fragment in fragments:
        assert fragment in message


def test_train_evaluate_and_resume(command_line, tiny_options, tmp_path):
    out = tmp_path / "out"
    # A burn-in that teaches something: pseudo labels from the second iteration on collapse to one class on some seeds.
    schedule = ("SOLVER.MAX_ITER", "80", "SOLVER.CHECKPOINT_PERIOD", "40", "MODEL.SEMI_SUPERVISED.BURN_IN_ITERS", "60")
    options = (*tiny_options, *schedule, "MODEL.SEMI_SUPERVISED.EMA_DECAY", "0.8")
    result = command_line(*CONFIG, *options)
    assert result.returncode == 0, result.stderr
    for name in ("config.yaml", "metrics.json", "model_0000039.pth", "model_final.pth", "last_checkpoint", "log.txt",
                 "teacher_final.pth"):  # fmt: skip
        assert (out / name).is_file(), name
    scores = final_scores(out)
    # Both have learned something (10 to 15 on four seeds): repeating a zero would prove nothing, below.
    assert 5 < scores["sem_seg/mIoU"] < 100 and 5 < scores["sem_seg_teacher/mIoU"] < 100
    losses = last_losses(out)
    for name in ("loss_ce", "loss_mask", "loss_dice", "loss_ce_0", "loss_rmc", "loss_rfc", "loss_rcc", "loss_smc"):
        assert np.isfinite(losses[name]), name

    checkpoint = torch.load(out / "model_final.pth", weights_only=True)
    assert set(checkpoint["model"]) == set(checkpoint["ema"]["model"])
    assert checkpoint["ema"]["updates"] == 80 and checkpoint["iteration"] == 79

    weights = ("MODEL.WEIGHTS", str(out / "model_final.pth"), "OUTPUT_DIR", str(tmp_path / "eval"))
    result = command_line(*CONFIG, "--eval-only", *options, *weights)
    assert result.returncode == 0, result.stderr
    printed = [line.split("copypaste: ")[1] for line in result.stdout.splitlines() if "copypaste: " in line]
    by_task = dict(zip(printed[0::3], printed[2::3], strict=True))
    for task in ("sem_seg", "sem_seg_teacher"):
        assert by_task[f"Task: {task}"].split(",")[0] == f"{scores[f'{task}/mIoU']:.4f}"
        assert scores[f"{task}/mIoU_best"] == scores[f"{task}/mIoU"] and f"{task}/mIoU_gt" in scores

    result = command_line(*CONFIG, "--resume", *options, "SOLVER.MAX_ITER", "82")
    assert result.returncode == 0, result.stderr
    assert "Starting training from iteration 80" in result.stdout
    resumed = torch.load(out / "model_final.pth", weights_only=True)
    assert resumed["iteration"] == 81 and resumed["ema"]["updates"] == 82
    # Two evaluations by now, one before and one after resuming: the better of them is told beside the last.
    rows = [entry for entry in metrics(out) if "sem_seg/mIoU" in entry]
    assert len(rows) == 2
    for task in ("sem_seg", "sem_seg_teacher"):
        best = max(rows, key=lambda row: row[f"{task}/mIoU"])
        assert rows[-1][f"{task}/mIoU_best"] == best[f"{task}/mIoU"]
        assert rows[-1][f"{task}/mIoU_best_iteration"] == best["iteration"]


@pytest.mark.parametrize(
    "options, absent",
    [
        (("MODEL.META_ARCHITECTURE", "RegionSegmentor"), {"loss_rmc", "loss_rfc", "loss_rcc", "loss_smc"}),
        (("MODEL.RC2L.RFC_WEIGHT", "0.0", "MODEL.SEMI_SUPERVISED.MIX", "classmix"), {"loss_rfc"}),
    ],
)
def test_losses_are_switched_from_the_config(command_line, tiny_options, tmp_path, options, absent):
    result = command_line(
        *CONFIG, *tiny_options, *options, "SOLVER.MAX_ITER", "20", "MODEL.SEMI_SUPERVISED.BURN_IN_ITERS", "18"
    )
    assert result.returncode == 0, result.stderr
    logged = set(last_losses(tmp_path / "out"))
    assert {"loss_ce", "loss_mask", "loss_dice"} <= logged
    region_losses = {"loss_rmc", "loss_rfc", "loss_rcc", "loss_smc"}
    assert logged & region_losses == region_losses - absent


COVERAGE = {"pseudo/confident_share", "pseudo/regions_per_image", "pseudo/classes_present", "pseudo/agreement"}
QUALITY = {"pseudo/accuracy", "pseudo/precision", "pseudo/recall"}


@pytest.mark.parametrize(
    "architecture, options, own_losses",
    [
        ("PixelConsistency", ("MODEL.SEMI_SUPERVISED.MEASURE_PSEUDO_LABELS", "True"), {"loss_pixel_consistency"}),
        ("PixelContrast", ("MODEL.PIXEL.CONTRAST_SAMPLES", "64"), {"loss_pixel_consistency", "loss_pixel_contrast"}),
        ("RC2L", ("MODEL.RC2L.MATCHING", "hungarian"), {"loss_rmc", "loss_rfc", "loss_rcc", "loss_smc"}),
    ],
)
def test_every_method_trains_and_logs_its_losses_and_telemetry(
    command_line, tiny_options, tmp_path, architecture, options, own_losses
):
    schedule = ("SOLVER.MAX_ITER", "20", "MODEL.SEMI_SUPERVISED.BURN_IN_ITERS", "14")
    result = command_line(*CONFIG, *tiny_options, "MODEL.META_ARCHITECTURE", architecture, *options, *schedule)
    assert result.returncode == 0, result.stderr
    logged = last_losses(tmp_path / "out")
    unlabeled = {name for name in logged if name.startswith(("loss_r", "loss_s", "loss_pixel"))}
    assert unlabeled == own_losses and all(np.isfinite(logged[name]) for name in own_losses)
    by_class = {name for name in logged if name.startswith("pseudo/") and "-" in name}
    assert ("pseudo/recall-background" in by_class) == ("MODEL.SEMI_SUPERVISED.MEASURE_PSEUDO_LABELS" in options)
    telemetry = {name for name in logged if name.startswith("pseudo/")} - by_class
    assert telemetry == (COVERAGE | QUALITY if "MODEL.SEMI_SUPERVISED.MEASURE_PSEUDO_LABELS" in options else COVERAGE)
    assert logged["pseudo/regions_per_image"] <= 8
    assert all(0 <= logged[name] <= 1 for name in telemetry - {"pseudo/regions_per_image"})
    assert logged["pseudo/confident_share"] > 0
    assert 0 <= final_scores(tmp_path / "out")["sem_seg_teacher/mIoU"] <= 100


@pytest.mark.parametrize("architecture, losses", [
    ("PixelConsistency", "loss_pixel_consistency x 1, on"),
    ("PixelContrast", "loss_pixel_consistency x 1, loss_pixel_contrast x 0.1, on"),
])  # fmt: skip
def test_a_baselines_plan_names_its_losses(command_line, architecture, losses):
    result = command_line(*CONFIG, "--dry-run", "MODEL.META_ARCHITECTURE", architecture)
    assert result.returncode == 0, result.stderr
    assert f"model       {architecture}," in result.stdout and losses in result.stdout


def test_two_processes_end_with_the_same_parameters(command_line_process, tiny_options, tmp_path):
    # The ranks compare their parameters themselves, see tests/two_ranks.py; here the command line is what runs.
    (tmp_path / "out").mkdir()
    (tmp_path / "out" / "last_checkpoint").write_text("model_0000001.pth")  # of another run
    result = command_line_process(*CONFIG, "--num-gpus", "2", "--dist-url", "auto", *tiny_options)
    assert result.returncode == 0, result.stderr
    assert "World size: 2" in result.stdout
    assert result.stdout.count(f"OUTPUT_DIR {tmp_path / 'out'} holds a run already") == 1
    assert torch.load(tmp_path / "out" / "model_final.pth", weights_only=True)["iteration"] == 5


@pytest.mark.parametrize(
    "config",
    [
        "toy/rc2l_R18", "toy/supervised_R18", "camvid/rc2l_R18_1_8", "camvid/supervised_R18_1_8",
        "voc2012/rc2l_R101_1_16", "cityscapes/rc2l_R101_1_8",
    ],
)  # fmt: skip
def test_every_config_prints_its_plan(command_line, config):
    result = command_line("--config-file", f"configs/{config}.yaml", "--dry-run")
    assert result.returncode == 0, result.stderr
    for word in ("M parameters", "labelled", "test", "loss_ce x 1", "iterations", "looked at"):
        assert word in result.stdout
    assert ("loss_smc x 1" in result.stdout) == ("rc2l" in config)


def test_a_missing_data_set_folder_is_named(command_line, tiny_options, toy_definition, tmp_path):
    definition = yaml.safe_load(Path(toy_definition).read_text())
    definition["root"] = "nowhere"
    (tmp_path / "moved.yaml").write_text(yaml.safe_dump(definition, sort_keys=False))
    moved = ("DATASETS.DEFINITIONS", f"('{tmp_path / 'moved.yaml'}',)")
    assert_one_sentence(command_line(*CONFIG, *tiny_options, *moved), str(tmp_path / "nowhere"))


def small_set(folder: Path, label_value: int = 1) -> str:
    """A VOC-layout folder of two images, and its YAML."""
    for name in ("images", "labels"):
        (folder / name).mkdir()
    label = np.full((64, 64), label_value, np.uint8)
    label[:32] = 0
    for name in ("a", "b"):
        cv2.imwrite(str(folder / f"images/{name}.jpg"), np.full((64, 64, 3), 128, np.uint8))
        Image.fromarray(label).save(folder / f"labels/{name}.png")
    (folder / "list.txt").write_text("a\nb\n")
    definition = {
        "name": "small", "root": ".", "images": "images", "labels": "labels", "image_suffix": ".jpg",
        "label_suffix": ".png", "classes": [f"class{i}" for i in range(8)], "ignore_value": 255,
        "parts": {"train": {"list": "list.txt"}},
    }  # fmt: skip
    (folder / "small.yaml").write_text(yaml.safe_dump(definition, sort_keys=False))
    return str(folder / "small.yaml")


def train_on(definition: str) -> tuple[str, ...]:
    return ("DATASETS.DEFINITIONS", f"('{definition}',)", "DATASETS.TRAIN", "('small_train',)",
            "DATASETS.UNLABELED", "('small_train',)", "DATASETS.ALLOW_OVERLAP", "True",
            "DATASETS.TEST", "()")  # fmt: skip


def test_a_list_that_names_a_missing_file_is_told(command_line, tiny_options, tmp_path):
    definition = small_set(tmp_path)
    (tmp_path / "list.txt").write_text("a\nb\nmissing_image\n")
    assert_one_sentence(command_line(*CONFIG, *tiny_options, *train_on(definition)), "missing_image")


def test_a_label_outside_the_classes_is_told(command_line, tiny_options, tmp_path):
    definition = small_set(tmp_path, label_value=38)
    assert_one_sentence(command_line(*CONFIG, *tiny_options, *train_on(definition)), ".png", "38")


def test_a_damaged_image_met_in_training_is_told(command_line, tiny_options, tmp_path):
    # Before training 200 labelled images are read; here all the others end too early.
    definition, seed, count = small_set(tmp_path), 5, 500
    (tmp_path / "list.txt").write_text("".join(f"{number}\n" for number in range(count)))
    (tmp_path / "unlabeled.txt").write_text("a\n")
    read = set(np.random.default_rng(seed).choice(count, 200, replace=False).tolist())
    image, label = (tmp_path / "images/a.jpg").read_bytes(), (tmp_path / "labels/a.png").read_bytes()
    for number in range(count):
        (tmp_path / f"images/{number}.jpg").write_bytes(image if number in read else image[:-40])
        (tmp_path / f"labels/{number}.png").write_bytes(label)
    options = ("DATASETS.UNLABELED_LIST", str(tmp_path / "unlabeled.txt"), "SEED", str(seed))
    result = command_line(*CONFIG, *tiny_options, *train_on(definition), *options)
    assert_one_sentence(result, ".jpg: the image file ends too early; replace it")
    assert "Start training" in result.stdout or "Starting training" in result.stdout
    assert "Traceback" not in result.stdout


def test_evaluation_needs_no_training_data(command_line, tiny_options, tmp_path):
    nothing = ("DATASETS.TRAIN", "()", "DATASETS.UNLABELED", "()")
    assert_one_sentence(command_line(*CONFIG, "--eval-only", *tiny_options, *nothing), "MODEL.WEIGHTS")


@pytest.mark.parametrize(
    "key, value",
    [
        ("MODEL.RESNETS.DEPTH", "20"), ("MODEL.SEM_SEG_HEAD.NORM", "XN"), ("SOLVER.MAX_ITER", "0"),
        ("MODEL.SEMI_SUPERVISED.EMA_DECAY", "1.5"), ("MODEL.META_ARCHITECTURE", "GeneralizedRCNN"),
        ("MODEL.RC2L.MATCHING", "greedy"), ("MODEL.PIXEL.CONTRAST_SAMPLES", "-1"),
        ("MODEL.RC2L.SELECTION", "object"), ("MODEL.PIXEL.SELECTION", "none"), ("MODEL.SEMI_SUPERVISED.MIX", "mixup"),
    ],
)  # fmt: skip
def test_impossible_values_are_told(command_line, tiny_options, key, value):
    assert_one_sentence(command_line(*CONFIG, "--dry-run", *tiny_options, key, value), key.split(".")[0])


def test_an_output_folder_that_cannot_be_made_is_told(command_line, tiny_options, tmp_path):
    (tmp_path / "file").write_text("")
    result = command_line(*CONFIG, *tiny_options, "OUTPUT_DIR", str(tmp_path / "file" / "out"))
    assert_one_sentence(result, "OUTPUT_DIR")


def test_an_unknown_key_is_told_with_the_closest_one(command_line, tiny_options, tmp_path):
    result = command_line(*CONFIG, *tiny_options, "SOLVER.BASE_LRR", "1")
    assert_one_sentence(result, "SOLVER.BASE_LRR", "SOLVER.BASE_LR?")
    (tmp_path / "typo.yaml").write_text("MODEL:\n  SEMI_SUPERVISED:\n    EMA_DECEY: 0.9\n")
    result = command_line("--config-file", str(tmp_path / "typo.yaml"))
    assert_one_sentence(result, "MODEL.SEMI_SUPERVISED.EMA_DECEY", "MODEL.SEMI_SUPERVISED.EMA_DECAY?", "typo.yaml")


def test_a_checkpoint_that_is_none_is_told(command_line, tiny_options, tmp_path):
    wrong = tmp_path / "wrong.pth"
    wrong.write_text("not a checkpoint")
    assert_one_sentence(command_line(*CONFIG, *tiny_options, "MODEL.WEIGHTS", str(wrong)), "wrong.pth")
    torch.save({"weights": 1}, wrong)
    assert_one_sentence(command_line(*CONFIG, *tiny_options, "MODEL.WEIGHTS", str(wrong)), "wrong.pth", '"model"')
    missing = str(tmp_path / "missing.pth")
    result = command_line(*CONFIG, "--eval-only", *tiny_options, "MODEL.WEIGHTS", missing)
    assert_one_sentence(result, "missing.pth", "does not exist")

"""The command line end to end on a small generated set: training, resuming, evaluating, two ranks, mistakes."""

import json
import shutil
from contextlib import redirect_stderr
from pathlib import Path

import cv2
import numpy as np
import pytest
import torch
import yaml
from conftest import start_script

from rc2l_d2.commands import train
from rc2l_d2.data.checks.check import definition_splits
from rc2l_d2.engine import load_config
from rc2l_d2.engine.resumed import changed_settings
from rc2l_d2.errors import InputError
from rc2l_d2.host import HOST, comm, launch

CONFIG = ("--config-file", "configs/toy/rc2l_R18.yaml")


def metrics(folder: Path, key: str) -> list[dict]:
    """Return the rows of metrics.json that have ``key``."""
    rows = [json.loads(line) for line in (folder / "metrics.json").read_text().splitlines()]
    return [row for row in rows if key in row]


def assert_one_sentence(result, *fragments: str) -> None:
    assert result.returncode == 2, result.stderr
    assert "Traceback" not in result.stderr
    message = result.stderr.strip().splitlines()[-1]
    assert message.startswith("train_net.py: ")
    for fragment in fragments:
        assert fragment in message


def test_train_evaluate_and_resume(command_line, tiny_options, tmp_path):
    out = tmp_path / "out"
    # A long burn-in: pseudo labels from the second iteration on collapse to one class with some seeds.
    schedule = ("SOLVER.MAX_ITER", "80", "SOLVER.CHECKPOINT_PERIOD", "40", "MODEL.SEMI_SUPERVISED.BURN_IN_ITERS", "70")
    options = (*tiny_options, *schedule, "MODEL.SEMI_SUPERVISED.EMA_DECAY", "0.8")
    result = command_line(*CONFIG, *options)
    assert result.returncode == 0, result.stderr
    for name in ("config.yaml", "metrics.json", "model_0000039.pth", "model_final.pth", "last_checkpoint", "log.txt",
                 "teacher_final.pth"):  # fmt: skip
        assert (out / name).is_file(), name
    scores = metrics(out, "sem_seg/mIoU")[-1]
    # Both have learned something (10 to 15 with four seeds), so that the comparison below is not between zeros.
    assert 5 < scores["sem_seg/mIoU"] < 100 and 5 < scores["sem_seg_teacher/mIoU"] < 100
    rows = metrics(out, "iteration")
    # The writers' period, and scalars that are logged after the last iteration.
    assert [row["iteration"] for row in rows] == [19, 39, 59, 79, 80]
    assert [row["lr"] for row in rows[:2]] == pytest.approx([5e-4 * (1 - done / 80) ** 0.9 for done in (19, 39)])
    assert (out / "last_checkpoint").read_text() == "model_final.pth" and list(out.glob("events.out.tfevents*"))
    losses = metrics(out, "total_loss")[-1]
    for name in ("loss_ce", "loss_mask", "loss_dice", "loss_rmc", "loss_rfc", "loss_rcc", "loss_smc"):
        assert np.isfinite(losses[name]), name
    checkpoint = torch.load(out / "model_final.pth", weights_only=True)
    assert set(checkpoint["model"]) == set(checkpoint["ema"]["model"])
    assert checkpoint["ema"]["updates"] == 80 and checkpoint["iteration"] == 79

    def evaluated(file: str) -> dict[str, str]:
        weights = ("MODEL.WEIGHTS", str(out / file), "OUTPUT_DIR", str(tmp_path / "eval"))
        result = command_line(*CONFIG, "--eval-only", *options, *weights)
        assert result.returncode == 0, result.stderr
        if HOST == "embedded":
            assert not (tmp_path / "eval/metrics.json").exists(), "an evaluation logs no scalars"
        printed = [line.split("copypaste: ")[1] for line in result.stdout.splitlines() if "copypaste: " in line]
        return dict(zip(printed[0::3], printed[2::3], strict=True))

    by_task = evaluated("model_final.pth")
    # This file has no second model that could be evaluated.
    assert evaluated("teacher_final.pth") == {"Task: sem_seg": by_task["Task: sem_seg_teacher"]}
    for task in ("sem_seg", "sem_seg_teacher"):
        assert by_task[f"Task: {task}"].split(",")[0] == f"{scores[f'{task}/mIoU']:.4f}"
        assert scores[f"{task}/mIoU_best"] == scores[f"{task}/mIoU"] and f"{task}/mIoU_gt" in scores

    result = command_line(*CONFIG, "--resume", *options, "SOLVER.MAX_ITER", "82")
    assert result.returncode == 0, result.stderr
    assert "Starting training from iteration 80" in result.stdout
    resumed = torch.load(out / "model_final.pth", weights_only=True)
    assert resumed["iteration"] == 81 and resumed["ema"]["updates"] == 82
    rows = metrics(out, "sem_seg/mIoU")
    assert len(rows) == 2, "one evaluation before and one after the resume"
    for task in ("sem_seg", "sem_seg_teacher"):
        best = max(rows, key=lambda row: row[f"{task}/mIoU"])
        assert rows[-1][f"{task}/mIoU_best"] == best[f"{task}/mIoU"]
        assert rows[-1][f"{task}/mIoU_best_iteration"] == best["iteration"]


COVERAGE = {"pseudo/confident_share", "pseudo/regions_per_image", "pseudo/classes_present", "pseudo/agreement"}
QUALITY = {"pseudo/accuracy", "pseudo/precision", "pseudo/recall"}
MEASURE = ("MODEL.SEMI_SUPERVISED.MEASURE_PSEUDO_LABELS", "True")


@pytest.mark.parametrize("architecture, options, expected", [
    ("RegionSegmentor", (), ""),
    ("RC2L", ("MODEL.MASK_FORMER.MATCHING", "hungarian"), "loss_rmc loss_rfc loss_rcc loss_smc"),
    ("RC2L", ("MODEL.RC2L.RFC_WEIGHT", "0.0", "MODEL.SEMI_SUPERVISED.MIX", "classmix"), "loss_rmc loss_rcc loss_smc"),
    ("PixelConsistency", MEASURE, "loss_pixel_consistency"),
    ("PixelContrast", ("MODEL.PIXEL.CONTRAST_SAMPLES", "64"), "loss_pixel_consistency loss_pixel_contrast"),
    ("UniMatch", "MODEL.SEMI_SUPERVISED.STRONG_VIEWS 2 MODEL.SEMI_SUPERVISED.FEATURE_DROPOUT 0.5 "
     "MODEL.UNIMATCH.CONFIDENCE_THRESHOLD 0.2".split(), "loss_strong loss_dropped"),
])  # fmt: skip
def test_every_method_logs_its_losses_and_telemetry(
    command_line, tiny_options, tmp_path, architecture, options, expected
):
    result = command_line(*CONFIG, *tiny_options, "MODEL.META_ARCHITECTURE", architecture, *options)
    assert result.returncode == 0, result.stderr
    logged = metrics(tmp_path / "out", "total_loss")[-1]
    supervised = {"loss_sem_seg"} if architecture == "UniMatch" else {"loss_ce", "loss_mask", "loss_dice"}
    assert all(np.isfinite(value) for name, value in logged.items() if name.startswith("loss_"))
    # Deep supervision logs its losses with the layer's number.
    losses = {name for name in logged if name.startswith("loss_") and not name[-1].isdigit()}
    assert losses == supervised | set(expected.split())
    by_class = {name for name in logged if name.startswith("pseudo/") and "-" in name}
    assert ("pseudo/recall-background" in by_class) == (options == MEASURE)
    telemetry = {name for name in logged if name.startswith("pseudo/")} - by_class
    assert telemetry == (COVERAGE if expected else set()) | (QUALITY if options == MEASURE else set())
    if expected:
        assert 0 <= logged["pseudo/regions_per_image"] <= 8 and logged["pseudo/confident_share"] > 0
        assert all(0 <= logged[name] <= 1 for name in telemetry - {"pseudo/regions_per_image"})
    assert 0 <= metrics(tmp_path / "out", "sem_seg/mIoU")[-1]["sem_seg_teacher/mIoU"] <= 100


@pytest.mark.slow
def test_two_ranks(tiny_options, tmp_path):
    # test_distributed.py compares the parameters of the ranks.
    result = start_script("train_net.py", *CONFIG, "--num-gpus", "2", "--dist-url", "auto", *tiny_options)
    assert result.returncode == 0, result.stderr
    assert "World size: 2" in result.stdout
    assert torch.load(tmp_path / "out" / "model_final.pth", weights_only=True)["iteration"] == 5


@pytest.mark.parametrize("config", ["toy/rc2l_R18", "camvid/supervised_R18_1_8", "cityscapes/rc2l_R101_1_8"])
def test_dry_run_prints_the_plan(command_line, config):
    result = command_line("--config-file", f"configs/{config}.yaml", "--dry-run")
    assert result.returncode == 0, result.stderr
    for word in ("M parameters", "labelled", "test", "loss_ce x 1", "iterations", "searched"):
        assert word in result.stdout
    assert ("loss_smc x 1" in result.stdout) == ("rc2l" in config)


def test_a_damaged_image_in_training_is_reported(command_line, tiny_options, tmp_path):
    # The check before training reads 200 labelled images; all others are cut short.
    seed, count = 5, 500
    for name in ("images", "labels"):
        (tmp_path / name).mkdir()
    image = cv2.imencode(".jpg", np.full((64, 64, 3), 128, np.uint8))[1].tobytes()
    label = cv2.imencode(".png", np.repeat(np.uint8([0, 1]), 32 * 64).reshape(64, 64))[1].tobytes()
    checked = set(np.random.default_rng(seed).choice(count, 200, replace=False).tolist())
    for number in range(count):
        (tmp_path / f"images/{number}.jpg").write_bytes(image if number in checked else image[:-40])
        (tmp_path / f"labels/{number}.png").write_bytes(label)
    (tmp_path / "list.txt").write_text("".join(f"{number}\n" for number in range(count)))
    (tmp_path / "unlabeled.txt").write_text(f"{min(checked)}\n")
    definition = {
        "name": "small", "root": ".", "images": "images", "labels": "labels", "image_suffix": ".jpg",
        "label_suffix": ".png", "classes": [f"class{i}" for i in range(8)], "ignore_value": 255,
        "parts": {"train": {"list": "list.txt"}},
    }  # fmt: skip
    (tmp_path / "small.yaml").write_text(yaml.safe_dump(definition, sort_keys=False))
    result = command_line(
        *CONFIG, *tiny_options, "DATASETS.DEFINITIONS", f"('{tmp_path / 'small.yaml'}',)", "SEED", str(seed),
        "DATASETS.TRAIN", "('small_train',)", "DATASETS.UNLABELED", "('small_train',)", "DATASETS.TEST", "()",
        "DATASETS.ALLOW_OVERLAP", "True", "DATASETS.UNLABELED_LIST", str(tmp_path / "unlabeled.txt"),
    )  # fmt: skip
    assert_one_sentence(result, ".jpg: the image file ends too early; replace it")
    assert "Starting training" in result.stdout and "Traceback" not in result.stdout


@pytest.mark.parametrize("arguments, fragments", [
    (("--eval-only", "DATASETS.TRAIN", "()", "DATASETS.UNLABELED", "()"), ["MODEL.WEIGHTS"]),
    (("--eval-only", "MODEL.WEIGHTS", "{folder}/missing.pth"), ["missing.pth", "does not exist"]),
    (("MODEL.WEIGHTS", "{folder}/file"), ["file cannot be read as a checkpoint"]),
    (("OUTPUT_DIR", "{folder}/file/out"), ["OUTPUT_DIR"]),
    (("--dry-run", "MODEL.RESNETS.DEPTH", "20"), ["No model can be built", "check MODEL"]),
    (("--dry-run", "MODEL.SEM_SEG_HEAD.NORM", "XN"), ["XN"]),
    (("--dry-run", "SOLVER.BASE_LRR", "1"), ["SOLVER.BASE_LRR", "SOLVER.BASE_LR?"]),
    (("--dry-run", "MODEL.DEVICE", "gpu"), ['MODEL.DEVICE is "gpu"; use "cuda", "cpu" or "auto"']),
    (("--num-gpus=8",), ["SOLVER.IMS_PER_BATCH is 2, which 8 rank(s) cannot split evenly"]),
    (("--num-gpus=2", "SOLVER.IMS_PER_BATCH_UNLABELED", "3"), ["SOLVER.IMS_PER_BATCH_UNLABELED is 3, which 2 rank(s)"]),
    (("SOLVER.BASE_LR", "1e30", "SOLVER.CLIP_GRADIENTS.ENABLED", "False"), ["Non-finite ", "lower SOLVER.BASE_LR"]),
])  # fmt: skip
def test_mistakes_are_reported_in_one_sentence(command_line, tiny_options, tmp_path, arguments, fragments):
    (tmp_path / "file").write_text("not a checkpoint")
    arguments = [argument.replace("{folder}", str(tmp_path)) for argument in arguments]
    flags = [argument for argument in arguments if argument.startswith("--")]
    result = command_line(*CONFIG, *flags, *tiny_options, *arguments[len(flags) :])
    assert_one_sentence(result, *fragments)
    assert len(result.stderr.splitlines()) == 1 and "Traceback" not in result.stdout


def test_classes_in_another_order_are_neither_evaluated_nor_resumed(
    command_line, trained_run, toy_definition, tmp_path
):
    content = yaml.safe_load(Path(toy_definition).read_text())
    names = content["classes"]
    content |= {"name": "swapped", "root": str(Path(toy_definition).parent / "data")}
    content["classes"] = [names[1], names[0], *names[2:]]
    (tmp_path / "swapped.yaml").write_text(yaml.safe_dump(content, sort_keys=False))
    definitions = ("DATASETS.DEFINITIONS", f"('{toy_definition}', '{tmp_path / 'swapped.yaml'}')")
    own = ("--config-file", str(trained_run / "config.yaml"))
    sets = ("TRAIN", "('swapped_labeled',)", "UNLABELED", "('swapped_unlabeled',)", "TEST", "('swapped_val',)")
    swapped = [word if place % 2 else f"DATASETS.{word}" for place, word in enumerate(sets)]
    result = command_line(*own, *definitions, *swapped[4:], "OUTPUT_DIR", str(tmp_path / "eval"))
    assert_one_sentence(result, "The classes of 'tiny_labeled' and 'swapped_val' differ (class 0 is ")
    problem = f"8 classes; class 0 is '{names[0]}' in the file and '{names[1]}' in the data set"
    for file in ("teacher_final.pth", "model_final.pth"):
        words = ("--eval-only", *own, *definitions, *swapped, "MODEL.WEIGHTS", str(trained_run / file))
        assert_one_sentence(command_line(*words, "OUTPUT_DIR", str(tmp_path / "eval")), file, problem)
    before = (trained_run / "config.yaml").read_bytes()
    result = command_line(
        *own, *definitions, *swapped, "OUTPUT_DIR", str(trained_run), "SOLVER.MAX_ITER", "8", "--resume"
    )
    assert_one_sentence(result, "model_final.pth", problem)
    assert (trained_run / "config.yaml").read_bytes() == before


def test_weights_meet_the_pixel_values_that_they_were_trained_on(command_line, trained_run, toy_definition, tmp_path):
    own = ("--config-file", str(trained_run / "config.yaml"))
    elsewhere = shutil.copy(trained_run / "teacher_final.pth", tmp_path / "teacher.pth")
    for file in (elsewhere, trained_run / "model_final.pth"):
        for out in (tmp_path / "other", trained_run):
            options = ("INPUT.FORMAT", "BGR", "OUTPUT_DIR", str(out), "MODEL.WEIGHTS", str(file))
            result = command_line("--eval-only", *own, *options)
            assert_one_sentence(result, f"{file} was trained with INPUT.FORMAT RGB, and this configuration has BGR; ")
    std = ("MODEL.PIXEL_STD", "[1.0,1.0,1.0]", "SOLVER.MAX_ITER", "1", "OUTPUT_DIR", str(tmp_path / "start"))
    result = command_line(*own, *std, "MODEL.WEIGHTS", str(elsewhere))
    assert result.returncode == 0, result.stderr
    assert "was trained with MODEL.PIXEL_STD [58.395, 57.12, 57.375], and this configuration has" in result.stdout


def test_an_evaluation_names_what_differs_from_training(command_line, trained_run, tmp_path):
    """Images that the weights were trained on, and a setting of predictions that no weight shows."""
    own = ("--eval-only", "--config-file", str(trained_run / "config.yaml"), "OUTPUT_DIR", str(tmp_path))
    labeled, prior = ("DATASETS.TEST", "('tiny_labeled',)"), ("MODEL.MASK_FORMER.CLASS_PRIOR", "0.5")
    for file in ("teacher_final.pth", "model_final.pth"):
        weights = ("MODEL.WEIGHTS", str(trained_run / file))
        log = command_line(*own, *weights, *labeled, *prior).stdout
        assert "6 of the 6 images of 'tiny_labeled' are labelled images that these weights were trained on" in log
        assert "was trained with MODEL.MASK_FORMER.CLASS_PRIOR 2.0, and this configuration has 0.5: its pred" in log
        log = command_line(*own, *weights).stdout
        assert "were trained on" not in log and "was trained with" not in log and "mIoU" in log


def test_a_run_is_resumed_as_what_it_is(command_line, trained_run, tmp_path):
    resume = ("--config-file", str(trained_run / "config.yaml"), "--resume", "OUTPUT_DIR", str(trained_run))
    before = (trained_run / "config.yaml").read_bytes()
    refused = command_line(*resume, "MODEL.META_ARCHITECTURE", "RegionSegmentor")
    assert_one_sentence(refused, f"{trained_run} holds a run of MODEL.META_ARCHITECTURE RC2L, which --resume cannot")
    refused = command_line(*resume, "SOLVER.OPTIMIZER", "SGD")
    assert_one_sentence(refused, f"{trained_run} holds a run of SOLVER.OPTIMIZER ADAMW, which --resume cannot")
    for ranks in ("1", "2"):  # Two are not even started.
        refused = command_line("--num-gpus", ranks, *resume[:2], *resume[3:])
        assert_one_sentence(refused, f"OUTPUT_DIR {trained_run} holds a run already, whose files would be replaced")
    refused = command_line(*resume, "SOLVER.MAX_ITER", "1")
    assert_one_sentence(refused, f"OUTPUT_DIR {trained_run} holds a run of 6 iterations, more than SOLVER.MAX_ITER 1")
    # An evaluation in the run's folder leaves its configuration as it is.
    weights = ("MODEL.WEIGHTS", str(trained_run / "model_final.pth"), "MODEL.META_ARCHITECTURE", "PixelConsistency")
    evaluated = command_line("--eval-only", *resume[:2], *resume[3:], *weights)
    assert evaluated.returncode == 0, evaluated.stderr
    assert (trained_run / "config.yaml").read_bytes() == before
    fewer = tmp_path / "fewer.txt"
    (labeled,), _ = definition_splits(load_config(resume[1]).DATASETS.DEFINITIONS[0], ["labeled"])
    fewer.write_text("\n".join(entry["file_name"] for entry in [*labeled.entries][1:]))
    changes = ("MODEL.RC2L.RMC_WEIGHT", "0.5", "VIS_PERIOD", "9", "DATASETS.LABELED_LIST", str(fewer))
    result = command_line(*resume, "SOLVER.MAX_ITER", "7", *changes)
    assert result.returncode == 0, result.stderr
    assert "other labelled images than before: of 5, 0 are new; and 1 are no longer used." in result.stdout
    assert "resumes with other settings than before: MODEL.RC2L.RMC_WEIGHT was 0.2, is now 0.5, DATA" in result.stdout
    cfg = load_config(str(trained_run / "config.yaml"))
    (trained_run / "config.yaml").write_text("MODEL: [")  # as a killed start may leave it
    assert changed_settings(cfg).startswith(f"{trained_run}/config.yaml cannot be read, so the run resumes without a")


def refuse_on_ranks(folder, refusing):
    rank = comm.get_rank()

    def step():
        if rank in refusing:
            raise InputError("SOLVER.X is wrong; correct it.")
        return rank

    with open(folder / f"{rank}.txt", "w") as file, redirect_stderr(file):
        assert train._on_all_ranks(step) == rank


@pytest.mark.slow
@pytest.mark.parametrize(("refusing", "printed"), [((0, 1), 0), ((1,), 1)])
def test_what_ranks_refuse_is_printed_once_and_ends_all(tmp_path, refusing, printed):
    with pytest.raises(torch.multiprocessing.ProcessExitedException) as ended:
        launch(refuse_on_ranks, 2, dist_url="auto", args=(tmp_path, refusing))
    assert ended.value.exit_code == 2
    texts = [(tmp_path / f"{rank}.txt").read_text() for rank in range(2)]
    assert texts[printed].endswith(": SOLVER.X is wrong; correct it.\n") and not texts[1 - printed]


def test_a_damaged_final_checkpoint_is_written_again(command_line, trained_run):
    final = trained_run / "model_final.pth"
    whole = torch.load(final, weights_only=True)["model"]
    final.write_bytes(final.read_bytes()[:1000])
    result = command_line("--config-file", trained_run / "config.yaml", "--resume", "OUTPUT_DIR", trained_run)
    assert result.returncode == 0 and "Traceback" not in result.stderr, result.stderr
    again = torch.load(final, weights_only=True)["model"]
    assert again.keys() == whole.keys() and all(torch.equal(again[name], whole[name]) for name in whole)

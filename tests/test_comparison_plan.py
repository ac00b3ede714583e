"""Comparisons before anything runs: their YAML files, the runs that follow from them, and what data is known by."""

import json
import shutil
from pathlib import Path

import pytest
import torch
import yaml
from comparison_cases import compare, description, written
from conftest import REPO

from rc2l_d2.comparison import load_comparison, plan_runs, select_runs
from rc2l_d2.comparison.fingerprint import data_fingerprint
from rc2l_d2.comparison.runs import differences
from rc2l_d2.engine import RC2LTrainer, load_config
from rc2l_d2.errors import InputError


@pytest.mark.parametrize(
    ("change", "fragments"),
    [
        ({"metods": {}}, ["unknown key 'metods'"]),
        ({"methods": {}}, ["'methods'"]),
        ({"methods": {"a/b": {}}}, ["'a/b'"]),
        ({"methods": {"a": {"overides": {}}}}, ["'methods.a.overides'"]),
        ({"methods": {"a": {"overrides": {"SEED": 1}}}}, ["SEED"]),
        ({"methods": {"a": {"overrides": {"MODEL": {"RC2L": 1}}}}}, ["in full"]),
        ({"draws": {"all": {"methods": ["nobody"]}}}, ["'draws.all.methods'", "'nobody'", "supervised, rc2l"]),
        ({"seeds": [1, 1]}, ["'seeds'"]),
        ({"seeds": [-1]}, ["'seeds'"]),
        ({"config": 3}, ["config"]),
        ({"output": 3}, ["'output'"]),
        ({"methods": {"a": {"config": "x.yaml"}}}, ["'methods.a.config'"]),
        ({"targets": [{"better": "rc2l"}]}, ["item 1", "kept_classes"]),
        ({"targets": [{"better": "rc2l", "than": "nobody", "by": 1, "draw": "1_4"}]}, ["'nobody'"]),
        ({"targets": [{"better": "rc2l", "than": "supervised", "by": 1, "draw": "none"}]}, ["'none'"]),
        ({"targets": [{"better": "rc2l", "than": "supervised", "by": 1}]}, ["draw"]),
        (
            {"targets": [{"kept_classes": {"method": "x", "baseline": "y", "learned": 1, "lost": 1}}]},
            ["'x'", "together"],
        ),
    ],
)
def test_mistakes_in_the_file_are_told_in_one_sentence(change, fragments, tmp_path):
    with pytest.raises(InputError) as error:
        load_comparison(str(written(tmp_path, description("unused", **change))))
    message = str(error.value)
    assert "tiny.yaml" in message and "\n" not in message
    for fragment in fragments:
        assert fragment in message


def test_mistakes_in_a_configuration_name_the_run(toy_definition, tmp_path, monkeypatch):
    monkeypatch.chdir(REPO)
    raw = description(toy_definition)
    raw["methods"]["rc2l"]["overrides"]["MODEL.SEMI_SUPERVISED.EMA_DEKAY"] = 0.9
    comparison = load_comparison(str(written(tmp_path, raw)))
    with pytest.raises(InputError, match="The run 'rc2l, 1_4, seed 1': MODEL.SEMI_SUPERVISED.EMA_DEKAY .*EMA_DECAY"):
        plan_runs(comparison, tmp_path)
    missing = compare(tmp_path / "none.yaml")
    assert missing.returncode == 2 and missing.stderr.count("\n") == 1 and "none.yaml" in missing.stderr


def test_seeds_fill_the_draws_name_and_pass_through_the_command_line(toy_definition, tmp_path, monkeypatch):
    monkeypatch.chdir(REPO)
    raw = description(toy_definition)
    raw["draws"]["1_4"]["overrides"] = {"DATASETS.TRAIN": ["tiny_labeled_{seed}"], "SOLVER.BASE_LR": "5e-4"}
    plan = plan_runs(load_comparison(str(written(tmp_path, raw))), tmp_path)
    assert [planned.run.seed for planned in plan] == [1, 1, 2, 2]
    assert plan[2].settings["DATASETS.TRAIN"] == ["tiny_labeled_2"]
    assert plan[2].settings["SOLVER.BASE_LR"] == 5e-4 and plan[2].settings["SEED"] == 2
    assert plan[2].folder == tmp_path / "runs/supervised/1_4/seed2"


@pytest.mark.parametrize("key, value, changed", [
    ("MODEL.RC2L.SELECTION", "pixel", {"rc2l"}),
    ("INPUT.STRONG_GRAYSCALE", 0.7, {"rc2l"}),
    ("DATASETS.UNLABELED", ["tiny_val"], {"rc2l"}),
    ("MODEL.SEMI_SUPERVISED.EMA_DECAY", 0.25, {"rc2l", "supervised"}),
    ("SOLVER.BASE_LR", 0.25, {"rc2l", "supervised"}),
])  # fmt: skip
def test_runs_on_labels_alone_do_not_know_the_method(toy_definition, tmp_path, monkeypatch, key, value, changed):
    monkeypatch.chdir(REPO)
    settings = []
    for overrides in ({}, {key: value}):
        raw = description(toy_definition)
        raw["draws"]["1_4"]["overrides"].update(overrides)
        plan = plan_runs(load_comparison(str(written(tmp_path, raw))), tmp_path)
        settings.append({planned.run.method: planned.settings for planned in plan if planned.run.seed == 1})
    assert {method for method in settings[0] if settings[0][method] != settings[1][method]} == changed


def test_runs_go_seed_by_seed_and_references_first(tmp_path):
    raw = description("unused", targets=[])
    raw["draws"]["1_8"] = {}
    raw["draws"]["all"] = {"methods": ["supervised"]}
    comparison = load_comparison(str(written(tmp_path, raw)))
    order = ["supervised, all", "supervised, 1_4", "rc2l, 1_4", "supervised, 1_8", "rc2l, 1_8"]
    assert [str(run) for run in comparison.runs()] == [f"{cell}, seed {seed}" for seed in (1, 2) for cell in order]
    assert comparison.cells()[-1] == ("supervised", "all"), "tables keep the file's order"
    assert comparison.output == Path("output/comparison/tiny")


@pytest.mark.parametrize("file", sorted((REPO / "configs/comparison").glob("*.yaml")), ids=lambda file: file.stem)
def test_comparisons_that_come_with_the_project_can_be_planned(file, monkeypatch):
    monkeypatch.chdir(REPO)
    comparison = load_comparison(str(file))
    plan = plan_runs(comparison, Path("output"))
    assert len(plan) == len(comparison.cells()) * len(comparison.seeds) and len(comparison.seeds) >= 3
    assert len({json.dumps(planned.settings) for planned in plan}) == len(plan), "two runs are the same"


def test_a_part_of_the_runs_is_selected_by_method_and_draw(toy_definition, tmp_path, monkeypatch):
    monkeypatch.chdir(REPO)
    raw = description(toy_definition, seeds=[3])
    raw["draws"]["all"] = {"methods": ["supervised"]}
    plan = plan_runs(load_comparison(str(written(tmp_path, raw))), tmp_path)

    def selected(*only: str) -> list[str]:
        return [f"{planned.run.method}/{planned.run.draw}" for planned in select_runs(plan, only)]

    everything = ["supervised/all", "supervised/1_4", "rc2l/1_4"]
    assert selected() == selected("rc2l", "supervised") == everything
    assert selected("supervised") == everything[:2] and selected("rc2l", "supervised/all") == everything[::2]
    with pytest.raises(InputError, match="^--only rc2l/all names no run; known are supervised, .*, rc2l, rc2l/1_4.$"):
        selected("supervised", "rc2l/all")


def test_comparisons_that_come_with_the_project_share_the_runs_that_are_the_same(monkeypatch):
    monkeypatch.chdir(REPO)
    names: dict[tuple[str, str], set[str]] = {}  # settings of a run in a folder -> how it is called there
    settings: dict[Path, str] = {}
    runs: dict[str, set[str]] = {}
    for file in sorted((REPO / "configs/comparison").glob("*.yaml")):
        comparison = load_comparison(str(file))
        for planned in plan_runs(comparison, comparison.output):
            made_by = json.dumps(planned.settings, sort_keys=True)
            assert settings.setdefault(planned.folder, made_by) == made_by, f"two different runs in {planned.folder}"
            names.setdefault((str(comparison.output), made_by), set()).add(str(planned.run))
            runs.setdefault(file.stem, set()).add(str(planned.run))
    assert all(len(called) == 1 for called in names.values()), "one run is made twice"
    shared = {f"{method}, 1_16, seed {seed}" for method in ("supervised", "pixel", "rc2l") for seed in (1, 2, 3)}
    assert runs["toy"] & runs["toy_ablations"] == shared
    assert runs["camvid"] == runs["camvid_R50_gpu"] and len(runs["camvid"]) == 21


@pytest.mark.parametrize("norm", ["BN", "GN"])
def test_without_unlabeled_losses_the_strong_views_act_through_batch_statistics_alone(norm, tiny_options, monkeypatch):
    """What the label of toy_ablations.yaml's "no_unlabeled_loss" says: without such statistics they change nothing."""
    monkeypatch.chdir(REPO)
    row = load_comparison("configs/comparison/toy_ablations.yaml").methods["no_unlabeled_loss"]
    assert dict(row.overrides) == {"MODEL.RC2L.LOSS_WEIGHT": 0.0}
    overrides = [*tiny_options, "MODEL.RC2L.LOSS_WEIGHT", "0.0", "MODEL.RESNETS.NORM", norm]
    trainer = RC2LTrainer(load_config("configs/toy/rc2l_R18.yaml", overrides))
    trainer.resume_or_load(resume=False)
    step = trainer._trainer
    labeled, unlabeled = next(iter(step.data_loader))
    with_strong, alone = step.model(labeled, *step.teach(unlabeled)), step.model(labeled)
    assert with_strong.keys() == alone.keys() and not any("rmc" in name for name in alone)
    same = all(torch.allclose(with_strong[name], alone[name], rtol=1e-4) for name in alone)
    assert same == (norm == "GN")


def test_the_gpu_configuration_trains(toy_definition, command_line, tmp_path, monkeypatch):
    """One step with and one without the unlabelled losses, of small images, with the model of full size."""
    monkeypatch.chdir(REPO)
    comparison = load_comparison("configs/comparison/camvid_R50_gpu.yaml")
    (run,) = [run for run in comparison.runs() if str(run) == "rc2l, 1_8, seed 0"]
    plan = command_line("--dry-run", "--config-file", run.config, *run.overrides)
    assert plan.returncode == 0 and "RC2L, ResNet-50" in plan.stdout, plan.stderr
    assert "320 x 448 pixels" in plan.stdout and "burn-in 1300, ramp-up 1200" in plan.stdout
    small = f"""
        DATASETS.DEFINITIONS ('{toy_definition}',) DATASETS.TRAIN ('tiny_labeled',) DATASETS.TEST ('tiny_val',)
        DATASETS.UNLABELED ('tiny_unlabeled',) MODEL.SEM_SEG_HEAD.NUM_CLASSES 8 INPUT.CROP.SIZE (64,64)
        INPUT.MIN_SIZE_TRAIN (64,80) INPUT.MIN_SIZE_TEST 64 SOLVER.IMS_PER_BATCH 2 SOLVER.IMS_PER_BATCH_UNLABELED 2
        SOLVER.MAX_ITER 2 MODEL.SEMI_SUPERVISED.BURN_IN_ITERS 1 TEST.EVAL_PERIOD 0 DATALOADER.NUM_WORKERS 0
        OUTPUT_DIR {tmp_path / "out"}
    """
    result = command_line("--config-file", run.config, *run.overrides, *small.split())
    assert result.returncode == 0, result.stderr
    assert "sem_seg_teacher/mIoU" in (tmp_path / "out/metrics.json").read_text()


def test_data_is_known_by_what_is_in_it(toy_definition, tmp_path):
    shutil.copytree(Path(toy_definition).parent / "data", tmp_path / "data")
    raw = yaml.safe_load(Path(toy_definition).read_text())

    def known(name: str, stream: str = "TRAIN", **changes) -> dict:
        file = tmp_path / f"{name}.yaml"
        file.write_text(yaml.safe_dump({**raw, "name": name, **changes}, sort_keys=False))
        options = ["DATASETS.DEFINITIONS", f"('{file}',)", "DATASETS.LABELED_LIST", str(labeled)]
        names = [word for key in ("TRAIN", "UNLABELED") for word in (f"DATASETS.{key}", f"('{name}_train',)")]
        return data_fingerprint(load_config("configs/toy/rc2l_R18.yaml", [*options, *names]), stream)

    ids = (tmp_path / "data/ImageSets/Segmentation/train.txt").read_text().split()
    labeled = tmp_path / "labeled.txt"
    labeled.write_text("\n".join(ids[:3]))
    first = known("first")
    assert first["images"] == 3 and first["classes"] == [raw["classes"]] and json.loads(json.dumps(first)) == first
    assert known("again") == first, "the name and the file of the description do not matter"
    mapped = known("mapped", label_map={**{value: value for value in range(len(raw["classes"]))}, "other": "ignore"})
    assert {key for key in first if first[key] != mapped[key]} == {"files"}
    assert known("ignoring", ignore_value=254)["ignore_value"] == [254]

    def changed() -> set[str]:
        now = {stream: known("first", stream) for stream in before}
        return {f"{stream}.{key}" for stream in now for key in now[stream] if now[stream][key] != before[stream][key]}

    before = {stream: known("first", stream) for stream in ("TRAIN", "UNLABELED")}
    for folder, differing in (("Segmentation", {"TRAIN.files"}), ("JPEGImages", {"TRAIN.files", "UNLABELED.files"})):
        (file,) = (tmp_path / "data").glob(f"{folder}*/{ids[0]}.*")
        content = file.read_bytes()
        file.write_bytes(content + b" ")
        assert changed() == differing
        file.write_bytes(content)
    assert not changed()
    labeled.write_text("\n".join([*ids[:2], ids[3] + " "]))
    assert changed() == {"TRAIN.files"}


def test_missing_data_is_told_in_one_sentence(toy_definition, tmp_path):
    raw = yaml.safe_load(Path(toy_definition).read_text())
    definition = tmp_path / "absent.yaml"
    definition.write_text(yaml.safe_dump({**raw, "name": "absent"}, sort_keys=False))
    changes = description(str(definition))
    changes["draws"]["1_4"]["overrides"] = {"DATASETS.TRAIN": ["absent_labeled"]}
    result = compare(written(tmp_path, changes), "--output", tmp_path / "out", "--dry-run")
    assert result.returncode == 2 and result.stderr.count("\n") == 1
    assert "The run 'supervised, 1_4, seed 1':" in result.stderr and f"{tmp_path}/data" in result.stderr


def test_what_changes_no_result_is_not_compared_and_the_device_is():
    stored = {"MODEL.DEVICE": "cuda", "DATALOADER.NUM_WORKERS": 4, "SOLVER.CHECKPOINT_PERIOD": 8, "VERSION": 2}
    assert differences(stored, {"MODEL.DEVICE": "cuda"}) == []
    assert differences(stored, {"MODEL.DEVICE": "cpu"}) == ["MODEL.DEVICE was cuda, is now cpu"]

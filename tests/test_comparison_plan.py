"""Comparison files and the run lists that follow from them."""

from pathlib import Path

import pytest
import timm_import  # noqa: F401  (one comparison has a backbone of timm)
from comparison_cases import caller, description, written
from conftest import REPO

from rc2l_d2.comparison import load_comparison
from rc2l_d2.engine import load_config
from rc2l_d2.errors import InputError

SHIPPED = sorted((REPO / "configs/comparison").glob("*.yaml"))


@pytest.fixture(autouse=True)
def _in_the_checkout(monkeypatch):
    monkeypatch.chdir(REPO)


@pytest.mark.parametrize(
    ("change", "fragments"),
    [
        ({"metods": {}}, ["unknown key 'metods'"]),
        ({"methods": {}}, ["'methods'"]),
        ({"methods": {"a/b": {}}}, ["'a/b'"]),
        ({"splits": {130: {}}}, ["'130'", "quote"]),
        ({"methods": {"a": {"overides": {}}}}, ["methods.a", "'overides'"]),
        ({"methods": {"a": {"overrides": {"SEED": 1}}}}, ["SEED"]),
        ({"methods": {"a": {"overrides": {"MODEL": {"RC2L": 1}}}}}, ["'methods.a.overrides'", "full config keys"]),
        ({"splits": {"all": {"methods": ["nobody"]}}}, ["'nobody'", "supervised, rc2l"]),
        ({"baseline": "nobody"}, ["'nobody'", "supervised, rc2l"]),
        ({"seeds": [1, 1]}, ["'seeds'"]),
        ({"seeds": [-1]}, ["'seeds'"]),
        ({"config": 3}, ["'config'"]),
        ({"baseline": ["rc2l"]}, ["'['rc2l']'", "supervised, rc2l"]),
        ({"splits": {"all": {"methods": "rc2l"}}}, ["'splits.all.methods' must be a list"]),
        ({"splits": {"all": {"methods": ["rc2l", "rc2l"]}}}, ["'splits.all.methods' must be a list of different"]),
    ],
)
def test_a_mistake_in_the_file_is_reported_in_one_sentence(change, fragments, tmp_path):
    with pytest.raises(InputError) as error:
        load_comparison(written(tmp_path, description("unused", **change)))
    message = str(error.value)
    assert "\n" not in message
    for fragment in ["tiny.yaml", *fragments]:
        assert fragment in message


def test_a_mistake_in_a_configuration_names_the_run(toy_definition, tmp_path, monkeypatch):
    raw = description(toy_definition)
    raw["methods"]["rc2l"]["overrides"]["MODEL.SEMI_SUPERVISED.EMA_DEKAY"] = 0.9
    with pytest.raises(InputError, match="The run 'rc2l, 1_4, seed 1': MODEL.SEMI_SUPERVISED.EMA_DEKAY .*EMA_DECAY"):
        load_comparison(written(tmp_path, raw))
    missing = caller(monkeypatch)(tmp_path / "none.yaml")
    assert missing.returncode == 2 and missing.stderr.count("\n") == 1 and "none.yaml" in missing.stderr


def test_what_would_compare_wrongly_is_refused(toy_definition, tmp_path):
    raw = description(toy_definition)
    raw["methods"]["rc2l"]["overrides"]["DATASETS.TEST"] = ["tiny_train"]
    with pytest.raises(InputError, match="rc2l and supervised are tested on different data in '1_4'; give both one"):
        load_comparison(written(tmp_path, raw))
    twice = written(tmp_path, description(toy_definition)).read_text().replace("  rc2l:\n", "  supervised:\n")
    (tmp_path / "twice.yaml").write_text(twice)
    with pytest.raises(InputError, match="twice.yaml is not valid YAML .*'supervised' is there a second time"):
        load_comparison(tmp_path / "twice.yaml")


def test_the_run_list_goes_seed_by_seed_and_fills_in_the_seed(toy_definition, tmp_path):
    raw = description(toy_definition)
    raw["splits"]["1_4"]["overrides"] = {"DATASETS.TRAIN": ["tiny_labeled_{seed}"], "SOLVER.BASE_LR": "5e-4"}
    raw["splits"]["all"] = {"methods": ["supervised"]}
    comparison = load_comparison(written(tmp_path, raw))
    assert [str(run) for run in comparison.runs] == [
        f"{cell}, seed {seed}" for seed in (1, 2) for cell in ("supervised, 1_4", "rc2l, 1_4", "supervised, all")
    ]
    run = comparison.runs[4]
    assert run.folder == Path("output/comparison/tiny/runs/rc2l/1_4/seed2")
    cfg = load_config(run.arguments[1], run.arguments[3:])
    assert cfg.DATASETS.TRAIN == ("tiny_labeled_2",) and cfg.SOLVER.BASE_LR == 5e-4 and cfg.SEED == 2
    assert cfg.OUTPUT_DIR == str(run.folder) and cfg.MODEL.META_ARCHITECTURE == "RC2L"
    assert comparison.baseline == "supervised" and comparison.methods["rc2l"] == "RC²L"


@pytest.mark.parametrize("key, value, changed", [
    ("MODEL.RC2L.SELECTION", "pixel", {"rc2l"}),
    ("INPUT.STRONG_GRAYSCALE", 0.7, {"rc2l"}),
    ("MODEL.SEMI_SUPERVISED.BURN_IN_ITERS", 3, {"rc2l"}),
    ("MODEL.SEMI_SUPERVISED.EMA_DECAY", 0.25, {"rc2l", "supervised"}),
    ("SOLVER.BASE_LR", 0.25, {"rc2l", "supervised"}),
    ("DATALOADER.NUM_WORKERS", 7, set()),
])  # fmt: skip
def test_only_keys_that_a_method_reads_make_its_results_outdated(toy_definition, tmp_path, key, value, changed):
    settings = []
    for overrides in ({}, {key: value}):
        raw = description(toy_definition, seeds=[1])
        raw["splits"]["1_4"]["overrides"].update(overrides)
        settings.append({run.method: run.settings for run in load_comparison(written(tmp_path, raw)).runs})
    assert {method for method in settings[0] if settings[0][method] != settings[1][method]} == changed


def test_the_projects_comparisons_can_be_planned_and_share_their_equal_runs():
    settings: dict[Path, dict] = {}
    runs: dict[str, set[str]] = {}
    for file in SHIPPED:
        comparison = load_comparison(file)
        runs[file.stem] = {str(run) for run in comparison.runs}
        assert len(runs[file.stem]) == len(comparison.runs)
        made = [run.settings for run in comparison.runs]
        assert all(one != other for index, one in enumerate(made) for other in made[:index]), "one run twice"
        for run in comparison.runs:
            assert settings.setdefault(run.folder, run.settings) == run.settings, f"two different runs in {run.folder}"
    shared = {f"{method}, 1_16, seed {seed}" for method in ("supervised", "pixel", "rc2l") for seed in (1, 2, 3)}
    assert runs["toy"] & runs["toy_ablations"] == shared
    shared = {f"{method}, 1_8, seed {seed}" for method in ("supervised", "rc2l", "smc_alone") for seed in (0, 1, 2)}
    assert runs["msrc21"] & runs["msrc21_ablations"] == shared
    assert runs["camvid"] == runs["camvid_R50_gpu"] and len(runs["camvid"]) == 21

"""The training report: one self-contained file with the run's numbers, images and commands."""

import base64
import io
import json
import math
import re
import shlex
import shutil
from pathlib import Path
from xml.etree import ElementTree

import numpy as np
import pytest
import torch
import yaml
from conftest import REPO, TINY, call_command
from PIL import Image

from rc2l_d2.commands.report import main
from rc2l_d2.engine import RC2LTrainer, load_config
from rc2l_d2.errors import InputError
from rc2l_d2.evaluation import predict_images
from rc2l_d2.host import build_model
from rc2l_d2.reporting import note_start, report_on, write_run_report
from rc2l_d2.reporting.charts import line_chart
from rc2l_d2.reporting.provenance import commit, read_starts
from rc2l_d2.reporting.run_folder import collect_scalars, read_entries, read_run

CONFIG = "configs/toy/rc2l_R18.yaml"
HOSTILE = "<script src='https://example.org/x.js'></script>&amp;\"%{{ 7 * 7 }}"


class Page:
    """A report, parsed as XML.

    Attributes:
        text: all text outside of the style sheet.
        rows: row name -> values of the ``data`` elements of the first table row with this name.
        addresses: everything that an element refers to.
        commands: contents of the ``pre`` elements.
        images: the JPEG images.
    """

    def __init__(self, file: Path):
        self.source = file.read_text(encoding="utf-8")
        root = ElementTree.fromstring(self.source)
        self.text = "".join(root.find("body").itertext())
        self.addresses = [element.attrib[name] for element in root.iter() for name in ("src", "href", "action", "data")
                          if name in element.attrib]  # fmt: skip
        self.commands = [element.text for element in root.iter("pre")]
        self.rows: dict[str, list[float]] = {}
        for row in root.iter("tr"):
            values = [float(element.attrib["value"]) for element in row.iter("data")]
            self.rows.setdefault("".join(row[0].itertext()).strip(), values)
        jpegs = [address.split("jpeg;base64,")[1] for address in self.addresses if "image/jpeg" in address]
        self.images = [Image.open(io.BytesIO(base64.b64decode(jpeg))) for jpeg in jpegs]
        # Every report is self-contained.
        tags = {element.tag for element in root.iter()}
        assert not tags & {"script", "link", "iframe", "object", "embed", "base", "form"}
        assert all(re.match("data:image/(jpeg|svg[+]xml);base64,", address) for address in self.addresses)
        assert not re.search(r"@import|url\(", self.source)


def trained(options: list[str], *more: str) -> RC2LTrainer:
    """Train without a report."""
    overrides = [*options, "TEST.REPORT", "True", "SOLVER.CHECKPOINT_PERIOD", "100", *more]
    torch.manual_seed(0)  # initial weights must not depend on earlier tests
    trainer = RC2LTrainer(load_config(CONFIG, overrides))
    out = Path(trainer.cfg.OUTPUT_DIR)
    out.mkdir(exist_ok=True)
    (out / "config.yaml").write_text(trainer.cfg.dump())
    trainer.resume_or_load(resume=False)
    note_start(trainer)
    trainer.train()
    return trainer


@pytest.fixture(scope="module")
def hostile(toy_definition, tmp_path_factory) -> Path:
    """Folder of a finished run with its report; a class and the folder have hostile names."""
    folder = tmp_path_factory.mktemp("hostile")
    definition = yaml.safe_load(Path(toy_definition).read_text())
    definition |= {"name": "hostile", "root": str(Path(toy_definition).parent / "data")}
    definition["classes"][1] = HOSTILE
    (folder / "hostile.yaml").write_text(yaml.safe_dump(definition, sort_keys=False))
    trainer = trained(
        [*TINY, "DATASETS.DEFINITIONS", f"('{folder / 'hostile.yaml'}',)", "DATASETS.TRAIN", "('hostile_labeled',)"],
        "DATASETS.UNLABELED", "('hostile_unlabeled',)", "DATASETS.TEST", "('hostile_val',)", "SOLVER.MAX_ITER", "24",
        # With the toy set's rate all numbers may still be zero after so few iterations.
        "SOLVER.BASE_LR", "0.003", "MODEL.SEMI_SUPERVISED.EMA_DECAY", "0.8", "OUTPUT_DIR", str(folder / "<out>"),
        "MODEL.SEMI_SUPERVISED.MEASURE_PSEUDO_LABELS", "True",
    )  # fmt: skip
    assert report_on(trainer) == folder / "<out>" / "report.html"
    return folder / "<out>"


def entries_of(folder: Path) -> list[dict]:
    return [json.loads(line) for line in (folder / "metrics.json").read_text().splitlines()]


def test_the_report_is_self_contained_and_has_the_numbers_of_metrics_json(hostile):
    page = Page(hostile / "report.html")
    assert page.text.count(HOSTILE) >= 3, "table and legends"
    assert str(hostile) in page.text and "24 of 24 iterations" in page.text
    # Six test images with ground truth, prediction and errors, and six unlabelled ones with pseudo regions.
    assert len(page.images) == 6 * 4 + 6 * 2
    assert len({image.tobytes() for image in page.images}) > 30
    for name in ("loss_ce", "loss_rmc", "total_loss", "pseudo/confident_share", "pseudo/recall, each class"):
        assert name in page.text, name
    assert f"commit {commit(REPO)}" in page.text and "seed 1" in page.text
    assert re.search(r"\d pseudo regions on \d+ % of the image", page.text)
    last = [entry for entry in entries_of(hostile) if "sem_seg/mIoU" in entry][-1]
    names = [key.removeprefix("sem_seg/IoU-") for key in last if key.startswith("sem_seg/IoU-")]
    assert len(names) == 8 and HOSTILE in names and last["sem_seg_teacher/mIoU"] > 0
    for name, key in [*((name, f"IoU-{name}") for name in names), *((key, key) for key in ("mIoU", "fwIoU", "pACC"))]:
        expected = [last[f"sem_seg_teacher/{key}"], last[f"sem_seg/{key}"]]
        assert page.rows[name] == pytest.approx(expected, abs=0, rel=0, nan_ok=True)


def test_a_report_written_later_is_the_same_and_its_command_resumes(hostile, tmp_path):
    first = Page(hostile / "report.html")
    shutil.copytree(hostile, tmp_path / "moved")
    page = Page(write_run_report(tmp_path / "moved"))
    assert page.addresses == first.addresses, "charts and images"
    commands = page.commands
    config = str(tmp_path / "moved/config.yaml")
    assert shlex.split(commands[1]) == [
        "python", "train_net.py", "--config-file", config, "--resume", "SOLVER.MAX_ITER", "48",
        "OUTPUT_DIR", str(tmp_path / "moved"),
    ]  # fmt: skip
    assert shlex.split(commands[2]) == ["python", "tools/make_report.py", str(tmp_path / "moved")]


def test_a_baseline_beside_the_run(hostile, tmp_path, monkeypatch):
    shutil.copytree(hostile, tmp_path / "run", ignore=shutil.ignore_patterns("*.pth", "last_checkpoint"))
    shutil.copytree(tmp_path / "run", tmp_path / "base")
    rows = [{key: 0.25 * value if "IoU" in key else value for key, value in row.items()} for row in entries_of(hostile)]
    rows_in(tmp_path / "base", rows)
    arguments = [tmp_path / "run", "--baseline", tmp_path / "base"]
    result = call_command(monkeypatch, "rc2l-report", main, *arguments)
    assert result.returncode == 0 and result.stdout == f"Report: {tmp_path / 'run/report.html'}\n", result.stderr
    page = Page(tmp_path / "run/report.html")
    teacher, _, baseline, difference = page.rows["mIoU"]
    assert teacher > 0 and baseline == 0.25 * teacher and difference == pytest.approx(0.75 * teacher)
    assert shlex.split(page.commands[-1])[-3:] == [str(argument) for argument in arguments]
    assert "The baseline has not finished" not in page.text and "baseline, after" not in page.text
    rows_in(tmp_path / "base", [{**row, "iteration": row["iteration"] // 2} for row in rows])
    text = Page(write_run_report(*arguments[::2])).text
    assert re.search(r"The baseline has not finished: \d+ of \d+ iterations.*baseline, after \d+", text, re.DOTALL)
    # Without weights there are no images, and nothing to resume from.
    assert "Example images are missing: " in page.text and not page.images and len(page.commands) == 2


def rows_in(folder: Path, rows: list[dict], end: str = "") -> None:
    (folder / "metrics.json").write_text("".join(json.dumps(row) + "\n" for row in rows) + end)


def in_folder(folder: Path, options: list[str], rows: list[dict], *more: str) -> Path:
    """Write the folder of a run with these options and these lines of metrics.json."""
    folder.mkdir(exist_ok=True)
    (folder / "config.yaml").write_text(load_config(CONFIG, [*options, *more]).dump())
    rows_in(folder, rows)
    return folder


def test_reports_before_an_evaluation_without_and_with_several_test_sets(tiny_options, tmp_path):
    begun = in_folder(tmp_path / "begun", tiny_options, [{"iteration": 1, "total_loss": 3.25}])
    page = Page(write_run_report(begun))
    assert "2 of 6 iterations" in page.text and "Not evaluated yet." in page.text and "has not finished" in page.text
    no_test = in_folder(tmp_path / "none", tiny_options, [{"iteration": 5, "lr": 1e-4}], "DATASETS.TEST", "()")
    assert "DATASETS.TEST is empty" in Page(write_run_report(no_test)).text
    scores = {"mIoU": 3.125, "IoU-disc": 1 / 3, "IoU-ring": math.nan}
    both = {"iteration": 6}
    for prefix, factor in (("tiny_val/sem_seg", 1), ("tiny_val/sem_seg_teacher", 10), ("tiny_labeled/sem_seg", 2),
                           ("tiny_labeled/sem_seg_teacher", 20)):  # fmt: skip
        both |= {f"{prefix}/{name}": factor * value for name, value in scores.items()}
    two = in_folder(tmp_path / "two", tiny_options, [both], "DATASETS.TEST", "('tiny_val','tiny_labeled')")
    page = Page(write_run_report(two))
    assert page.rows["mIoU"] == [31.25, 3.125] and page.rows["disc"] == [10 * (1 / 3), 1 / 3]
    assert all(map(math.isnan, page.rows["ring"] + page.rows["star"]))
    assert "value='62.5'" in page.source and "value='6.25'" in page.source


def test_the_report_has_the_commands_of_a_run_on_labels_alone(tiny_options, tmp_path):
    def commands(name: str, architecture: str) -> tuple[Path, list[str]]:
        row = {"iteration": 6, "sem_seg/mIoU": 1.0, "sem_seg_teacher/mIoU": 1.0}
        folder = in_folder(tmp_path / name, tiny_options, [row], "MODEL.META_ARCHITECTURE", architecture)
        return folder, Page(write_run_report(folder)).commands

    folder, shown = commands("run", "RC2L")
    train, report = map(shlex.split, shown[-1].split("\n"))
    assert train == [
        "python", "train_net.py", "--config-file", f"{folder}/config.yaml",
        "MODEL.META_ARCHITECTURE", "RegionSegmentor", "OUTPUT_DIR", f"{folder}_labels_alone",
    ]  # fmt: skip
    assert report == ["python", "tools/make_report.py", str(folder), "--baseline", f"{folder}_labels_alone"]
    (folder / "starts.json").write_text('[{"processes": 2}]')
    assert "--num-gpus 2 MODEL" in read_run(folder).labels_alone_commands()[0]
    assert "MODEL.META_ARCHITECTURE PerPixelSegmentor" in commands("unimatch", "UniMatch")[1][-1]
    folder, shown = commands("alone", "RegionSegmentor")
    assert not any("labels_alone" in command for command in shown) and not read_run(folder).labels_alone_commands()


def test_a_run_on_labels_alone_has_no_pseudo_labels(tiny_options):
    options = ["MODEL.META_ARCHITECTURE", "RegionSegmentor", "DATASETS.UNLABELED", "()"]
    page = Page(report_on(trained(tiny_options, *options)))
    assert len(page.images) == 6 * 4 and "loss_dice" in page.text
    assert "Pseudo-labels" not in page.text and "loss_rmc" not in page.text


def test_a_report_that_fails_or_is_not_wanted_leaves_the_run_as_it_is(make_trainer, tiny_options, tmp_path, logged):
    out = in_folder(tmp_path / "out", tiny_options, [{"iteration": 1, "total_loss": 3.25}])
    trainer = make_trainer("TEST.REPORT", "True")
    (out / "report.html").mkdir()
    logged.clear()
    assert report_on(trainer) is None
    (message,) = (message for level, message in logged if level == "WARNING")
    assert message.startswith("No training report (InputError: ") and "report" in message and "\n" not in message
    (out / "report.html").rmdir()
    assert report_on(make_trainer()) is None and not (out / "report.html").exists()
    # Starts are noted one after the other; a run from the beginning starts a new list.
    for trainer.start_iter, expected in ((0, [0]), (6, [0, 6]), (0, [0])):
        note_start(trainer)
        assert [start["iteration"] for start in read_starts(out)] == expected and read_starts(out)[0]["seed"] == 1
    (out / "starts.json").write_text("[1")
    assert read_starts(out) == []


def test_a_wrong_folder_is_reported_in_one_sentence(tiny_options, tmp_path, monkeypatch):
    begun = in_folder(tmp_path / "begun", tiny_options, [])
    with pytest.raises(InputError, match="holds no numbers yet"):
        write_run_report(begun)
    (begun / "metrics.json").unlink()
    result = call_command(monkeypatch, "rc2l-report", main, begun)
    problem = f"{begun} holds no metrics.json; give the OUTPUT_DIR of a run that has trained."
    assert result.returncode == 2 and not result.stdout and result.stderr == f"rc2l-report: {problem}\n"
    with pytest.raises(InputError, match=f"{tmp_path} holds no config.yaml; give the OUTPUT_DIR"):
        write_run_report(tmp_path)
    rows = [{"iteration": 6, "sem_seg/mIoU": 1.0, "sem_seg_teacher/mIoU": 1}]
    done = in_folder(tmp_path / "done", tiny_options, rows)
    other = in_folder(tmp_path / "other", tiny_options, [{"iteration": 6, "lr": 1.0}])
    elsewhere = in_folder(tmp_path / "elsewhere", [*tiny_options, "DATASETS.TEST", "('tiny_labeled',)"], rows)
    for baseline in (other, elsewhere):
        with pytest.raises(InputError, match=f"{baseline} was not evaluated on tiny_val; give --baseline"):
            write_run_report(done, baseline)
    assert not (done / "report.html").exists()


def test_numbers_that_a_resumed_run_repeats_are_its_own(tmp_path):
    file = tmp_path / "metrics.json"
    rows = [
        {"iteration": 19, "lr": 1.0}, {"iteration": 17, "loss": 9.0},  # one write, the later iteration first
        {"iteration": 39, "lr": 2.0, "loss": 8.0, "gone": 1.0}, {"iteration": 59, "lr": 3.0, "loss": 7.0},
        {"iteration": 39, "lr": 4.0, "loss": 6.0},
        {"iteration": 60, "sem_seg/mIoU": 5.0},
    ]  # fmt: skip
    rows_in(tmp_path, rows, '{"iteration": 79, "l')
    assert collect_scalars(read_entries(file), 60) == {
        "lr": {20: 1.0, 40: 4.0}, "loss": {18: 9.0, 40: 6.0}, "gone": {40: 1.0}, "sem_seg/mIoU": {60: 5.0}
    }  # fmt: skip
    # Another run in the same folder: nothing of the one before it is left.
    rows_in(tmp_path, [*rows, {"iteration": 9, "lr": 0.5}])
    assert collect_scalars(read_entries(file), 60) == {"lr": {10: 0.5}}
    assert collect_scalars(read_entries(tmp_path / "none.json"), 60) == {}


def test_a_chart_is_a_small_transparent_svg():
    curve = {10 * i: math.sin(i / 100) for i in range(1, 5000)}
    uri = line_chart([curve, curve], 50000, mark=20000)
    svg = base64.b64decode(uri.removeprefix("data:image/svg+xml;base64,")).decode()
    assert "<svg" in svg and len(svg) < 60_000
    assert "#0072b2" in svg.lower() and "#e69f00" in svg.lower() and "#ffffff" not in svg


def test_example_images_have_their_files_colours(tiny_options):
    cfg = load_config(CONFIG, tiny_options)
    (sample,) = predict_images(cfg, build_model(cfg).eval(), "tiny_val", [0])
    expected = np.array(Image.open(sample.file).convert("RGB")).astype(int)
    assert np.abs(sample.image - expected).mean() < 2 < np.abs(sample.image - expected[..., ::-1]).mean()

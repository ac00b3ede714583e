"""The page on a run: it holds what the run left, whatever names files have, and its commands do what they say."""

from __future__ import annotations

import base64
import io
import json
import math
import os
import re
import shlex
import shutil
import subprocess
import sys
from html.parser import HTMLParser
from pathlib import Path

import pytest
import yaml
from conftest import REPO, TINY
from PIL import Image

from rc2l_d2.engine import RC2LTrainer, load_config
from rc2l_d2.errors import InputError
from rc2l_d2.reporting import note_start, report_on, write_run_report
from rc2l_d2.reporting.charts import Line, line_chart
from rc2l_d2.reporting.provenance import commit, read_starts
from rc2l_d2.reporting.run_metrics import read_scalars

CONFIG = ("--config-file", "configs/toy/rc2l_R18.yaml")
HOSTILE = "<script src='https://example.org/x.js'></script>&amp;\"%{{ 7 * 7 }}"
_VOID = {"meta", "img", "link", "br", "hr", "input", "base", "source", "embed"}


class Page(HTMLParser):
    """A page taken apart: elements must be closed in order.

    Attributes:
        text: all of it outside of style.
        rows: of every table, the texts of the row's cells.
        values: of every row, what its ``data`` elements hold.
        addresses: of every attribute that refers to something.
        commands: what stands in the last section's ``pre`` elements, by the heading before them.
    """

    def __init__(self, file: Path):
        super().__init__()
        self.text, self.rows, self.values, self.addresses, self.ids, self.tags = "", [], [], [], [], set()
        self.commands: dict[str, str] = {}
        self.open: list[str] = []
        self._heading = ""
        self.source = file.read_text(encoding="utf-8")
        self.feed(self.source)
        self.close()
        assert not self.open, self.open

    def handle_starttag(self, tag, attrs):
        self.tags.add(tag)
        attributes = dict(attrs)
        self.addresses += [value for name, value in attrs if name in ("src", "href", "xlink:href", "action", "data")]
        self.ids += [attributes["id"]] if "id" in attributes else []
        if tag == "tr":
            self.rows.append([])
            self.values.append([])
        if tag in ("td", "th"):
            self.rows[-1].append("")
        if tag == "data" and "tr" in self.open:
            self.values[-1].append(float(attributes["value"]))
        if tag == "h3":
            self._heading = ""
        if tag not in _VOID:
            self.open.append(tag)

    def handle_startendtag(self, tag, attrs):
        self.handle_starttag(tag, attrs)
        self.open.pop()

    def handle_endtag(self, tag):
        assert self.open and self.open.pop() == tag, (tag, self.getpos())

    def handle_data(self, data):
        if "style" in self.open:
            return
        self.text += data
        if self.open[-1:] == ["h3"]:
            self._heading += data
        if self.open[-1:] == ["pre"] and "section" in self.open and "details" not in self.open:
            self.commands[self._heading] = data
        if self.rows and self.rows[-1] and {"td", "th"} & set(self.open):
            self.rows[-1][-1] += data

    def row(self, name: str) -> list[float]:
        """The numbers of the row that begins with ``name``, in the first table that has one."""
        found = [index for index, cells in enumerate(self.rows) if cells and cells[0].strip() == name]
        return self.values[found[0]]

    def pictures(self) -> list[Image.Image]:
        uris = [address for address in self.addresses if address.startswith("data:")]
        return [Image.open(io.BytesIO(base64.b64decode(uri.removeprefix("data:image/jpeg;base64,")))) for uri in uris]

    def assert_self_contained(self):
        assert not self.tags & {"script", "link", "iframe", "object", "embed", "base", "form"}
        local = [address.removeprefix("#") for address in self.addresses if not address.startswith("data:image/jpeg;")]
        assert local and set(local) <= set(self.ids)
        assert len(self.ids) == len(set(self.ids)), "two elements of one name"
        assert not re.search(r"@import|url\((?!#)", self.source)


def defined(folder: Path, toy_definition: str, **changes) -> str:
    """A YAML of the tiny set's files under other names; gives its path."""
    definition = yaml.safe_load(Path(toy_definition).read_text())
    definition |= {"root": str(Path(toy_definition).parent / "data"), **changes}
    file = folder / f"{definition['name']}.yaml"
    file.write_text(yaml.safe_dump(definition, sort_keys=False))
    return str(file)


def run(*command: str) -> subprocess.CompletedProcess:
    command = (sys.executable, *command[1:]) if command[0] == "python" else command
    environment = {**os.environ, "OMP_NUM_THREADS": "1"}
    return subprocess.run(command, cwd=REPO, env=environment, capture_output=True, text=True, timeout=300)


@pytest.fixture(scope="module")
def hostile(toy_definition, tmp_path_factory) -> tuple[Path, list[str]]:
    """Folder of a run through the real command line whose second class has a hostile name, and its overrides."""
    folder = tmp_path_factory.mktemp("hostile")
    classes = yaml.safe_load(Path(toy_definition).read_text())["classes"]
    file = defined(folder, toy_definition, name="hostile", classes=[classes[0], HOSTILE, *classes[2:]])
    overrides = [
        *TINY, "DATASETS.DEFINITIONS", f"('{file}',)", "DATASETS.TRAIN", "('hostile_labeled',)",
        "DATASETS.UNLABELED", "('hostile_unlabeled',)", "DATASETS.TEST", "('hostile_val',)",
        # At the toy set's rate it may not know the background after so few iterations, and all numbers be zero.
        "SOLVER.MAX_ITER", "40", "SOLVER.BASE_LR", "0.003", "SOLVER.CHECKPOINT_PERIOD", "20", "TEST.EVAL_PERIOD", "20",
        "MODEL.SEMI_SUPERVISED.EMA_DECAY", "0.8", "MODEL.SEMI_SUPERVISED.MEASURE_PSEUDO_LABELS", "True", "TEST.REPORT", "True",
        "OUTPUT_DIR", str(folder / "<out>"),
    ]  # fmt: skip
    result = run("python", "train_net.py", *CONFIG, *overrides)
    assert result.returncode == 0, result.stderr
    assert f": {folder / '<out>' / 'report.html'}" in result.stdout
    return folder / "<out>", overrides


def logged(folder: Path) -> list[dict]:
    return [json.loads(line) for line in (folder / "metrics.json").read_text().splitlines()]


def test_a_run_ends_with_a_page_that_needs_nothing_else(hostile):
    folder, overrides = hostile
    page = Page(folder / "report.html")
    page.assert_self_contained()
    assert page.text.count(HOSTILE) >= 4, "table, legends and class by class"
    assert str(folder) in page.text and "40 of 40 iterations" in page.text
    # Six images of each kind: with truth, answer and difference, and with pseudo regions.
    assert len(page.pictures()) == 6 * 4 + 6 * 2
    assert len({picture.tobytes() for picture in page.pictures()}) > 30
    for name in ("loss_ce", "loss_rmc", "total_loss", "pseudo/confident_share", "pseudo/recall, each class"):
        assert name in page.text, name
    facts = {cells[0]: cells[1] for cells in page.rows if len(cells) == 2}
    assert shlex.split(facts["command"]) == ["python", "train_net.py", *CONFIG, *overrides]
    assert facts["configuration file"] == CONFIG[1] and facts["overrides"] == " ".join(overrides)
    assert facts["seed"] == "1" and facts["labelled"].startswith("hostile_labeled: 6 images")
    assert commit(REPO) in facts["code"] and "cores" in facts["hardware"]


def test_the_last_evaluations_numbers_are_those_of_metrics_json(hostile):
    folder, _ = hostile
    page, last = Page(folder / "report.html"), [entry for entry in logged(folder) if "sem_seg/mIoU" in entry][-1]
    names = [key.removeprefix("sem_seg/IoU-") for key in last if key.startswith("sem_seg/IoU-")]
    assert len(names) == 8 and HOSTILE in names
    for name, key in [(name, f"IoU-{name}") for name in names] + [(key, key) for key in ("mIoU", "fwIoU", "pACC")]:
        expected = [last[f"sem_seg_teacher/{key}"], last[f"sem_seg/{key}"]]
        assert page.row(name) == pytest.approx(expected, abs=0, rel=0, nan_ok=True)
    assert last["sem_seg_teacher/mIoU"] > 0, "all zero would prove nothing"


def test_its_commands_do_what_they_say(hostile, tmp_path):
    folder, _ = hostile
    shutil.copytree(folder, tmp_path / "moved")
    write_run_report(tmp_path / "moved")
    commands = Page(tmp_path / "moved" / "report.html").commands
    assert [*commands] == ["Train on, for as long again", "Evaluate", "Predict", "Make this page again"]
    config = (tmp_path / "moved" / "config.yaml").read_text()

    result = run(*shlex.split(commands["Evaluate"]))
    assert result.returncode == 0, result.stderr
    scores = re.findall(r"copypaste: ([\d.]+),[\d.,]+$", result.stdout, re.MULTILINE)
    last = [entry for entry in logged(folder) if "sem_seg/mIoU" in entry][-1]
    assert scores == [f"{last[f'{task}/mIoU']:.4f}" for task in ("sem_seg", "sem_seg_teacher")]
    # Only where it writes has changed: training goes on with the same configuration.
    # Detectron2 writes what occurs twice as anchors, or not.
    written = yaml.safe_load((tmp_path / "moved" / "config.yaml").read_text())
    assert written == yaml.safe_load(config.replace(str(folder), str(tmp_path / "moved")))

    result = run(*shlex.split(commands["Predict"]))
    assert result.returncode == 0, result.stderr
    assert len([*(tmp_path / "moved" / "pictures").glob("*.png")]) == 1

    known = ["python", "train_net.py", "--config-file", str(tmp_path / "moved" / "config.yaml"), "--resume"]
    moved = ["OUTPUT_DIR", str(tmp_path / "moved")]
    assert shlex.split(commands["Train on, for as long again"]) == [*known, "SOLVER.MAX_ITER", "80", *moved]


def test_a_baseline_stands_beside_the_run(hostile, tmp_path):
    folder, _ = hostile
    shutil.copytree(folder, tmp_path / "run", ignore=shutil.ignore_patterns("*.pth", "last_checkpoint"))
    shutil.copytree(tmp_path / "run", tmp_path / "base")
    rows = [{key: 0.3 * value if "IoU" in key else value for key, value in row.items()} for row in logged(folder)]
    (tmp_path / "base" / "metrics.json").write_text("".join(json.dumps(row) + "\n" for row in rows))
    result = run("python", "tools/make_report.py", str(tmp_path / "run"), "--baseline", str(tmp_path / "base"))
    assert result.returncode == 0, result.stderr
    assert result.stdout == f"Report: {tmp_path / 'run' / 'report.html'}\n"
    page = Page(tmp_path / "run" / "report.html")
    page.assert_self_contained()
    teacher, _, baseline = page.row("background")
    assert teacher > 0 and baseline == 0.3 * teacher
    again = shlex.split(page.commands["Make this page again"])
    assert again[-3:] == [str(tmp_path / "run"), "--baseline", str(tmp_path / "base")]
    # Without weights there is nothing to ask and nothing to go on from, and both are told.
    assert "There are no pictures: " in page.text and not page.pictures()
    assert [*page.commands] == ["Make this page again"]


def in_folder(folder: Path, options: list[str], rows: list[dict], *more: str) -> Path:
    """A folder as of a run with these options and these lines of metrics.json."""
    cfg = load_config("configs/toy/rc2l_R18.yaml", [*options, *more])
    folder.mkdir(exist_ok=True)
    (folder / "config.yaml").write_text(cfg.dump())
    (folder / "metrics.json").write_text("".join(json.dumps(row) + "\n" for row in rows))
    return folder


def evaluated(iteration: int, prefix: str = "", **scores: float) -> dict:
    """A line with these metrics of the student, ten times as much of the teacher."""
    tasks = {"sem_seg": 1, "sem_seg_teacher": 10}
    return {
        "iteration": iteration,
        **{f"{prefix}{task}/{name}": times * value for task, times in tasks.items() for name, value in scores.items()},
    }


def test_runs_that_are_not_finished_evaluated_or_of_one_test_set(tiny_options, toy_definition, tmp_path):
    begun = in_folder(tmp_path / "begun", tiny_options, [{"iteration": 1, "total_loss": 3.25}])
    page = Page(write_run_report(begun))
    assert "2 of 6 iterations" in page.text and "Not evaluated yet." in page.text and "not come to its end" in page.text
    assert "the folder has no starts.json" in page.text

    no_test = in_folder(tmp_path / "none", tiny_options, [{"iteration": 5, "lr": 1e-4}], "DATASETS.TEST", "()")
    assert "DATASETS.TEST is empty" in Page(write_run_report(no_test)).text

    scores = {"mIoU": 3.125, "IoU-disc": 1 / 3, "IoU-ring": math.nan}
    other = {name: 2 * score for name, score in scores.items()}
    both = {**evaluated(6, "tiny_val/", **scores), **evaluated(6, "tiny_labeled/", **other)}
    two = in_folder(tmp_path / "two", tiny_options, [both], "DATASETS.TEST", "('tiny_val','tiny_labeled')")
    page = Page(write_run_report(two))
    assert page.row("mIoU") == [31.25, 3.125] and page.row("disc") == [10 * (1 / 3), 1 / 3]
    assert all(map(math.isnan, page.row("ring"))) and all(map(math.isnan, page.row("star")))
    assert [6.25 * 10, 6.25] in page.values
    page.assert_self_contained()


def trained(options: list[str], *more: str) -> RC2LTrainer:
    options = [*options, "SOLVER.CHECKPOINT_PERIOD", "100", *more]
    trainer = RC2LTrainer(load_config("configs/toy/rc2l_R18.yaml", options))
    (folder := Path(trainer.cfg.OUTPUT_DIR)).mkdir(exist_ok=True)
    (folder / "config.yaml").write_text(trainer.cfg.dump())
    trainer.resume_or_load(resume=False)
    note_start(trainer, CONFIG[1], more)
    trainer.train()
    return trainer


REPORT = ("TEST.REPORT", "True")


def test_a_run_on_labels_alone_has_no_pseudo_labels(tiny_options, tmp_path):
    trainer = trained(tiny_options, *REPORT, "MODEL.META_ARCHITECTURE", "RegionSegmentor", "DATASETS.UNLABELED", "()")
    page = Page(report_on(trainer))
    page.assert_self_contained()
    assert len(page.pictures()) == 6 * 4 and "loss_dice" in page.text
    assert "Pseudo-labels" not in page.text and "loss_rmc" not in page.text
    assert {cells[0] for cells in page.rows if cells} >= {"labelled", "test"}


def test_unlabelled_images_need_no_labels(tiny_options, toy_definition, tmp_path):
    bare = yaml.safe_load(Path(toy_definition).read_text())
    bare = {key: bare[key] for key in ("images", "image_suffix", "classes", "parts")}
    root = Path(toy_definition).parent / "data"
    (tmp_path / "bare.yaml").write_text(yaml.safe_dump({"name": "bare", "root": str(root), **bare}, sort_keys=False))
    both = f"('{toy_definition}','{tmp_path / 'bare.yaml'}')"
    options = [*tiny_options, "DATASETS.DEFINITIONS", both, "DATASETS.UNLABELED", "('bare_unlabeled',)", *REPORT]
    trainer = trained(options)
    page = Page(report_on(trainer))
    assert len(page.pictures()) == 6 * 4 + 6 * 2
    assert re.search(r"\d pseudo regions on \d+ % of the image", page.text)
    # The page that is made later is the same: what it shows comes from the files.
    folder = tmp_path / "out"
    assert Page(write_run_report(folder)).source == page.source
    # With the file for prediction alone there is a teacher to show, but not what it is confident of.
    for file in (*folder.glob("model_*.pth"), folder / "last_checkpoint"):
        file.unlink()
    page = Page(write_run_report(folder))
    assert len(page.pictures()) == 6 * 4 and "does not have the teacher's confidences" in page.text
    assert [*page.commands] == ["Predict", "Make this page again"]


def test_a_report_that_fails_or_is_not_wanted_leaves_the_run_as_it_is(tiny_options, tmp_path, told):
    trainer = trained(tiny_options, *REPORT)
    (tmp_path / "out" / "report.html").mkdir()
    told.clear()
    assert report_on(trainer) is None
    (message,) = (message for level, message in told if level == "WARNING")
    assert message.startswith("There is no report on this run (InputError: ") and "tools/make_report.py" in message
    assert "\n" not in message and (tmp_path / "out" / "model_final.pth").exists()
    (tmp_path / "out" / "report.html").rmdir()
    assert report_on(RC2LTrainer(load_config("configs/toy/rc2l_R18.yaml", tiny_options))) is None
    assert not (tmp_path / "out" / "report.html").exists()


def test_starts_are_noted_one_after_the_other(tiny_options, tmp_path):
    trainer = trained(tiny_options)
    assert [start["iteration"] for start in read_starts(tmp_path / "out")] == [0]
    trainer = RC2LTrainer(load_config("configs/toy/rc2l_R18.yaml", [*tiny_options, "SOLVER.MAX_ITER", "9"]))
    trainer.resume_or_load(resume=True)
    note_start(trainer, "again.yaml", ["SOLVER.MAX_ITER", "9"])
    first, second = read_starts(tmp_path / "out")
    assert first["config_file"] == CONFIG[1] and first["seed"] == second["seed"] == 1
    assert second["iteration"] == 6 and second["config_file"] == "again.yaml"
    facts = [cells for cells in Page(write_run_report(tmp_path / "out")).rows if len(cells) == 2]
    assert ["started", first["date"]] in facts and ["resumed after 6 iterations", second["date"]] in facts
    trainer.resume_or_load(resume=False)
    trainer.start_iter = 0
    note_start(trainer, "new.yaml", [])
    assert [start["config_file"] for start in read_starts(tmp_path / "out")] == ["new.yaml"]
    (tmp_path / "out" / "starts.json").write_text("[1")
    assert read_starts(tmp_path / "out") == []


def test_what_is_no_runs_folder_is_told_in_one_sentence(tiny_options, tmp_path):
    def told(*arguments: Path | str) -> str:
        result = run("python", "tools/make_report.py", *map(str, arguments))
        assert result.returncode == 2 and not result.stdout
        assert result.stderr.startswith("make_report.py: ") and result.stderr.count("\n") == 1
        return result.stderr

    begun = in_folder(tmp_path / "begun", tiny_options, [{"iteration": 1, "total_loss": 3.25}])
    (begun / "metrics.json").unlink()
    assert f"{begun} holds no metrics.json; give the OUTPUT_DIR" in told(begun)
    with pytest.raises(InputError, match=f"{tmp_path} holds no config.yaml; give the OUTPUT_DIR"):
        write_run_report(tmp_path)
    (begun / "metrics.json").write_text('{"iteration": 3, "total')
    with pytest.raises(InputError, match="holds no number yet"):
        write_run_report(begun)
    done = in_folder(tmp_path / "done", tiny_options, [evaluated(6, mIoU=1.0)])
    trains = in_folder(tmp_path / "other", tiny_options, [evaluated(6, mIoU=1.0)], "DATASETS.TEST", "('tiny_train',)")
    with pytest.raises(InputError, match="was not evaluated on tiny_val; give --baseline"):
        write_run_report(done, trains)
    assert not (done / "report.html").exists()


def test_numbers_of_what_a_resumed_run_repeats_are_its_own(tmp_path):
    file = tmp_path / "metrics.json"
    rows = [
        {"iteration": 19, "lr": 1.0}, {"iteration": 17, "loss": 9.0},  # one writing, the later iteration first
        {"iteration": 39, "lr": 2.0, "loss": 8.0, "gone": 1.0}, {"iteration": 59, "lr": 3.0, "loss": 7.0},
        {"iteration": 39, "lr": 4.0, "loss": 6.0},
        {"iteration": 60, "sem_seg/mIoU": 5.0},
    ]  # fmt: skip
    file.write_text("".join(json.dumps(row) + "\n" for row in rows) + '{"iteration": 79, "l')
    assert read_scalars(file, 60) == {
        "lr": {20: 1.0, 40: 4.0}, "loss": {18: 9.0, 40: 6.0}, "gone": {40: 1.0}, "sem_seg/mIoU": {60: 5.0}
    }  # fmt: skip
    # Another run in the same folder: nothing of the one before it is left.
    with file.open("w") as stream:
        stream.write("".join(json.dumps(row) + "\n" for row in [*rows, {"iteration": 9, "lr": 0.5}]))
    assert read_scalars(file, 60) == {"lr": {10: 0.5}}
    assert read_scalars(tmp_path / "none.json", 60) == {}


def test_a_chart_takes_its_colours_and_names_from_the_page():
    points = {10 * i: math.sin(i / 100) for i in range(1, 5000)}
    charts = [
        line_chart(name, [Line("a", points, 0), Line("b", points, 8, faint=True)], 50000, mark=20000)
        for name in ("one", "two")
    ]
    for chart in charts:
        assert chart.startswith("<svg viewBox=") and "http" not in chart
        assert "var(--line0)" in chart and "var(--line1)" in chart and "var(--muted)" in chart
        assert not re.search(r"(?:fill|stroke): ?#(?!none)", chart), "a colour that is the same in light and dark"
        assert len(chart) < 60_000
    ids = [set(re.findall(r' id="([^"]+)"', chart)) for chart in charts]
    assert ids[0] and not ids[0] & ids[1]
    for own, chart in zip(ids, charts, strict=True):
        assert set(re.findall(r'(?:href="#|url\(#)([^")]+)', chart)) <= own

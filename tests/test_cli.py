"""The frame of the commands: options after KEY VALUE pairs."""

import argparse

import pytest

from rc2l_d2.commands.cli import parse_options_anywhere
from rc2l_d2.host import default_argument_parser


@pytest.fixture
def training() -> argparse.ArgumentParser:
    parser = default_argument_parser()
    parser.add_argument("--dry-run", action="store_true")
    return parser


@pytest.mark.parametrize("words", [
    "--resume --num-gpus 2 A.B 1 C -1 D --x",
    "--resume A.B 1 C -1 --num-gpus 2 D --x",
    "A.B 1 --num-gpus=2 C -1 --resume D --x",
    "A.B 1 C -1 D --x --resume --num-gpus 2",
])  # fmt: skip
def test_options_may_stand_anywhere_between_the_pairs(training, words):
    args = parse_options_anywhere(training, words.split())
    assert args.resume and args.num_gpus == 2 and not args.eval_only
    assert args.opts == ["A.B", "1", "C", "-1", "D", "--x"], "a value may begin with dashes, and pairs keep their order"


def test_unknown_options_and_missing_values_are_refused(training, capsys):
    with pytest.raises(SystemExit) as ended:
        parse_options_anywhere(training, ["A.B", "1", "--resum_"])
    assert ended.value.code == 2 and "--resum_" in capsys.readouterr().err
    # A pair without its value ends with a sentence of load_config.
    assert parse_options_anywhere(training, ["A.B", "--resume"]).opts == ["A.B", "--resume"]


def test_options_after_the_pairs_of_an_option():
    parser = argparse.ArgumentParser()
    parser.add_argument("--input", required=True, nargs="+")
    parser.add_argument("--labels", action="store_true")
    parser.add_argument("--opts", default=[], nargs=argparse.REMAINDER)
    args = parse_options_anywhere(parser, "--input a b --opts K 1 L 2 --labels --opts M 3".split())
    assert args.labels and args.input == ["a", "b"] and args.opts == ["K", "1", "L", "2", "M", "3"]
    assert parse_options_anywhere(parser, ["--input", "a"]).opts == []

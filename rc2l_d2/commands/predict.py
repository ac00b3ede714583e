"""Segment pictures and videos.

    rc2l-predict --weights output/toy_rc2l/teacher_final.pth --input datasets/toy/JPEGImages --output output/seen

(in a checkout also python demo/demo.py ...). The file that training writes in the end holds all that is needed. A
checkpoint needs its configuration beside it; its teacher is what speaks, the student with --student:

    rc2l-predict --config-file output/toy_rc2l/config.yaml --input datasets/toy/JPEGImages \\
        --opts MODEL.WEIGHTS output/toy_rc2l/model_0000999.pth

A GPU is used where there is one (CUDA_VISIBLE_DEVICES= hides it). In the output folder are then, for the input NAME:

    NAME.png                        the picture, upright, with colours and names of the classes over it
    NAME.mp4                        the same of a video, at its frame rate, without sound
    legend.svg                      colours and names of all classes that were seen
    labels/NAME.png                 --labels: class numbers, one byte a pixel, with the data set's palette
    confidence/NAME/3_triangle.png  --confidence: for each class that was seen in it, here number 3, the share that it
                                    has in the sum of all scores of a pixel; 8-bit grey, 255 for all
    comparison/NAME.png             --compare: picture, ground truth and prediction side by side, with a legend

Of a video the label image and maps of each frame are written, to labels/NAME/000000.png and confidence/NAME/000000;
it is not compared. What cannot be read, or has no label to compare with, is named in the end, with exit status 2; all
others are written, and of a damaged video the frames before the damage. A mistake in what was given is told in one
sentence, with exit status 2.
"""

from __future__ import annotations

import argparse
import os
import sys
from contextlib import closing
from pathlib import Path

import cv2
from tqdm import tqdm

from ..data import read_image
from ..errors import InputError
from ..host import setup_logger
from ..prediction import Segmenter, load_checkpoint, load_weights
from ..prediction.inputs import find_inputs, is_video, output_name
from ..prediction.outputs import ResultWriter
from ..prediction.video import VideoReader, VideoWriter


def segment_picture(file: Path, segmenter: Segmenter, results: ResultWriter) -> None:
    """Write what is seen in a picture.

    Raises:
        InputError: it cannot be read or is too large, or there is no label to compare it with.
    """
    image = read_image(file)
    seen = segmenter(image)
    image = cv2.cvtColor(image, cv2.COLOR_BGR2RGB)
    results.save(file.stem, results.draw(file.stem, image, seen))
    results.compare(file, image, seen)


def segment_video(file: Path, segmenter: Segmenter, results: ResultWriter) -> None:
    """Write what is seen in a video.

    Raises:
        InputError: it cannot be read, or not to its end; the frames before that are written.
    """
    reader = VideoReader(file)
    bar = tqdm(reader, desc=file.name, total=reader.frames or None, unit="frame", leave=False, disable=None)
    with closing(VideoWriter(results.output / output_name(file), reader.rate)) as video:
        for number, frame in enumerate(bar):
            image = cv2.cvtColor(frame, cv2.COLOR_BGR2RGB)
            video.write(results.draw(f"{file.stem}/{number:06d}", image, segmenter(frame)))


def predict(args: argparse.Namespace) -> tuple[list[Path], list[str]]:
    """Do what the command line asks for; returns the files that were done, and a sentence for each that was not.

    Raises:
        InputError, OSError: nothing can be done, or not be written.
    """
    output = Path(args.output)
    files = find_inputs(args.input, output, args.compare)
    if args.weights:
        segmenter = load_weights(args.weights)
    else:
        segmenter = load_checkpoint(args.config_file, args.opts, args.student)
    results = ResultWriter(output, segmenter, args.labels, args.confidence, args.compare)
    done, failures = [], []
    for file in tqdm(files, unit="file", disable=None):
        try:
            (segment_video if is_video(file) else segment_picture)(file, segmenter, results)
            done.append(file)
        except InputError as error:
            failures.append(str(error) if str(file) in str(error) else f"{file}: {error}")
    results.finish()
    return done, failures


def main() -> int:
    """What the command line asks for; 0, or 2 where it cannot be done, or not all of it."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    source = parser.add_mutually_exclusive_group(required=True)
    source.add_argument("--weights", metavar="FILE", help="teacher_final.pth of a run")
    source.add_argument("--config-file", metavar="FILE", help="configuration of a checkpoint, named in --opts")
    parser.add_argument("--input", required=True, nargs="+", help="pictures, videos, folders or globs (in quotes)")
    parser.add_argument("--output", default="output/pictures", metavar="FOLDER", help="where to write (%(default)s)")
    parser.add_argument("--labels", action="store_true", help="also write label images")
    parser.add_argument("--confidence", action="store_true", help="also write maps of the classes' confidence")
    parser.add_argument(
        "--compare", type=Path, metavar="LABELS",
        help="folder of label images, called like the pictures or as in the data set: draw them beside",
    )  # fmt: skip
    parser.add_argument("--student", action="store_true", help="use the student, not the teacher")
    parser.add_argument("--opts", default=[], nargs=argparse.REMAINDER, help="last: KEY VALUE pairs, as MODEL.WEIGHTS")
    args = parser.parse_args()
    if args.weights and (args.opts or args.student):
        parser.error("--opts and --student are for a checkpoint with its --config-file")
    for name in ("rc2l_d2", "fvcore"):
        setup_logger(name=name)
    called = os.path.basename(sys.argv[0])
    try:
        done, failures = predict(args)
    except (InputError, OSError) as error:
        print(f"{called}: {error}", file=sys.stderr)
        return 2
    except KeyboardInterrupt:
        print(f"{called}: interrupted; what was done until then is in {args.output}", file=sys.stderr)
        return 130
    for failure in failures:
        print(f"{called}: {failure}", file=sys.stderr)
    videos = sum(map(is_video, done))
    counts = ((len(done) - videos, "picture"), (videos, "video"))
    written = [f"{count} {noun}{'s' * (count > 1)}" for count, noun in counts if count]
    print(f"wrote {' and '.join(written) or 'nothing'} to {args.output}")
    return 2 if failures else 0

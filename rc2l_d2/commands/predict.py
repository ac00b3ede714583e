"""Segment images and videos.

    rc2l-predict --weights output/toy_rc2l/teacher_final.pth --input datasets/toy/JPEGImages --output output/seen

teacher_final.pth, written at the end of training, needs nothing else. A checkpoint needs its configuration; its EMA
teacher predicts, or its student with --student:

    rc2l-predict --config-file output/toy_rc2l/config.yaml --input datasets/toy/JPEGImages \\
        --opts MODEL.WEIGHTS output/toy_rc2l/model_0000999.pth

Prediction uses a GPU if there is one (CUDA_VISIBLE_DEVICES= hides it). For an input NAME the output folder gets (an
image a/b.jpg below an input folder has the NAME a/b):

    NAME.png                        the image, upright, with colours and names of the classes over it
    NAME.mp4                        the same for a video, at its frame rate, without sound
    legend.svg                      colours and names of all predicted classes
    labels/NAME.png                 --labels: class indices (places in the model's list of classes, from 0 on), one
                                    byte a pixel, with the data set's palette
    confidence/NAME/4_triangle.png  --confidence: for each predicted class, here class 4, its fraction of the sum of all
                                    class scores of a pixel; 8-bit grey, 255 is 1
    FILE                            --coco FILE: classes of all images as COCO's run lengths, as in Detectron2's
                                    sem_seg_predictions.json; and NAME_dataset.json, a COCO data set of these masks that
                                    labelling tools read as first labels; ids of images and classes are their own
    comparison/NAME.png             --compare: image, ground truth and prediction side by side, with a legend

Images of more than 16 million pixels are read in parts (needs pip install 'rc2l_d2[raster]'): by windows with --tile,
or where the model file sets TEST.SLIDING_WINDOW and INPUT.MIN_SIZE_TEST 0, and shrunk otherwise. Their overlay is
shrunk. The label image of a GeoTIFF of any size is labels/NAME.tif, with its georeference. --confidence, --coco and
--compare need the image as a whole: it is decoded whole up to 178 million pixels, and refused above and with windows.

Labels and confidence maps of a video's frames go to labels/NAME/000000.png and confidence/NAME/000000; videos are not
compared. Files that cannot be read, or that have no label to compare with, are reported at the end, with exit status 2;
all others are written, and of a damaged video the frames before the damage.
"""

from __future__ import annotations

import argparse
import math
from pathlib import Path

from PIL import Image
from tqdm import tqdm

from ..data.loading.plain import LARGEST_IMAGE, header
from ..data.loading.raster import RasterFile, georeference_of
from ..errors import InputError
from ..host import setup_logger
from ..prediction import Segmenter, load_checkpoint, load_segmenter
from ..prediction.coco_results import CocoResults, check_coco_file
from ..prediction.inputs import Input, find_inputs, is_video, refuse_lost_files, refuse_one_path
from ..prediction.large import is_large
from ..prediction.outputs import ResultWriter
from ..prediction.video import VideoReader, VideoWriter
from .cli import print_error, run_cli


def segment_image(given: Input, segmenter: Segmenter, results: ResultWriter) -> None:
    """Write the results of an image; InputError if it cannot be read, is too large, or has no label to compare."""
    overlay = results.output / given.overlay
    overlay.parent.mkdir(parents=True, exist_ok=True)
    if is_large(given.file) and (raster := _open_large(given.file, segmenter, results)):
        with raster:
            Image.fromarray(results.draw_large(given.name, raster)).save(overlay)
        return
    segmentation = segmenter(given.file)
    place = georeference_of(given.file) if results.labels else {}
    Image.fromarray(results.draw(given.name, segmentation, place)).save(overlay)
    if results.coco is not None:
        results.coco.add(given.file, segmentation.labels)
    results.compare(given.file, given.name, segmentation)


def _open_large(file: Path, segmenter: Segmenter, results: ResultWriter) -> RasterFile | None:
    """Return the file as windows; None where it has to be, and can be, decoded whole."""
    whole = math.prod(header(file)[0]) <= LARGEST_IMAGE and not segmenter.by_windows
    if whole and results.needs_whole:
        return None
    try:
        return RasterFile(file, segmenter.bands)
    except InputError:
        if whole:
            return None
        raise


def segment_video(given: Input, segmenter: Segmenter, results: ResultWriter) -> None:
    """Write the results of a video; InputError if it cannot be read to its end, after the frames before that."""
    if segmenter.bands:
        raise InputError(f"{given.file}: the model reads bands and ranges of image files; give its images, not videos.")
    reader = VideoReader(given.file)
    bar = tqdm(reader, desc=given.file.name, total=reader.frames or None, unit="frame", leave=False, disable=None)
    overlay = results.output / given.overlay
    overlay.parent.mkdir(parents=True, exist_ok=True)
    with VideoWriter(overlay, reader.rate) as video:
        for number, frame in enumerate(bar):
            video.write(results.draw(f"{given.name}/{number:06d}", segmenter(frame)))


def predict(args: argparse.Namespace) -> int:
    """Segment all inputs, report those that failed, and return the exit status."""
    if args.weights and (args.opts or args.student):
        raise InputError("--opts and --student are for a checkpoint; give its --config-file instead of --weights.")
    for name in ("rc2l_d2", "fvcore"):
        setup_logger(name=name)
    output = Path(args.output)
    done, failures = [], []
    try:
        files = find_inputs(args.input, output, args.compare)
        kinds = args.labels, args.confidence, args.compare is not None
        refuse_one_path(files, *kinds)
        refuse_lost_files(files, output, *kinds, args.compare)
        if args.coco is not None:
            check_coco_file(args.coco)
        if args.weights:
            segmenter = load_segmenter(args.weights, args.tile)
        else:
            segmenter = load_checkpoint(args.config_file, args.opts, args.student, args.tile)
        coco = None if args.coco is None else CocoResults(args.coco, segmenter.metadata.stuff_classes)
        results = ResultWriter(output, segmenter, args.labels, args.confidence, args.compare, coco)
        try:
            for given in tqdm(files, unit="file", disable=None):
                try:
                    (segment_video if is_video(given.file) else segment_image)(given, segmenter, results)
                    done.append(given)
                except InputError as error:
                    failures.append(str(error) if str(given.file) in str(error) else f"{given.file}: {error}")
        finally:  # also of an interrupted call
            results.finish()
    except OSError as error:
        where, reason = error.filename or args.output, error.strerror or error
        raise InputError(f"{where} cannot be used ({reason}); check the path and the space on the disk.") from error
    except KeyboardInterrupt:
        print_error(f"interrupted; finished results are in {args.output}")
        return 130
    for failure in failures:
        print_error(failure)
    print(f"wrote the results of {len(done)} files to {args.output}")
    return 2 if failures else 0


def main() -> int:
    """Run the command line; return the exit status."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    source = parser.add_mutually_exclusive_group(required=True)
    source.add_argument("--weights", metavar="FILE", help="teacher_final.pth of a run, or a name in models/")
    source.add_argument("--config-file", metavar="FILE", help="configuration of the checkpoint that --opts names")
    parser.add_argument(
        "--input", required=True, nargs="+", help="images, videos, folders (with all below) or globs (in quotes)"
    )
    parser.add_argument("--output", default="output/predictions", metavar="FOLDER", help="output folder (%(default)s)")
    parser.add_argument("--labels", action="store_true", help="also write label images")
    parser.add_argument("--confidence", action="store_true", help="also write confidence maps of the classes")
    coco = "also write the images' classes as COCO run lengths, and FILE_dataset.json for labelling tools (no videos)"
    parser.add_argument("--coco", type=Path, metavar="FILE", help=coco)
    tile = "predict overlapping windows of PIXELS x PIXELS at the image's own size (models trained on crops of it)"
    parser.add_argument("--tile", type=int, default=0, metavar="PIXELS", help=tile)
    labels = "also draw the ground truth beside: folder of label images, named as the images or as in the data set"
    parser.add_argument("--compare", type=Path, metavar="LABELS", help=labels)
    parser.add_argument("--student", action="store_true", help="use the student instead of the EMA teacher")
    parser.add_argument("--opts", default=[], nargs=argparse.REMAINDER, help="last: KEY VALUE pairs, as MODEL.WEIGHTS")
    return run_cli(parser, predict)

"""Data sets, transforms, mappers and loaders. Importing this package registers the built-in data sets.

Registering reads the descriptions that come with the package, but no list and no image.
"""

from pathlib import Path

from .checks.check import check_test_data, check_training_data
from .datasets.catalog import (
    dataset_bands,
    dataset_status,
    load_dataset,
    register_definition,
    register_definitions,
    require_registered,
    stream_entries,
)
from .datasets.description import DatasetDefinition, load_definition
from .datasets.presence import classes_in_label
from .labels.label_files import LabelFiles
from .loading.bands import BandRule
from .loading.loader import (
    build_test_loader,
    build_train_loader,
    build_whole_image_loader,
    check_batch_sizes,
    dead_worker,
)
from .loading.mappers import LabeledMapper, TestMapper, UnlabeledMapper
from .loading.reading import read_image, read_label

for _file in sorted((Path(__file__).parent / "datasets" / "definitions").glob("*.yaml")):
    register_definition(_file)

__all__ = [
    "BandRule",
    "DatasetDefinition",
    "LabelFiles",
    "LabeledMapper",
    "TestMapper",
    "UnlabeledMapper",
    "build_test_loader",
    "build_train_loader",
    "build_whole_image_loader",
    "check_batch_sizes",
    "check_test_data",
    "check_training_data",
    "classes_in_label",
    "dataset_bands",
    "dataset_status",
    "dead_worker",
    "load_dataset",
    "load_definition",
    "read_image",
    "read_label",
    "register_definition",
    "register_definitions",
    "require_registered",
    "stream_entries",
]

"""Checkpoints with atomic writes and safe reads."""

from __future__ import annotations

import glob
import logging
import os
from collections import Counter
from collections.abc import Callable, Sequence
from fnmatch import fnmatchcase
from typing import Any, cast

import torch
import yaml
from torch import nn

from ..config_files import find_model_file
from ..errors import InputError, first_few, one_line
from ..host import CfgNode, DetectionCheckpointer, MetadataCatalog
from ..modeling import RegionSegmentor
from .model_file import is_model_file
from .setup import flat_settings
from .weight_names import is_counter, with_names_of
from .weights import read_weights, require_finite
from .whole_files import is_whole, write_checkpoint, write_text

logger = logging.getLogger(__name__)
_NUMBERED = "model_" + 7 * "[0-9]"  # the checkpoint of an iteration
_FEW = 3  # names in a message
# What decides which values the first layer sees: others make every prediction wrong.
_PIXELS = ("INPUT.FORMAT", "MODEL.PIXEL_MEAN", "MODEL.PIXEL_STD")
# What else decides about predictions, and cannot be told from the names and shapes of weights.
_FORWARD = (
    "MODEL.MASK_FORMER.CLASS_PRIOR", "MODEL.MASK_FORMER.CLASS_MEANS", "MODEL.SEM_SEG_HEAD.ASPP_DILATIONS",
    "MODEL.RESNETS.STRIDE_IN_1X1",
)  # fmt: skip


class RegionCheckpointer(DetectionCheckpointer):
    """Detectron2's checkpointer with atomic writes, safe reads, a damage check and one-sentence errors.

    A checkpoint holds ``model`` (the student), ``ema`` (the teacher), ``best``, the trainer's state, class names, and
    ``settings``, those of the values that the model sees and of its predictions.

    Attributes:
        torchvision: whether the backbone of the file that was loaded last is torchvision's.
    """

    def __init__(
        self,
        model: nn.Module,
        save_dir: str = "",
        *,
        keep: int = 0,
        data_sets: Sequence[str] = (),
        cfg: CfgNode | None = None,
        gather: Callable[[], object] | None = None,
        **checkpointables: Any,
    ):
        """
        Args:
            model: the student.
            save_dir: folder of the checkpoints.
            keep: number of the newest checkpoints of iterations that are kept; 0 keeps all.
            data_sets: registered data sets whose classes the model has; a file for other classes is refused.
            cfg: configuration whose channels, mean and deviation the weights of a file must have; warnings name other
                differences.
            gather: called on all ranks before each write; collects state of other ranks on the main rank.
            checkpointables: other contents of a checkpoint by name.
        """
        super().__init__(model, save_dir, **checkpointables)
        self.keep = keep
        self.gather = gather
        known = {name: MetadataCatalog.get(name).get("stuff_classes") for name in data_sets}
        self.classes = {name: list(classes) for name, classes in known.items() if classes}
        self.settings = {} if cfg is None else _settings(cfg.dump())
        self.torchvision = False
        self._source, self._must_be_complete = "", True

    def save(self, name: str, **kwargs: Any) -> None:
        """Write ``<save_dir>/<name>.pth`` atomically, then remove the oldest checkpoints beyond ``keep``.

        All ranks call it; the main rank writes.

        Raises:
            InputError: the file cannot be written; earlier checkpoints stay as they were.
        """
        if not self.save_dir:
            return
        if self.gather is not None:
            self.gather()
        if not self.save_to_disk:
            return
        states = {key: value.state_dict() for key, value in self.checkpointables.items()}
        classes = {"classes": next(iter(self.classes.values()))} if self.classes else {}
        settings = {"settings": self.settings} if self.settings else {}
        data = {"model": self.model.state_dict(), **states, **classes, **settings, **kwargs}
        path = os.path.join(self.save_dir, f"{name}.pth")
        self.logger.info("Saving checkpoint to %s", path)
        write_checkpoint(data, path)
        self.tag_last_checkpoint(os.path.basename(path))
        if self.keep and fnmatchcase(name, _NUMBERED):
            # Sorted by age, because a reused OUTPUT_DIR may hold later iterations of an older run.
            others = sorted(self._numbered(), key=lambda other: (other == path, os.path.getmtime(other)))
            for old in others[: -self.keep]:
                os.remove(old)

    def _numbered(self) -> list[str]:
        """Return the paths of the checkpoints of single iterations."""
        return glob.glob(os.path.join(glob.escape(self.save_dir), f"{_NUMBERED}.pth"))

    def is_last(self, name: str) -> bool:
        """Return whether ``<name>.pth`` is the last checkpoint."""
        return os.path.basename(super().get_checkpoint_file()) == f"{name}.pth"

    def tag_last_checkpoint(self, last_filename_basename: str) -> None:
        """Write the name of the last checkpoint into the file ``last_checkpoint``, atomically."""
        write_text(os.path.join(self.save_dir, "last_checkpoint"), last_filename_basename)

    def get_checkpoint_file(self) -> str:
        """Return the path of the last checkpoint, or the newest intact one if it is damaged; "" without any.

        Raises:
            InputError: all of them are damaged.
        """
        last = super().get_checkpoint_file()
        if not last:
            return last
        # Names of fixed length sort by iteration; "model_final" comes last.
        for path in [last, *sorted((path for path in self._numbered() if path < last), reverse=True)]:
            if is_whole(path):
                return path
            logger.warning("%s is damaged or missing; the checkpoint before it is used instead.", path)
        raise InputError(
            f"All checkpoints in {self.save_dir} are damaged; start again without --resume, in another OUTPUT_DIR."
        )

    def refresh(self, name: str, key: str) -> None:
        """Write the present state of the checkpointable ``key`` into ``<name>.pth``, if that is the last checkpoint."""
        if not self.save_to_disk or not self.is_last(name):
            return
        path = os.path.join(self.save_dir, f"{name}.pth")
        # Mapped, because reading it would grow resident memory. Windows cannot replace a mapped file.
        data = torch.load(path, map_location="cpu", weights_only=True, mmap=os.name == "posix")
        write_checkpoint({**data, key: self.checkpointables[key].state_dict()}, path)

    def load(self, path: str, checkpointables: list[str] | None = None) -> dict[str, Any]:
        """Load ``path`` into the model and into those of ``checkpointables`` (None: all) that the file has.

        An empty list makes the file a starting point, which may lack weights and have other classes. ``path`` may be
        the name of a model that comes with the package.

        Raises:
            InputError: the file is missing, is not a checkpoint, or does not fit.
        """
        self._source, self._must_be_complete = path, checkpointables != []
        path = find_model_file(path)
        if path and "://" not in path and not os.path.isfile(path):
            raise InputError(
                f"The checkpoint {path} does not exist; give MODEL.WEIGHTS the path of a .pth or .pkl file, or leave "
                "it empty to train from scratch."
            )
        try:
            return super().load(path, checkpointables)
        except InputError:
            raise
        except (OSError, AssertionError) as error:
            advice = "download it and give MODEL.WEIGHTS the file"
            raise InputError(f"The checkpoint {path} could not be fetched ({one_line(error)}); {advice}.") from error
        except (RuntimeError, KeyError, ValueError) as error:
            advice = "use the one that wrote it, or other weights"
            raise InputError(f"{path} does not fit this configuration ({one_line(error)}); {advice}.") from error
        finally:
            # Detectron2 does not reset it after a failed load, and then fails in the next one.
            self._parsed_url_during_load = None

    def _load_file(self, filename: str) -> dict[str, Any]:
        """Read all file types safely; the unpickling of both hosts is never used."""
        return read_weights(filename)

    def _load_model(self, checkpoint: dict[str, Any]):
        """Load ``checkpoint["model"]`` by name, and log what was loaded and what was not.

        What comes from elsewhere does not count: batch counters of norms, constants of the losses, buffers that no file
        has.
        """
        # Detectron2's own matching of names would raise where with_names_of does not.
        checkpoint.pop("matching_heuristics", None)
        self.torchvision = checkpoint.pop("torchvision", False)
        if self.classes and "classes" in checkpoint:
            self._compare_classes(checkpoint["classes"])
        self._compare_settings(checkpoint)
        if not self._must_be_complete and {"learned"} <= checkpoint.keys() & self.checkpointables.keys():
            self.checkpointables["learned"].load_state_dict(checkpoint["learned"])
        model = self.model.state_dict()
        given = checkpoint["model"] = with_names_of(model, checkpoint["model"])
        for weights in (given, checkpoint.get("ema", {}).get("model", {})):
            require_finite({name: x for name, x in weights.items() if name in model}, self._source)
        shapes = {name: tuple(value.shape) for name, value in given.items()}
        wanted = [name for name in model if _is_learned(name)]
        missing = [name for name in wanted if shapes.get(name) != tuple(model[name].shape)]
        loaded = [name for name in wanted if name not in set(missing)]
        if not loaded:
            raise InputError(
                f"None of the weights in {self._source} has a name and shape of the model; give MODEL.WEIGHTS a file "
                "for this architecture."
            )
        buffers = {name for name, _ in self.model.named_buffers()}
        unused = [name for name in given if name not in model and name not in buffers and _is_learned(name)]
        own = {name.partition(".")[0] for name in model}
        unbuilt = [name for name in unused if name.partition(".")[0] in own]  # of a larger backbone or head
        if self._must_be_complete and missing:
            raise InputError(self._incomplete(missing, len(wanted), shapes, model))
        if self._must_be_complete and unbuilt:
            raise InputError(
                f"{self._source} has {len(unbuilt)} weights that the model of this configuration lacks "
                f"({first_few(unbuilt, _FEW)}); give the configuration that wrote the file, or other weights."
            )
        self._require_backbone(wanted, set(missing))
        counts = Counter(".".join(name.split(".")[:2]) for name in loaded)
        listed = ", ".join(f"{prefix} ({count})" for prefix, count in counts.items())
        logger.info("Loaded %d of the model's %d weights: %s", len(loaded), len(wanted), listed)
        if missing or unused:
            logger.info("%d of the model's weights are not in the file, %d of its weights are not used.",
                        len(missing), len(unused))  # fmt: skip
        return super()._load_model(checkpoint)

    def _incomplete(self, missing: Sequence[str], wanted: int, shapes: dict[str, tuple], model: dict) -> str:
        """Return the sentence about a file that lacks weights of the model."""
        others = [name for name in missing if name in shapes]
        advice = "give the configuration that the file was trained with, or other weights"
        if others:
            name = others[0]
            problem = f"{name} is {shapes[name]} in the file and {tuple(model[name].shape)} in the model"
            return f"{self._source} does not fit this configuration ({problem}); {advice}."
        listed = first_few(missing, _FEW)
        return f"{self._source} lacks {len(missing)} of the model's {wanted} weights ({listed}); {advice}."

    def _require_backbone(self, wanted: Sequence[str], missing: set[str]) -> None:
        """Refuse a starting point with less than half of the backbone, and warn of one with a part."""
        backbone = [name for name in wanted if name.startswith("backbone.")]
        random = [name for name in backbone if name in missing]
        what = (
            f"{self._source} lacks {len(random)} of the backbone's {len(backbone)} weights ({first_few(random, _FEW)})"
        )
        if 2 * len(random) > len(backbone):
            raise InputError(f"{what}; give MODEL.WEIGHTS a file for this backbone, or leave it empty.")
        if random:
            logger.warning("%s; they start from random values.", what)

    def _compare_classes(self, given: Sequence[str]) -> None:
        """Refuse a file for other classes than the data set's, or in another order; warn if it is a starting point."""
        for data_set, own in self.classes.items():
            if _plain(given) == _plain(own):
                continue
            pairs = enumerate(zip(_plain(given), _plain(own), strict=False))
            index = next((index for index, (mine, other) in pairs if mine != other), min(len(given), len(own)))
            name, other = (f"'{names[index]}'" if index < len(names) else "missing" for names in (given, own))
            what = (
                f"{self._source} was trained with other classes than those of '{data_set}' ({len(given)} and "
                f"{len(own)} classes; class {index} is {name} in the file and {other} in the data set)"
            )
            if self._must_be_complete:
                raise InputError(f"{what}; give the data set's YAML file the file's classes in their order.")
            logger.warning("%s: what it has learned of the classes is of little use.", what)
            return

    def _compare_settings(self, content: dict[str, Any]) -> None:
        """Refuse a file that was trained on other pixel values; warn of other settings, and if it is a starting point.

        A starting point may have other settings of predictions.
        """
        stored = content.get("settings", content.get("pixels"))  # of development versions
        if not isinstance(stored, dict):
            stored = _settings(content["config"]) if is_model_file(content) else {}
        for key, value in self.settings.items():
            if stored.get(key, value) == value:
                continue
            what = f"{self._source} was trained with {key} {stored[key]}, and this configuration has {value}"
            if key in _PIXELS and self._must_be_complete:
                raise InputError(f"{what}; give it the same value.")
            if key in _PIXELS:
                logger.warning("%s: its first layers see other values than they were trained on.", what)
            elif self._must_be_complete:
                logger.warning("%s: its predictions are other ones than in training.", what)


def _settings(config: str) -> dict[str, Any]:
    """Return the values of _PIXELS and _FORWARD in a configuration, YAML."""
    settings = flat_settings(yaml.safe_load(config))
    return {key: settings[key] for key in (*_PIXELS, *_FORWARD) if key in settings}


def _is_learned(name: str) -> bool:
    """Return whether a weight has to come from a file: neither a counter of torch nor a constant of the losses."""
    return not is_counter(name) and not name.startswith("criterion.")


def _plain(names: Sequence[str]) -> list[str]:
    return [str(name).strip().casefold() for name in names]


def unwrap(model: nn.Module) -> RegionSegmentor:
    """Return the module inside DistributedDataParallel, or ``model`` itself."""
    inner = model.module if isinstance(model, nn.parallel.DistributedDataParallel) else model
    return cast(RegionSegmentor, inner)

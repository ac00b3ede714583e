"""Videos, frame by frame."""

from __future__ import annotations

import logging
import os
from collections.abc import Iterator
from pathlib import Path
from types import TracebackType

# VideoReader reports damaged files itself, with the file's name.
os.environ.setdefault("OPENCV_FFMPEG_LOGLEVEL", "-8")
import cv2  # noqa: E402
import numpy as np  # noqa: E402

from ..errors import InputError  # noqa: E402

logger = logging.getLogger(__name__)
_USUAL_RATE = 25.0  # of files without a plausible rate


class VideoReader:
    """Iterates once over the frames of a video, uint8 (H, W, 3), BGR, upright.

    Attributes:
        rate: frames a second.
        frames: number of frames in the file's header; 0 if unknown.
    """

    def __init__(self, file: Path):
        """Open the file; InputError if it cannot be decoded."""
        self.file = file
        self._capture = cv2.VideoCapture(str(file))
        if not self._capture.isOpened():
            raise InputError(f"{file}: the file is not a video that can be decoded; convert or replace it.")
        rate = self._capture.get(cv2.CAP_PROP_FPS)
        self.rate = round(rate, 3) if 0.5 <= rate <= 1000 else _USUAL_RATE
        self.frames = max(0, int(self._capture.get(cv2.CAP_PROP_FRAME_COUNT)))

    def __iter__(self) -> Iterator[np.ndarray]:
        """Yield the frames; InputError after the last one if more than a second of the video is missing, or all."""
        count = 0
        while (frame := self._capture.read()[1]) is not None:
            count += 1
            yield frame
        # The number in the header is approximate in some files, and counts frames that were cut off.
        if not count or self.frames - count > self.rate:
            raise InputError(f"{self.file}: the video is damaged after {count} of {self.frames} frames; replace it.")
        if count < self.frames:
            logger.warning("%s has %d frames, and its header says %d.", self.file, count, self.frames)


class VideoWriter:
    """Writes an MPEG-4 file without sound; a temporary file gets the final name on :meth:`close`.

    For ``with``: an InputError inside closes the file, with the frames before it; any other error removes it.
    """

    def __init__(self, file: Path, rate: float):
        """Take the path, ``.mp4``, and the frames a second."""
        self.file = file
        self.rate = rate
        self.frames = 0
        self._temporary = file.with_suffix(".part.mp4")
        self._writer: cv2.VideoWriter | None = None

    def write(self, frame: np.ndarray) -> None:
        """Add a frame, uint8 (H, W, 3), RGB, padded to even height and width; InputError if it cannot be written."""
        height, width = frame.shape[:2]
        # The codec takes even sizes only, and OpenCV would crop.
        frame = cv2.copyMakeBorder(frame, 0, height % 2, 0, width % 2, cv2.BORDER_REPLICATE)
        if self._writer is None:
            size = (frame.shape[1], frame.shape[0])
            self._writer = cv2.VideoWriter(str(self._temporary), cv2.VideoWriter_fourcc(*"mp4v"), self.rate, size)
            if not self._writer.isOpened():
                raise InputError(f"the video {self.file} cannot be written; give another --output.")
        self._writer.write(cv2.cvtColor(frame, cv2.COLOR_RGB2BGR))
        self.frames += 1

    def __enter__(self) -> VideoWriter:
        return self

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None:
        if kind is None or issubclass(kind, InputError):
            self.close()
        elif self._writer is not None:
            self._writer.release()
            self._temporary.unlink(missing_ok=True)

    def close(self) -> None:
        """Finish the file, if there was a frame; InputError if frames are missing in it."""
        if not self.frames:
            return
        self._writer.release()
        written = int(cv2.VideoCapture(str(self._temporary)).get(cv2.CAP_PROP_FRAME_COUNT))
        if written != self.frames:
            self._temporary.unlink(missing_ok=True)
            raise InputError(f"the video {self.file} has {written} of {self.frames} frames; make room on the disk.")
        os.replace(self._temporary, self.file)

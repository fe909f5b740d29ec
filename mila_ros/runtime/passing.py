"""What passes through engine and pipeline: a frame that is asked about, its picture, the same once the networks have
looked at it, an answer."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass
from typing import TYPE_CHECKING, Any

import numpy as np
import numpy.typing as npt
import torch

from mila_ros.runtime.stopwatch import Stopwatch

if TYPE_CHECKING:
    from mila_ros.models.mila import Memory
    from mila_ros.models.networks import Features


PARTS = ("keyframe", "look", "tell")
"""What threads may share between them: see `Engine.warm_up`."""


@dataclass(frozen=True)
class Picture:
    """One frame on the device."""

    tensor: torch.Tensor  # (1, 3, h, w), RGB in 0..1, channels last
    size: tuple[int, int]  # h, w: what the networks see
    original: tuple[int, int]  # h, w: what the camera sent
    ready: Any  # CUDA event behind the upload; None on the CPU
    milliseconds: float  # what the upload took


@dataclass(frozen=True)
class Ask:
    """A frame that is to be answered.

    Attributes:
        camera: its name.
        picture: RGB (H, W, 3) uint8, or what `Engine.upload` made of it.
        tasks: those that somebody wants.
        focal: fx in pixels of the camera's picture.
        arrived: when it came, on the pipeline's clock.
        frame: the camera's running number of the frame.
        stamp_ns: the header's stamp; one that jumps back makes the pipeline forget the keyframe.
        confidence: also give segmentation's confidence.
    """

    camera: str
    picture: npt.NDArray[np.uint8] | Picture
    tasks: tuple[str, ...]
    focal: float
    arrived: float
    frame: int
    stamp_ns: int | None = None
    confidence: bool = False


@dataclass(frozen=True)
class Looked:
    """One frame whose features are known: heads are all that is left. They may run in another thread."""

    picture: Picture
    features: Features
    watch: Stopwatch
    memory: Memory | None = None
    """What was looked up. On a GPU the stream may still read it: it must not go before the answer is there."""


@dataclass(frozen=True)
class Origin:
    """What a frame is answered from."""

    keyframe: int | None = None
    """Number of the keyframe; None: there is none, the fast network answers alone."""
    slow: bool = False
    """The frame is that keyframe itself: the slow network saw it, nothing was looked up."""
    age: float = 0.0
    """Seconds between the arrivals of the keyframe's picture and of the frame."""
    distance: int = 0
    """The same in frames of the camera."""
    stamp_ns: int | None = None
    """Of the keyframe's picture."""
    slow_ms: float = 0.0
    """What the slow network took, where the frame waited for it."""

    @property
    def looked_up(self) -> int | None:
        """Number of the keyframe that attention looked into; None: it did not."""
        return None if self.slow else self.keyframe


@dataclass(frozen=True)
class Seen:
    """A frame that was looked at, and what is to be told of it."""

    camera: str
    looked: Looked
    tasks: tuple[str, ...]
    focal: float
    confidence: bool
    broken: str | None
    """Why the frame does not continue the one before it (the keyframe was forgotten), in words."""
    origin: Origin


@dataclass(frozen=True)
class Answer:
    """What the model says about one frame; `h, w` is the output size."""

    segmentation: npt.NDArray[np.uint8] | None  # (h, w) class ids
    confidence: npt.NDArray[np.float32] | None  # (h, w) 0..1, probability of that class
    depth: npt.NDArray[np.float32] | None  # (h, w) metres along the optical axis
    normals: npt.NDArray[np.float32] | None  # (h, w, 3) unit vectors, optical frame, facing the camera
    size: tuple[int, int]
    milliseconds: dict[str, float]  # by stage; of frames that were answered together, each its share
    match: float | None = None  # how alike frame and keyframe look, at most 1 (propagation.py); None: not known
    origin: Origin | None = None  # set by the pipeline
    together: int = 1  # frames that were answered at once

    @classmethod
    def of(
        cls,
        arrays: Mapping[str, npt.NDArray[Any]],
        index: int,
        size: tuple[int, int],
        milliseconds: dict[str, float],
        match: float | None,
        together: int = 1,
    ) -> Answer:
        """One of a batch. arrays: (B, h, w[, 3]), by task, and `confidence`; those that nobody wanted are missing."""
        found = {name: array[index] for name, array in arrays.items()}
        return cls(
            segmentation=found.get("segmentation"),
            confidence=found.get("confidence"),
            depth=found.get("depth"),
            normals=found.get("normals"),
            size=size,
            milliseconds=milliseconds,
            match=match,
            together=together,
        )

    def waited(self) -> dict[str, float]:
        """Milliseconds by stage as this frame waited for them: for all of its batch, and for its own keyframe."""
        found = {name: ms if name == "upload" else ms * self.together for name, ms in self.milliseconds.items()}
        if self.origin is None or not self.origin.slow:
            return found
        return {"upload": found["upload"], "slow": self.origin.slow_ms, **found}

    def by_task(self) -> dict[str, npt.NDArray[Any]]:
        """The tasks that were answered."""
        found = {"segmentation": self.segmentation, "depth": self.depth, "normals": self.normals}
        return {task: values for task, values in found.items() if values is not None}


@dataclass(frozen=True)
class Told:
    """What became of a frame that was asked about."""

    ask: Ask
    answer: Answer | None = None  # None: there is none
    broken: str | None = None  # why the frame does not continue the one before it, in words
    error: Exception | None = None  # why there is no answer

"""What a network is made of: everything needed to build it again from its weights."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import asdict, dataclass, fields
from itertools import combinations
from typing import Any

from mila_ros.errors import UserError

TASKS = ("segmentation", "depth", "normals")
"""Every task that a network can have, in the order in which they are published."""


def task_sets(tasks: Sequence[str]) -> list[tuple[str, ...]]:
    """Every set of these tasks that somebody may want, in their order, the smallest first."""
    return [some for count in range(len(tasks)) for some in combinations(tasks, count + 1)]


PROPAGATIONS = ("attention", "alignment", "attention+alignment", "laps", "learned-flow", "accel")
"""Every way to carry features from a keyframe."""
FLOWS = ("learned-flow", "accel")
"""Those that find optical flow for it (flow.py)."""

_OF_ATTENTION = ("attention", "frames", "warp", "reach")
"""Settings that only local attention has."""


def model_changes(base: Mapping[str, Any], changes: Mapping[str, Any]) -> dict[str, Any]:
    """Model settings with some of them changed; a way to carry features without local attention drops its settings."""
    without = "attention" not in str(changes.get("propagation", "attention"))
    kept = {key: value for key, value in base.items() if not (without and key in _OF_ATTENTION)}
    return kept | dict(changes)


@dataclass(frozen=True)
class ModelConfig:
    """The shape of a MILA network.

    Raises:
        UserError: a value is out of its range or two of them contradict each other.
    """

    tasks: tuple[str, ...] = TASKS
    classes: tuple[str, ...] = ()
    """Class names in the order of their ids; needed when segmentation is among the tasks."""
    palette: tuple[tuple[int, int, int], ...] = ()
    """One RGB colour a class, for pictures; empty: colours are chosen by the viewer."""

    slow_backbone: str = "tf_efficientnet_lite0"
    """timm name; needs features at strides 4, 8, 16 and 32."""
    fast_backbone: str = "tf_efficientnet_lite0"
    """timm name; runs on the half-size picture and is cut after its stride-16 stage."""
    slow_channels: int = 128
    """Width of the slow network's decoder."""
    slow_zoom: float = 1.0
    """The slow network sees pictures this much larger than the fast one does: it has the time, and more pixels a thing
    help it, though they bring no new detail. Carried features keep the fast network's cells."""
    cross_attention: bool = False
    """Sequential cross attention between tasks and scales in the slow network's decoder."""
    channels: int = 96
    """Channels of the stride-8 features that heads read, adversary compares and ILA carries."""
    head_channels: int = 64
    """Width of the slow network's heads; the fast network's start as copies of them."""
    fast_head_channels: int = 0
    """Width of the fast network's heads where it is smaller; 0: `head_channels`."""
    fast_hidden: int = 0
    """Width of what lies before the fast network's last layer, and before the one that joins what was carried with what
    is seen; 0: `channels`."""
    fast_trim: int = 0
    """How many of the last blocks of the fast backbone's deepest stage are left out."""

    window: int = 9
    """P: side of the square of keyframe positions that a pixel looks at, in stride-8 cells; odd."""
    reach: int = 0
    """Cells, even: how far from a tile its window may be laid, where a coarse search has found it; 0: windows stay."""
    query_channels: int = 96
    """Equal to `channels`, so that PyTorch's fused attention takes queries and values (ten times faster on a CPU)."""
    propagation: str = "attention"
    """How features are carried: "attention" (MILA's), "alignment" (implicit learnable alignment), both
    ("attention+alignment"), "laps" (periodic shift and leap attention), "learned-flow" (warped along optical flow
    that is learned with the tasks), or "accel" (so, too; the slow heads answer from it, the fast ones correct them)."""
    keys: str = "fast"
    """Which network describes the keyframe for look-up: "fast" (like meets like) or "slow" (as in the paper)."""
    attention: str = "shared"
    """"shared": one look-up for all tasks; "task": one a task (task-specific, TS), at their cost in FLOPs."""
    frames: int = 1
    """T: how many keyframes are remembered and looked up together (multi-frame, MF), at T times the cost.
    The age after which a memory is no longer used is the newest one's."""
    warp: bool = False
    """Also take the keyframe's features and stride-4 details from where attention points on average, so that they keep
    their edges; for one keyframe (`frames: 1`)."""
    tile: int = 4
    """Side of a query tile in stride-8 cells; changes speed, never results."""

    working_pixels: int = 640 * 480
    """Pictures are resized to about this many pixels before the networks see them; sizes of answers are free."""
    canonical_focal: float = 519.0
    """Depth is predicted for this focal length (pixels of the network's input) and scaled by the real one."""
    max_depth: float = 80.0
    """Metres; predictions are clamped below it."""
    pretrained: bool = False
    """Start the backbones from ImageNet weights (for training; a checkpoint brings its own)."""

    def __post_init__(self) -> None:
        unknown = [task for task in self.tasks if task not in TASKS]
        if unknown or not self.tasks:
            raise UserError(f"tasks must be some of {', '.join(TASKS)}; got {list(self.tasks)}")
        if "segmentation" in self.tasks and len(self.classes) < 2:
            raise UserError("segmentation needs the names of at least two classes: set `classes`")
        if len(self.classes) > 255:
            raise UserError(f"at most 255 classes fit into a mono8 picture; got {len(self.classes)}")
        if self.palette and len(self.palette) != len(self.classes):
            raise UserError(f"palette has {len(self.palette)} colours for {len(self.classes)} classes")
        for narrow, wide in (("fast_head_channels", self.head_channels), ("fast_hidden", self.channels)):
            if not 0 <= getattr(self, narrow) <= wide:
                raise UserError(f"{narrow} must be 1 to {wide}, or 0 for {wide}; got {getattr(self, narrow)}")
        if self.fast_trim < 0:
            raise UserError(f"fast_trim must not be negative; got {self.fast_trim}")
        if not 0.5 <= self.slow_zoom <= 4.0:
            raise UserError(f"slow_zoom must be 0.5 to 4; got {self.slow_zoom}")
        if self.window < 1 or self.window % 2 == 0:
            raise UserError(f"window must be odd and positive; got {self.window}")
        if self.attention not in ("shared", "task"):
            raise UserError(f'attention must be "shared" or "task"; got "{self.attention}"')
        if self.propagation not in PROPAGATIONS:
            raise UserError(f'propagation must be one of {", ".join(PROPAGATIONS)}; got "{self.propagation}"')
        if "attention" not in self.propagation:
            usual = {field.name: field.default for field in fields(self)}
            wrong = [name for name in _OF_ATTENTION if getattr(self, name) != usual[name]]
            if wrong:
                raise UserError(
                    f"{', '.join(wrong)}: for local attention, which propagation: {self.propagation} has not; "
                    "leave it out, or choose a propagation with attention"
                )
        if self.frames < 1:
            raise UserError(f"frames: at least one keyframe must be remembered to carry from; got {self.frames}")
        if self.warp and self.frames > 1:
            raise UserError(f"warp: true takes details from one keyframe, not from {self.frames}: set frames to 1")
        if self.reach < 0 or self.reach % 2 or (self.reach and self.tile % 2):
            raise UserError(f"reach and tile must be even; got {self.reach} and {self.tile}")
        if self.reach and self.frames > 1:
            raise UserError(f"reach: {self.reach} searches one keyframe, not {self.frames}: set frames to 1")
        if self.keys not in ("fast", "slow"):
            raise UserError(f'keys must be "fast" or "slow"; got "{self.keys}"')

    @property
    def answer_channels(self) -> dict[str, int]:
        """Channels of each task's raw answer."""
        channels = {"segmentation": len(self.classes), "depth": 1, "normals": 3}
        return {task: channels[task] for task in self.tasks}

    @property
    def fast_head_width(self) -> int:
        """Channels of the fast network's heads."""
        return self.fast_head_channels or self.head_channels

    @property
    def fast_hidden_width(self) -> int:
        """Channels before the last layers of the fast network and of what joins."""
        return self.fast_hidden or self.channels

    @property
    def carries_details(self) -> bool:
        """Whether the keyframe's stride-4 details reach the fast network's heads."""
        return self.warp or self.propagation == "learned-flow"

    @classmethod
    def tiny(cls, tasks: tuple[str, ...] = TASKS) -> ModelConfig:
        """A small network with four classes for tests: the real structure, a few hundred thousand weights."""
        return cls(
            tasks=tasks,
            classes=("wall", "floor", "chair", "table") if "segmentation" in tasks else (),
            slow_backbone="mobilenetv3_small_050",
            fast_backbone="mobilenetv3_small_050",
            slow_channels=16,
            channels=8,
            head_channels=8,
            window=5,
            query_channels=8,
        )

    def to_dict(self) -> dict[str, Any]:
        """Plain values, for JSON and YAML."""
        return asdict(self)

    @classmethod
    def from_dict(cls, values: dict[str, Any]) -> ModelConfig:
        """The reverse of :meth:`to_dict`.

        Raises:
            UserError: a key is unknown (a newer or another program's file).
        """
        known = {field.name for field in fields(cls)}
        unknown = sorted(set(values) - known)
        if unknown:
            raise UserError(f"unknown model settings {unknown}; known are {sorted(known)}")
        values = dict(values)
        for name in ("tasks", "classes"):
            if name in values:
                values[name] = tuple(values[name])
        if "palette" in values:
            values["palette"] = tuple(tuple(colour) for colour in values["palette"])
        return cls(**values)

"""Settings of a training run: one YAML file a stage (config/train/*.yaml), every key documented here."""

from __future__ import annotations

from dataclasses import asdict, dataclass, field, fields
from difflib import get_close_matches
from pathlib import Path
from typing import Any

import yaml

from mila_ros.errors import UserError
from mila_ros.models.config import TASKS, model_changes

_TASK_WEIGHTS = {"segmentation": 1.0, "depth": 2.0, "normals": 1.5}
_AT_LEAST_ONE = (
    *("steps", "batch", "accumulate", "save_every", "height", "width", "truth_stride"),
    *("rendered_frames", "rendered_interval", "max_distance"),
)


@dataclass(frozen=True)
class TrainSettings:
    """One stage of training."""

    stage: str = "slow"
    """slow: the slow network and its heads; fast: fast network, propagation and their heads, the slow one frozen; flow,
    before it, for the propagations that find optical flow: fast network and flow, from flow that is known exactly."""
    start: str | None = None
    """Checkpoint (name or file) to start from; needed by the stages "fast" and "flow"."""
    data: str | None = None
    """Labelled frames, `KIND:FOLDER` (worlds/world.py); those of its validation split are never trained on."""
    data_share: float = 0.7
    """Share of each batch."""
    rendered_clips: int = 0
    """How many clips of the rendered world are made before training; 0: none."""
    rendered_frames: int = 4
    """Frames a clip."""
    rendered_interval: int = 3
    """Frames of a 30 Hz video between two of a clip."""
    rendered_share: float = 0.3
    """Share of each batch."""
    rendered_folder: str | None = None
    """Where these clips are kept, 9 bytes a pixel (13 in the stage flow), for a run that is resumed and for others like
    it; null: nowhere."""

    height: int = 480
    width: int = 640
    """Of the pictures that the networks see in training; a robot may send any size."""
    keep_scale: float = 1.0
    """Size at which frames of `data` are kept in memory, relative to their files: smaller is faster on a CPU."""
    zoom: float = 1.6
    """Crops are up to this factor closer (this and the next: training/augmentation.py)."""
    turn: float = 4.0
    """Spread in degrees of the camera's pitch, yaw and roll."""
    moved: float = 0.4
    """Share of stills that are seen from another place."""
    whole: float = 0.15
    """Share of the run, at its end, in which pictures are taken as they are: not zoomed, turned or moved. Cut-out parts
    look like rooms that are nearer, and what is learned from them alone makes depth come out short."""
    colour: float = 0.35
    """Strength of changes of light."""
    truth_stride: int = 2
    """Answers are judged at the picture's size over this; 4 is the networks' own and the fastest."""
    max_distance: int = 10
    """Frames between keyframe and frame (stage fast)."""

    steps: int = 6000
    minutes: float | None = None
    """Train for so long instead of for `steps`: the learning rate follows the clock."""
    batch: int = 16
    """Pictures a step, over all processes."""
    accumulate: int = 1
    """In how many parts the pictures of a step go through the networks one after another, to need less memory."""
    learning_rate: float = 1e-3
    backbone_rate: float = 0.25
    """Factor on the learning rate of pretrained backbones."""
    frozen_stages: int = 0
    """How many of a pretrained backbone's first stages stay as they are: they cost most and change least."""
    weight_decay: float = 0.02
    warmup: int = 200
    ema: float = 0.999
    """Decay of the running mean of weights, which is what is validated and saved."""
    balance: float = 0.3
    """Power of class balancing (losses.class_weights)."""
    task_weights: dict[str, float] = field(default_factory=lambda: dict(_TASK_WEIGHTS))
    depth_metres: float = 0.2
    """Weight of the error in metres beside that of the logarithm in the depth loss (losses.depth_loss)."""
    task_weighting: str = "fixed"
    """fixed: by task_weights; learned: by the tasks' uncertainty on top of them (losses.uncertainty_weighted)."""
    distillation: float = 1.0
    """Weight of the slow network's answers as targets (stage fast)."""
    feature_weight: float = 0.5
    """Weight of the slow network's features as targets for what the fast heads read (stage fast, squared distance)."""
    glance_weight: float = 0.0
    """Weight of the slow network's features as targets for the fast network's own (stage fast, squared distance)."""
    adversary_weight: float = 0.0
    """Weight of fooling a critic that tells the fast network's own features from slow ones (stage fast)."""
    adversary_rise: int = 500
    """Steps over which that weight rises from 0."""
    alone: float = 0.15
    """Share of pictures that the fast network answers without a keyframe, so that it can (stage fast)."""

    temporal_weight: float = 0.0
    """Weight of agreement with answers to an earlier frame along optical flow, for a fast network that is to answer
    without keyframes: with `alone: 1` (stage fast; training/temporal.py)."""

    blend: float | None = None
    """Share of what a stage learned, the rest being what it began from (training/blend.py): in the stage fast the slow
    network's heads, in the stage slow those weights of `start`. 0.5 is better than 1 where little data is labelled,
    and what null means in the stage fast, unless its heads are narrower than the slow network's; else that is 1."""
    copy_heads: bool | None = None
    """Whether the fast heads start as copies of the slow ones; null: if they were never trained (stage fast). Long
    training of the slow network leaves them behind: then copies are the better start."""

    model: dict[str, Any] = field(default_factory=dict)
    """Overrides of the model's configuration (models/config.py); on the command line, of those of the file. With
    `start`, only of how features are carried and how small the fast network is (fast_*), and in the stage slow of
    tasks, working_pixels, slow_zoom, and slow_backbone: another one, from ImageNet weights, under the trained decoder.
    """
    labels: str = "nyu40"
    """Class names and colours: config/labels/NAME.yaml. Rendered rooms have those of nyu40."""
    relabel: bool = False
    """The network shall answer with the classes of `labels`, though `start` knows others (stage slow): what it knows of
    classes of the same name is kept, the others are learned anew."""

    precision: str = "bf16-mixed"
    """Lightning Fabric's name."""
    seed: int = 0
    validate_every: int = 1000
    """Steps; and at the end. 0: not at all."""
    save_every: int = 500

    def __post_init__(self) -> None:
        if self.stage not in ("slow", "fast", "flow"):
            raise UserError(f'stage must be "slow", "fast" or "flow"; got "{self.stage}"')
        if self.task_weighting not in ("fixed", "learned"):
            raise UserError(f'task_weighting must be "fixed" or "learned"; got "{self.task_weighting}"')
        if self.stage != "fast" and (self.adversary_weight or self.glance_weight):
            raise UserError("adversary_weight and glance_weight are for the stage fast: set them to 0")
        if self.temporal_weight and (self.stage != "fast" or self.alone < 1):
            raise UserError("temporal_weight is for a fast network that answers alone: the stage fast with alone: 1")
        if self.stage != "slow" and self.start is None:
            raise UserError(f'stage "{self.stage}" goes on from a trained slow network: set `start` to its checkpoint')
        back = self.blend is not None and self.blend < 1
        if self.stage == "slow" and back and self.start is None:
            raise UserError(
                "blend below 1 goes back to the weights of `start`, which the stage slow has not: set it to 1"
            )
        if self.stage == "flow" and (back or self.validate_every):
            raise UserError("the stage flow answers no task: set blend to 1 or null, and validate_every to 0")
        if self.stage == "flow" and self.rendered_clips and self.rendered_frames < 2:
            raise UserError("optical flow is between two frames: set rendered_frames to 2 or more")
        elsewhere = self.relabel or not {"tasks", "slow_backbone"}.isdisjoint(self.model)
        if self.stage == "slow" and back and elsewhere:
            raise UserError(
                "blend below 1 goes back to weights that other tasks, classes or backbones have not: set it to 1"
            )
        if self.relabel and (self.stage != "slow" or self.start is None):
            raise UserError("relabel is for the stage slow with a `start`: leave it out")
        if self.data is None and self.rendered_clips == 0:
            raise UserError("no training data: set `data` to KIND:FOLDER or `rendered_clips` above 0")
        if self.rendered_clips and self.labels != "nyu40":
            raise UserError(
                f'rendered rooms have the classes of nyu40, not of "{self.labels}": set rendered_clips to 0'
            )
        for name in _AT_LEAST_ONE:
            if getattr(self, name) < 1:
                raise UserError(f"{name} must be at least 1; got {getattr(self, name)}")
        if min(self.rendered_clips, self.validate_every) < 0 or (self.minutes is not None and self.minutes <= 0):
            raise UserError("rendered_clips and validate_every must not be negative, and minutes must be above 0")
        for name in ("model", "task_weights"):
            if not isinstance(getattr(self, name), dict):
                raise UserError(f"{name} is {getattr(self, name)!r}; it must be a mapping: '{name}={{key: value}}'")
        strange = sorted(set(self.task_weights) - set(TASKS))
        if strange:
            raise UserError(f"task_weights names {', '.join(strange)}; the tasks are {', '.join(TASKS)}")
        for name, share in (("whole", self.whole), ("blend", self.blend)):
            if share is not None and not 0 <= share <= 1:
                raise UserError(f"{name} is a share, 0 to 1; got {share}")
        if self.height % 32 or self.width % 32:
            raise UserError(f"height and width must be multiples of 32; got {self.height} x {self.width}")

    def to_dict(self) -> dict[str, Any]:
        """Plain values."""
        return asdict(self)


def _changed(key: str, usual: Any, value: Any) -> Any:
    """What an override makes of a value of the file."""
    if not isinstance(usual, dict) or not isinstance(value, dict) or not value:
        return value  # {} leaves nothing of the file's
    return model_changes(usual, value) if key == "model" else usual | value


def load_settings(path: Path, overrides: list[str]) -> TrainSettings:
    """Settings of a YAML file, with `key=value` overrides (values are YAML).

    Of `model` and `task_weights` only the keys that are named change; `{}` leaves nothing of them.

    Raises:
        UserError: no such file, not a mapping, an unknown key, or a value of the wrong kind.
    """
    if not path.is_file():
        raise UserError(f"no training configuration at {path}")
    try:
        values = yaml.safe_load(path.read_text(encoding="utf-8")) or {}
    except yaml.YAMLError as error:
        raise UserError(f"{path} is not valid YAML: {error}") from error
    if not isinstance(values, dict):
        raise UserError(f"{path} must be a mapping of settings")
    usual = {"task_weights": dict(_TASK_WEIGHTS)}
    for item in overrides:
        key, separator, text = item.partition("=")
        if not separator:
            raise UserError(f'override "{item}" must have the form key=value')
        key = key.strip()
        try:
            values[key] = _changed(key, values.get(key, usual.get(key)), yaml.safe_load(text))
        except yaml.YAMLError as error:
            raise UserError(
                f"override \"{item}\" is not valid YAML; quote it for the shell: 'model={{keys: slow}}'"
            ) from error
    known = {f.name for f in fields(TrainSettings)}
    unknown = sorted(set(values) - known)
    if unknown:
        near = {word: get_close_matches(word, known, 1, 0.5) for word in unknown}
        meant = ", ".join(f"{word} (did you mean {found[0]}?)" if found else word for word, found in near.items())
        raise UserError(
            f"unknown settings, in {path} or on the command line: {meant}; mila_ros/training/settings.py explains all"
        )
    for setting in fields(TrainSettings):
        if setting.name in values and str(setting.type).startswith("float") and values[setting.name] is not None:
            try:
                values[setting.name] = float(values[setting.name])  # YAML takes 1e-3 for a word
            except (TypeError, ValueError):
                raise UserError(f"{setting.name} is {values[setting.name]!r}; it must be a number") from None
    try:
        weights = values.get("task_weights")
        if isinstance(weights, dict):
            values["task_weights"] = {task: float(weight) for task, weight in weights.items()}
    except (TypeError, ValueError):
        raise UserError(f"task_weights is {weights!r}; it must map tasks to numbers") from None
    for name, kind in (("int", int), ("bool", bool)):
        for setting in fields(TrainSettings):
            value = values.get(setting.name)
            if str(setting.type).split(" ")[0] == name and value is not None and type(value) is not kind:
                raise UserError(
                    f"{setting.name} is {value!r}; it must be {'a whole number' if kind is int else 'true or false'}"
                )
    try:
        return TrainSettings(**values)
    except TypeError as error:
        raise UserError(f"{path}: {error}") from error

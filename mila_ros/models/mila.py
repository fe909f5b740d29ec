"""MILA: a slow network on keyframes, a fast one on every frame, local attention between them.

Source: Kim et al., "MILA: Multi-Task Learning from Videos via Efficient Inter-Frame Attention", ICCVW 2021. Four calls:

    memory   = model.keyframe(image)              slow network, once a keyframe
    features = model.glance(image)                fast network, every frame
    features = model.propagate(features, memory)  look up where each place was in the keyframe
    answers  = model.predict(features, ...)       only the tasks that somebody wants
"""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any, NamedTuple

import torch
import torch.nn.functional as F
from torch import Tensor, nn

from mila_ros.models.accel import AccelPropagation
from mila_ros.models.class_map import class_map
from mila_ros.models.config import ModelConfig
from mila_ros.models.heads import Heads, metric_depth, unit_normals
from mila_ros.models.layers import enlarged, resize
from mila_ros.models.networks import FastNetwork, Features, SlowNetwork
from mila_ros.models.propagation import Keyframe
from mila_ros.models.propagations import make_propagation

STRIDE = 32
"""Pictures are padded to multiples of this, the deepest stride."""


class Memory(NamedTuple):
    """A keyframe, ready to be looked up and to answer for itself."""

    features: Features
    """The slow network's; `predict` takes them as they are."""
    remembered: Any
    """By the way that carries features (propagation.py)."""


class Mila(nn.Module):
    """The whole network. See the module's docstring for its four calls; all shapes are PyTorch's (B, C, H, W)."""

    def __init__(self, config: ModelConfig) -> None:
        super().__init__()
        self.config = config
        c = config.channels
        tasks = len(config.tasks) if config.cross_attention else 0
        self.slow = SlowNetwork(
            config.slow_backbone, config.slow_channels, c, config.pretrained, tasks, config.slow_zoom
        )
        self.fast = FastNetwork.of(config, config.pretrained)
        self.propagation = make_propagation(config)
        self.slow_heads = Heads(config, self.slow.detail_channels, config.head_channels)
        carried = self.slow.detail_channels if config.carries_details else 0
        self.fast_heads = Heads(config, self.fast.detail_channels, config.fast_head_width, carried)

    def keyframe(self, image: Tensor, before: Memory | None = None) -> Memory:
        """Run the slow network on (B, 3, H, W), RGB in 0..1; any H, W; and prepare what it saw for look-up.

        before: the memory until now; with `frames` above 1 its keyframes are looked up along with this one.
        """
        features = self.features(image)
        return self.remember(features, self.glance(image) if self.config.keys == "fast" else None, before)

    def remember(self, features: Features, glance: Features | None, before: Memory | None = None) -> Memory:
        """Prepare a picture for look-up of which the slow network's features and the fast network's are known.

        glance: needed where the fast network describes keyframes (`keys`).
        """
        described = features.coarse
        if self.config.keys == "fast":
            if glance is None:
                raise ValueError("the fast network describes keyframes here: its features are needed, too")
            described = glance.coarse
        remembered = None if before is None else before.remembered
        keyframe = Keyframe(described, features.coarse, features.detail)
        return Memory(features, self.propagation.remember(keyframe, remembered))

    def features(self, image: Tensor) -> Features:
        """The slow network's features alone: to answer a frame that nothing will be carried from."""
        small = self._resized(image)
        coarse, detail = self.slow(pad_to_stride(small))
        zoom = small.shape[-1] / image.shape[-1]
        return Features(coarse, detail, small.shape[-2], small.shape[-1], zoom, slow=True)

    def glance(self, image: Tensor) -> Features:
        """Run the fast network on (B, 3, H, W), RGB in 0..1; any H, W."""
        small = self._resized(image)
        coarse, detail = self.fast(pad_to_stride(small))
        zoom = small.shape[-1] / image.shape[-1]
        return Features(coarse, detail, small.shape[-2], small.shape[-1], zoom, slow=False)

    def propagate(
        self, features: Features, memory: Memory | None, tasks: Sequence[str] | None = None, match: bool = False
    ) -> Features:
        """Features of the current frame, enriched by the keyframe; without one, as they are.

        Args:
            tasks: that will be answered from them; None: all.
            match: also tell how alike both look, where this way to carry features can.

        Raises:
            ValueError: the keyframe was made from a picture of another size.
        """
        if memory is None:
            return features
        tasks = self.config.tasks if tasks is None else tasks
        return features.joined(self.propagation(features.coarse, memory.remembered, tasks, match))

    def predict(
        self, features: Features, tasks: Sequence[str], focal: Tensor, size: tuple[int, int]
    ) -> dict[str, Tensor]:
        """Dense answers.

        Args:
            features: of either network.
            tasks: which; each must be one of the model's.
            focal: (B,), fx in pixels of the picture that went in.
            size: (h, w) of the answers.

        Returns:
            "segmentation": class scores (B, K, h, w); "depth": metres along the optical axis (B, 1, h, w);
            "normals": unit vectors in the optical frame, facing the camera (B, 3, h, w).

        Raises:
            ValueError: a task that this model does not have.
        """
        raw = self._heads(features, tasks)
        # float: half precision would show as steps in depth, and is slower to resize on a CPU.
        large = {
            task: resize(value.float(), _full_size(value, features, size))[..., : size[0], : size[1]]
            for task, value in raw.items()
        }
        return {task: self._finished(task, value, features, focal) for task, value in large.items()}

    def _heads(self, features: Features, tasks: Sequence[str]) -> dict[str, Tensor]:
        """Raw answers at stride 4."""
        missing = [task for task in tasks if task not in self.config.tasks]
        if missing:
            raise ValueError(f"this model has the tasks {list(self.config.tasks)}, not {missing}")
        heads = self.slow_heads if features.slow else self.fast_heads
        if not features.apart or not tasks:
            answers: dict[str, Tensor] = heads(
                {task: features.of(task) for task in tasks}, features.detail, features.details
            )
            return answers
        assert isinstance(self.propagation, AccelPropagation) and features.details is not None
        own = heads(dict.fromkeys(tasks, features.coarse), features.detail)
        of_keyframe = self.slow_heads({task: features.of(task) for task in tasks}, features.details[tasks[0]])
        return self.propagation.fusion(of_keyframe, own)

    def _finished(self, task: str, value: Tensor, features: Features, focal: Tensor) -> Tensor:
        if task == "depth":
            return metric_depth(value, focal * features.zoom, self.config)
        return unit_normals(value) if task == "normals" else value

    def working_size(self, height: int, width: int) -> tuple[int, int]:
        """The size (h, w) at which the networks see a picture: about that of training, in the picture's own aspect."""
        factor = (self.config.working_pixels / (height * width)) ** 0.5
        if abs(factor - 1) < 0.02:
            return height, width
        return max(STRIDE, round(height * factor)), max(STRIDE, round(width * factor))

    def _resized(self, image: Tensor) -> Tensor:
        height, width = image.shape[-2:]
        size = self.working_size(height, width)
        if size == (height, width):
            return image
        factor = size[1] / width
        # Averaging, where the picture shrinks: skipping pixels would make textures flicker.
        return F.interpolate(image, size=size, mode="bilinear", align_corners=False, antialias=factor < 1)

    def answer(
        self,
        features: Features,
        tasks: Sequence[str],
        focal: Tensor,
        size: tuple[int, int],
        confidence: bool = True,
    ) -> dict[str, Tensor]:
        """As :meth:`predict`, in the form that consumers want.

        Returns:
            "segmentation": class ids uint8 (B, h, w), and "confidence": probability of that class float32 (B, h, w),
            unless turned off (it costs as much as the rest of the task); "depth": float32 metres (B, h, w);
            "normals": float32 (B, h, w, 3), contiguous.
        """
        answers: dict[str, Tensor] = {}
        for task, raw in self._heads(features, tasks).items():
            if task == "segmentation":
                ids, sure = class_map(raw, _full_size(raw, features, size), size, confidence)
                answers["segmentation"] = ids
                if sure is not None:
                    answers["confidence"] = sure
                continue
            value = enlarged(raw.float(), _full_size(raw, features, size))[..., : size[0], : size[1]]
            value = self._finished(task, value, features, focal)
            answers[task] = (value[:, 0] if task == "depth" else value.permute(0, 2, 3, 1)).float().contiguous()
        return answers


def pad_to_stride(image: Tensor) -> Tensor:
    """Repeat the last row and column until both sides are multiples of 32."""
    height, width = image.shape[-2:]
    right, bottom = -width % STRIDE, -height % STRIDE
    if not right and not bottom:
        return image
    if torch.is_grad_enabled() or image.device.type != "cpu":
        return F.pad(image, (0, right, 0, bottom), mode="replicate")
    # The same in a fifth of the time, where nothing is learned.
    size = (*image.shape[:2], height + bottom, width + right)
    padded = torch.empty(size, dtype=image.dtype, device=image.device, memory_format=torch.channels_last)
    padded[..., :height, :width] = image
    padded[..., :height, width:] = image[..., -1:]
    padded[..., height:, :] = padded[..., height - 1 : height, :]
    return padded


def _full_size(raw: Tensor, features: Features, size: tuple[int, int]) -> tuple[int, int]:
    """What a stride-4 map must be enlarged to, so that its part which is no padding has this size."""
    height, width = size
    padded_h, padded_w = raw.shape[-2] * 4, raw.shape[-1] * 4
    return round(height * padded_h / features.height), round(width * padded_w / features.width)

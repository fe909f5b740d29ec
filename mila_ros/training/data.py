"""Frames in memory, and batches made of them on the training device.

A labelled set of a few thousand frames fits into memory whole, so it is decoded once; crops, flips, colours and
the view from another camera are then made for a whole batch at a time, on whatever device trains.
"""

from __future__ import annotations

import os
import sys
from collections.abc import Iterable, Iterator, Sequence
from concurrent.futures import ThreadPoolExecutor
from dataclasses import dataclass, replace

import cv2
import numpy as np
import torch
import torch.nn.functional as F
from torch import Tensor
from tqdm import tqdm

from mila_ros.errors import UserError
from mila_ros.training.losses import Truth
from mila_ros.worlds.frames import IGNORE, Frame
from mila_ros.worlds.geometry import moved_view
from mila_ros.worlds.motion import random_motion
from mila_ros.worlds.rendered import RenderedWorld


@dataclass
class Pool:
    """Clips of T frames of one size; T is 1 where frames stand alone."""

    rgb: Tensor
    """(N, T, 3, H, W), uint8."""
    depth: Tensor
    """(N, T, H, W), float16 metres; 0 where unknown."""
    labels: Tensor
    """(N, T, H, W), uint8."""
    normals: Tensor
    """(N, T, 3, H, W), int8: unit vectors times 127; 0 where unknown."""
    intrinsics: Tensor
    """(N, 4): fx, fy, cx, cy in pixels."""
    interval: int = 0
    """Frames of a 30 Hz video between two of a clip."""

    def __len__(self) -> int:
        return self.rgb.shape[0]

    @property
    def still(self) -> bool:
        """Whether a second view has to be made from the first one's depth."""
        return self.rgb.shape[1] == 1


def decoded(frames: Sequence[Frame], title: str) -> Iterator[Frame]:
    """Every frame once, decoded by as many threads as there are cores, in order."""
    with ThreadPoolExecutor(os.cpu_count()) as threads:
        found = threads.map(frames.__getitem__, range(len(frames)))
        yield from tqdm(found, total=len(frames), desc=title, unit="frame", file=sys.stderr)


def shrunk(frame: Frame, scale: float) -> Frame:
    """The frame at another size; ground truth keeps its values (nearest pixel)."""
    if scale == 1.0:
        return frame
    size = (round(frame.rgb.shape[1] * scale), round(frame.rgb.shape[0] * scale))

    def nearest(x: np.ndarray | None) -> np.ndarray | None:
        return None if x is None else cv2.resize(x, size, interpolation=cv2.INTER_NEAREST_EXACT)

    return replace(
        frame,
        rgb=cv2.resize(frame.rgb, size, interpolation=cv2.INTER_AREA),
        depth=nearest(frame.depth),
        labels=nearest(frame.labels),
        normals=nearest(frame.normals),
        intrinsics=frame.intrinsics.scaled(*size),
    )


def pool_of_frames(frames: Iterable[Frame], device: torch.device, scale: float = 1.0) -> Pool:
    """Keep frames in memory, resized by `scale`. All must have one size, depth, labels and normals."""
    rgb, depth, labels, normals, cameras = [], [], [], [], []
    for full in frames:
        frame = shrunk(full, scale)
        if frame.depth is None or frame.labels is None or frame.normals is None:
            raise UserError(f"frame {frame.name} lacks depth, labels or normals: it cannot be trained on")
        rgb.append(torch.from_numpy(frame.rgb).permute(2, 0, 1).to(device))
        depth.append(torch.nan_to_num(torch.from_numpy(frame.depth)).half().to(device))
        labels.append(torch.from_numpy(frame.labels).to(device))
        unit = torch.nan_to_num(torch.from_numpy(frame.normals)).permute(2, 0, 1)
        normals.append((unit * 127).round().to(torch.int8).to(device))
        camera = frame.intrinsics
        cameras.append(torch.tensor([camera.fx, camera.fy, camera.cx, camera.cy]))
    return Pool(
        torch.stack(rgb)[:, None],
        torch.stack(depth)[:, None],
        torch.stack(labels)[:, None],
        torch.stack(normals)[:, None],
        torch.stack(cameras).to(device),
    )


def pool_of_rendered(
    clips: int, frames: int, interval: int, height: int, width: int, seed: int, device: torch.device
) -> Pool:
    """Make clips of the rendered world (worlds/rendered.py), a different room each."""
    world = RenderedWorld(device=device, height=height, width=width, seed=seed)
    parts = []
    with tqdm(total=clips, desc="render", unit="clip", file=sys.stderr) as bar:
        while bar.n < clips:
            count = min(8, clips - bar.n)
            clip = world.clips(batch=count, frames=frames, interval=interval, seed=seed + bar.n)
            normals = (clip.normals * 127).round().to(torch.int8)
            depth = torch.nan_to_num(clip.depth).half()
            parts.append((clip.rgb, depth, clip.labels, normals, clip.intrinsics.float()))
            bar.update(count)
    rgb, depth, labels, normals, intrinsics = (torch.cat(tensors) for tensors in zip(*parts, strict=True))
    return Pool(rgb, depth, labels, normals, intrinsics, interval)


@dataclass
class Batch:
    """Pictures to learn from; the keyframe is the same place seen a few frames earlier."""

    image: Tensor
    """(B, 3, H, W), RGB in 0..1."""
    keyframe: Tensor | None
    """(B, 3, H, W), or None when only single pictures were asked for."""
    focal: Tensor
    """(B,), pixels."""
    truth: Truth


@dataclass(frozen=True)
class Augmentation:
    """How pictures are varied."""

    height: int = 480
    width: int = 640
    zoom: float = 1.6
    """Crops are up to this factor closer; the focal length grows with it, so depth stays metric."""
    colour: float = 0.35
    """Strength of brightness, contrast, saturation and white balance changes."""
    max_distance: int = 10
    """Frames between keyframe and frame."""
    truth_stride: int = 2
    """Answers are judged at the picture's size over this."""


class Batches:
    """Endless batches from pools.

    Args:
        pools: with the share of each in a batch.
        size: pictures a batch.
        options: how they are varied.
        pairs: whether a keyframe is wanted.
        generator: on the pools' device.
    """

    def __init__(
        self,
        pools: Sequence[tuple[Pool, float]],
        size: int,
        options: Augmentation,
        pairs: bool,
        generator: torch.Generator,
    ) -> None:
        total = sum(share for _, share in pools)
        counts = [round(size * share / total) for _, share in pools]
        counts[0] += size - sum(counts)
        self.parts = [(pool, count) for (pool, _), count in zip(pools, counts, strict=True) if count > 0]
        self.options, self.pairs, self.generator = options, pairs, generator
        self.orders: list[Tensor] = [torch.empty(0, dtype=torch.long) for _ in self.parts]

    def next(self) -> Batch:
        """The next batch."""
        drawn = [self._draw(i) for i in range(len(self.parts))]
        image = torch.cat([d[0] for d in drawn])
        keyframe = torch.cat([d[1] for d in drawn]) if self.pairs else None
        focal = torch.cat([d[2] for d in drawn])
        truth = Truth(
            torch.cat([d[3].labels for d in drawn]),
            torch.cat([d[3].depth for d in drawn]),
            torch.cat([d[3].normals for d in drawn]),
        )
        image, keyframe = self._colours(image, keyframe)
        return Batch(image, keyframe, focal, truth)

    def _indices(self, part: int) -> Tensor:
        """Every clip once before any comes again."""
        pool, count = self.parts[part]
        while len(self.orders[part]) < count:
            fresh = torch.randperm(len(pool), generator=self.generator, device=pool.rgb.device)
            self.orders[part] = torch.cat([self.orders[part].to(fresh.device), fresh])
        picked, self.orders[part] = self.orders[part][:count], self.orders[part][count:]
        return picked

    def _draw(self, part: int) -> tuple[Tensor, Tensor, Tensor, Truth]:
        pool, count = self.parts[part]
        picked = self._indices(part)
        device, g = pool.rgb.device, self.generator
        clip = pool.rgb.shape[1]
        now = torch.randint(0, clip, (count,), generator=g, device=device)
        image = pool.rgb[picked, now].float() / 255
        depth = pool.depth[picked, now].float()
        intrinsics = pool.intrinsics[picked]
        keyframe = image
        if self.pairs and pool.still:
            distance = torch.randint(1, self.options.max_distance + 1, (count,), generator=g, device=device)
            motion = random_motion(distance.float(), g)
            keyframe = moved_view(image, depth, intrinsics, motion)
        elif self.pairs:
            reach = max(1, self.options.max_distance // max(1, pool.interval))
            step = torch.randint(1, reach + 1, (count,), generator=g, device=device)
            then = torch.where(now - step >= 0, now - step, (now + step).clamp(max=clip - 1))
            keyframe = pool.rgb[picked, then].float() / 255
        normals = pool.normals[picked, now].float() / 127
        return self._crop(image, keyframe, depth, pool.labels[picked, now], normals, intrinsics)

    def _crop(
        self, image: Tensor, keyframe: Tensor, depth: Tensor, labels: Tensor, normals: Tensor, camera: Tensor
    ) -> tuple[Tensor, Tensor, Tensor, Truth]:
        o, g = self.options, self.generator
        b, _, h, w = image.shape
        device = image.device
        # Share of the height that a crop of the full width would need; above 1 the crop must be narrower.
        aspect = (w * o.height) / (h * o.width)
        zoom = max(1.0, aspect) * (1 + (o.zoom - 1) * torch.rand(b, generator=g, device=device) ** 1.5)
        flip = torch.where(torch.rand(b, generator=g, device=device) < 0.5, -1.0, 1.0)
        extent = torch.stack([1 / zoom, aspect / zoom], dim=1)
        centre = (torch.rand(b, 2, generator=g, device=device) * 2 - 1) * (1 - extent)
        theta = torch.zeros(b, 2, 3, device=device)
        theta[:, 0, 0] = flip * extent[:, 0]
        theta[:, 1, 1] = extent[:, 1]
        theta[:, :, 2] = centre
        grid = F.affine_grid(theta, [b, 1, o.height, o.width], align_corners=False)
        rows, columns = o.height // o.truth_stride, o.width // o.truth_stride
        coarse = F.affine_grid(theta, [b, 1, rows, columns], align_corners=False)

        def sample(x: Tensor, where: Tensor, mode: str) -> Tensor:
            return F.grid_sample(x, where, mode=mode, padding_mode="border", align_corners=False)

        labels = sample(labels[:, None].float(), coarse, "nearest")[:, 0].round().long()
        depth = sample(depth[:, None], coarse, "nearest")[:, 0]
        normals = sample(normals, coarse, "nearest")
        normals[:, 0] *= flip[:, None, None]
        focal = camera[:, 0] * zoom * (o.width / w)
        return (
            sample(image, grid, "bilinear"),
            sample(keyframe, grid, "bilinear") if self.pairs else image,
            focal,
            Truth(labels, depth, normals),
        )

    def _colours(self, image: Tensor, keyframe: Tensor | None) -> tuple[Tensor, Tensor | None]:
        """One change of light for both pictures, a small one of exposure and noise for each."""
        b, device, g, s = image.shape[0], image.device, self.generator, self.options.colour

        def uniform(*shape: int) -> Tensor:
            return torch.rand(*shape, generator=g, device=device) * 2 - 1

        gain = torch.exp(s * uniform(b, 1, 1, 1)) * torch.exp(0.3 * s * uniform(b, 3, 1, 1))
        contrast, saturation = 1 + s * uniform(b, 1, 1, 1), 1 + s * uniform(b, 1, 1, 1)
        gamma = torch.exp(0.5 * s * uniform(b, 1, 1, 1))

        def apply(x: Tensor) -> Tensor:
            x = x.clamp(min=1e-4) ** gamma * gain * torch.exp(0.05 * uniform(b, 1, 1, 1))
            grey = x.mean(dim=1, keepdim=True)
            x = grey + (x - grey) * saturation
            mean = x.mean(dim=(1, 2, 3), keepdim=True)
            x = mean + (x - mean) * contrast
            noise = 0.02 * torch.rand(b, 1, 1, 1, generator=g, device=device)
            return (x + noise * torch.randn(x.shape, generator=g, device=device)).clamp(0, 1)

        return apply(image), None if keyframe is None else apply(keyframe)


def label_counts(pools: Sequence[Pool], classes: int) -> Tensor:
    """Labelled pixels of each class: (K,)."""
    counts = torch.zeros(classes, dtype=torch.float64)
    for pool in pools:
        for labels in pool.labels:
            known = labels[labels != IGNORE].flatten().long()
            counts += torch.bincount(known, minlength=classes)[:classes].double().cpu()
    return counts

"""Frames in memory, and batches made of them on the training device.

A labelled set of a few thousand frames fits into memory whole, so it is decoded once; it is varied
(augmentation.py) for a whole batch at a time, on whatever device trains.
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
from torch import Tensor
from tqdm import tqdm

from mila_ros.errors import UserError
from mila_ros.models.config import TASKS
from mila_ros.training.augmentation import Augmentation, Batch, Views, cut, from_elsewhere, recoloured
from mila_ros.training.losses import Truth
from mila_ros.worlds.frames import IGNORE, Frame
from mila_ros.worlds.geometry import without_holes
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
    assumed: Tensor | None = None
    """(N, T, H, W), float16 metres, all known, to move the camera by; None: what is known of depth, holes filled."""
    flow: Tensor | None = None
    """(N, T, 2, H, W), float16 pixels: from each place to where it is in the frame before; None: unknown."""
    interval: int = 0
    """Frames of a 30 Hz video between two of a clip."""
    motion: str = "carried"
    """How the camera moves where a second view has to be made (motion.MOTIONS)."""
    tasks: tuple[str, ...] = TASKS
    """For which there is ground truth."""

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
        assumed_depth=nearest(frame.assumed_depth),
        labels=nearest(frame.labels),
        normals=nearest(frame.normals),
        intrinsics=frame.intrinsics.scaled(*size),
    )


def pool_of_frames(frames: Iterable[Frame], device: torch.device, scale: float = 1.0, motion: str = "carried") -> Pool:
    """Keep frames in memory, resized by `scale`. All must have one size; what is not known of one is unknown.

    Frames without any ground truth, those between the labelled ones of a video, are left out.
    """
    rgb, depth, labels, normals, cameras, guesses = [], [], [], [], [], []
    kinds: set[str] = set()
    for full in frames:
        if full.labels is None and full.depth is None and full.normals is None:
            continue
        frame = shrunk(full, scale)
        if rgb and frame.rgb.shape[:2] != rgb[0].shape[-2:]:
            raise UserError(f"frame {frame.name} is {full.rgb.shape[:2]}: all frames of a set must have one size")
        known = {"segmentation": frame.labels, "depth": frame.depth, "normals": frame.normals}
        kinds.update(task for task in TASKS if known[task] is not None)
        size = frame.rgb.shape[:2]
        rgb.append(torch.from_numpy(frame.rgb).permute(2, 0, 1).to(device))
        metres = np.zeros(size, np.float32) if frame.depth is None else frame.depth
        half = torch.nan_to_num(torch.from_numpy(metres)).half()
        depth.append(torch.nan_to_num(half, posinf=0.0).to(device))  # beyond half precision is beyond any camera
        guess = frame.assumed_depth
        guesses.append(None if guess is None else torch.from_numpy(guess).half().to(device))
        ids = np.full(size, IGNORE, np.uint8) if frame.labels is None else frame.labels
        labels.append(torch.from_numpy(ids).to(device))
        vectors = np.zeros((*size, 3), np.float32) if frame.normals is None else frame.normals
        unit = torch.nan_to_num(torch.from_numpy(vectors)).permute(2, 0, 1)
        normals.append((unit * 127).round().to(torch.int8).to(device))
        camera = frame.intrinsics
        cameras.append(torch.tensor([camera.fx, camera.fy, camera.cx, camera.cy]))
    if not kinds:
        raise UserError("no frame has ground truth: there is nothing to learn from")
    assumed = None
    if any(guess is not None for guess in guesses):
        pairs = zip(guesses, depth, strict=True)
        assumed = torch.stack([without_holes(d[None].float())[0].half() if g is None else g for g, d in pairs])[:, None]
    return Pool(
        torch.stack(rgb)[:, None],
        torch.stack(depth)[:, None],
        torch.stack(labels)[:, None],
        torch.stack(normals)[:, None],
        torch.stack(cameras).to(device),
        assumed,
        motion=motion,
        tasks=tuple(task for task in TASKS if task in kinds),
    )


def pool_of_rendered(
    clips: int,
    frames: int,
    interval: int,
    height: int,
    width: int,
    seed: int,
    device: torch.device,
    flow: bool = False,
) -> Pool:
    """Make clips of the rendered world (worlds/rendered.py), a different room each; with their optical flow or not."""
    world = RenderedWorld(device=device, height=height, width=width, seed=seed)
    parts = []
    with tqdm(total=clips, desc="render", unit="clip", file=sys.stderr) as bar:
        while bar.n < clips:
            count = min(8, clips - bar.n)
            clip = world.clips(batch=count, frames=frames, interval=interval, seed=seed + bar.n, flow=flow)
            normals = (clip.normals * 127).round().to(torch.int8)
            depth = torch.nan_to_num(clip.depth).half()
            flows = [] if clip.flow is None else [clip.flow.half()]
            parts.append((clip.rgb, depth, clip.labels, normals, clip.intrinsics.float(), *flows))
            bar.update(count)
    rgb, depth, labels, normals, intrinsics, *flows = (torch.cat(tensors) for tensors in zip(*parts, strict=True))
    return Pool(rgb, depth, labels, normals, intrinsics, flow=flows[0] if flow else None, interval=interval)


class Batches:
    """Endless batches from pools.

    Args:
        pools: with the share of each in a batch.
        size: pictures a batch.
        options: how they are varied.
        keyframes: how many are wanted with each picture, `max_distance` frames from one to the next.
        generator: on the pools' device.
        flow: whether optical flow to the newest keyframe is wanted. Clips then need it, and their keyframes are the
            frames before, whatever the distance.
    """

    def __init__(
        self,
        pools: Sequence[tuple[Pool, float]],
        size: int,
        options: Augmentation,
        keyframes: int,
        generator: torch.Generator,
        flow: bool = False,
    ) -> None:
        if flow and any(not pool.still and (pool.flow is None or pool.rgb.shape[1] < 2) for pool, _ in pools):
            raise UserError("clips without optical flow, or of one frame, cannot teach it")
        total = sum(share for _, share in pools)
        counts = [round(size * share / total) for _, share in pools]
        counts[0] += size - sum(counts)
        if min(counts) <= 0:
            shares = ", ".join(f"{share:g}" for _, share in pools)
            raise UserError(
                f"{size} pictures at a time, shared {shares}, leave none for one of the data sets: use a larger batch, "
                "fewer processes or parts (accumulate), or a larger share"
            )
        self.parts = [(pool, count) for (pool, _), count in zip(pools, counts, strict=True) if count > 0]
        self.options, self.keyframes, self.generator, self.flow = options, keyframes, generator, flow
        self.orders: list[Tensor] = [torch.empty(0, dtype=torch.long) for _ in self.parts]

    def next(self) -> Batch:
        """The next batch."""
        drawn = [cut(self._draw(i), self.options, self.generator) for i in range(len(self.parts))]
        image = torch.cat([d.image for d in drawn])
        keyframes = torch.cat([d.keyframes for d in drawn if d.keyframes is not None]) if self.keyframes else None
        truth = Truth(
            torch.cat([d.truth.labels for d in drawn]),
            torch.cat([d.truth.depth for d in drawn]),
            torch.cat([d.truth.normals for d in drawn]),
        )
        image, keyframes = recoloured(image, keyframes, self.options.colour, self.generator)
        flow = torch.cat([d.flow for d in drawn if d.flow is not None]) if self.flow else None
        return Batch(image, keyframes, torch.cat([d.focal for d in drawn]), truth, flow)

    def _indices(self, part: int) -> Tensor:
        """Every clip once before any comes again."""
        pool, count = self.parts[part]
        while len(self.orders[part]) < count:
            fresh = torch.randperm(len(pool), generator=self.generator, device=pool.rgb.device)
            self.orders[part] = torch.cat([self.orders[part].to(fresh.device), fresh])
        picked, self.orders[part] = self.orders[part][:count], self.orders[part][count:]
        return picked

    def _draw(self, part: int) -> Views:
        """Unaltered views of one pool's next clips, from a moved camera where that is wanted."""
        pool, count = self.parts[part]
        picked = self._indices(part)
        device, g, o = pool.rgb.device, self.generator, self.options
        clip = pool.rgb.shape[1]
        exact = self.flow and not pool.still  # flow is known from each frame but the first, to the one before
        now = torch.randint(int(exact), clip, (count,), generator=g, device=device)
        views = Views(
            pool.rgb[picked, now].float() / 255,
            None,
            pool.depth[picked, now].float(),
            pool.labels[picked, now],
            pool.normals[picked, now].float() / 127,
            pool.intrinsics[picked],
        )
        if pool.still:
            before = None
            if self.keyframes:
                distance = torch.randint(1, o.max_distance + 1, (count, 1), generator=g, device=device)
                every = o.max_distance * torch.arange(self.keyframes, device=device)
                before = random_motion((distance + every).float(), g, pool.motion)
            whole = without_holes(views.depth) if pool.assumed is None else pool.assumed[picked, now].float()
            return from_elsewhere(views, whole, before, o.moved, g, self.flow)
        if exact:
            assert pool.flow is not None
            earlier = pool.rgb[picked, now - 1][:, None].float() / 255
            return views._replace(keyframes=earlier, flow=pool.flow[picked, now].float())
        if self.keyframes:
            reach = max(1, o.max_distance // max(1, pool.interval))
            step = torch.randint(1, reach + 1, (count, 1), generator=g, device=device)
            ago = step + reach * torch.arange(self.keyframes, device=device)
            # Where the clip has no earlier frame, a later one: time may run either way.
            back = torch.where(now[:, None] >= step, -1, 1)
            then = (now[:, None] + back * ago).clamp(0, clip - 1)
            views = views._replace(keyframes=pool.rgb[picked[:, None], then].float() / 255)
        return views


def label_counts(pools: Sequence[Pool], classes: int) -> Tensor:
    """Labelled pixels of each class: (K,)."""
    counts = torch.zeros(classes, dtype=torch.float64)
    for pool in pools:
        for labels in pool.labels:
            known = labels[labels != IGNORE].flatten().long()
            counts += torch.bincount(known, minlength=classes)[:classes].double().cpu()
    return counts

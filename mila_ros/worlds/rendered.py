"""The rendered world: endless video of furnished rooms with exact ground truth, ray-cast in torch.

The same code runs on a CPU and on a GPU. A clip is one random scene and one camera path through it; a batch of clips is
rendered together. Scenes are put together by numpy (milliseconds), everything per pixel happens on the device.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass, replace

import numpy as np
import numpy.typing as npt
import torch
from torch import Tensor

from mila_ros.worlds.rendered_casting import BALL, BOX, CAPSULE, COLUMN, TILE, Solids, cast_camera, invert, surface
from mila_ros.worlds.rendered_lighting import LIGHTS, Hits, Lights, refined, shade, visibility
from mila_ros.worlds.rendered_materials import FIELDS
from mila_ros.worlds.rendered_paths import camera_path
from mila_ros.worlds.rendered_people import add_people
from mila_ros.worlds.rendered_rooms import build_scene
from mila_ros.worlds.rendered_scene import Scene
from mila_ros.worlds.rendered_sensor import Sensor, develop
from mila_ros.worlds.rendered_textures import Atlas

RATE = 30.0
"""Frames a second of the camera; `interval` counts in its frames."""


@dataclass
class RenderedClip:
    """B clips of T frames with their ground truth, on the device of the world.

    Attributes:
        rgb: uint8 (B, T, 3, H, W).
        depth: float32 (B, T, H, W), metres along the optical axis; NaN where nothing was hit.
        labels: uint8 (B, T, H, W), NYU-40 ids from 0, 255 ignore.
        normals: float32 (B, T, 3, H, W), unit vectors in the optical frame (x right, y down, z forward) that face the
            camera; NaN where nothing was hit.
        intrinsics: float32 (B, 4), fx, fy, cx, cy in pixels; the middle of the first pixel is at 0.
        pose: float32 (B, T, 4, 4), optical frame to world (z up).
        flow: float32 (B, T, 2, H, W), where the surface of each pixel is in the frame before (for the first frame: in
            itself), in pixels to the right and down of the pixel; None unless asked for.
    """

    rgb: Tensor
    depth: Tensor
    labels: Tensor
    normals: Tensor
    intrinsics: Tensor
    pose: Tensor
    flow: Tensor | None = None


@dataclass
class PreparedClips:
    """Scenes and camera paths as arrays, made by `RenderedWorld.prepare`: what a worker process hands to the GPU's."""

    forward: npt.NDArray[np.float32]
    """(B, P, 3, 4)."""
    moving: npt.NDArray[np.float32]
    """(B, T, M, 3, 4), maps of the primitives that move."""
    movers: npt.NDArray[np.int64]
    """(B, M), which primitives those are; P for padding."""
    numbers: npt.NDArray[np.float32]
    """(B, P, 3 + FIELDS): shape, casts, valid, material."""
    labels: npt.NDArray[np.uint8]
    spans: dict[int, slice]
    lights: npt.NDArray[np.float32]
    """(B, LIGHTS, 10): position, radius, power, towards."""
    ambient: npt.NDArray[np.float32]
    pose: npt.NDArray[np.float32]
    intrinsics: npt.NDArray[np.float32]
    seeds: list[int]
    first: int = 0
    """Number of the first frame, where these are the later frames of longer clips."""

    def part(self, first: int, frames: int, step: int = 1) -> PreparedClips:
        """Some of the frames, to render long clips piece by piece."""
        chosen = slice(first, first + frames * step, step)
        return replace(self, pose=self.pose[:, chosen], moving=self.moving[:, chosen], first=self.first + first)


def pack(scenes: Sequence[Scene], times: npt.NDArray[np.float64]) -> dict[str, object]:
    """Arrays of several scenes, primitives sorted by kind and padded to equal counts; times (T,) in seconds."""
    counts = {k: max(s.builder.kinds.count(k) for s in scenes) for k in (BOX, BALL, COLUMN, CAPSULE)}
    spans, start = {}, 0
    for kind, count in counts.items():
        if count:
            spans[kind] = slice(start, start + count)
            start += count
    forward = np.zeros((len(scenes), start, 3, 4), np.float32)
    forward[..., :3] = 1e-4 * np.eye(3)
    numbers = np.zeros((len(scenes), start, 3 + FIELDS), np.float32)
    labels = np.full((len(scenes), start), 255, np.uint8)
    lights = np.zeros((len(scenes), LIGHTS, 10), np.float32)
    lights[..., 3] = 0.1
    moves: list[list[tuple[int, np.ndarray]]] = []
    for i, scene in enumerate(scenes):
        b = scene.builder
        kinds = np.array(b.kinds)
        slots = np.empty(len(kinds), np.int64)
        for kind, span in spans.items():
            mine = kinds == kind
            slots[mine] = span.start + np.arange(mine.sum())
        forward[i, slots] = np.stack(b.forward)
        numbers[i, slots, 0], numbers[i, slots, 1], numbers[i, slots, 2] = b.shapes, b.casts, 1
        numbers[i, slots, 3:] = np.stack(b.materials)
        labels[i, slots] = b.labels
        for k, light in enumerate(scene.lights[:LIGHTS]):
            lights[i, k] = [*light.position, light.radius, *light.power, *light.towards]
        moves.append([(int(slots[first + k]), m) for first, maps in scene.moving(times) for k, m in enumerate(maps)])
    most = max(len(m) for m in moves)
    moving = np.zeros((len(scenes), len(times), most, 3, 4), np.float32)
    movers = np.full((len(scenes), most), -1, np.int64)
    for i, rows in enumerate(moves):
        for k, (slot, maps) in enumerate(rows):
            movers[i, k], moving[i, :, k] = slot, maps
    ambient = np.stack([s.ambient for s in scenes]).astype(np.float32)
    return {
        "forward": forward,
        "moving": moving,
        "movers": movers,
        "numbers": numbers,
        "labels": labels,
        "spans": spans,
        "lights": lights,
        "ambient": ambient,
    }


class RenderedWorld:
    """Renders clips on one device.

    Args:
        device: "cpu", "cuda", ...
        height: rows of the pictures.
        width: columns of the pictures.
        seed: of the whole world; the same seed gives the same clips on the same device.
        shadows: lights that throw shadows, 0 to 3; fewer are faster.
        supersample: 2 renders colours with four rays a pixel; ground truth always has one, through its middle.
        clean: well-exposed pictures with little noise instead of random cameras.
    """

    def __init__(
        self,
        device: torch.device | str = "cpu",
        height: int = 240,
        width: int = 320,
        seed: int = 0,
        shadows: int = 2,
        supersample: int = 1,
        clean: bool = False,
    ) -> None:
        if height < 8 or width < 8:
            raise ValueError(f"a picture of {width} x {height} pixels is too small: 8 x 8 at least")
        if not 0 <= shadows <= LIGHTS:
            raise ValueError(f"shadows must be 0 to {LIGHTS}, not {shadows}")
        if supersample < 1:
            raise ValueError(f"supersample must be 1 or more, not {supersample}")
        self.device = torch.device(device)
        self.height, self.width, self.seed = height, width, seed
        self.shadows, self.supersample, self.clean = shadows, supersample, clean
        self.atlas = Atlas.paint(self.device)

    def clips(
        self,
        batch: int,
        frames: int,
        interval: int = 1,
        seed: int | None = None,
        kind: str | None = None,
        flow: bool = False,
    ) -> RenderedClip:
        """Renders new clips.

        Args:
            batch: B, clips; each has its own scene.
            frames: T, frames a clip.
            interval: camera frames (at 30 Hz) from one frame of the clip to the next.
            seed: which clips; None goes on with the next ones.
            kind: kind of rooms, see `rendered_rooms.KINDS`; None for all.
            flow: whether to compute optical flow.
        """
        if seed is None:
            self.seed += 1
            seed = self.seed
        return self.render(self.prepare(batch, frames, interval, seed, kind), flow=flow)

    def prepare(self, batch: int, frames: int, interval: int, seed: int, kind: str | None = None) -> PreparedClips:
        """Draws scenes and paths, on the CPU: the part of `clips` that workers can do ahead."""
        if min(batch, frames, interval) < 1:
            raise ValueError(f"batch, frames and interval must be at least 1, not {batch}, {frames}, {interval}")
        rngs = [np.random.default_rng([seed, k]) for k in range(batch)]
        scenes = [build_scene(rng, kind) for rng in rngs]
        for rng, scene in zip(rngs, scenes, strict=True):
            add_people(rng, scene, int(rng.choice([0, 1, 2], p=[0.85, 0.11, 0.04])))
        count = (frames - 1) * interval + 1
        poses = [camera_path(rng, scene, count, RATE)[::interval] for rng, scene in zip(rngs, scenes, strict=True)]
        intrinsics = []
        for rng in rngs:
            fx = self.width * rng.triangular(0.75, 0.82, 1.3)
            centre = rng.normal(0, 0.01, 2) * self.width
            intrinsics.append([fx, fx, (self.width - 1) / 2 + centre[0], (self.height - 1) / 2 + centre[1]])
        return self.assemble(scenes, poses, np.array(intrinsics), np.arange(count)[::interval] / RATE, seed)

    def assemble(
        self,
        scenes: Sequence[Scene],
        poses: Sequence[npt.NDArray[np.float64]],
        intrinsics: npt.NDArray[np.float64],
        times: npt.NDArray[np.float64],
        seed: int,
    ) -> PreparedClips:
        """Clips of given scenes, poses (T, 4, 4) each, intrinsics (B, 4), at times (T,) in seconds."""
        packed = pack(scenes, times)
        return PreparedClips(
            pose=np.stack(poses).astype(np.float32),
            intrinsics=intrinsics.astype(np.float32),
            seeds=[seed * 1_000_003 + k for k in range(len(scenes))],
            **packed,  # type: ignore[arg-type]
        )

    def expose(self, clips: PreparedClips, looks: int = 6) -> Tensor:
        """Gains (B,) that suit whole clips, metered on a few frames: for `render` of one part after another."""
        frames = clips.pose.shape[1]
        looks = min(looks, frames)
        meter = RenderedWorld.__new__(RenderedWorld)
        meter.__dict__.update(self.__dict__, supersample=1)
        return meter._render(clips.part(0, looks, frames // looks), False, None)[1]

    def render(self, clips: PreparedClips, flow: bool = False, gain: Tensor | None = None) -> RenderedClip:
        """Renders prepared clips; gain: exposure (B,) from `expose`, or None to meter these frames."""
        return self._render(clips, flow, gain)[0]

    @torch.inference_mode()
    def _render(self, clips: PreparedClips, flow: bool, gain: Tensor | None) -> tuple[RenderedClip, Tensor]:
        device = self.device
        on = {k: torch.from_numpy(v).to(device) for k, v in vars(clips).items() if isinstance(v, np.ndarray)}
        batch, frames = on["pose"].shape[:2]
        h, w = self.height, self.width
        sensor = Sensor.draw([np.random.default_rng(s) for s in clips.seeds], device, self.clean)
        generator = torch.Generator(device).manual_seed(clips.seeds[0] + 7919 * clips.first)
        which = torch.arange(batch * frames, device=device)
        step = max(1, (80_000 if device.type == "cpu" else 4_000_000) // (h * w * self.supersample**2))
        radiance, depth, labels, normals, flows = [], [], [], [], []
        for part in which.split(step):
            scene, t = part // frames, part % frames
            solids = self._solids(on, clips.spans, scene, t)
            pose, intrinsics = on["pose"][scene, t], on["intrinsics"][scene]
            hits, missed = self._see(solids, pose, intrinsics, h, w)
            light = self._light(solids, on["numbers"][scene][..., 3:], _lights(on, scene), pose, intrinsics, hits)
            radiance.append(light[..., :h, :w])
            depth.append(torch.where(missed, torch.nan, hits.depth)[:, :h, :w])
            label = on["labels"][scene].gather(1, hits.index.flatten(1)).view_as(hits.index)
            labels.append(torch.where(missed, 255, label)[:, :h, :w])
            optical = (hits.normal.unsqueeze(-1) * pose[:, None, None, :3, :3]).sum(-2).permute(0, 3, 1, 2)
            normals.append(torch.where(missed[:, None], torch.nan, optical)[..., :h, :w])
            if flow:
                before = (t - 1).clamp_min(0)
                flows.append(
                    _flow(
                        self._solids(on, clips.spans, scene, before), on["pose"][scene, before], intrinsics, hits, h, w
                    )
                )
        light = torch.cat(radiance)
        if gain is None:
            gain = sensor.exposure(light.unflatten(0, (batch, frames))[:, :: max(1, frames // 4)])
        rgb = torch.cat(
            [
                develop(x, c // frames, sensor, gain, generator)
                for x, c in zip(light.split(step), which.split(step), strict=True)
            ]
        )

        def clip(x: list[Tensor]) -> Tensor:
            return torch.cat(x).unflatten(0, (batch, frames))

        result = RenderedClip(
            rgb=rgb.unflatten(0, (batch, frames)),
            depth=clip(depth),
            labels=clip(labels),
            normals=clip(normals),
            intrinsics=on["intrinsics"],
            pose=on["pose"],
            flow=clip(flows) if flow else None,
        )
        return result, gain

    def _light(
        self, solids: Solids, materials: Tensor, lights: Lights, pose: Tensor, intrinsics: Tensor, hits: Hits
    ) -> Tensor:
        """Radiance (F, 3, ...) of the pixels of hits."""
        n, (tall, wide) = self.supersample, hits.index.shape[1:]
        if n == 1:
            return shade(solids, materials, lights, self.atlas, hits, visibility(solids, lights, hits, self.shadows))

        def scaled(k: float) -> Tensor:
            result = intrinsics * k
            result[:, 2:] += (k - 1) / 2
            return result

        # Soft shadows need fewer rays than there are pixels, edges more; colours inside of edges are interpolated.
        coarse = self._see(solids, pose, scaled(0.5), tall // 2, wide // 2)[0]
        shaded = visibility(solids, lights, coarse, self.shadows)[..., : tall // 2, : wide // 2]
        visible = refined(shaded, _seen(coarse)[..., : tall // 2, : wide // 2], _seen(hits))
        light = shade(solids, materials, lights, self.atlas, hits, visible)
        fine = cast_camera(solids, pose, scaled(n), tall * n, wide * n)[1]
        light = refined(light.clamp(max=_DAZZLE * light.mean()), _seen(hits)[:, :1], fine.unsqueeze(1).to(light.dtype))
        return torch.nn.functional.avg_pool2d(light, n)

    def _solids(self, on: dict[str, Tensor], spans: dict[int, slice], scene: Tensor, t: Tensor) -> Solids:
        forward = on["forward"][scene]
        movers = on["movers"][scene]
        if movers.shape[1]:
            rows = torch.arange(len(scene), device=scene.device)[:, None].expand_as(movers)
            real = movers >= 0
            forward[rows[real], movers[real]] = on["moving"][scene, t][real]
        numbers = on["numbers"][scene]
        shape = numbers[..., 0]
        extent = torch.ones_like(forward[..., 0])
        for kind, span in spans.items():
            if kind == COLUMN:
                extent[:, span, :2] = 1 + shape[:, span, None].abs()
            elif kind == CAPSULE:
                extent[:, span, 2] = 1 + shape[:, span]
        return Solids(forward, invert(forward), shape, extent, numbers[..., 2] > 0, numbers[..., 1] > 0, spans)

    def _see(self, solids: Solids, pose: Tensor, intrinsics: Tensor, height: int, width: int) -> tuple[Hits, Tensor]:
        """First hits of all pixels of pictures padded to whole tiles, and where there are none."""
        h, w = -(-height // TILE) * TILE, -(-width // TILE) * TILE
        depth, index = cast_camera(solids, pose, intrinsics, h, w)
        missed = torch.isinf(depth)
        depth = torch.where(missed, 1.0, depth)
        rays = _rays(intrinsics, h, w)
        along = (rays.unsqueeze(-2) * pose[:, None, None, :3, :3]).sum(-1)
        point = pose[:, None, None, :3, 3] + along * depth.unsqueeze(-1)
        normal, local = surface(solids, index.flatten(1), point.flatten(1, 2))
        normal, local = normal.view_as(point), local.view_as(point)
        view = -torch.nn.functional.normalize(along, dim=-1)
        normal = torch.where((normal * view).sum(-1, keepdim=True) < 0, -normal, normal)
        return Hits(index, depth, point, normal, local, view, intrinsics[:, 0]), missed


_DAZZLE = 40.0
"""Radiance, in multiples of the mean, above which a ray counts no more in a pixel of several: keeps edges smooth."""


def _seen(hits: Hits) -> Tensor:
    """What tells surfaces apart, (F, 4, H, W): the primitive and the normal."""
    return torch.cat((hits.index.unsqueeze(-1).to(hits.normal.dtype), hits.normal), -1).permute(0, 3, 1, 2)


def _rays(intrinsics: Tensor, h: int, w: int) -> Tensor:
    """Directions (F, H, W, 3) of pixels in the optical frame, z = 1."""
    fx, fy, cx, cy = (k[:, None, None] for k in intrinsics.unbind(-1))
    u = torch.arange(w, device=intrinsics.device)[None, None, :]
    v = torch.arange(h, device=intrinsics.device)[None, :, None]
    x, y = torch.broadcast_tensors((u - cx) / fx, (v - cy) / fy)
    return torch.stack((x, y, torch.ones_like(x)), -1)


def _lights(on: dict[str, Tensor], scene: Tensor) -> Lights:
    rows = on["lights"][scene]
    return Lights(rows[..., :3], rows[..., 3], rows[..., 4:7], rows[..., 7:10], on["ambient"][scene])


def _flow(then: Solids, pose: Tensor, intrinsics: Tensor, hits: Hits, h: int, w: int) -> Tensor:
    """Where the surfaces of hits were in another frame, (F, 2, H, W) in pixels from where they are now."""
    frames = torch.arange(len(pose), device=pose.device)[:, None, None].expand_as(hits.index)
    matrix = then.forward[frames, hits.index]
    point = (matrix[..., :3] * hits.local.unsqueeze(-2)).sum(-1) + matrix[..., 3]
    seen = ((point - pose[:, None, None, :3, 3]).unsqueeze(-1) * pose[:, None, None, :3, :3]).sum(-2)
    fx, fy, cx, cy = (k[:, None, None] for k in intrinsics.unbind(-1))
    z = torch.where(seen[..., 2] > 1e-3, seen[..., 2], torch.nan)
    u, v = fx * seen[..., 0] / z + cx, fy * seen[..., 1] / z + cy
    rows = torch.arange(u.shape[1], device=u.device)[:, None]
    columns = torch.arange(u.shape[2], device=u.device)
    return torch.stack((u - columns, v - rows), 1)[..., :h, :w]

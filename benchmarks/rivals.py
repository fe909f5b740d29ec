"""What would a robot run instead? Three single-task networks, or flow that warps keyframes; same frames, in turns.

    python -m benchmarks.rivals [--bag PATH] [--model NAME] [--rounds 5]

Rivals have random weights: only time and arithmetic are compared. Each runs at the input size that it is published
with, in the engine's precision or in float32, whichever is faster for it, on all cores; answers of all are brought to
the node's output size.

- SegFormer-B0 (Xie et al., NeurIPS 2021), 512x512;
- Depth Anything V2 small (Yang et al., NeurIPS 2024), 686x518 for a 4:3 picture;
- the same network with three channels out, for normals;
- Deep Feature Flow (Zhu et al., CVPR 2017): RAFT-small (Teed, Deng, ECCV 2020) on the whole picture from the keyframe,
  warping of the slow network's features, the slow heads.
"""

from __future__ import annotations

import os
import sys
import time
from collections.abc import Callable, Sequence
from typing import Any

import numpy as np
import numpy.typing as npt
import torch
import torch.nn.functional as F
from torch import Tensor, nn
from torch.utils.flop_counter import FlopCounterMode
from torchvision.models.optical_flow import raft_small
from tqdm import tqdm

from benchmarks.latency import read_frames
from benchmarks.methods import MilaMethod, SlowEveryFrame
from benchmarks.options import engine_of, engine_parser, on_what
from benchmarks.rows import Row, finish, run
from mila_ros.errors import UserError
from mila_ros.evaluation import machine
from mila_ros.evaluation.carriers import warped
from mila_ros.evaluation.inputs import default_clip
from mila_ros.runtime.engine import Engine

INTERVAL = 10
_FRAMES = 40


def segformer(classes: int) -> nn.Module:
    """SegFormer-B0: the defaults of its configuration."""
    from transformers import SegformerConfig, SegformerForSemanticSegmentation

    return SegformerForSemanticSegmentation(SegformerConfig(num_labels=classes))


def depth_anything(channels: int) -> nn.Module:
    """Depth Anything V2 small with so many channels out."""
    from transformers import DepthAnythingConfig, DepthAnythingForDepthEstimation, Dinov2Config

    backbone = Dinov2Config(
        hidden_size=384,
        num_hidden_layers=12,
        num_attention_heads=6,
        image_size=518,
        patch_size=14,
        out_indices=[3, 6, 9, 12],
        apply_layernorm=True,
        reshape_hidden_states=False,
    )
    config = DepthAnythingConfig(
        backbone_config=backbone,
        reassemble_hidden_size=384,
        patch_size=14,
        neck_hidden_sizes=[48, 96, 192, 384],
        fusion_hidden_size=64,
        head_in_channels=64,
        head_hidden_size=32,
    )
    model = DepthAnythingForDepthEstimation(config)
    if channels != 1:
        # Its head squeezes the one channel away; with more of them that does nothing.
        model.head.conv3 = nn.Conv2d(32, channels, 1)
    return model


class Rival:
    """A network that answers one task of a picture.

    Args:
        name: for the table.
        model: gives an object with `logits` or `predicted_depth`.
        size: (h, w) of its input.
        engine: whose device, precision and output size are taken.
    """

    def __init__(self, name: str, model: nn.Module, size: tuple[int, int], engine: Engine) -> None:
        self.name = name
        self._model = model.eval().to(device=engine.device)
        self._size, self._engine = size, engine
        self._dtype = self._faster(next(engine.model.parameters()).dtype)
        self._model = self._model.to(dtype=self._dtype)
        self.setting = f"{size[1]}x{size[0]}, {str(self._dtype).removeprefix('torch.')}"
        self.ms: list[float] = []

    def _faster(self, other: torch.dtype) -> torch.dtype:
        """float32 or the other precision: the second run of each decides."""
        took: dict[torch.dtype, float] = {}
        for dtype in (torch.float32, other):
            self._model = self._model.to(dtype=dtype)
            picture = torch.zeros(1, 3, *self._size, device=self._engine.device, dtype=dtype)
            for _ in range(2):
                begin = time.perf_counter()
                self.raw(picture).float().cpu()
                took[dtype] = time.perf_counter() - begin
        return min(took, key=lambda dtype: took[dtype])

    def answer(self, rgb: npt.NDArray[np.uint8], output: tuple[int, int]) -> npt.NDArray[Any]:
        begin = time.perf_counter()
        picture = torch.from_numpy(rgb).to(self._engine.device).permute(2, 0, 1)[None].float() / 255
        found = self.raw(F.interpolate(picture, self._size, mode="bilinear", antialias=True).to(self._dtype))
        found = F.interpolate(found.float(), output, mode="bilinear")
        array = (found.argmax(dim=1).to(torch.uint8) if found.shape[1] > 3 else found).cpu().numpy()
        self.ms.append((time.perf_counter() - begin) * 1e3)
        return np.asarray(array)

    def raw(self, picture: Tensor) -> Tensor:
        answer = self._model(picture)
        found: Tensor = answer.logits if hasattr(answer, "logits") else answer.predicted_depth
        return found if found.ndim == 4 else found[:, None]

    def flops(self) -> int:
        """Of one picture."""
        picture = torch.zeros(1, 3, *self._size, device=self._engine.device, dtype=self._dtype)
        with FlopCounterMode(display=False) as counter:
            self.raw(picture)
        return counter.get_total_flops()


class FlowFeatures:
    """Keyframe features warped by RAFT-small, the slow heads."""

    def __init__(self, engine: Engine) -> None:
        self.name, self.setting = "Deep Feature Flow, RAFT-small", f"a keyframe in {INTERVAL} frames"
        self._engine = engine
        # RAFT's correlation look-up wants float32.
        self._flow = raft_small(weights=None).eval().to(engine.device)
        self._key: tuple[Tensor, Any] | None = None
        self.ms: list[float] = []
        self.keyframe_ms: list[float] = []

    def answer(self, rgb: npt.NDArray[np.uint8], focal: float, number: int) -> None:
        engine, begin = self._engine, time.perf_counter()
        picture = engine.upload(rgb)
        frame = torch.from_numpy(rgb).to(engine.device).permute(2, 0, 1)[None].float() / 127.5 - 1
        if self._key is None or number % INTERVAL == 0:
            memory, _ = engine.keyframe(picture)
            self._key = (frame, memory)
            engine.answer_keyframe(picture, memory, engine.tasks, focal)
            self.keyframe_ms.append((time.perf_counter() - begin) * 1e3)
            return
        before, memory = self._key
        features = memory.features
        flow = self._flow(frame, before)[-1]
        size = (features.height, features.width)
        small = F.interpolate(flow, size, mode="bilinear") * (size[1] / flow.shape[-1])
        moved = memory._replace(features=warped(features, small.to(features.coarse)))
        engine.answer_keyframe(picture, moved, engine.tasks, focal)
        self.ms.append((time.perf_counter() - begin) * 1e3)

    def mean_ms(self) -> float:
        """Of a frame, keyframes included."""
        keyframe, frame = float(np.median(self.keyframe_ms)), float(np.median(self.ms))
        return (keyframe + (INTERVAL - 1) * frame) / INTERVAL


def measure(
    engine: Engine, frames: Sequence[tuple[npt.NDArray[np.uint8], float]], rounds: int, tell: Callable[[], object]
) -> list[Row]:
    """Rows of all methods after so many rounds."""
    size = frames[0][0].shape[:2]
    output = engine.output_size(int(size[0]), int(size[1]))
    with torch.inference_mode():
        singles = [
            Rival("SegFormer-B0", segformer(len(engine.classes)), (512, 512), engine),
            Rival("Depth Anything V2 small", depth_anything(1), (518, 686), engine),
            Rival("normals network of that size", depth_anything(3), (518, 686), engine),
        ]
    flow = FlowFeatures(engine)
    slow = SlowEveryFrame(engine, engine.tasks)
    mila = MilaMethod(engine, engine.tasks, "synchronous", INTERVAL)
    number = 0
    with engine.fast_thread():
        engine.warm_up(*frames[0][0].shape[:2])
        torch.set_num_threads(machine.cores())  # nothing runs beside
        for index in range(rounds + 1):
            if index == 1:  # the first round was warming up
                for method in (slow, mila):
                    method.measured.wall_ms.clear()
                for rival in singles:
                    rival.ms.clear()
                flow.ms.clear()
                flow.keyframe_ms.clear()
            for _ in range(INTERVAL):
                rgb, focal = frames[number % len(frames)]
                mila.answer(rgb, focal, number)
                slow.answer(rgb, focal, number)
                number += 1
            for rival in singles:
                rival.answer(frames[number % len(frames)][0], output)
            for turn in (0, 1):  # a keyframe and a frame
                flow.answer(*frames[(number + turn) % len(frames)], turn)
            tell()
        counted = {rival.name: rival.flops() for rival in singles}
        mila.close()
    known = engine.flops(engine.seen_size(int(size[0]), int(size[1])), engine.tasks)
    ours = float(np.mean(mila.measured.wall_ms))
    three = sum(float(np.median(rival.ms)) for rival in singles)
    rows: list[Row] = []

    def row(method: str, setting: str, metric: str, value: float, unit: str) -> None:
        question = "what would run instead"
        rows.append(Row(question=question, method=method, setting=setting, metric=metric, value=value, unit=unit))

    lines = [
        ("MILA", f"synchronous, a keyframe in {INTERVAL} frames", ours, known.amortised(INTERVAL)),
        ("slow network on every frame", "", float(np.mean(slow.measured.wall_ms)), float(known.slow_frame)),
        *((r.name, r.setting, float(np.median(r.ms)), float(counted[r.name])) for r in singles),
        ("the three single-task networks", "one after another", three, float(sum(counted.values()))),
        (flow.name, flow.setting, flow.mean_ms(), float("nan")),
    ]
    for name, setting, milliseconds, flops in lines:
        row(name, setting, "a frame", milliseconds, "ms")
        row(name, setting, "frames a second", 1e3 / milliseconds, "Hz")
        if np.isfinite(flops):
            row(name, setting, "arithmetic", flops / 1e9, "GFLOPs")
        row(name, setting, "time against MILA", milliseconds / ours, "")
    return rows


def main(argv: Sequence[str]) -> int:
    """Measure, print tables, write rows."""
    parser = engine_parser("rivals", __doc__)
    parser.add_argument("--rounds", type=int, default=5, help="of ten frames of MILA and one of each rival (default 5)")
    options = parser.parse_args(argv)
    if options.rounds < 1:
        raise UserError("--rounds is counted from 1")
    load = os.getloadavg()[0]
    torch.manual_seed(0)
    frames = read_frames(options.bag or default_clip(), _FRAMES)
    engine = engine_of(options)
    with tqdm(total=options.rounds + 1, desc="rivals", unit="round", file=sys.stderr) as bar:
        rows = measure(engine, frames, options.rounds, bar.update)
    rows.append(on_what(engine, load))
    finish(rows, options.out)
    return 0


if __name__ == "__main__":
    run(main)

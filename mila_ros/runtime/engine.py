"""A model on a device: RGB pictures as NumPy arrays in, answers as NumPy arrays out, and where the time went."""

from __future__ import annotations

import time
from collections.abc import Sequence
from contextlib import AbstractContextManager, nullcontext
from dataclasses import replace
from itertools import product
from typing import TYPE_CHECKING

import cv2
import numpy as np
import numpy.typing as npt
import torch

from mila_ros.errors import UserError
from mila_ros.models.config import task_sets
from mila_ros.models.flops import FlopCounts, Flops
from mila_ros.models.fuse import fuse_for_inference
from mila_ros.models.mila import STRIDE
from mila_ros.runtime.devices import DTYPES, pick_backend, pick_device, pick_precision
from mila_ros.runtime.passing import PARTS, Answer, Looked, Picture
from mila_ros.runtime.shares import Shares
from mila_ros.runtime.shortage import tried_twice
from mila_ros.runtime.stopwatch import Stopwatch
from mila_ros.runtime.together import LARGEST_BATCH, stacked

if TYPE_CHECKING:
    from collections.abc import Callable

    from mila_ros.models.mila import Memory, Mila
    from mila_ros.runtime.graph_backend import GraphBackend

SMALLEST_SIDE = 32  # of a picture that the networks' pyramids can hold


class Engine:
    """Runs one model on one device in one precision.

    Safe for three threads at a time: one that calls `keyframe` (inside `slow_thread`), and one that calls `answer`, or
    where it `overlaps` two that call `look` and `tell` (inside `fast_thread`). On a GPU the slow one has a stream of
    lower priority; on a CPU each has its own number of threads, and the slow one gives way to the others.

    Args:
        model: in evaluation mode. It is changed: normalisation is folded into convolutions, weights are moved and cast.
        device: auto, cpu, cuda or cuda:N.
        precision: auto, fp32, bf16 or fp16.
        output_scale: size of the answers as a share of the picture's (0 < s <= 1).
        max_pixels: larger pictures count as shrunk to this many pixels; None: never. The networks see them smaller
            still where they were trained so (Mila.working_size).
        threads: CPU threads of the fast path; 0: the cores that the slow network leaves. On two cores one thread each
            is best by far: two that share a core with the slow network wait for it at every operator.
        slow_threads: CPU threads of the slow network in its own thread; 0: half the cores, at least one.
        niceness: how far the slow network's thread gives way on the CPU (0: not, 19: to everything).
        backend: eager (PyTorch), openvino, onnxruntime, compile, or auto (devices.py).
        say: takes a sentence about what takes long, or goes another way than was asked for.

    Raises:
        UserError: the device does not exist, or cannot compute in this precision, or has no such backend.
    """

    def __init__(
        self,
        model: Mila,
        device: str = "auto",
        precision: str = "auto",
        output_scale: float = 0.5,
        max_pixels: int | None = None,
        threads: int = 0,
        slow_threads: int = 0,
        niceness: int = 5,
        backend: str = "eager",
        say: Callable[[str], None] | None = None,
    ) -> None:
        self.device = pick_device(device)
        self.backend = pick_backend(backend, self.device)
        self.precision = pick_precision(precision, self.device, self.backend)
        self._insists = backend == self.backend
        self._say = say or (lambda _: None)
        self.model = self._running = model
        self._compiled: GraphBackend | None = None
        if self.backend != "eager":
            try:
                from mila_ros.runtime.graph_backend import GraphBackend

                self._compiled = GraphBackend(model, self.backend, self.device, self.precision, self._say)
            except Exception as error:
                self._do_without(UserError(f"backend {self.backend} cannot be used: {error}"))
        self.output_scale = output_scale
        self.max_pixels = max_pixels
        self.tasks: tuple[str, ...] = model.config.tasks
        self.classes: tuple[str, ...] = model.config.classes
        self.palette: tuple[tuple[int, int, int], ...] = model.config.palette
        self.shares = Shares(self.device, threads, slow_threads, niceness, self._release)
        self._dtype = DTYPES[self.precision]
        fused = fuse_for_inference(model.eval()).to(device=self.device, dtype=self._dtype)
        self.model = fused.to(memory_format=torch.channels_last)  # type: ignore[call-overload]
        self._running = self.model if self._compiled is None else self._compiled.over(self.model)
        if self.device.type == "cuda":
            # Pictures of one size come again and again: let cuDNN choose its kernels by trying.
            torch.backends.cudnn.benchmark = True
        self._flops = FlopCounts(self.model)
        # By size: what a first picture gave, for threads that warm up and do not run what gives it.
        self._at_first: dict[tuple[int, int], tuple[Memory, list[Looked]]] = {}

    def _release(self) -> None:
        """A thread leaves."""
        if self._compiled is not None:
            self._compiled.release()

    def fast_thread(self) -> AbstractContextManager[None]:
        """For the thread that answers frames: its share of the machine (shares.py)."""
        return self.shares.fast()

    def prepare_thread(self) -> AbstractContextManager[None]:
        """For a thread that uploads pictures, or judges answers, while others answer the next or the one before."""
        return self.shares.beside()

    def slow_thread(self) -> AbstractContextManager[None]:
        """For the thread that makes keyframes beside it: its share of the machine."""
        return self.shares.slow()

    def _bounded(self, height: int, width: int) -> tuple[int, int]:
        if self.max_pixels is None or height * width <= self.max_pixels:
            return height, width
        factor = (self.max_pixels / (height * width)) ** 0.5
        return max(1, round(height * factor)), max(1, round(width * factor))

    def seen_size(self, height: int, width: int) -> tuple[int, int]:
        """The size at which a picture of this size goes to the device.

        Where the networks see it smaller, it is shrunk here, before it is uploaded and converted; never enlarged.
        """
        h, w = self._bounded(height, width)
        wanted = self.model.working_size(h, w)
        return wanted if wanted[0] < h else (h, w)

    def output_size(self, height: int, width: int) -> tuple[int, int]:
        """The size of the answers to a picture of this size."""
        h, w = self._bounded(height, width)
        return max(1, round(h * self.output_scale)), max(1, round(w * self.output_scale))

    def upload(self, rgb: npt.NDArray[np.uint8]) -> Picture:
        """Bring an RGB picture (H, W, 3) uint8 to the device, shrunk to `max_pixels` where it is larger.

        Raises:
            ValueError: not such a picture, or one too small for the networks.
        """
        if rgb.ndim != 3 or rgb.shape[2] != 3 or rgb.dtype != np.uint8:
            raise ValueError(f"a picture is (height, width, 3) uint8; this one is {rgb.shape} {rgb.dtype}")
        original = (int(rgb.shape[0]), int(rgb.shape[1]))
        size = self.seen_size(*original)
        if min(size) < SMALLEST_SIDE:
            raise ValueError(
                f"a picture of {original[1]}x{original[0]} is too small: "
                f"each side needs at least {SMALLEST_SIDE} pixels"
            )
        begin = time.perf_counter()
        if size != original:
            # Down to half the size every pixel counts if it is interpolated, too, in an eighth of averaging's time.
            how = cv2.INTER_LINEAR if 2 * size[0] >= original[0] else cv2.INTER_AREA
            rgb = np.asarray(cv2.resize(rgb, size[::-1], interpolation=how), dtype=np.uint8)
        tensor = tried_twice(lambda: self._on_device(rgb))
        ready = torch.cuda.current_stream(self.device).record_event() if self.device.type == "cuda" else None
        return Picture(tensor, size, original, ready, (time.perf_counter() - begin) * 1e3)

    def _on_device(self, rgb: npt.NDArray[np.uint8]) -> torch.Tensor:
        pixels = torch.tensor(rgb)  # a copy: it may be a view of a message, and the slow network may read it for longer
        if self.device.type == "cuda":
            pixels = pixels.pin_memory().to(self.device, non_blocking=True)
        return pixels.permute(2, 0, 1)[None].to(self._dtype).div_(255)

    def keyframe(self, picture: Picture, before: Memory | None = None, alone: bool = False) -> tuple[Memory, float]:
        """Run the slow network: what it remembers, and the milliseconds it took. Returns when it is finished.

        before: what was remembered until now, of pictures of the same size (for models with `frames` above 1).
        alone: no frame is looked at meanwhile (synchronous mode), so that it may have the threads of both.
        """
        begin = time.perf_counter()
        self._await(picture)
        with self.shares.all() if alone else nullcontext():
            memory = self._running.keyframe(picture.tensor, before)
        if self.device.type == "cuda":
            torch.cuda.current_stream(self.device).synchronize()
        return memory, (time.perf_counter() - begin) * 1e3

    def _await(self, picture: Picture) -> None:
        """The stream of this thread goes on when the picture is there."""
        if picture.ready is not None:
            stream = torch.cuda.current_stream(self.device)
            stream.wait_event(picture.ready)
            picture.tensor.record_stream(stream)

    def answer(
        self,
        picture: Picture,
        memory: Memory | None,
        tasks: Sequence[str],
        focal: float,
        confidence: bool = False,
        output_size: tuple[int, int] | None = None,
        match: bool = False,
    ) -> Answer:
        """Answer a frame on the fast path: `look`, then `tell`."""
        return self.tell(self.look(picture, memory, tasks, match), tasks, focal, confidence, output_size)

    @property
    def batches(self) -> bool:
        """Whether cameras' frames are answered sooner together: on a GPU, by PyTorch (graphs are for one picture)."""
        return self.device.type == "cuda" and self._compiled is None

    @property
    def overlaps(self) -> bool:
        """Whether one thread may `look` at a frame while another tells of the one before: on several cores."""
        return self.device.type == "cpu" and self.shares.cores > 1

    def look(self, picture: Picture, memory: Memory | None, tasks: Sequence[str], match: bool = False) -> Looked:
        """The first half of an answer: fast network, and attention to the keyframe (None: without one).

        Args:
            picture: from `upload`.
            memory: from `keyframe`, of a picture of the same size.
            tasks: those wanted; each must be one of the model's.
            match: also tell how alike frame and keyframe look, where the network can.
        """
        self._await(picture)
        return self._look(picture, memory, tasks, match, Stopwatch(self.device))

    def _look(
        self, picture: Picture, memory: Memory | None, tasks: Sequence[str], match: bool, watch: Stopwatch
    ) -> Looked:
        features = self._running.glance(picture.tensor)
        watch.lap("fast")
        if memory is not None:
            features = self._running.propagate(features, memory, tasks, match=match)
            watch.lap("ila")
        return Looked(picture, features, watch, memory)

    def recall(self, picture: Picture, memory: Memory) -> Looked:
        """In place of `look`, for the keyframe itself: what the slow network knows of it."""
        return Looked(picture, memory.features, Stopwatch(self.device), memory)

    def answer_keyframe(
        self,
        picture: Picture,
        memory: Memory,
        tasks: Sequence[str],
        focal: float,
        confidence: bool = False,
        output_size: tuple[int, int] | None = None,
    ) -> Answer:
        """Answer the keyframe itself, from the slow network's features. Arguments as for `tell`."""
        return self.tell(self.recall(picture, memory), tasks, focal, confidence, output_size)

    def answer_slow(self, picture: Picture, tasks: Sequence[str], focal: float) -> Answer:
        """Answer a frame by the slow network alone: `look_slow`, then `tell`, with the threads of both networks."""
        with self.shares.all():
            return self.tell(self.look_slow(picture), tasks, focal)

    def look_slow(self, picture: Picture) -> Looked:
        """In place of `look`, the slow network; nothing is remembered, which a keyframe also costs."""
        self._await(picture)
        with self.shares.all():
            watch = Stopwatch(self.device)
            features = self._running.features(picture.tensor)
            watch.lap("slow")
        return Looked(picture, features, watch)

    def tell(
        self,
        looked: Looked,
        tasks: Sequence[str],
        focal: float,
        confidence: bool = False,
        output_size: tuple[int, int] | None = None,
    ) -> Answer:
        """The second half of an answer: heads.

        Args:
            looked: from `look` or `recall`.
            tasks: those wanted; for a frame from `look` no others than there.
            focal: fx in pixels of the picture as the camera sent it. Only depth uses it.
            confidence: also give segmentation's confidence.
            output_size: (h, w) of the answers; None: `output_scale` decides.
        """
        return self._answers(looked, [looked.picture], tasks, [focal], confidence, output_size)[0]

    def answer_batch(
        self,
        pictures: Sequence[Picture],
        memories: Sequence[Memory | None],
        tasks: Sequence[str],
        focals: Sequence[float],
        confidence: bool = False,
        match: bool = False,
    ) -> list[Answer]:
        """Answer frames of several cameras at once. Arguments as for `look` and `tell`, one a frame.

        pictures: of one size, as the cameras sent them and as the networks see them.
        memories: alike (together.py), or (None) of none.

        Raises:
            ValueError: they are not alike.
        """
        if len({picture.original for picture in pictures}) != 1:
            raise ValueError("frames that are answered together must have one size")
        for picture in pictures:
            self._await(picture)
        watch = Stopwatch(self.device)
        many = replace(pictures[0], tensor=stacked([picture.tensor for picture in pictures]), ready=None)
        looked = self._look(many, stacked(memories), tasks, match, watch)
        return self._answers(looked, pictures, tasks, focals, confidence, None)

    def _answers(
        self,
        looked: Looked,
        pictures: Sequence[Picture],
        tasks: Sequence[str],
        focals: Sequence[float],
        confidence: bool,
        output_size: tuple[int, int] | None,
    ) -> list[Answer]:
        """Heads of the pictures that were looked at together; each of them took its share of the time."""
        picture, features, watch = looked.picture, looked.features, looked.watch
        count = len(pictures)
        watch.go_on()
        size = output_size or self.output_size(*picture.original)
        # Not copied to the device, which a GPU would be waited for.
        seen = torch.empty(count, dtype=torch.float32, device=self.device)
        for i, focal in enumerate(focals):
            seen[i : i + 1].fill_(focal * picture.size[1] / picture.original[1])
        raw = self._running.answer(features, tuple(tasks), seen, size, confidence=confidence)
        watch.lap("heads")
        arrays = {name: tensor.cpu().numpy() for name, tensor in raw.items()}
        matches = [None] * count if features.match is None else features.match.tolist()
        watch.lap("download")
        if self.device.type == "cuda":
            torch.cuda.current_stream(self.device).synchronize()
        shares = {name: milliseconds / count for name, milliseconds in watch.read().items()}
        return [
            Answer.of(arrays, i, size, {"upload": each.milliseconds, **shares}, matches[i], count)
            for i, each in enumerate(pictures)
        ]

    def flops(self, size: tuple[int, int], tasks: Sequence[str]) -> Flops:
        """Arithmetic for a picture of this size (as the networks see it). Counted once, by running: takes a while."""
        return self._flops.count(size, tasks)

    def known_flops(self, size: tuple[int, int], tasks: Sequence[str]) -> Flops | None:
        """As `flops`, but None where it has not been counted yet."""
        return self._flops.known(size, tasks)

    def warm_up(self, height: int, width: int, parts: Sequence[str] = PARTS, cameras: int = 1) -> None:
        """Run everything once, so that the first frame does not pay for what is set up on first use.

        Much of that is set up for each thread: whoever calls `keyframe`, `look` or `tell` from another one calls this
        there, too, with those `parts` of `PARTS`; "keyframe alone" is for the synchronous mode, "slow" for who calls
        `answer_slow`.

        cameras: whose frames may come together, where it `batches`.

        Raises:
            UserError: the backend that was asked for cannot take this network.
        """
        self._compile(height, width)
        picture = self.upload(np.zeros((height, width, 3), np.uint8))
        if "slow" in parts:
            self.answer_slow(picture, self.tasks, 500.0)
        memory, looked = self._at_first.get(picture.size, (None, []))
        if memory is None or "keyframe" in parts or "keyframe alone" in parts:
            memory = self.keyframe(picture, alone="keyframe alone" in parts)[0]
        if not looked or "look" in parts:
            looked = [self.look(picture, known, self.tasks, match=True) for known in (None, memory)]
        if "tell" in parts:
            # Heads are compiled for each set of tasks; the slow network's answer frames in synchronous mode alone.
            sets = [self.tasks] if self._compiled is None else task_sets(self.tasks)
            for each, some in [(self.recall(picture, memory), self.tasks), *product(looked, sets)]:
                self.tell(each, some, 500.0, confidence="segmentation" in some)
        self._at_first[picture.size] = memory, looked
        if self._compiled is not None and self._compiled.failure is not None:
            self._do_without(self._compiled.failure)
        count = 2
        while self.batches and {"look", "tell"} <= set(parts) and count <= min(cameras, LARGEST_BATCH):
            for known in (None, memory):
                self.answer_batch(count * [picture], count * [known], self.tasks, count * [500.0], True, match=True)
            count *= 2

    def _compile(self, height: int, width: int) -> None:
        """Have graphs for pictures of this size, where the backend wants them."""
        if self._compiled is None:
            return
        h, w = self.model.working_size(*self.seen_size(height, width))
        try:
            self._compiled.prepare(h + -h % STRIDE, w + -w % STRIDE)
        except UserError as error:
            self._do_without(error)

    def _do_without(self, error: UserError) -> None:
        """PyTorch answers, unless the backend was asked for by its name."""
        if self._insists:
            raise error
        self._say(f"{error}; PyTorch answers instead")
        self.backend, self._compiled, self._running = "eager", None, self.model

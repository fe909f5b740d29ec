"""`mila render`: a furnished room, filmed by a moving camera, as a recording with exact ground truth."""

from __future__ import annotations

import argparse
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import numpy as np
import numpy.typing as npt
import torch
from tqdm import tqdm

from mila_ros.errors import UserError
from mila_ros.worlds.bag_writer import BagWriter
from mila_ros.worlds.frames import Frame, Intrinsics
from mila_ros.worlds.rendered import PreparedClips, RenderedWorld
from mila_ros.worlds.rendered_bag import Form, write_frame
from mila_ros.worlds.rendered_demo import LOOP, demo_path, demo_scene
from mila_ros.worlds.rendered_paths import camera_path
from mila_ros.worlds.rendered_people import add_people
from mila_ros.worlds.rendered_rooms import KINDS, build_scene

START_NS = 1_700_000_000_000_000_000
"""Stamp of the first frame: fixed, so that the same command writes the same recording."""


def prepare(world: RenderedWorld, room: str, frames: int, rate: float, seed: int) -> PreparedClips:
    """One clip of a room: "demo" or one of rendered_rooms.KINDS. The focal length is that of a Kinect, 525 at 640."""
    focal = 525.0 * world.width / 640
    intrinsics = np.array([[focal, focal, (world.width - 1) / 2, (world.height - 1) / 2]])
    times = np.arange(frames) / rate
    if room == "demo":
        scene, poses = demo_scene(seed), demo_path(times)
    else:
        rng = np.random.default_rng([seed, 0])
        scene = build_scene(rng, None if room == "any" else room)
        add_people(rng, scene, 1)
        poses = camera_path(rng, scene, frames, rate)
    return world.assemble([scene], [poses], intrinsics, times, seed)


def frames_of(world: RenderedWorld, clips: PreparedClips, rate: float, at_once: int = 4) -> Iterator[Frame]:
    """Frames of the first clip, rendered a few at a time, stamped at the rate."""
    gain = world.expose(clips)
    total = clips.pose.shape[1]
    fx, fy, cx, cy = (float(x) for x in clips.intrinsics[0])
    camera = Intrinsics(fx, fy, cx, cy, world.width, world.height)
    for first in range(0, total, at_once):
        clip = world.render(clips.part(first, min(at_once, total - first)), gain=gain)
        for k in range(clip.rgb.shape[1]):
            number = first + k
            yield Frame(
                rgb=_array(clip.rgb[0, k].permute(1, 2, 0)),
                intrinsics=camera,
                depth=_array(clip.depth[0, k]),
                labels=_array(clip.labels[0, k]),
                normals=_array(clip.normals[0, k].permute(1, 2, 0)),
                pose=clips.pose[0, number].astype(np.float64),
                stamp_ns=START_NS + round(number * 1e9 / rate),
                name=f"{number:06d}",
            )


def _array(x: torch.Tensor) -> npt.NDArray[Any]:
    return x.contiguous().cpu().numpy()


def _parser() -> argparse.ArgumentParser:
    parser = argparse.ArgumentParser(
        prog="mila render",
        description="Renders a furnished room, filmed by a moving camera, into a rosbag2 folder (MCAP): pictures, "
        "camera_info, /tf, /odom, and as ground truth depth and labels (NYU-40 ids). The same command writes the same "
        "recording. The defaults make the clip that ships with the package.",
        formatter_class=argparse.ArgumentDefaultsHelpFormatter,
    )
    parser.add_argument("out", type=Path, metavar="OUT", help="the folder to write; must not exist yet")
    parser.add_argument("--room", choices=("demo", "any", *KINDS), default="demo", help="which room")
    parser.add_argument("--frames", type=int, default=round(30 * LOOP), help="how many frames")
    parser.add_argument("--rate", type=float, default=30.0, help="frames a second")
    parser.add_argument("--width", type=int, default=640, help="columns of the pictures")
    parser.add_argument("--height", type=int, default=480, help="rows of the pictures")
    parser.add_argument("--seed", type=int, default=3, help="which room of its kind")
    parser.add_argument("--quality", type=int, default=40, help="JPEG quality, 1 to 100")
    parser.add_argument(
        "--truth-every", type=int, default=15, metavar="N", help="ground truth for every Nth frame; 0 none"
    )
    parser.add_argument("--supersample", type=int, choices=(1, 2), default=2, help="rays on the side of a pixel")
    parser.add_argument("--raw", action="store_true", help="uncompressed pictures and depth (32FC1 metres)")
    parser.add_argument("--normals", action="store_true", help="normals as ground truth too (32FC3, 3.7 MB each)")
    parser.add_argument(
        "--sheet",
        action="store_true",
        help="write one JPEG instead, OUT: a row a kind of room with all of its ground truth, 320x240 each",
    )
    parser.add_argument("--device", default="cpu", help="cpu, cuda, cuda:1, ...")
    return parser


def _write_sheet(path: Path, device: torch.device, seed: int) -> None:
    from mila_ros.evaluation.pictures import jpeg
    from mila_ros.evaluation.sheet import sheet

    if path.suffix.lower() not in (".jpg", ".jpeg"):
        raise UserError(f"--sheet writes a JPEG: name it {path.with_suffix('.jpg')}, not {path}")
    picture = sheet(RenderedWorld(device, 240, 320, shadows=3, supersample=2), KINDS, seed)
    try:
        path.write_bytes(jpeg(picture))
    except OSError as error:
        raise UserError(f"{path} cannot be written: {error.strerror}") from error


def main(argv: list[str]) -> int:
    """Runs `mila render` with these arguments; returns the exit status."""
    parser = _parser()
    args = parser.parse_args(argv)
    for name, low, high in (
        ("frames", 1, 10**6),
        ("width", 16, 8192),
        ("height", 16, 8192),
        ("quality", 1, 100),
        ("truth_every", 0, 10**6),
    ):
        if not low <= getattr(args, name) <= high:
            parser.error(f"--{name.replace('_', '-')} must be {low} to {high}, not {getattr(args, name)}")
    if not 0.1 <= args.rate <= 1000:
        parser.error(f"--rate must be 0.1 to 1000 frames a second, not {args.rate}")
    if args.seed < 0:
        parser.error(f"--seed must not be negative, not {args.seed}")
    try:
        device = torch.device(args.device)
        torch.empty(1, device=device)
    except (RuntimeError, AssertionError) as error:
        raise UserError(f"the device {args.device!r} cannot be used: {str(error).splitlines()[0]}") from None
    if args.sheet:
        _write_sheet(args.out, device, args.seed)
        return 0
    world = RenderedWorld(device, args.height, args.width, shadows=3, supersample=args.supersample, clean=True)
    clips = prepare(world, args.room, args.frames, args.rate, args.seed)
    form = Form(raw=args.raw, quality=args.quality, normals=args.normals)
    with BagWriter(args.out) as bag:
        frames = frames_of(world, clips, args.rate, 4 if device.type == "cpu" else 32)
        before: Frame | None = None
        for number, frame in enumerate(tqdm(frames, total=args.frames, desc="render", unit="frame")):
            truth = args.truth_every > 0 and number % args.truth_every == 0
            write_frame(bag, frame, form, truth, before)
            before = frame
    return 0

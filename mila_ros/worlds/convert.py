"""`mila convert`: the labelled video of a data set as a recording, to play it, or to evaluate in real time on it."""

from __future__ import annotations

import argparse
import sys
from collections.abc import Sequence
from pathlib import Path

from tqdm import tqdm

from mila_ros.errors import UserError
from mila_ros.worlds.bag_writer import BagWriter
from mila_ros.worlds.frames import Frame
from mila_ros.worlds.leftovers import whole_or_nothing
from mila_ros.worlds.rendered_bag import Form, write_frame
from mila_ros.worlds.world import World, open_world


def longest_video(world: World, name: str) -> Sequence[int]:
    """Indices of the longest of the frames that follow one another.

    Raises:
        UserError: there are only stills, or frames that do not say when they were taken.
    """
    if not world.videos:
        raise UserError(f"{name} has no video: its frames are stills, which no recording can hold")
    found = max(world.videos, key=len)
    if world[found[0]].stamp_ns is None:
        raise UserError(f"{name} does not say when its frames were taken")
    return found


def main(argv: list[str]) -> int:
    """Entry of `mila convert`."""
    parser = argparse.ArgumentParser(allow_abbrev=False, prog="mila convert", description=__doc__)
    parser.add_argument("out", type=Path, metavar="OUT", help="the rosbag2 folder (MCAP) to write; must not exist yet")
    parser.add_argument("--data", required=True, help="KIND:FOLDER, as for mila compare; its longest video is written")
    parser.add_argument("--split", default="all", help="a part of it (all)")
    parser.add_argument("--quality", type=int, default=95, help="JPEG quality, 1 to 100 (95)")
    options = parser.parse_args(argv)
    if not 1 <= options.quality <= 100:
        raise UserError(f"--quality must be 1 to 100, not {options.quality}")
    world = open_world(options.data, options.split)
    video = longest_video(world, f"{options.data} ({options.split})")
    form = Form(quality=options.quality)
    bag = BagWriter(options.out)
    with whole_or_nothing(options.out), bag:
        before: Frame | None = None
        for index in tqdm(video, "convert", unit="frame", file=sys.stderr):
            frame = world[index]
            write_frame(bag, frame, form, truth=True, before=before)
            before = frame
    print(options.out)
    return 0

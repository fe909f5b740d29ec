"""`mila prepare`: a data set as its authors publish it, laid out as this package reads it.

    mila prepare nyuv2 FOLDER OUT      nyu_depth_v2_labeled.mat, splits.mat and classMapping40.mat -> nyuv2:OUT
    mila prepare 7scenes FOLDER OUT    a sequence's pictures -> a recording with depth, for `mila evaluate OUT`

Others are read as they are published: camvid:FOLDER (in SegNet's layout), cityscapes:FOLDER.
"""

from __future__ import annotations

import argparse
from pathlib import Path

from mila_ros.errors import UserError
from mila_ros.worlds import nyuv2_published, seven_scenes


def main(argv: list[str]) -> int:
    """Entry of `mila prepare`."""
    parser = argparse.ArgumentParser(
        allow_abbrev=False,
        prog="mila prepare",
        description=__doc__,
        formatter_class=argparse.RawDescriptionHelpFormatter,
    )
    parser.add_argument("kind", choices=("nyuv2", "7scenes"), help="which data set")
    parser.add_argument("folder", type=Path, metavar="FOLDER", help="where its files are")
    parser.add_argument("out", type=Path, metavar="OUT", help="folder to write")
    parser.add_argument(
        "--split", choices=("train", "test", "all"), help="of nyuv2: which of the official frames (train)"
    )
    options = parser.parse_args(argv)
    folder, out = options.folder.expanduser(), options.out.expanduser()
    if not folder.is_dir():
        raise UserError(f"there is no folder {folder}")
    if options.kind == "nyuv2":
        count = nyuv2_published.unpack(folder, out, options.split or "train")
        print(f"{count} frames: --data nyuv2:{out}")
    elif options.split:
        raise UserError("--split is for nyuv2: leave it out")
    else:
        count = seven_scenes.record(folder, out)
        print(f"{count} frames: mila evaluate {out}")
    return 0

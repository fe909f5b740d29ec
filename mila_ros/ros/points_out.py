"""Answers as a cloud of points with normals and labels: what costmaps and mapping take."""

from __future__ import annotations

import array
from collections.abc import Sequence

import numpy as np
import numpy.typing as npt
from sensor_msgs.msg import PointCloud2, PointField
from std_msgs.msg import Header

from mila_ros.errors import UserError, did_you_mean
from mila_ros.ros.views import IGNORED
from mila_ros.runtime.passing import Answer
from mila_ros.worlds.frames import Intrinsics

GROUND = ("floor", "floor mat", "rug", "carpet", "road", "pavement", "sidewalk", "ground", "terrain")
"""What a robot drives on, by the names that data sets give it."""
# As PCL names and types them; without the curvature of its Normal.
FIELDS = ("x", "y", "z", "normal_x", "normal_y", "normal_z", "label")
_BYTES = 4


def organised(
    answer: Answer, camera: Intrinsics, stride: int, leave_out: Sequence[int] = ()
) -> npt.NDArray[np.float32]:
    """Points (h, w, 7) in the order of FIELDS: each stride-th row and column of an answer with depth.

    Metres and unit vectors in the optical frame (x right, y down, z forward; REP 103). NaN where depth is unknown, and
    in normals that were not asked for; the label is a uint32 in the last column's bits, 255 where there is none.

    camera: in pixels of the answer. leave_out: class ids whose points are NaN; they keep their labels.
    """
    assert answer.depth is not None
    depth = answer.depth[::stride, ::stride]
    points = np.full((*depth.shape, len(FIELDS)), np.nan, np.float32)
    z = np.where(depth > 0, depth, np.nan)
    across = (np.arange(0, answer.depth.shape[1], stride, dtype=np.float32) - camera.cx) / camera.fx
    down = (np.arange(0, answer.depth.shape[0], stride, dtype=np.float32) - camera.cy) / camera.fy
    points[..., 0], points[..., 1], points[..., 2] = across * z, down[:, None] * z, z
    if answer.normals is not None:
        points[..., 3:6] = answer.normals[::stride, ::stride]
    labels = points.view(np.uint32)[..., 6]
    labels[:] = IGNORED if answer.segmentation is None else answer.segmentation[::stride, ::stride]
    if leave_out:
        points[np.isin(labels, leave_out), :-1] = np.nan
    return points


def no_obstacles(names: Sequence[str], classes: Sequence[str]) -> tuple[int, ...]:
    """Class ids of the parameter obstacles.leave_out; without names, those of GROUND that there are.

    Raises:
        UserError: there is no class of such a name.
    """
    if not names:
        known = [name.casefold().replace("_", " ") for name in classes]
        return tuple(known.index(name) for name in GROUND if name in known)
    for name in names:
        if name not in classes:
            hint = did_you_mean(name, classes)
            there = ", ".join(classes) or "none: the task segmentation is not offered"
            raise UserError(
                f'obstacles.leave_out names the class "{name}", which there is not{hint} (classes: {there})'
            )
    return tuple(classes.index(name) for name in names)


def point_cloud(
    header: Header, answer: Answer, camera: Intrinsics, stride: int, leave_out: Sequence[int] = ()
) -> PointCloud2:
    """The message: organised, so that neighbours in the picture are neighbours in it. Arguments as for `organised`."""
    points = organised(answer, camera, stride, leave_out)
    height, width, count = points.shape
    fields = [
        PointField(
            name=name,
            offset=_BYTES * index,
            datatype=PointField.UINT32 if name == "label" else PointField.FLOAT32,
            count=1,
        )
        for index, name in enumerate(FIELDS)
    ]
    message = PointCloud2(
        header=header,
        height=height,
        width=width,
        fields=fields,
        is_bigendian=False,
        point_step=_BYTES * count,
        row_step=_BYTES * count * width,
        is_dense=bool(np.isfinite(points[..., 2]).all()),
    )
    data = array.array("B")
    data.frombytes(points.data.cast("B"))
    message.data = data  # as it is: bytes would be checked one by one
    return message

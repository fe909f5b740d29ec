"""Segmentation, depth and surface normals from one network, inside a compute budget, on ROS 2."""

from pkgutil import extend_path

# The generated messages (`mila_ros.msg`) live in the install space, the rest may be the source tree: join.
__path__ = extend_path(__path__, __name__)

__version__ = "0.1.0"

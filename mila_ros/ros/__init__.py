"""Everything that knows ROS: the nodes `perception`, `player` and `recorder`."""

import mila_ros.runtime  # noqa: F401 - first of all, before anything imports torch: see there

"""Runs a model in real time: engine, keyframe memory, scheduler, meter. Knows nothing of ROS.

Import it before torch: OpenMP reads its settings when it is loaded.
"""

import os

# OpenMP's threads spin while they wait for each other. Beside a second network, a middleware and a planner that burns
# the cores they wait for: measured on two cores, 70 core-ms a frame instead of 46, and stalls of seconds while another
# process computes.
os.environ.setdefault("OMP_WAIT_POLICY", "passive")

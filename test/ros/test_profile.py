"""The DDS profile: colour images reach another process as best effort, which they don't without it."""

from __future__ import annotations

import os
import random
import subprocess
import sys

import pytest

from mila_ros.paths import config_path

FRAMES = 30
# The subscriber counts until nothing has come for a second; it tells how many arrived.
SUBSCRIBER = """
import sys, time
import rclpy
from rclpy.qos import qos_profile_sensor_data
from sensor_msgs.msg import Image
rclpy.init()
node = rclpy.create_node("eye")
came = []
node.create_subscription(Image, "picture", lambda m: came.append((time.monotonic(), m.width)), qos_profile_sensor_data)
end = time.monotonic() + 30
while time.monotonic() < end and len({w for _, w in came}) < int(sys.argv[1]):
    rclpy.spin_once(node, timeout_sec=0.1)
    if came and time.monotonic() - came[-1][0] > 1.5:
        break
print(len({w for _, w in came}))
"""
PUBLISHER = """
import array, sys, time
import rclpy
from rclpy.qos import qos_profile_sensor_data
from sensor_msgs.msg import Image
rclpy.init()
node = rclpy.create_node("camera")
publisher = node.create_publisher(Image, "picture", qos_profile_sensor_data)
end = time.monotonic() + 20
while not publisher.get_subscription_count() and time.monotonic() < end:
    time.sleep(0.05)
time.sleep(0.5)
picture = Image(height=480, encoding="rgb8", step=1920, data=array.array("B", bytes(640 * 480 * 3)))
for number in range(int(sys.argv[1])):
    picture.width = number  # which frame it is; the transport does not care
    publisher.publish(picture)
    time.sleep(1 / 30)
time.sleep(1)
"""


def arrived(profile: str) -> int:
    """How many of FRAMES colour images of 640x480 reach another process."""
    environ = {**os.environ, "ROS_DOMAIN_ID": str(random.randint(1, 101)), "RMW_IMPLEMENTATION": "rmw_fastrtps_cpp"}
    environ.pop("FASTRTPS_DEFAULT_PROFILES_FILE", None)
    environ.pop("FASTDDS_DEFAULT_PROFILES_FILE", None)
    if profile:
        environ["FASTDDS_DEFAULT_PROFILES_FILE"] = profile
    with subprocess.Popen([sys.executable, "-c", SUBSCRIBER, str(FRAMES)], env=environ, stdout=subprocess.PIPE) as ear:
        subprocess.run([sys.executable, "-c", PUBLISHER, str(FRAMES)], env=environ, check=True, timeout=60)
        out, _ = ear.communicate(timeout=60)
    return int(out)


@pytest.mark.timeout(120)
def test_images_arrive_with_the_profile():
    assert arrived(str(config_path("fastdds.xml"))) >= 0.8 * FRAMES


@pytest.mark.timeout(120)
def test_what_the_profile_is_for():
    """If this fails, Fast DDS carries images by itself now, and the profile and what is said about it can go."""
    assert arrived("") < 0.8 * FRAMES

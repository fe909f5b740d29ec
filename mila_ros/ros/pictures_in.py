"""One camera's pictures: the subscription to them, as Image or CompressedImage, and why none may be coming."""

from __future__ import annotations

import copy
from collections.abc import Callable
from typing import Any

from rclpy.lifecycle import LifecycleNode
from rclpy.qos import DurabilityPolicy, HistoryPolicy, QoSProfile, ReliabilityPolicy
from rclpy.qos_overriding_options import QoSOverridingOptions
from rclpy.subscription import Subscription
from sensor_msgs.msg import CompressedImage, Image

from mila_ros.ros.settings import COMPRESSED, CameraSettings

# Best effort matches publishers of both kinds; a reliable subscription would not match a best-effort camera. Five, not
# one: what the middleware replaces while the executor is busy is lost uncounted; here the newest wins all the same.
INPUT_QOS = QoSProfile(
    history=HistoryPolicy.KEEP_LAST,
    depth=5,
    reliability=ReliabilityPolicy.BEST_EFFORT,
    durability=DurabilityPolicy.VOLATILE,
)

_KINDS = {"sensor_msgs/msg/Image": "raw", "sensor_msgs/msg/CompressedImage": "compressed"}
_TYPE_OF = {kind: name for name, kind in _KINDS.items()}
_SUGGESTED = 4
"""Topics named to somebody who waits for one that nobody publishes."""
_LOOKS = 2
"""Looks in a row at which pictures must be missing before the other transport's are taken: a driver that starts offers
both, but they need not be discovered at once."""


class PicturesIn:
    """Subscribes to a camera's pictures, and, where the settings let it, to the other transport's where only those are
    published.

    Args:
        node: owner of the subscription; all is called in its executor's thread.
        settings: topic and transport.
        take: takes each message.
    """

    def __init__(self, node: LifecycleNode, settings: CameraSettings, take: Callable[[Any], None]) -> None:
        self._node = node
        self._settings = settings
        self._take = take
        self._missed = 0
        # As it is after remapping, so that the compressed pictures are looked for beside it.
        raw = node.resolve_topic_name(settings.image_topic)
        beside = node.resolve_topic_name(raw + COMPRESSED)
        self._others = [(raw, False), (beside, True), (raw, True)] if settings.follows else []
        self._compressed = settings.compressed
        self._subscription = self._subscribe(settings.image_topic)
        if other := self._published_otherwise():
            self._change(*other)

    @property
    def topic(self) -> str:
        """What is listened to, as it is after remapping."""
        return self._subscription.topic_name

    def close(self) -> None:
        """End the subscription."""
        self._node.destroy_subscription(self._subscription)

    def follow(self) -> str:
        """Once in a while: take the other transport's pictures where these are not published any more. What changed, in
        words; empty: nothing."""
        other = self._published_otherwise()
        self._missed = self._missed + 1 if other else 0
        if not other or self._missed < _LOOKS:
            return ""
        before = self.topic
        self._change(*other)
        return f"listens to {self.topic}, since nobody publishes {before}"

    def silence(self) -> str:
        """Why no frame may be coming, as far as the graph of nodes tells."""
        topic = self.topic
        publishers = self._node.get_publishers_info_by_topic(topic)
        if not publishers:
            others = "".join(f" or {other}" for other in dict(self._others) if other != topic)
            return f"nobody publishes {topic}{others}{self._instead()}"
        wanted = _TYPE_OF["compressed" if self._compressed else "raw"]
        kinds = sorted({publisher.topic_type for publisher in publishers})
        if wanted not in kinds:
            fits = len(kinds) == 1 and kinds[0] in _KINDS
            hint = f"; set {self._settings.name}.transport to auto" if fits else ""
            return f"{topic} is published as {', '.join(kinds)}, not as {wanted}{hint}"
        return f"{topic} has a publisher, but no frame arrives"

    def _subscribe(self, topic: str) -> Subscription:
        return self._node.create_subscription(
            CompressedImage if self._compressed else Image,
            topic,
            self._take,
            copy.copy(INPUT_QOS),  # overrides are written into it
            qos_overriding_options=QoSOverridingOptions.with_default_policies(),
        )

    def _change(self, topic: str, compressed: bool) -> None:
        self.close()
        self._missed, self._compressed = 0, compressed
        self._subscription = self._subscribe(topic)

    def _published_otherwise(self) -> tuple[str, bool] | None:
        """Topic and kind of the other transport's pictures, if they are published and those listened to are not."""
        if not self._others or self._publishes(self.topic, self._compressed):
            return None
        return next((other for other in self._others if other[1] != self._compressed and self._publishes(*other)), None)

    def _publishes(self, topic: str, compressed: bool) -> bool:
        wanted = _TYPE_OF["compressed" if compressed else "raw"]
        return any(found.topic_type == wanted for found in self._node.get_publishers_info_by_topic(topic))

    def _instead(self) -> str:
        """What pictures there are instead, for who mistyped a topic or forgot the transport."""
        own = f"{self._node.get_fully_qualified_name()}/"
        depth = "/compressedDepth"  # of image_transport: of the same type, and no picture
        found = [
            f"{topic} ({_KINDS[types[0]]})"
            for topic, types in sorted(self._node.get_topic_names_and_types())
            if types[0] in _KINDS
            and not topic.startswith(own)
            and not topic.endswith(depth)
            and self._node.count_publishers(topic)
        ]
        more = f" and {len(found) - _SUGGESTED} more" if len(found) > _SUGGESTED else ""
        return f"; there are {', '.join(found[:_SUGGESTED])}{more}" if found else ""

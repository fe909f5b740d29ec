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

from mila_ros.ros.settings import COMPRESSED_SUFFIX, CameraSettings
from mila_ros.worlds.bag_topics import COMPRESSED as COMPRESSED_IMAGE
from mila_ros.worlds.bag_topics import IMAGE, IMAGE_TYPES

# Best effort matches publishers of both kinds; a reliable subscription would not match a best-effort camera. Five, not
# one: what the middleware replaces while the executor is busy is lost uncounted; here the newest wins all the same.
INPUT_QOS = QoSProfile(
    history=HistoryPolicy.KEEP_LAST,
    depth=5,
    reliability=ReliabilityPolicy.BEST_EFFORT,
    durability=DurabilityPolicy.VOLATILE,
)

_CLASSES = {IMAGE: Image, COMPRESSED_IMAGE: CompressedImage}
_TRANSPORTS = {IMAGE: "raw", COMPRESSED_IMAGE: "compressed"}
_SUGGESTED = 4
"""Topics named to somebody who waits for one that nobody publishes."""
_LOOKS = 2
"""Looks in a row that must agree before the topic is changed: a driver that starts offers both kinds, but they need not
be discovered at once."""


class PicturesIn:
    """Subscribes to a camera's pictures, raw or, where the settings let it and only those are published, compressed.

    Args:
        node: owner of the subscription; all is called in its executor's thread.
        settings: topic and transport.
        take: takes each message.
    """

    def __init__(self, node: LifecycleNode, settings: CameraSettings, take: Callable[[Any], None]) -> None:
        self._node = node
        self._settings = settings
        self._take = take
        self._looks = 0
        # As it is after remapping, so that the compressed pictures are looked for beside it.
        raw = node.resolve_topic_name(settings.image_topic)
        beside = node.resolve_topic_name(raw + COMPRESSED_SUFFIX)
        # The better one first. Some publish compressed pictures without the suffix.
        self._others = [(raw, IMAGE), (beside, COMPRESSED_IMAGE), (raw, COMPRESSED_IMAGE)] if settings.follows else []
        self._type = COMPRESSED_IMAGE if settings.compressed else IMAGE
        self._subscription = self._subscribe(settings.image_topic, self._type)

    @property
    def topic(self) -> str:
        """What is listened to, as it is after remapping."""
        return self._subscription.topic_name

    def close(self) -> None:
        """End the subscription."""
        self._node.destroy_subscription(self._subscription)

    def follow(self) -> str:
        """Once in a while: turn to where pictures are published. What changed, in words; empty: nothing."""
        better = self._better()
        self._looks = self._looks + 1 if better else 0
        if better is None or self._looks < _LOOKS:
            return ""
        self._looks = 0
        before, (topic, kind) = self._subscription, better
        try:
            self._subscription = self._subscribe(topic, kind)
        except Exception as error:  # such as a QoS override that means nothing; what there was goes on
            self._others = []
            return f"goes on with {before.topic_name}, since {topic} cannot be listened to: {error}"
        self._node.destroy_subscription(before)
        self._type = kind
        return f"listens to {topic} now, as {kind}: that is published"

    @property
    def turning(self) -> bool:
        """Whether another topic will be listened to in a moment."""
        return self._better() is not None

    def silence(self) -> str:
        """Why no frame may be coming, as far as the graph of nodes tells."""
        topic = self.topic
        if better := self._better():
            return f"{better[0]} will be listened to in a moment"
        publishers = self._node.get_publishers_info_by_topic(topic)
        if not publishers:
            others = "".join(f" or {other}" for other in dict(self._others) if other != topic)
            return f"nobody publishes {topic}{others}{self._instead()}"
        kinds = sorted({publisher.topic_type for publisher in publishers})
        if self._type not in kinds:
            way_out = {IMAGE: "raw", COMPRESSED_IMAGE: "auto"}.get(kinds[0]) if len(kinds) == 1 else None
            hint = f"; set {self._settings.name}.transport to {way_out}" if way_out else ""
            return f"{topic} is published as {', '.join(kinds)}, not as {self._type}{hint}"
        return f"{topic} has a publisher, but no frame arrives"

    def _subscribe(self, topic: str, kind: str) -> Subscription:
        return self._node.create_subscription(
            _CLASSES[kind],
            topic,
            self._take,
            copy.copy(INPUT_QOS),  # overrides are written into it
            qos_overriding_options=QoSOverridingOptions.with_default_policies(),
        )

    def _better(self) -> tuple[str, str] | None:
        """Topic and type of what is published and better than what is listened to; None: nothing is."""
        found = next((other for other in self._others if self._publishes(*other)), None)
        return None if found == (self.topic, self._type) else found

    def _publishes(self, topic: str, kind: str) -> bool:
        return any(found.topic_type == kind for found in self._node.get_publishers_info_by_topic(topic))

    def _instead(self) -> str:
        """What pictures there are instead, for who mistyped a topic or forgot the transport."""
        own = f"{self._node.get_fully_qualified_name()}/"
        depth = "/compressedDepth"  # of image_transport: of the same type, and no picture
        found = [
            f"{topic} ({_TRANSPORTS[types[0]]})"
            for topic, types in sorted(self._node.get_topic_names_and_types())
            if types[0] in IMAGE_TYPES
            and not topic.startswith(own)
            and not topic.endswith(depth)
            and self._node.count_publishers(topic)
        ]
        more = f" and {len(found) - _SUGGESTED} more" if len(found) > _SUGGESTED else ""
        return f"; there are {', '.join(found[:_SUGGESTED])}{more}" if found else ""

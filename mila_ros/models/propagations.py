"""Which way to carry features a configuration asks for."""

from __future__ import annotations

from mila_ros.models.accel import AccelPropagation
from mila_ros.models.alignment import AlignedPropagation
from mila_ros.models.attention import SharedPropagation, TaskPropagation
from mila_ros.models.config import ModelConfig
from mila_ros.models.flow import FlowPropagation
from mila_ros.models.laps import LapsPropagation
from mila_ros.models.propagation import Propagation


def make_propagation(config: ModelConfig) -> Propagation:
    """The way that `propagation` names, see ModelConfig."""
    if config.propagation == "laps":
        return LapsPropagation(config)
    if config.propagation == "learned-flow":
        return FlowPropagation(config)
    if config.propagation == "accel":
        return AccelPropagation(config)
    if config.propagation == "alignment":
        return AlignedPropagation(config, None)
    attention = TaskPropagation(config) if config.attention == "task" else SharedPropagation(config)
    return attention if config.propagation == "attention" else AlignedPropagation(config, attention)

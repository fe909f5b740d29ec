"""Class names and colours, read from config/labels/*.yaml."""

from __future__ import annotations

from dataclasses import dataclass

import yaml

from mila_ros.errors import UserError
from mila_ros.paths import config_path


@dataclass(frozen=True)
class LabelSet:
    """Names and RGB colours in the order of their ids."""

    name: str
    classes: tuple[str, ...]
    palette: tuple[tuple[int, int, int], ...]


def load_labels(name: str) -> LabelSet:
    """The label set config/labels/NAME.yaml.

    Raises:
        UserError: the file is missing or is not a mapping of class names to [red, green, blue].
    """
    path = config_path(f"labels/{name}.yaml")
    content = yaml.safe_load(path.read_text(encoding="utf-8"))
    try:
        classes = dict(content["classes"])
        palette = tuple((int(r), int(g), int(b)) for r, g, b in classes.values())
    except (TypeError, KeyError, ValueError) as error:
        raise UserError(f"{path}: expected `classes:` with a line `name: [red, green, blue]` each") from error
    return LabelSet(name=name, classes=tuple(map(str, classes)), palette=palette)

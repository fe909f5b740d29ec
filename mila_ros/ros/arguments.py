"""Parameters as they are given on a command line, looked at before rcl sees them; without rclpy.

Only their form: what a value may be is for the node to say.
"""

from __future__ import annotations

from collections.abc import Sequence
from pathlib import Path

import yaml

from mila_ros.errors import UserError


def check_parameters(given: Sequence[str]) -> None:
    """That these are NAME:=VALUE with YAML behind it, as rcl wants parameters.

    Raises:
        UserError: one is not; rcl's own words for that name its grammar, not the mistake.
    """
    for text in given:
        name, sign, value = text.partition(":=")
        if not sign or not name.strip():
            raise UserError(f'parameter "{text}": write NAME:=VALUE, such as device:=cpu')
        try:
            yaml.compose(value, yaml.SafeLoader)
        except yaml.YAMLError as error:
            raise UserError(f'parameter "{text}": the value is not valid YAML: {_in_one_line(error)}') from error


def check_parameter_file(path: Path) -> None:
    """That it can be read, and is YAML.

    Raises:
        UserError: it is not.
    """
    try:
        yaml.compose(path.read_text(encoding="utf-8"), yaml.SafeLoader)
    except (OSError, UnicodeDecodeError) as error:
        raise UserError(f"parameters file {path} cannot be read: {error}") from error
    except yaml.YAMLError as error:
        raise UserError(f"parameters file {path} is not valid YAML: {_in_one_line(error)}") from error


def _in_one_line(error: Exception) -> str:
    return " ".join(str(error).split())

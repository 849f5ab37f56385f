"""The place of before, until every part uses the new one."""

from vis_callbacks.options import MonitorOptions as MonitorOptions
from vis_callbacks.options import (
    Options,
    check_choice,
    check_count,
    check_flag,
    check_names,
    check_numbers,
    check_period,
)

CheckedOptions = Options
__all__ = [
    "CheckedOptions",
    "MonitorOptions",
    "check_choice",
    "check_count",
    "check_flag",
    "check_names",
    "check_numbers",
    "check_period",
]

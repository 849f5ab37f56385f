"""The place of before, until every part uses the new one."""

from vis_callbacks.observer import require_plain as require_plain

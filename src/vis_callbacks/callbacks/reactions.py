"""The place of before, until every part uses the new one."""

from vis_callbacks.reactions import AlertRaisedError as AlertRaisedError

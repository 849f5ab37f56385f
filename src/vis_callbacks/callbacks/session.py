"""The place of before, until every part uses the new one."""

from vis_callbacks.session import session_of as session_of

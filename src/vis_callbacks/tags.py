"""The one spelling of a tag."""

from __future__ import annotations

import hashlib
import re

MAX_TAG_LENGTH = 200

_UNSAFE = re.compile(r"[^A-Za-z0-9_.\-]")
# An underscore that could be read as the start of an escape is escaped itself, so that no
# two names share a spelling: `_x23_` in a name becomes `_x5f_x23_`.
_LOOKS_ESCAPED = re.compile(r"_(?=x[0-9a-f]*(?:_|[^A-Za-z0-9_.\-]))")


def tag(metric: str, layer: str = "") -> str:
    """Returns the one spelling of a tag: ``metric/layer``, safe in every logger.

    Loggers rewrite what they do not like, so that two names would collide. All of them keep
    letters, digits and ``_.-/``: any other character is written as ``_x``, its code point in
    hexadecimal, ``_``, and so are parts between slashes that a path would swallow (empty,
    ``.``, ``..``). The result has at most 200 characters; a longer one ends in a digest.

    Example:
        >>> tag("sparsity", "net.2/relu-1")
        'sparsity/net.2/relu-1'
        >>> tag("sparsity", "cat #1")
        'sparsity/cat_x20__x23_1'
    """
    name = f"{metric}/{layer}" if layer else metric
    spelled = "/".join(_safe_part(part) for part in name.split("/"))
    if len(spelled) <= MAX_TAG_LENGTH:
        return spelled
    digest = hashlib.sha256(name.encode("utf-8", "surrogatepass")).hexdigest()[:16]
    return f"{spelled[: MAX_TAG_LENGTH - len(digest) - 1]}-{digest}"


def _safe_part(part: str) -> str:
    """Returns one part between slashes, spelled so that no logger and no path changes it."""
    if part == "":
        return "_x_"
    if part in (".", ".."):
        return "_x2e_" * len(part)
    part = _LOOKS_ESCAPED.sub("_x5f_", part)
    return _UNSAFE.sub(lambda match: f"_x{ord(match.group()):x}_", part)

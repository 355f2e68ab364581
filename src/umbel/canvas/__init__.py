"""Workflows as values: signatures, groups and chains."""

from __future__ import annotations

from umbel.canvas.primitives import chain, group
from umbel.canvas.signature import Signature, maybe_signature, signature

__all__ = ["Signature", "chain", "group", "maybe_signature", "signature"]

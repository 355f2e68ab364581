"""Workflows as values: signatures, groups and chains."""

from __future__ import annotations

from umbel.canvas.primitives import chain, group, maybe_signature, signature
from umbel.canvas.signature import Signature

__all__ = ["Signature", "chain", "group", "maybe_signature", "signature"]

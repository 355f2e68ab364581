"""Workflows as values: signatures, groups, chains, chords, and tasks over many arguments."""

from __future__ import annotations

from umbel.canvas.chain import chain, chord
from umbel.canvas.group import chunks, group, xmap, xstarmap
from umbel.canvas.signature import Signature, maybe_signature, signature
from umbel.canvas.stamping import StampingVisitor

__all__ = [
    "Signature",
    "StampingVisitor",
    "chain",
    "chord",
    "chunks",
    "group",
    "maybe_signature",
    "signature",
    "subtask",
    "xmap",
    "xstarmap",
]

subtask = signature

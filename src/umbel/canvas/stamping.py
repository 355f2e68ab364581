"""Stamps: marks that every task of a workflow carries, as headers named in ``stamped_headers``."""

# ruff: noqa: ARG002 -- the methods of the visitor do nothing by themselves

from __future__ import annotations

from collections.abc import Mapping
from typing import Any

from umbel.canvas.plan import Node, body_of, header_of, links_of, listed_signatures

#: What a visitor gives: stamps by name, and maybe which of them are to be passed on.
Given = Mapping[str, Any]


class StampingVisitor:
    """Says which stamps each part of a workflow gets. Every method may be overridden.

    They return stamps by name; ``stamped_headers`` among them names those that count, unless all.
    """

    def on_signature(self, sig: Any, **headers: Any) -> Given:
        """Return the stamps of a single task."""
        return {}

    def on_group_start(self, group: Any, **headers: Any) -> Given:
        """Return the stamps of all members of a group."""
        return {}

    def on_group_end(self, group: Any, **headers: Any) -> None:
        """Be told that a group's members were stamped."""

    def on_chain_start(self, chain: Any, **headers: Any) -> Given:
        """Return the stamps of all links of a chain."""
        return {}

    def on_chain_end(self, chain: Any, **headers: Any) -> None:
        """Be told that a chain's links were stamped."""

    def on_chord_header_start(self, sig: Any, **header: Any) -> Given:
        """Return the stamps of all members of a chord's header."""
        return {}

    def on_chord_header_end(self, sig: Any, **header: Any) -> None:
        """Be told that the members of a chord's header were stamped."""

    def on_chord_body(self, sig: Any, **header: Any) -> Given:
        """Return the stamps of a chord's body."""
        return {}

    def on_callback(self, callback: Any, **header: Any) -> Given:
        """Return the stamps of what is linked."""
        return {}

    def on_errback(self, errback: Any, **header: Any) -> Given:
        """Return the stamps of what is linked for errors."""
        return {}


class Stamps(StampingVisitor):
    """The same stamps for every task."""

    def __init__(self, stamps: Given) -> None:
        self._stamps = stamps

    def on_signature(self, sig: Any, **headers: Any) -> Given:
        """Return them."""
        return self._stamps


def stamp(node: Node, visitor: StampingVisitor, inherited: Given | None = None) -> None:
    """Let a visitor stamp a workflow, in place; one frame for each level of nesting."""
    headers = dict(inherited or {})
    _stamp_links(node, visitor, headers)
    match node.get("subtask_type"):
        case "chain":
            headers = _merged(headers, visitor.on_chain_start(node, **headers))
            for link in links_of(node):
                stamp(link, visitor, headers)
            visitor.on_chain_end(node, **headers)
        case "group":
            headers = _merged(headers, visitor.on_group_start(node, **headers))
            for member in node["kwargs"]["tasks"]:
                stamp(member, visitor, headers)
            visitor.on_group_end(node, **headers)
        case "chord":
            within = _merged(headers, visitor.on_chord_header_start(node, **headers))
            for member in header_of(node):
                stamp(member, visitor, within)
            visitor.on_chord_header_end(node, **within)
            body = body_of(node)
            stamp(body, visitor, _merged(headers, visitor.on_chord_body(node, **headers)))
        case _:
            _put(node, _merged(headers, visitor.on_signature(node, **headers)))


def _stamp_links(node: Node, visitor: StampingVisitor, headers: Given) -> None:
    for option, ask in (("link", visitor.on_callback), ("link_error", visitor.on_errback)):
        linked = node["options"].get(option)
        for each in listed_signatures(linked):
            stamp(each, visitor, _merged(headers, ask(each, **headers)))


def _merged(headers: Given, given: Given | None) -> dict[str, Any]:
    given = dict(given or {})
    named = given.pop("stamped_headers", None)
    names = [*headers.get("stamped_headers", ()), *(given if named is None else named)]
    merged = {**headers, **given}
    if names:
        merged["stamped_headers"] = list(dict.fromkeys(names))
    return merged


def _put(node: Node, headers: Given) -> None:
    names = headers.get("stamped_headers") or ()
    if names:
        options = node["options"]
        options.update({name: headers[name] for name in names if name in headers})
        known = options.get("stamped_headers") or ()
        options["stamped_headers"] = sorted({*known, *names})

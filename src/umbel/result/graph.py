"""What came of a task, as a graph: each result, and which one sent which."""

from __future__ import annotations

from collections.abc import Iterable
from typing import Any, TextIO

#: Colour of a node by state.
_COLOURS = {"SUCCESS": "palegreen", "FAILURE": "lightsalmon", "REVOKED": "lightgrey"}


class ResultGraph:
    """Results and the edges between them, taken when it was made."""

    def __init__(self, pairs: Iterable[tuple[Any, Any]]) -> None:
        arcs = list(pairs)
        self.nodes = list({str(node): node for _, node in arcs}.values())
        #: (who sent, what was sent).
        self.edges = [(parent, node) for parent, node in arcs if parent is not None]

    def to_dot(self, file: TextIO | None = None) -> str:
        """Return it in Graphviz's language (``dot -Tsvg`` draws it), and write it to a file."""
        lines = [
            "digraph workflow {",
            '  node [shape=box, style="rounded,filled", fillcolor=white];',
        ]
        lines += [f'  "{node}" [{_about(node)}];' for node in self.nodes]
        lines += [f'  "{parent}" -> "{node}";' for parent, node in self.edges]
        text = "\n".join([*lines, "}"]) + "\n"
        if file is not None:
            file.write(text)
        return text

    def __str__(self) -> str:
        """Return it in Graphviz's language."""
        return self.to_dot()

    def __len__(self) -> int:
        """Count the results."""
        return len(self.nodes)


def _about(node: Any) -> str:
    state = getattr(node, "state", None)
    if state is None:
        return f'label="group of {len(node.results)}", shape=folder'
    name = getattr(node, "name", None) or "task"
    colour = _COLOURS.get(state, "white")
    return f'label="{name}\\n{node.id}\\n{state}", fillcolor={colour}'

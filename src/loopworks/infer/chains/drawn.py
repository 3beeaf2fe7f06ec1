"""A chain drawn as text, for terminals."""

from collections.abc import Mapping

from loopworks.infer.chains.graph import MOST_CROPS, Edge, Graph


def tree(graph: Graph, authors: Mapping[str, str] | None = None) -> str:
    """The nodes below the one that gets the image, each edge with its conditions.

    A node that several edges lead to is drawn under each of them, and what follows it under the first.

    Args:
        graph: the chain.
        authors: node -> the model behind it, where it is known.
    """
    lines = [f"image -> {_node(graph, graph.first, authors)}"]
    seen = {graph.first}

    def below(node: str, indent: str) -> None:
        edges = graph.out_of(node)
        for place, edge in enumerate(edges):
            is_last = place == len(edges) - 1
            is_again = edge.to in seen
            again = " (as above)" if is_again and graph.out_of(edge.to) else ""
            branch = "`-- " if is_last else "|-- "
            lines.append(f"{indent}{branch}{_conditions(edge)} -> {_node(graph, edge.to, authors)}{again}")
            if not is_again:
                seen.add(edge.to)
                below(edge.to, indent + ("    " if is_last else "|   "))

    below(graph.first, "")
    return "\n".join(lines)


def _node(graph: Graph, node: str, authors: Mapping[str, str] | None) -> str:
    ref = graph.nodes[node]
    behind = (authors or {}).get(node, ref)
    return f"{node} ({ref})" if behind == ref else f"{node} ({ref}, now {behind})"


def _conditions(edge: Edge) -> str:
    found = ["all else" if edge.is_else and not edge.labels else "else" if edge.is_else else ""]
    found.append("|".join(edge.labels) or ("" if edge.is_else else "all"))
    found += [
        f"score >= {edge.score:g}" if edge.score else "",
        f"size >= {edge.size}" if edge.size > 1 else "",
        f"margin {edge.margin:g}" if edge.margin else "",
        f"at most {edge.most}" if edge.most != MOST_CROPS else "",
    ]
    return ", ".join(filter(None, found))

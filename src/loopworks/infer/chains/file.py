"""A chain as people write it: YAML."""

from loopworks.core.errors import Invalid
from loopworks.infer.chains import graph
from loopworks.infer.chains.graph import Graph

MOST_BYTES = 1 << 16


def parse(text: str, name: str = "chain") -> Graph:
    """The chain that YAML says.

    Raises: Invalid, NotFound: it is no YAML, or as for ``graph.read``.
    """
    import yaml

    if len(text.encode()) > MOST_BYTES:
        raise Invalid(name, f"at most {MOST_BYTES} bytes of YAML", len(text.encode()))
    try:
        body = yaml.load(text, yaml.SafeLoader)  # noqa: S506 - the safe one
    except (yaml.YAMLError, ValueError, RecursionError) as error:
        raise Invalid(name, "YAML", " ".join(str(error).split())) from None
    return graph.read(body, name)

"""Which form of an answer a client would like best (the header ``Accept``)."""

from collections.abc import Sequence

from loopworks.core.errors import Invalid


def choose(header: str, offered: Sequence[str]) -> str:
    """The media type of ``offered`` that the client likes best; the first where it says nothing.

    Raises: Invalid: it likes none of them.
    """
    liked: list[tuple[float, int, str]] = []
    for place, part in enumerate(header.split(",")):
        kind, *parameters = (one.strip().lower() for one in part.split(";"))
        if kind:
            liked.append((-_weight(parameters), place, kind))
    if not liked:
        return offered[0]
    refused = {kind for weight, _, kind in liked if weight == 0}
    for weight, _, kind in sorted(liked):
        for form in offered:
            if weight < 0 and form not in refused and _covers(kind, form):
                return form
    raise Invalid("Accept", f"one of {', '.join(offered)}", header)


def _covers(kind: str, form: str) -> bool:
    if kind in ("*/*", form):
        return True
    group, _, rest = kind.partition("/")
    return rest == "*" and form.startswith(f"{group}/")


def _weight(parameters: Sequence[str]) -> float:
    for one in parameters:
        name, _, value = one.partition("=")
        if name.strip() == "q":
            try:
                return min(1.0, max(0.0, float(value)))
            except ValueError:
                raise Invalid("Accept", "with weights q=0..1", one) from None
    return 1.0

"""A layered drawing of a directed graph without cycles: where its boxes stand and how its edges run.

Sugiyama, Tagawa and Toda 1981: layers by longest path, an order within each layer with few crossings,
then places within each layer close to the neighbours. An edge's label is a box of a layer between, so
that nothing overlaps. Sizes and places are in pixels, x to the right and y down; edges run down.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass, field

GAP_X, GAP_Y = 22.0, 26.0  # between boxes of a layer, and between layers
ROUNDS = 41  # of placing within layers; more change nothing that is seen
Point = tuple[float, float]


@dataclass
class Item:
    """A box, a label, or the place where a long edge passes a layer."""

    width: float
    height: float
    rank: int = 0
    x: float = 0.0
    """Of its middle."""
    y: float = 0.0
    """Of its upper edge."""
    row: float = 0.0
    """Lower edge of its layer."""
    above: list[int] = field(default_factory=list)
    below: list[int] = field(default_factory=list)
    passing: bool = False


@dataclass
class Layout:
    """Where everything stands."""

    width: float
    height: float
    boxes: list[Point]
    """Upper left corner of each box."""
    labels: list[Point | None]
    """Middle of the upper edge of each edge's label; None where it has none."""
    routes: list[list[Point]]
    """Each edge as points from its source's lower edge to its target's upper edge."""


def arrange(
    sizes: Sequence[tuple[float, float]],
    edges: Sequence[tuple[int, int]],
    labels: Sequence[tuple[float, float] | None] | None = None,
) -> Layout:
    """Lay a graph out.

    Args:
        sizes: width and height of each box.
        edges: pairs of box numbers; they contain no cycle, and no edge from a box to itself.
        labels: width and height of each edge's label, or None.

    Raises:
        ValueError: the edges contain a cycle.
    """
    labels = labels or [None] * len(edges)
    step = 2 if any(labels) else 1  # a layer for labels between any two layers of boxes
    items = [
        Item(*size, rank=step * rank)
        for size, rank in zip(sizes, _ranks(len(sizes), edges), strict=True)
    ]
    chains = [_chain(items, a, b, label) for (a, b), label in zip(edges, labels, strict=True)]
    layers = _layers(items)
    _reduce_crossings(items, layers)
    _place(items, layers)
    top = 0.0
    for layer in layers:
        height = max((items[i].height for i in layer), default=0.0)
        for i in layer:
            items[i].y, items[i].row = top, top + height
            if items[i].passing and not items[i].width:
                items[i].height = height  # straight past the boxes of its layer
        top += height + (GAP_Y if height else 0.0)
    left = min((i.x - i.width / 2 for i in items), default=0.0)
    for item in items:
        item.x -= left
    boxes = [(i.x - i.width / 2, i.y) for i in items[: len(sizes)]]
    places = [
        next(((items[i].x, items[i].y) for i in chain[1:-1] if items[i].width), None)
        for chain in chains
    ]
    width = max((i.x + i.width / 2 for i in items), default=0.0)
    return Layout(width, max(top - GAP_Y, 0.0), boxes, places, _routes(items, chains, len(sizes)))


def _ranks(count: int, edges: Sequence[tuple[int, int]]) -> list[int]:
    """Layers by longest path; what nothing leads to stands just above what it leads to."""
    above: list[list[int]] = [[] for _ in range(count)]
    below: list[list[int]] = [[] for _ in range(count)]
    for a, b in edges:
        above[b].append(a)
        below[a].append(b)
    waiting = [len(a) for a in above]
    order = [i for i in range(count) if not waiting[i]]
    ranks = [0] * count
    for i in order:  # grows while it is walked
        for b in below[i]:
            ranks[b] = max(ranks[b], ranks[i] + 1)
            waiting[b] -= 1
            if not waiting[b]:
                order.append(b)
    if len(order) < count:
        raise ValueError("arrange expects a graph without cycles")
    for i in range(count):
        if not above[i] and below[i]:
            ranks[i] = min(ranks[b] for b in below[i]) - 1
    return ranks


def _chain(items: list[Item], a: int, b: int, label: tuple[float, float] | None) -> list[int]:
    """The items along an edge, with those it passes between; the label stands just above the target."""
    chain = [a]
    for rank in range(items[a].rank + 1, items[b].rank):
        width, height = label if label and rank == items[b].rank - 1 else (0.0, 0.0)
        items.append(Item(width, height, rank, passing=True))
        chain.append(len(items) - 1)
    chain.append(b)
    for upper, lower in zip(chain, chain[1:], strict=False):
        items[upper].below.append(lower)
        items[lower].above.append(upper)
    return chain


def _layers(items: Sequence[Item]) -> list[list[int]]:
    """Items by layer, in the order of a walk from the last box upwards: neighbours come together."""
    layers: list[list[int]] = [[] for _ in range(1 + max((i.rank for i in items), default=-1))]
    seen: set[int] = set()
    for root in sorted(range(len(items)), key=lambda i: -items[i].rank):
        stack = [root]
        while stack:
            i = stack.pop()
            if i in seen:
                continue
            seen.add(i)
            layers[items[i].rank].append(i)
            stack += reversed(items[i].above)
    return layers


def _reduce_crossings(items: Sequence[Item], layers: list[list[int]]) -> None:
    """Sort each layer by the mean place of its neighbours, down and up in turn; the best order is kept."""
    best, least = [list(layer) for layer in layers], _crossings(items, layers)
    for turn in range(10):
        down = turn % 2 == 0
        for layer in layers if down else reversed(layers):
            places = {i: p for other in layers for p, i in enumerate(other)}
            means = {}
            for p, i in enumerate(layer):
                near = items[i].above if down else items[i].below
                means[i] = sum(places[n] for n in near) / len(near) if near else float(p)
            layer.sort(key=means.__getitem__)
        _swap_neighbours(items, layers)
        if (count := _crossings(items, layers)) < least:
            best, least = [list(layer) for layer in layers], count
    layers[:] = best


def _swap_neighbours(items: Sequence[Item], layers: Sequence[list[int]]) -> None:
    """Swap any two neighbours whose lines cross less the other way round (Gansner et al. 1993)."""
    places = {i: p for layer in layers for p, i in enumerate(layer)}
    for layer in layers:
        for p in range(len(layer) - 1):
            a, b = layer[p], layer[p + 1]
            now = then = 0
            for ends in ("above", "below"):
                left = [places[n] for n in getattr(items[a], ends)]
                right = [places[n] for n in getattr(items[b], ends)]
                now += sum(x > y for x in left for y in right)
                then += sum(x < y for x in left for y in right)
            if then < now:
                layer[p], layer[p + 1] = b, a
                places[a], places[b] = p + 1, p


def _crossings(items: Sequence[Item], layers: Sequence[Sequence[int]]) -> int:
    """How many pairs of lines between neighbouring layers cross."""
    total = 0
    for upper, lower in zip(layers, layers[1:], strict=False):
        places = {i: p for p, i in enumerate(lower)}
        ends = [p for i in upper for p in sorted(places[b] for b in items[i].below)]
        total += sum(
            earlier > later for k, later in enumerate(ends) for earlier in ends[max(0, k - 200) : k]
        )
    return total


def _place(items: Sequence[Item], layers: Sequence[Sequence[int]]) -> None:
    """Bring each item close to the middle of its neighbours, keeping order and distance."""
    for layer in layers:
        at = 0.0
        for i in layer:
            items[i].x = at + items[i].width / 2
            at += items[i].width + GAP_X
    for turn in range(ROUNDS):
        for layer in layers if turn % 3 != 1 else reversed(layers):
            wanted, weights = [], []
            for i in layer:
                item = items[i]
                near = [*item.above, *item.below]
                if turn % 3 < 2:  # every third round looks both ways
                    near = (item.above if turn % 3 == 0 else item.below) or near
                middle = sum(items[n].x for n in near) / len(near) if near else item.x
                wanted.append(middle)
                weights.append(4.0 if item.passing else 1.0)  # long edges should be straight
            _settle(items, layer, wanted, weights)


def _settle(
    items: Sequence[Item], layer: Sequence[int], wanted: Sequence[float], weights: Sequence[float]
) -> None:
    """Least squares to the wanted places under least distances: isotonic regression, by pooling."""
    offsets, at = [], 0.0
    for k, i in enumerate(layer):
        if k:
            at += (items[layer[k - 1]].width + items[i].width) / 2 + GAP_X
        offsets.append(at)
    pools: list[tuple[float, float, int]] = []  # mean, weight, members
    for want, weight, offset in zip(wanted, weights, offsets, strict=True):
        pool = (want - offset, weight, 1)
        while pools and pools[-1][0] > pool[0]:
            mean, heavy, members = pools.pop()
            total = heavy + pool[1]
            pool = ((mean * heavy + pool[0] * pool[1]) / total, total, members + pool[2])
        pools.append(pool)
    k = 0
    for mean, _, members in pools:
        for _ in range(members):
            items[layer[k]].x = mean + offsets[k]
            k += 1


def _routes(
    items: Sequence[Item], chains: Sequence[Sequence[int]], boxes: int
) -> list[list[Point]]:
    """Points of each edge; edges meet a box side by side, in the order of where they come from or go to."""
    leaving: dict[int, list[int]] = {}
    entering: dict[int, list[int]] = {}
    for number, chain in enumerate(chains):
        leaving.setdefault(chain[0], []).append(number)
        entering.setdefault(chain[-1], []).append(number)
    starts, ends = {}, {}
    for i, numbers in leaving.items():
        numbers.sort(key=lambda n: items[chains[n][1]].x)
        starts.update(_ports(items[i], numbers))
    for i, numbers in entering.items():
        numbers.sort(key=lambda n: items[chains[n][-2]].x)
        ends.update(_ports(items[i], numbers))
    obstacles = [item for item in items[boxes:] if item.width] + list(items[:boxes])
    routes = []
    for number, chain in enumerate(chains):
        first, last = items[chain[0]], items[chain[-1]]
        stops: list[tuple[Point, Point, bool]] = []  # arriving, leaving, whether it may be left out
        start = starts[number]
        stops.append(((0, 0), (start, first.y + first.height), False))
        if first.row > first.y + first.height:  # straight past taller neighbours
            stops.append(((start, first.row), (start, first.row), True))
        for i in chain[1:-1]:
            item = items[i]
            stops.append(((item.x, item.y), (item.x, item.y + item.height), not item.width))
        stops.append(((ends[number], last.y), (0, 0), False))
        own = [items[i] for i in chain]
        _straighten(stops, [o for o in obstacles if not any(o is item for item in own)])
        routes.append([p for stop in stops for p in stop[:2]][1:-1])
    return routes


def _straighten(stops: list[tuple[Point, Point, bool]], obstacles: Sequence[Item]) -> None:
    """Leave out the stops without which the line still keeps clear of everything."""
    k = 1
    while k < len(stops) - 1:
        before, after = stops[k - 1][1], stops[k + 1][0]
        if stops[k][2] and not any(_touches(before, after, o) for o in obstacles):
            del stops[k]
        else:
            k += 1


def _touches(a: Point, b: Point, item: Item) -> bool:
    """Whether the curve between two points comes near an item."""
    if max(a[1], b[1]) < item.y - 4 or min(a[1], b[1]) > item.y + item.height + 4:
        return False
    for k in range(33):
        t = k / 32
        y = a[1] + (b[1] - a[1]) * (1.5 * t * (1 - t) + t**3)  # the same curve that is drawn
        x = a[0] + (b[0] - a[0]) * t * t * (3 - 2 * t)
        if abs(x - item.x) < item.width / 2 + 8 and item.y - 4 < y < item.y + item.height + 4:
            return True
    return False


def _ports(item: Item, numbers: Sequence[int]) -> dict[int, float]:
    """Where along a box's edge each of its edges is attached."""
    share = item.width / (len(numbers) + 1)
    return {n: item.x - item.width / 2 + share * (k + 1) for k, n in enumerate(numbers)}

"""How a structure is drawn as a tensor network: where factors stand, and how bonds join them."""

from __future__ import annotations

from dataclasses import dataclass

from sekron.structures.families import Bonds

Place = tuple[float, float]
"""Column and row, in units of the distance of two factors; rows count downwards."""

LABEL_ABOVE = 0.16
"""Rows between an edge and its rank."""


@dataclass(frozen=True, slots=True)
class Edge:
    """A line of a bond: a quadratic curve, straight where its control lies on the way.

    Attributes:
        bond: Index of the rank.
        start: Where it begins.
        control: What it bends towards.
        end: Where it ends.
    """

    bond: int
    start: Place
    control: Place
    end: Place


@dataclass(frozen=True, slots=True)
class Diagram:
    """A drawing of all structures whose factors share ranks alike.

    Attributes:
        nodes: Per factor, where it stands.
        edges: The lines of all bonds.
        labels: Per bond, where its rank is written.
        hubs: The bonds that join more than two factors: their lines meet at the label.
    """

    nodes: tuple[Place, ...]
    edges: tuple[Edge, ...]
    labels: tuple[Place, ...]
    hubs: tuple[int, ...]


def diagram(bonds: Bonds) -> Diagram:
    """Draw the factors in a row and join those that share a rank.

    Args:
        bonds: For each factor, the indices of the ranks that it carries.

    Example:
        >>> diagram(((0,), (0,))).nodes
        ((0.0, 0.0), (1.0, 0.0))
    """
    columns = _columns(bonds)
    nodes = tuple((float(column), 0.0) for column in columns)
    edges: list[Edge] = []
    labels: list[Place] = []
    hubs: list[int] = []
    joined: set[tuple[int, int]] = set()
    for bond in sorted({bond for carried in bonds for bond in carried}):
        members = sorted(columns[k] for k, carried in enumerate(bonds) if bond in carried)
        left, right = members[0], members[-1]
        middle = sum(members) / len(members)
        if len(members) > 2:
            hubs.append(bond)
            meeting = (middle, 0.8 * len(hubs))
            edges += [_line(bond, (float(column), 0.0), meeting) for column in members]
            labels.append(meeting)
        elif right - left == 1 and (left, right) not in joined:
            joined.add((left, right))
            edges.append(_line(bond, (float(left), 0.0), (float(right), 0.0)))
            labels.append((middle, -LABEL_ABOVE))
        else:
            top = -0.8 * max(right - left, 1)
            edges.append(Edge(bond, (float(left), 0.0), (middle, 2.0 * top), (float(right), 0.0)))
            labels.append((middle, top - LABEL_ABOVE))
    return Diagram(nodes, tuple(edges), tuple(labels), tuple(hubs))


def _columns(bonds: Bonds) -> list[int]:
    """Return the column of every factor: their order, but a core stands amid its factors."""
    order = list(range(len(bonds)))
    cores = [k for k, carried in enumerate(bonds) if len(carried) > 1]
    if len(cores) == 1:
        order.remove(cores[0])
        order.insert(len(bonds) // 2, cores[0])
    return [order.index(k) for k in range(len(bonds))]


def _line(bond: int, start: Place, end: Place) -> Edge:
    return Edge(bond, start, ((start[0] + end[0]) / 2, (start[1] + end[1]) / 2), end)

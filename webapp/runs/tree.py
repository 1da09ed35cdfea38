"""The family tree of policies as a picture: where each dot and line stands; pure geometry, drawn by a template.

A row a policy, the newest on top. The line down to the newest one is straight; what was tried beside it leaves it to
the right and comes back at the policy that it was made from.
"""

from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from uuid import UUID

from webapp.registry.models import Checkpoint

ROW, LANE, MARGIN, LINE, WORDS = 68, 26, 14, 17, 440  # pixels


@dataclass(frozen=True)
class Node:
    """A policy's dot; ``row`` counts from the top, ``lane`` from the left."""

    policy: Checkpoint
    row: int
    lane: int

    @property
    def x(self) -> int:
        return MARGIN + LANE * self.lane

    @property
    def y(self) -> int:
        return MARGIN + ROW * self.row

    @property
    def words(self) -> tuple[int, int, int]:
        """Where the lines of words stand."""
        first = self.y + 5
        return first, first + LINE, first + 2 * LINE


@dataclass(frozen=True)
class Tree:
    """The whole picture: dots, the lines between them (SVG paths), and where the words begin."""

    nodes: tuple[Node, ...]
    lines: tuple[str, ...]
    lanes: int

    @property
    def height(self) -> int:
        return ROW * len(self.nodes)

    @property
    def words_at(self) -> int:
        return MARGIN + LANE * self.lanes

    @property
    def words_at_mirrored(self) -> int:
        """Where the words begin, read from right to left."""
        return self.width - self.words_at

    @property
    def width(self) -> int:
        return self.words_at + WORDS


def plant(policies: Sequence[Checkpoint]) -> Tree:
    """The tree of a project's policies; a parent is always older than what was made from it."""
    newest_first = sorted(policies, key=lambda policy: -policy.version)
    rows = {policy.pk: row for row, policy in enumerate(newest_first)}
    lanes = choose_lanes(newest_first, rows)
    nodes = {policy.pk: Node(policy, rows[policy.pk], lanes[policy.pk]) for policy in newest_first}
    lines = [
        line_between(nodes[one.pk], nodes[one.parent_id])
        for one in newest_first
        if one.parent_id is not None and one.parent_id in nodes
    ]
    return Tree(tuple(nodes.values()), tuple(lines), 1 + max(lanes.values(), default=0))


def choose_lanes(newest_first: Sequence[Checkpoint], rows: Mapping[UUID, int]) -> dict[UUID, int]:
    """A lane for each policy: the newest descendant of a policy stays in its lane, the others get the next free one."""
    heirs: dict[UUID, Checkpoint] = {}  # policy -> the child that goes on in its lane
    youngest = {policy.pk: policy.version for policy in newest_first}
    for policy in newest_first:  # children come before their parents
        parent = policy.parent_id
        if parent is not None and parent in rows:
            youngest[parent] = max(youngest[parent], youngest[policy.pk])
            if parent not in heirs or youngest[policy.pk] > youngest[heirs[parent].pk]:
                heirs[parent] = policy
    lanes: dict[UUID, int] = {}
    taken: list[tuple[int, int, int]] = []  # lane, first and last row
    for policy in reversed(newest_first):  # the oldest first
        if policy.pk in lanes:
            continue
        chain = [policy]
        while chain[-1].pk in heirs:
            chain.append(heirs[chain[-1].pk])
        top = rows[chain[-1].pk]
        bottom = rows[policy.pk] if policy.parent_id is None else rows.get(policy.parent_id, rows[policy.pk])
        lane = 0
        while any(lane == other and top <= last and first <= bottom for other, first, last in taken):
            lane += 1
        taken.append((lane, top, bottom))
        lanes |= {one.pk: lane for one in chain}
    return lanes


def line_between(child: Node, parent: Node) -> str:
    """The SVG path from a policy down to the one that it was made from."""
    if child.x == parent.x:
        return f"M{child.x} {child.y}V{parent.y}"
    bend = parent.y - LANE
    return f"M{child.x} {child.y}V{bend}C{child.x} {parent.y} {parent.x} {bend} {parent.x} {parent.y}"

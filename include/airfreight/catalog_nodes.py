"""YAML of the catalog as nodes, which know their lines; whatever is in it, it ends soon and takes down only its entry.

What YAML allows and no catalog means is a fault of the node it is in, and not an exception for the whole file:

    *a                    where nothing is called &a, or where &a itself is not over, or stands for very much
    &a                    twice
    {{ gpus }}            a block as the name of a field: a template that nobody filled in
    name: a, name: b      the same field twice (YAML keeps the last)
    999…                  a number of more digits than anybody means
    [[[[…]]]]             nesting that no field has

A file that is no YAML, for a quote in one of its entries that is not closed, is read entry by entry.
"""

from __future__ import annotations

import re
from collections.abc import Iterator, Sequence
from dataclasses import dataclass, field
from typing import Any

import yaml
from yaml.reader import ReaderError

DEEPEST = 20
"""Levels of a file; the deepest field of an entry, a day in a list of opening hours, is at the eighth."""
LARGEST_ALIAS = 1000
"""Values that one alias may stand for: aliases of aliases of aliases grow faster than any machine can count."""
_LONGEST_NUMBER = 100  # characters
_HALF = re.compile("[\ud800-\udfff]")  # from an escape such as "\\ud83d"; no file and no terminal takes it
_DASH = re.compile(r"( *)-(?:\s|$)")
_NAME = re.compile(r"(?:^|[\s{,])name:\s*[\"']?([a-z][a-z0-9-]*)")
_STRING, _MERGE, _LIST, _BLOCK = (f"tag:yaml.org,2002:{kind}" for kind in ("str", "merge", "seq", "map"))


@dataclass(frozen=True)
class Fault:
    """Something that is wrong with a file as YAML. `line` counts from 1."""

    line: int
    sentence: str


@dataclass
class Tree:
    """A file as nodes: `root` is None where it is empty. `odd` says of nodes that they are not what they look like."""

    root: yaml.Node | None = None
    odd: dict[yaml.Node, str] = field(default_factory=dict)


def compose(text: str) -> Tree | Fault:
    """Read a file. A fault is one of the whole file: it is no YAML, and not for some of its entries alone."""
    found = _compose(text, _Known())
    return _compose_entries(text) or found if isinstance(found, Fault) else found


def _compose(text: str, known: _Known, above: int = 0) -> Tree | Fault:
    """Read a file, or a part of one with so many lines above it."""
    loader: _Loader | None = None
    try:
        loader = _Loader(text, known, above)
        return Tree(loader.get_single_node(), known.odd)
    except yaml.MarkedYAMLError as error:
        said = str(error.problem or error.context)
        # What is not closed is found at the end, and is to be closed where it begins.
        mark = error.context_mark if "end of stream" in said and error.context_mark else error.problem_mark
        return Fault(mark.line + 1 if mark else 1, f"This is no YAML: {said}; correct it.")
    except ReaderError as error:
        line = above + text.count("\n", 0, error.position) + 1
        return Fault(line, f"This is no YAML: it holds U+{error.character:04X}, which nobody can see; take it out.")
    except Exception as error:  # noqa: BLE001 - the scanner lets through what Python says of "\UFFFFFFFF" and the like
        line = (loader.line if loader else above) + 1
        return Fault(line, f"This is no YAML: {one_line(str(error))}; correct it.")


def _compose_entries(text: str) -> Tree | None:
    """Read a file that is no YAML entry by entry, as its dashes part them; None where that does not help.

    In a block no other line has a dash where an entry has it: what belongs to one stands further to the right.
    """
    lines = text.splitlines(keepends=True)
    dashes = [(number, found[1]) for number, line in enumerate(lines) if (found := _DASH.match(line))]
    starts = [number for number, indent in dashes if indent == dashes[0][1]]
    known = _Known()
    tree = _compose("".join(lines[: starts[0]]), known) if starts else None
    if not isinstance(tree, Tree) or not isinstance(tree.root, yaml.MappingNode) or len(tree.root.value) != 1:
        return None
    key, nothing = tree.root.value[0]
    entries: list[yaml.Node] = []
    faulty = 0
    for start, end in zip(starts, [*starts[1:], len(lines)], strict=True):
        piece = "".join(lines[start:end])
        part = _compose(piece, known, start)
        if isinstance(part, Fault):
            faulty += 1
            known.anchors = {name: node for name, node in known.anchors.items() if node in known.extent}
            entries.append(_no_yaml(part, piece, known))
        elif part.root is not None:
            entries += part.root.value
    if not faulty or nothing.value != "":
        return None
    tree.root.value[0] = (key, yaml.SequenceNode(_LIST, entries, nothing.start_mark, nothing.end_mark))
    return tree


def _no_yaml(fault: Fault, piece: str, known: _Known) -> yaml.Node:
    """Return what stands for an entry that is no YAML: its name, as far as that can be told."""
    mark = yaml.Mark("", 0, fault.line - 1, 0, None, 0)
    name = found[1] if (found := _NAME.search(piece)) else ""
    pair = tuple(yaml.ScalarNode(_STRING, word, mark, mark) for word in ("name", name))
    node = yaml.MappingNode(_BLOCK, [pair], mark, mark)
    known.odd[node] = fault.sentence
    return node


def faults(node: yaml.Node, odd: dict[yaml.Node, str]) -> Iterator[Fault]:
    """Find what is wrong with a node and all below it, in the order of the file."""
    if node in odd:
        yield Fault(line_of(node), odd[node])
    if isinstance(node, yaml.MappingNode):
        seen: set[str] = set()
        for key, value in node.value:
            yield from _key_faults(key, seen)
            yield from faults(value, odd)
    elif isinstance(node, yaml.SequenceNode):
        for value in node.value:
            yield from faults(value, odd)
    elif _HALF.search(node.value):
        yield Fault(line_of(node), f"{one_line(node.value, 20)} holds half a character; write it again.")
    elif node.tag != _STRING and len(str(node.value)) > _LONGEST_NUMBER:
        yield Fault(line_of(node), f"{one_line(node.value, 20)} is longer than any number; put a text in quotes.")


def at(node: yaml.Node, path: Sequence[str | int]) -> yaml.Node:
    """Follow a path into the nodes as far as it goes."""
    for part in path:
        if isinstance(part, int) and isinstance(node, yaml.MappingNode):
            continue  # one range of hours is written without a list
        if isinstance(node, yaml.MappingNode):
            # The last one: making a value of a block puts what it takes over with `<<` before its own fields.
            found = next((value for key, value in reversed(node.value) if key.value == part), None)
            if found is None:
                return node
            node = found
        elif isinstance(node, yaml.SequenceNode) and isinstance(part, int) and part < len(node.value):
            node = node.value[part]
        else:
            return node
    return node


def line_of(node: yaml.Node) -> int:
    """Return the line a node begins on, from 1."""
    return int(node.start_mark.line) + 1


def plain(node: yaml.Node) -> Any:
    """Make the value of a node; raises whatever YAML's constructors raise for a value that is none, many kinds."""
    # `construct_document` is what `yaml.safe_load` does with a composed node.
    return yaml.SafeLoader("").construct_document(node)


def one_line(text: str, limit: int = 200) -> str:
    """Return a text as any terminal can show it: on one line, what cannot be printed escaped, cut at `limit`."""
    line = "".join(one if one.isprintable() else ascii(one)[1:-1] for one in " ".join(text.split()))
    return line if len(line) <= limit else f"{line[:limit]}…"


def _key_faults(key: yaml.Node, seen: set[str]) -> Iterator[Fault]:
    if not isinstance(key, yaml.ScalarNode):
        yield Fault(
            line_of(key),
            "a field's name cannot be a list or a block; fill the template in, or put a text with braces in quotes.",
        )
        return
    name = one_line(key.value, 60)
    if key.tag not in (_STRING, _MERGE):
        yield Fault(line_of(key), f"{name}: there is no such field; a field's name is a word.")
    elif key.value in seen:
        yield Fault(line_of(key), f"{name} is written twice here; keep one.")
    seen.add(key.value)


@dataclass
class _Known:
    """What is known of the nodes of a file.

    Args:
        odd: see `Tree`.
        anchors: nodes by their names.
        extent: of each node that is complete its values, with those below it and aliases counted each time, and its
            levels.
    """

    odd: dict[yaml.Node, str] = field(default_factory=dict)
    anchors: dict[str, yaml.Node] = field(default_factory=dict)
    extent: dict[yaml.Node, tuple[int, int]] = field(default_factory=dict)


class _Loader(yaml.SafeLoader):
    """Composes nodes as PyYAML does, with `odd` in place of exceptions, of endless trees and of trees without bound."""

    def __init__(self, text: str, known: _Known, above: int) -> None:
        super().__init__(text)
        self.line = above
        self.anchors = known.anchors
        self._odd, self._extent, self._depth = known.odd, known.extent, 0
        self._parser: Any = self  # PyYAML's stubs have no types for the parser's methods

    def compose_node(self, parent: yaml.Node | None, index: Any) -> yaml.Node:
        if self.check_event(yaml.AliasEvent):
            return self._compose_alias()
        if self._depth == DEEPEST:
            return self._compose_odd(f"this is nested in more than {DEEPEST} others, as no field is; write it flat.")
        anchor = self._parser.peek_event().anchor
        first = self.anchors.pop(anchor, None)
        self._depth += 1
        compose: Any = super().compose_node  # None, say the stubs; the parser makes an empty value of nothing
        node: yaml.Node = compose(parent, index)
        self._depth -= 1
        if first is not None:
            self._odd[node] = f"&{anchor} is on line {line_of(first)} already; give one of the two another name."
        extents = [self._extent[below] for below in _below(node)]
        self._extent[node] = (1 + sum(size for size, _ in extents), 1 + max((deep for _, deep in extents), default=0))
        return node

    def _compose_alias(self) -> yaml.Node:
        name = self._parser.peek_event().anchor
        node = self.anchors.get(name)
        if node is None:
            return self._compose_odd(f'there is no &{name} before this; put a text that begins with "*" in quotes.')
        if node not in self._extent:
            return self._compose_odd(f"*{name} stands inside of &{name} itself; write out what is meant.")
        size, levels = self._extent[node]
        if size > LARGEST_ALIAS or self._depth + levels > DEEPEST:
            return self._compose_odd(f"*{name} stands for more than any field holds; write out what is meant.")
        self._parser.get_event()
        return node

    def _compose_odd(self, sentence: str) -> yaml.Node:
        """Take what comes next for one value that is wrong, with all that is in it."""
        first = event = self._parser.get_event()
        level = _steps(event)
        while level:
            event = self._parser.get_event()
            level += _steps(event)
        node = yaml.ScalarNode(_STRING, "", first.start_mark, event.end_mark)
        self._odd[node] = sentence
        self._extent[node] = (1, 1)
        return node


def _below(node: yaml.Node) -> Iterator[yaml.Node]:
    if isinstance(node, yaml.MappingNode):
        for pair in node.value:
            yield from pair
    elif isinstance(node, yaml.SequenceNode):
        yield from node.value


def _steps(event: yaml.Event) -> int:
    return isinstance(event, yaml.CollectionStartEvent) - isinstance(event, yaml.CollectionEndEvent)

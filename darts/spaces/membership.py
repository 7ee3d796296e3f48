"""Whether a genotype is of a space, and if not what differs and which settings would make it one.

A cell is of a space where the space could draw it, up to the order of a node's edges and but for one thing: a node may
keep fewer edges than the space says, since discretisation by a threshold keeps what is above it (Chu et al. 2020). The
published NASNet and AmoebaNet cells are of space nasnet, though their nodes may take one input twice and their outputs
join only the nodes that no other node takes (Zoph et al. 2018): no space here draws such cells.
"""

from __future__ import annotations

import dataclasses
import difflib
import functools
from collections.abc import Iterator
from pathlib import Path
from typing import Any

from omegaconf import OmegaConf

from darts.config.compose import CONF
from darts.runtime.errors import UserError
from darts.spaces.chain import Chain
from darts.spaces.genotype import Cell, Genotype, called
from darts.spaces.published import NAMES, published
from darts.spaces.search_space import SearchSpace, Skeleton

DEFAULT = "darts"  # the space of every command where none is chosen


def check_membership(genotype: Genotype, space: SearchSpace, origin: str, stamped: bool = True) -> None:
    """Raise `UserError` unless a genotype is of a space; the message says what differs and what to add.

    `stamped` is false for a genotype whose text names no space: any space may then be advised.
    """
    if genotype.space != space.name:
        raise UserError(
            f"{origin}: the genotype is of space {genotype.space!r}, but space is {space.name!r}; "
            f"add {' '.join(settings_of_space(genotype))}"
        )
    differing = next(differences(genotype, space), None)
    if differing is None:
        return
    others = [] if stamped else [name for name, known in known_spaces().items() if is_of(genotype, known)]
    fitting = settings_that_fit(genotype, space)
    if others:
        advice = f"add space={others[0]}"
    elif fitting:
        advice = f"add {' '.join(fitting)}"
    else:
        advice = "no setting of this space allows it"
    raise UserError(f"{origin}: not a genotype of space {space.name!r} as it is set: {differing}; {advice}")


RECORDED_WHERE_SET = ("chain", "joins", "edge_skips")  # besides, where a space has them
RECORDED = ("nodes", "edges_kept", "candidates", "edge_candidates")  # of a space, in the provenance of what is found


def record_of_space(space: SearchSpace) -> dict[str, Any]:
    """What a search writes down of its space, from which random cells of the same space can be drawn afterwards."""
    also: dict[str, Any] = {} if space.chain is None else {"chain": dataclasses.asdict(space.chain)}
    also |= {name: getattr(space, name) for name in ("joins", "edge_skips") if getattr(space, name)}
    return {**{name: getattr(space, name) for name in RECORDED}, **also}


def recorded_space(genotype: Genotype) -> dict[str, Any] | None:
    """The space in which a search found a genotype, as `record_of_space` gave it; None where it is not known."""
    known = genotype.provenance.get("space")
    return known if isinstance(known, dict) and set(known) - set(RECORDED_WHERE_SET) == set(RECORDED) else None


def found_elsewhere(genotype: Genotype, space: SearchSpace) -> str:
    """In which other space a search found a genotype: the settings that choose it; "" where it was this one."""
    known = recorded_space(genotype)
    if known is None or known == record_of_space(space):
        return ""
    return " ".join(settings_of_space(genotype))


def settings_of_space(genotype: Genotype) -> list[str]:
    """The settings, as typed, that choose the space in which a genotype was found.

    Where that is not known they choose the space that it is stamped with, changed so that the genotype is of it.
    """
    base = known_spaces().get(genotype.space)  # None for a space of a plug-in
    known = recorded_space(genotype)
    changes: list[str] | None = []
    if base is not None and known is not None:
        own = record_of_space(base)
        changes = [_typed(name, value) for name, value in known.items() if value != own.get(name)]
    elif base is not None:
        changes = settings_that_fit(genotype, base)
    return [f"space={genotype.space}", *(changes or [])]


def next_settings(genotype: Genotype) -> list[str]:
    """What a command whose space is the default one needs besides `genotype=...`: settings, not quoted for a shell."""
    return [setting.strip('"') for setting in settings_of_space(genotype) if setting != f"space={DEFAULT}"]


def is_of(genotype: Genotype, space: SearchSpace) -> bool:
    """Whether a genotype is of a space, whatever space it is stamped with."""
    return next(differences(genotype, space), None) is None


def settings_that_fit(genotype: Genotype, space: SearchSpace) -> list[str] | None:
    """The settings, as typed, that change a space into one that a genotype is of; None where none do."""
    cells = list(genotype.cells.values())
    nodes = {len(cell.nodes) for cell in cells}
    if set(genotype.cells) != set(space.cell_types) or len(nodes) != 1:
        return None
    changes: dict[str, Any] = {
        "nodes": nodes.pop(),
        "edges_kept": _edges_kept(cells, space),
        "candidates": [*space.candidates, *sorted(set(genotype.operations()) - set(space.candidates))],
    }
    recorded = (recorded_space(genotype) or {}).get("chain")
    if recorded is not None:
        changes["chain"] = Chain(**recorded)
    changes = {name: value for name, value in changes.items() if value != getattr(space, name)}
    for tried in (changes, changes | {"edge_candidates": None}):
        try:
            changed = dataclasses.replace(space, **tried)
        except UserError:
            continue
        if is_of(genotype, changed):
            return [_typed(name, value) for name, value in tried.items()]
    return None


@functools.cache
def known_spaces() -> dict[str, SearchSpace]:
    """The spaces of conf/space by name, as they are before a setting changes them."""
    found = {}
    for file in sorted((Path(CONF) / "space").glob("*.yaml")):
        values: Any = OmegaConf.to_container(OmegaConf.load(file))
        del values["defaults"]
        values["skeleton"] = Skeleton[values["skeleton"]]
        if "chain" in values:
            values["chain"] = Chain(**values["chain"])
        found[file.stem] = SearchSpace(**values)
    return found


def differences(genotype: Genotype, space: SearchSpace) -> Iterator[str]:
    """What of a genotype the space does not allow, a phrase each."""
    if set(genotype.cells) != set(space.cell_types):
        yield f"its cells are {', '.join(genotype.cells)}; the space has {' and '.join(space.cell_types)}"
        return
    recorded = (recorded_space(genotype) or {}).get("chain")
    if recorded is not None and space.chain is not None and recorded != dataclasses.asdict(space.chain):
        yield f"its chain is {_plain(recorded)}, the space has {_plain(dataclasses.asdict(space.chain))}"
    drawn = not _is_published(genotype)
    for kind, cell in genotype.cells.items():
        found = list(_differences_of_shape(cell, space, drawn))
        if not found:
            found = list(_differences_of_edges(kind, cell, space, drawn))
        for difference in found:
            yield f"{called(kind)}, {difference}"


def _differences_of_shape(cell: Cell, space: SearchSpace, drawn: bool) -> Iterator[str]:
    inputs = space.layout.inputs
    if cell.inputs != inputs:
        yield f"inputs: {cell.inputs}, the space has {inputs}"
    elif len(cell.nodes) != space.nodes:
        yield f"nodes: {len(cell.nodes)}, the space has {space.nodes}"
    elif drawn and sorted(cell.concat) != list(space.joined()):
        yield f"the output joins {list(cell.concat)}, in the space {list(space.joined())}"


def _differences_of_edges(kind: str, cell: Cell, space: SearchSpace, drawn: bool) -> Iterator[str]:
    for node, edges in enumerate(cell.nodes):
        kept, most = len(edges), space.kept(node)
        if kept > most or (kept < most and space.edges_kept is None):
            yield f"node {node}: {kept} edges, the space keeps {'all ' if space.edges_kept is None else ''}{most}"
        if drawn and len({edge.source for edge in edges}) < kept:
            yield f"node {node}: two edges from one input, the space draws different ones"
        for edge in edges:
            row = space.rows(node).get(edge.source)
            if row is None:
                yield f"node {node}: reads state {edge.source}, in a chain it reads {space.sources(node)[0]}"
                continue
            allowed = [space.candidates[column] for column in space.selectable(kind, row)]
            if edge.operation not in allowed:
                yield f"node {node}, input {edge.source}: {_not_allowed(edge.operation, allowed, space)}"


def _not_allowed(operation: str, allowed: list[str], space: SearchSpace) -> str:
    if operation in space.candidates and operation != "none":
        return f"operation {operation!r} is no candidate of this edge, which has {', '.join(allowed)}"
    if operation in space.candidates:
        return "operation 'none' is never kept where space.edges_kept is a number"
    near = difflib.get_close_matches(operation[:80], allowed, n=1)
    hint = f" (did you mean {near[0]!r}?)" if near else ""
    return f"operation {operation[:80]!r} is no candidate of the space{hint}"


def _edges_kept(cells: list[Cell], space: SearchSpace) -> int | None:
    """How many edges a space must keep at each node so that the cells are of it: what it keeps, all, or the most."""
    if space.layout.chained:
        return space.edges_kept
    all_kept = all(len(edges) == node + cell.inputs for cell in cells for node, edges in enumerate(cell.nodes))
    most = max(len(edges) for cell in cells for edges in cell.nodes)
    none_kept = any("none" in cell.operations() for cell in cells)
    enough = space.edges_kept is not None and most <= space.edges_kept and not none_kept
    if enough:
        return space.edges_kept
    return None if all_kept else most


def _is_published(genotype: Genotype) -> bool:
    return any(genotype.cells == published(name).cells for name in NAMES)


def _typed(name: str, value: Any) -> str:
    if isinstance(value, Chain):
        value = dataclasses.asdict(value)
    typed = f"space.{name}={_plain(value)}"
    return f'"{typed}"' if isinstance(value, list | dict) else typed


def _plain(value: Any) -> str:
    """A value as Hydra reads it."""
    if isinstance(value, list):
        return f"[{','.join(map(_plain, value))}]"
    if isinstance(value, dict):
        return f"{{{','.join(f'{key}:{_plain(inner)}' for key, inner in value.items())}}}"
    return "null" if value is None else str(value)

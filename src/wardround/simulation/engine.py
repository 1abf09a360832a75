"""Many futures from what is known of a patient: a model of timelines, sampled fast.

A prefix is computed once. All of its futures see its keys and values where they lie, one matrix
product a layer for all of them, and each adds the keys of its own tokens, held in small pages; the
two parts of an attention are put together by their normalisers. A finished future gives its row
to the next at once, of the same prefix or of another. Prefixes that are cuts of one timeline (the
points of a running stay) share one computation, since a token never sees those after it.
"""

from __future__ import annotations

import copy
import math
from collections.abc import Sequence
from typing import Literal

import numpy as np
import psutil
import torch
from torch import Tensor
from torch.nn import functional

from wardround.errors import WardroundError
from wardround.models.decoder import Attend, Decoder, rotate, rotation
from wardround.simulation.cache import Blocks, Shared, Step, look, weigh
from wardround.simulation.futures import (
    HORIZON,
    MAX_TOKENS,
    STOPPED,
    Clock,
    Futures,
    Prefix,
    Stops,
    Window,
)
from wardround.simulation.sampling import draw, durations, streams, uniforms
from wardround.training.devices import pick_device

#: Tokens of a page. Small ones waste less on short paths, large ones mean fewer parts to a row.
PAGE = 32
#: Random numbers that a step uses: for its token, its duration, its roulette.
DRAWS = 3
#: What a launch of one matrix product costs, in (rows x keys x width); decides which prefixes are
#: worth padding to one size. Tiny next to a GPU's arithmetic, so there all are.
LAUNCH = {"cpu": 1.2e6, "cuda": 1e12}
READING = 6
#: Windows that move at the same time are computed together up to so many tokens.
TOKENS_AT_ONCE = 4096


def simulate(
    model: Decoder,
    prefixes: Sequence[Prefix],
    stops: Stops,
    clock: Clock,
    *,
    futures: int = 32,
    estimator: Literal["count", "survival"] = "count",
    seed: int = 0,
    first_future: int = 0,
    temperature: float = 1.0,
    greedy: bool = False,
    slots: int = 256,
    keep_paths: bool = False,
    device: str = "auto",
    dtype: torch.dtype | None = None,
    window: int | None = None,
    memory: int | None = None,
    roulette: float = 0.3,
) -> list[Futures]:
    """Sample futures of each prefix.

    A path takes one token after the other from the model; each moves the clock by its duration.
    It ends at a token of `stops.ends`, when the clock passes the prefix's horizon (a token that
    passes it reaches no set), or after `stops.max_tokens`.

    The random numbers of a path depend on the seed, the prefix and the number of the future alone.
    The same call with other `slots`, with the prefixes in another order or among others gives the
    same paths, but for the rounding of matrix products.

    The model sees the static context and the latest tokens, `window` in all (`Window`: a long
    prefix is cut; a full window drops its oldest quarter). With learned positions what is left is
    then computed anew. With rotary ones it is not: keys of dropped tokens are no longer seen, the
    others stay as they are, and distances are those that the tokens have in the window.

    The estimator `survival` (Rao-Blackwell) never samples a token that ends a path. At each step
    the path, of weight w, adds w P(set and end) to `absorbed` and goes on with w P(no end). A
    watched token that does not end paths adds the weight of the path that first samples it. The
    mean of `absorbed` is the probability of reaching a set within the horizon, with less variance
    than counting has.

    Args:
        model: the network; it is not changed.
        prefixes: what is known; static contexts of one length.
        stops: what is watched and what ends a path.
        clock: the durations of tokens.
        futures: R, paths a prefix.
        estimator: `count` follows paths to their ends, `survival` to the horizon.
        seed: of the random numbers.
        first_future: number of the first path; a second call with `first_future=R` adds new ones.
        temperature: divides the scores.
        greedy: take the likeliest token instead of sampling.
        slots: rows computed at a time; fewer where `memory` holds no more.
        keep_paths: return the tokens, too.
        device: `cpu`, `cuda`, or `auto`.
        dtype: of the arithmetic; that of the model unless told. bfloat16 is faster and rounds.
        window: tokens that the model sees at once; its context unless told.
        memory: bytes for keys and values; half of what is free unless told.
        roulette: a `survival` path of a smaller weight ends by chance or goes on with this one,
            which leaves the mean as it is. Small weights cost tokens, large ones variance; between
            0.1 and 0.9 their product changes by a quarter.

    Returns:
        One `Futures` a prefix, in the order of `prefixes`.

    Raises:
        WardroundError: sizes that do not fit each other, a token that the model does not know, a
            window beyond the model's positions, scores that are not numbers.
    """
    sizes = model.sizes
    for name, value in {"futures": futures, "slots": slots, "max_tokens": stops.max_tokens}.items():
        if value < 1:
            raise WardroundError(f"simulate: {name} must be 1 or more")
    if not temperature > 0:
        raise WardroundError("simulate: temperature must be above 0 (greedy=True takes the best)")
    if not 0 <= roulette < 1:
        raise WardroundError("simulate: roulette must be at least 0 and below 1")
    if greedy and estimator == "survival":
        raise WardroundError("simulate: the survival estimator samples, it cannot be greedy")
    stops = Stops(np.asarray(stops.sets, bool), np.asarray(stops.ends, bool), stops.max_tokens)
    _check(model, prefixes, stops, clock, estimator)
    if not prefixes:
        return []
    size = sizes.context if window is None else window
    if sizes.positions == "learned" and size > sizes.context:
        raise WardroundError(
            f"simulate: a window of {size} tokens is longer than the model's positions reach "
            f"({sizes.context})"
        )
    view = Window(size, len(prefixes[0].context))
    if view.chunk < 1:
        raise WardroundError(
            f"simulate: a window of {size} tokens leaves no room beside {view.context} static ones"
        )
    with torch.inference_mode():
        return _Simulation(
            _ready(model, device, dtype),
            prefixes,
            stops,
            clock,
            view,
            futures=futures,
            survival=estimator == "survival",
            seed=seed,
            first_future=first_future,
            temperature=temperature,
            greedy=greedy,
            slots=slots,
            keep_paths=keep_paths,
            memory=memory,
            roulette=roulette,
        ).run()


class _Simulation:
    """The state of one call: rows (a row is a slot that a path lives in), caches, results.

    A path's window lies in up to two places: the first `seen` tokens of its family's block in
    `shared`, and `held` tokens in pages of its own. With learned positions a window that has moved
    lies in pages alone.
    """

    def __init__(
        self,
        model: Decoder,
        prefixes: Sequence[Prefix],
        stops: Stops,
        clock: Clock,
        window: Window,
        *,
        futures: int,
        survival: bool,
        seed: int,
        first_future: int,
        temperature: float,
        greedy: bool,
        slots: int,
        keep_paths: bool,
        memory: int | None,
        roulette: float,
    ) -> None:
        self.model, self.stops, self.window = model, stops, window
        self.durations, self.roulette = clock, roulette
        self.survival, self.temperature, self.greedy = survival, temperature, greedy
        self.keep_paths = keep_paths
        weight = model.embedding.weight
        self.device, dtype = weight.device, weight.dtype

        # What is kept of each prefix, and which of them share a block.
        self.windows = [
            np.concatenate([p.context, p.tokens[window.opening(len(p.tokens)) :]]).astype(np.int64)
            for p in prefixes
        ]
        self.lengths = np.array([len(kept) for kept in self.windows])
        self.families = families(self.windows)
        self.family_of = np.empty(len(prefixes), np.int64)
        for number, members in enumerate(self.families):
            self.family_of[members] = number
        self.block_of = np.full(len(self.families), -1)
        self.users = np.array([len(members) for members in self.families]) * futures

        # The futures yet to come, family by family.
        self.queue = np.repeat(np.concatenate(self.families), futures)
        self.queued = 0
        self.futures = futures
        keys = np.array([p.stream for p in prefixes], np.uint64)
        numbers = np.arange(first_future, first_future + futures, dtype=np.uint64)
        self.streams = streams(seed, keys[:, None], numbers[None, :])
        self.horizons = np.array([p.horizon for p in prefixes], np.float64)

        token_bytes = 2 * model.sizes.layers * model.sizes.width * weight.element_size()
        each = (_free_memory(self.device) // 2 if memory is None else memory) // 2
        longest = int(self.lengths.max())
        most = min(window.size, stops.max_tokens) + PAGE
        n = max(1, min(slots, len(self.queue), each // (most * token_bytes)))
        self.most_blocks = max(1, min(n, each // (longest * token_bytes)))
        columns = -(-window.size // PAGE) + 1
        self.pages = Blocks(model.sizes, PAGE, 1 + n * columns, self.device, dtype)
        self.scrap = self.pages.take()  # page 0: belongs to no row, none of it is seen
        self.shared = Blocks(model.sizes, longest, self.most_blocks, self.device, dtype)
        self.blocks_used = 0

        k = len(stops.sets)
        self.on = np.zeros(n, bool)
        self.prefix, self.future = np.zeros(n, np.int64), np.zeros(n, np.int64)
        self.stream = np.zeros(n, np.uint64)
        self.token = np.zeros(n, np.int64)  # the next to be shown to the model
        self.steps = np.zeros(n, np.int64)
        self.clock, self.horizon = np.zeros(n), np.zeros(n)
        self.first, self.absorbed = np.zeros((n, k)), np.zeros((n, k))
        self.weight = np.zeros(n)
        self.block = np.full(n, -1)
        self.seen, self.held = np.zeros(n, np.int64), np.zeros(n, np.int64)
        self.start = np.zeros(n, np.int64)  # first token of the kept timeline in the window
        self.dropped = np.zeros(n, np.int64)  # tokens of the pages before the window
        self.table = np.zeros((n, columns), np.int64)  # pages of a row; 0 where there is none
        self.path = np.zeros((n, 64), np.int64)
        self.owner = np.full(len(self.pages), -1)  # of a page
        self.offset = np.zeros(len(self.pages), np.int64)  # of a page's first token in the row
        self.plan: tuple[list[Shared], np.ndarray] | None = None

        shape = (len(prefixes), futures)
        self.results = Futures(
            first=np.full((*shape, k), np.inf),
            clock=np.zeros(shape),
            reason=np.zeros(shape, np.int8),
            steps=np.zeros(shape, np.int64),
            absorbed=np.zeros((*shape, k)) if survival else None,
            survived=np.zeros(shape) if survival else None,
        )
        self.kept: dict[tuple[int, int], np.ndarray] = {}
        going = ~stops.ends
        masses = np.vstack([stops.sets & stops.ends, going]).T
        self.masses = torch.from_numpy(masses.astype(np.float32)).to(self.device)
        self.going = torch.from_numpy(going.astype(np.float32)).to(self.device)

    def run(self) -> list[Futures]:
        self._admit()
        while self.on.any():
            rows = np.flatnonzero(self.on)
            tokens, positions = self._inputs(rows)
            hidden = self.model.hidden(tokens, positions=positions, attend=self._attend(rows))
            reason = self._advance(rows, *self._sample(rows, self.model.score(hidden[:, -1])))
            done = reason >= 0
            self._slide(rows[~done])
            if done.any():
                self._retire(rows[done], reason[done])
                self._admit()
        return [self._futures_of(i) for i in range(len(self.windows))]

    # Rows come and go -------------------------------------------------------------------------

    def _admit(self) -> None:
        """Give free rows to the next futures; one that finds no room for its prefix waits."""
        slots = np.flatnonzero(~self.on)[: len(self.queue) - self.queued]
        which = np.arange(self.queued, self.queued + len(slots))
        prefix = self.queue[which]
        family = self.family_of[prefix]
        for number in dict.fromkeys(family[self.block_of[family] < 0].tolist()):
            if self.blocks_used == self.most_blocks:
                keep = int(np.argmax(family == number))
                slots, which, prefix, family = (x[:keep] for x in (slots, which, prefix, family))
                break
            self.block_of[number] = self._prefill(self.windows[self.families[number][0]])
            self.blocks_used += 1
        if not len(slots):
            return
        self.queued += len(slots)
        self.on[slots] = True
        self.prefix[slots], self.future[slots] = prefix, which % self.futures
        self.stream[slots] = self.streams[prefix, which % self.futures]
        self.token[slots] = [self.windows[i][-1] for i in prefix]
        self.seen[slots], self.block[slots] = self.lengths[prefix], self.block_of[family]
        self.horizon[slots] = self.horizons[prefix]
        self.held[slots] = self.start[slots] = self.dropped[slots] = self.steps[slots] = 0
        self.clock[slots] = self.absorbed[slots] = 0
        self.weight[slots], self.first[slots] = 1, np.inf
        self.plan = None

    def _prefill(self, tokens: np.ndarray) -> int:
        """Compute a prefix into a block of its own."""
        block = self.shared.take()

        def attend(layer: int, queries: Tensor, keys: Tensor, values: Tensor) -> Tensor:
            self.shared.keys[layer, block, :, : len(tokens)] = keys[0]
            self.shared.values[layer, block, :, : len(tokens)] = values[0]
            return functional.scaled_dot_product_attention(queries, keys, values, is_causal=True)

        self.model.hidden(self._tensor(tokens[None]), attend=attend)
        return block

    def _retire(self, slots: np.ndarray, reason: np.ndarray) -> None:
        at = self.prefix[slots], self.future[slots]
        out = self.results
        out.first[at], out.clock[at] = self.first[slots], self.clock[slots]
        out.reason[at], out.steps[at] = reason, self.steps[slots]
        if out.absorbed is not None and out.survived is not None:
            out.absorbed[at] = self.absorbed[slots]
            out.survived[at] = np.where(reason == STOPPED, 0, self.weight[slots])
        if self.keep_paths:
            for slot, i, r in zip(slots, *at, strict=True):
                self.kept[int(i), int(r)] = self.path[slot, : self.steps[slot]].copy()
        self._free_pages(slots)
        self._leave(slots)
        self.on[slots] = False
        self.plan = None

    def _leave(self, slots: np.ndarray) -> None:
        """Rows no longer see their prefix's block; without users it is free."""
        slots = slots[self.block[slots] >= 0]
        family = self.family_of[self.prefix[slots]]
        np.subtract.at(self.users, family, 1)
        for number in np.unique(family):
            if not self.users[number]:
                self.shared.give(int(self.block_of[number]))
                self.blocks_used -= 1
        self.block[slots], self.seen[slots] = -1, 0
        self.plan = None

    def _futures_of(self, i: int) -> Futures:
        out = self.results
        return Futures(
            out.first[i],
            out.clock[i],
            out.reason[i],
            out.steps[i],
            None if out.absorbed is None else out.absorbed[i],
            None if out.survived is None else out.survived[i],
            [self.kept[i, r] for r in range(self.futures)] if self.keep_paths else None,
        )

    # One step ---------------------------------------------------------------------------------

    def _inputs(self, rows: np.ndarray) -> tuple[Tensor, Tensor]:
        """Tokens and positions, (rows, 1). A new row shows the last token of its prefix again."""
        positions = self.seen[rows] + self.held[rows] - (self.steps[rows] == 0)
        return self._tensor(self.token[rows, None]), self._tensor(positions[:, None])

    def _attend(self, rows: np.ndarray) -> Attend:
        """Attention of one new token a row, over its prefix's block and its pages."""
        step = self._step(rows)
        pages, shared, c = self.pages, self.shared, self.window.context
        scale = 1 / math.sqrt(pages.keys.shape[-1])

        def attend(layer: int, queries: Tensor, keys: Tensor, values: Tensor) -> Tensor:
            _, heads, _, width = queries.shape
            pages.keys[layer].view(-1, width)[step.cells] = keys.reshape(-1, width)
            pages.values[layer].view(-1, width)[step.cells] = values.reshape(-1, width)
            queries = queries * scale
            turned = None if step.turn is None else rotate(queries, step.turn)[:, :, 0]
            seen, normaliser = look(
                queries[step.owners],
                pages.keys[layer, : step.pages],
                pages.values[layer, : step.pages],
                step.hide,
            )
            parts, normalisers = [seen[:, :, 0]], [normaliser[:, :, 0]]
            for group in step.shared:
                where = slice(group.start, group.stop)
                its_keys = shared.keys[layer, where, :, : group.length]
                scores = _of_rows(queries[:, :, 0], group) @ its_keys.transpose(-1, -2)
                if turned is not None:
                    static = its_keys[:, :, :c].transpose(-1, -2)
                    scores[..., :c] = _of_rows(turned, group) @ static
                its_values = shared.values[layer, where, :, : group.length]
                seen, normaliser = weigh(scores.float(), its_values, group.hide)
                parts.append(seen.transpose(1, 2).reshape(-1, heads, width))
                normalisers.append(normaliser.transpose(1, 2).reshape(-1, heads, 1))
            shares = torch.cat(normalisers)[step.parts].softmax(1)
            together = torch.cat(parts)[step.parts].mul(shares).sum(1)
            return together.to(queries.dtype)[:, :, None]

        return attend

    def _step(self, rows: np.ndarray) -> Step:
        """Find each row a cell for its new token, and all that it sees."""
        n, heads, columns = len(rows), self.model.sizes.heads, self.table.shape[1]
        fresh = self.steps[rows] == 0  # their token lies in the block already
        held = self.held[rows]
        for slot in rows[~fresh & (held % PAGE == 0)]:
            self.table[slot, self.held[slot] // PAGE % columns] = self._page(slot, self.held[slot])
        page = np.where(fresh, self.scrap, self.table[rows, held // PAGE % columns])
        cells = (page[:, None] * heads + np.arange(heads)) * PAGE + (held % PAGE)[:, None]
        self.held[rows] += ~fresh

        count = int(np.flatnonzero(self.owner >= 0)[-1]) + 1 if (self.owner >= 0).any() else 1
        owner, offset = self.owner[:count], self.offset[:count]
        upper = np.where(owner >= 0, self.held[owner] - offset, 0)
        lower = self.dropped[owner] - offset
        within = np.arange(PAGE)
        hide = (within < lower[:, None]) | (within >= upper[:, None])

        if self.plan is None:
            self.plan = self._groups(rows)
        shared, item = self.plan
        pages = self.table[rows]
        pages = pages[:, pages.any(axis=0)]
        parts = np.column_stack([pages, np.where(item >= 0, count + item, self.scrap)])
        at = np.zeros(len(self.on), np.int64)
        at[rows] = np.arange(n)
        moved = self.model.position is None and self.start[rows].any()
        return Step(
            cells=self._tensor(cells.ravel()),
            pages=count,
            owners=self._tensor(at[owner]),
            hide=self._tensor(hide[:, None, None]),
            shared=shared,
            parts=self._tensor(parts),
            turn=self._turn(rows) if moved else None,
        )

    def _turn(self, rows: np.ndarray) -> Tensor:
        """Turns queries so that static tokens are as near as they are in the window."""
        sizes = self.model.sizes
        back = self._tensor(-self.start[rows, None])
        return rotation(back, sizes.head_width, sizes.rotary_base)

    def _groups(self, rows: np.ndarray) -> tuple[list[Shared], np.ndarray]:
        """Prefix blocks in runs that are worth one product, and where each row is found in them."""
        item = np.full(len(rows), -1)
        index = np.flatnonzero(self.block[rows] >= 0)
        if not len(index):
            return [], item
        index = index[np.argsort(self.block[rows[index]], kind="stable")]
        block, seen = self.block[rows[index]], self.seen[rows[index]]
        count = np.bincount(block)
        rank = np.arange(len(index)) - (np.cumsum(count) - count)[block]
        length = np.zeros(len(count), np.int64)
        np.maximum.at(length, block, seen)
        groups, first, c = [], 0, self.window.context
        for start, stop in runs(count, length, LAUNCH[self.device.type] / self.model.sizes.width):
            inside = (block >= start) & (block < stop)
            of, at, most = index[inside], (block[inside] - start, rank[inside]), length[start:stop]
            shape = (stop - start, int(count[start:stop].max()))
            matrix, until = np.zeros(shape, np.int64), np.full(shape, most.max())
            gone = np.zeros(shape, np.int64)
            matrix[at], until[at], gone[at] = of, seen[inside], self.start[rows[of]]
            hide = None
            if gone.any() or (until < most.max()).any():
                place = np.arange(most.max())
                late = place >= until[..., None]
                mask = late | ((place >= c) & (place < c + gone[..., None]))
                hide = self._tensor(mask[:, None])
            groups.append(Shared(start, stop, int(most.max()), self._tensor(matrix), hide))
            item[of] = first + at[0] * shape[1] + at[1]
            first += matrix.size
        return groups, item

    def _sample(self, rows: np.ndarray, scores: Tensor) -> tuple[np.ndarray, np.ndarray]:
        """Next tokens (n,), and P(set and end) for each set, then P(no end): (n, k + 1)."""
        scores = scores.float()
        if not scores.amax(-1).isfinite().all():
            raise WardroundError("simulate: the model's scores are not numbers; was it trained?")
        nothing = np.zeros((len(rows), 0))
        if self.greedy:
            return scores.argmax(-1).cpu().numpy(), nothing
        weights = (scores / self.temperature).softmax(-1)
        u = torch.from_numpy(self._uniforms(rows, 0)).to(self.device)
        if not self.survival:
            return draw(weights, u).cpu().numpy(), nothing
        masses = (weights @ self.masses).double().cpu().numpy()
        return draw(weights * self.going, u).cpu().numpy(), masses

    def _advance(self, rows: np.ndarray, tokens: np.ndarray, masses: np.ndarray) -> np.ndarray:
        """Move clocks and weights by the new tokens; why a path ended, or -1: (n,) int8."""
        k, stops = len(self.stops.sets), self.stops
        first, weight = self.first[rows], self.weight[rows]
        if self.survival:
            self.absorbed[rows] += weight[:, None] * masses[:, :k] * np.isinf(first)
            weight = weight * masses[:, k]
        alive = weight > 0
        tokens = np.minimum(tokens, len(stops.ends) - 1)  # where nothing but ends can follow
        spans, chance = self._uniforms(rows, 1), self._uniforms(rows, 2)
        self.clock[rows] += alive * durations(self.durations, tokens, spans)
        self._note(rows[alive], tokens[alive])

        clock, late = self.clock[rows], self.clock[rows] > self.horizon[rows]
        reached = stops.sets[:, tokens].T & np.isinf(first) & (alive & ~late)[:, None]
        self.first[rows] = np.where(reached, clock[:, None], first)
        reason = np.full(len(rows), -1, np.int8)
        reason[self.steps[rows] >= stops.max_tokens] = MAX_TOKENS
        reason[stops.ends[tokens]] = STOPPED
        reason[late] = HORIZON
        reason[~alive] = STOPPED
        if self.survival:
            self.absorbed[rows] += weight[:, None] * reached
            light = (reason < 0) & (weight < self.roulette)
            stays = chance * self.roulette < weight
            reason[light & ~stays] = STOPPED
            self.weight[rows] = np.where(light, self.roulette, weight)
        return reason

    def _note(self, slots: np.ndarray, tokens: np.ndarray) -> None:
        """Append tokens to paths."""
        steps = self.steps[slots]
        if len(steps) and steps.max() >= self.path.shape[1]:
            self.path = np.pad(self.path, ((0, 0), (0, self.path.shape[1])))
        self.path[slots, steps] = self.token[slots] = tokens
        self.steps[slots] += 1

    def _uniforms(self, rows: np.ndarray, number: int) -> np.ndarray:
        """The `number`-th random number of this step: for the token, its duration, roulette."""
        return uniforms(self.stream[rows], self.steps[rows] * DRAWS + number)

    # Windows move -----------------------------------------------------------------------------

    def _slide(self, slots: np.ndarray) -> None:
        """Make room for the next token in windows that are full."""
        known = self.lengths[self.prefix[slots]] - self.window.context + self.steps[slots]
        full = self.window.overfull(self.start[slots], known)
        if not full.any():
            return
        slots = slots[full]
        self.start[slots] += self.window.chunk
        self.plan = None
        if self.model.position is not None:
            self._recompute(slots)
            return
        timeline = self.lengths[self.prefix[slots]] - self.window.context
        self.dropped[slots] = np.maximum(self.start[slots] - timeline, 0)
        pages = self.table[slots]
        gone = (pages > 0) & (self.offset[pages] + PAGE <= self.dropped[slots, None])
        self._free(pages[gone])
        self.table[slots] = np.where(gone, 0, pages)

    def _recompute(self, slots: np.ndarray) -> None:
        """Compute windows anew, but for the token that comes next, into pages of their rows."""
        c = self.window.context
        self._leave(slots)
        self._free_pages(slots)
        tokens = []
        for slot in slots:
            kept = self.windows[self.prefix[slot]]
            path = self.path[slot, : self.steps[slot] - 1]
            tokens.append(np.concatenate([kept, path]))
            tokens[-1] = np.concatenate([kept[:c], tokens[-1][c + self.start[slot] :]])
        lengths = np.array([len(window) for window in tokens])
        for length in np.unique(lengths):
            same = np.flatnonzero(lengths == length)
            for some in np.array_split(same, -(-len(same) * length // TOKENS_AT_ONCE)):
                self._fill_pages(slots[some], np.stack([tokens[i] for i in some]))

    def _fill_pages(self, slots: np.ndarray, tokens: np.ndarray) -> None:
        """Compute whole windows, (slots, time), into pages."""
        length = tokens.shape[1]
        count = -(-length // PAGE)
        for column in range(count):
            self.table[slots, column] = [self._page(slot, column * PAGE) for slot in slots]
        self.held[slots] = length
        pages = self._tensor(self.table[slots, :count])

        def cut(whole: Tensor) -> Tensor:
            whole = functional.pad(whole, (0, 0, 0, count * PAGE - length))
            return whole.unflatten(2, (count, PAGE)).transpose(1, 2)

        def attend(layer: int, queries: Tensor, keys: Tensor, values: Tensor) -> Tensor:
            self.pages.keys[layer, pages] = cut(keys)
            self.pages.values[layer, pages] = cut(values)
            return functional.scaled_dot_product_attention(queries, keys, values, is_causal=True)

        self.model.hidden(self._tensor(tokens), attend=attend)

    def _page(self, slot: int, offset: int) -> int:
        """A page for a row's tokens from `offset` on."""
        page = self.pages.take()
        if page >= len(self.owner):
            more = len(self.pages) - len(self.owner)
            self.owner = np.pad(self.owner, (0, more), constant_values=-1)
            self.offset = np.pad(self.offset, (0, more))
        self.owner[page], self.offset[page] = slot, offset
        return page

    def _free_pages(self, slots: np.ndarray) -> None:
        pages = self.table[slots]
        self._free(pages[pages > 0])
        self.table[slots] = 0

    def _free(self, pages: np.ndarray) -> None:
        self.owner[pages] = -1
        for page in pages.tolist():
            self.pages.give(page)

    def _tensor(self, array: np.ndarray) -> Tensor:
        return torch.from_numpy(np.ascontiguousarray(array)).to(self.device)


def families(windows: Sequence[np.ndarray]) -> list[list[int]]:
    """Group windows that begin alike: each group's first holds all the others as its beginning.

    In alphabetical order whatever begins with a window follows it without a gap, so that looking
    at neighbours is enough. Groups come longest first.
    """
    letters = [window.astype(">u4").tobytes() for window in windows]
    groups: list[list[int]] = []
    for number in sorted(range(len(windows)), key=letters.__getitem__, reverse=True):
        if groups and letters[groups[-1][0]].startswith(letters[number]):
            groups[-1].append(number)
        else:
            groups.append([number])
    return sorted(groups, key=lambda group: -len(windows[group[0]]))


def runs(count: np.ndarray, length: np.ndarray, launch: float) -> list[tuple[int, int]]:
    """Cut blocks into runs so that padding costs less than the launches it saves.

    Args:
        count, length: rows of each block, and tokens that they see; 0 for blocks not in use.
        launch: the cost of a launch in rows x keys. Reading a key costs about as much as
            `READING` rows do.
    """

    def cost(blocks: int, rows: int, keys: int) -> float:
        return launch + blocks * keys * (rows + READING)

    found: list[tuple[int, int]] = []
    sizes: list[tuple[int, int]] = []
    for block in np.flatnonzero(count).tolist():
        own = (int(count[block]), int(length[block]))
        if found:
            start, stop = found[-1]
            rows, keys = (max(pair) for pair in zip(sizes[-1], own, strict=True))
            apart = cost(stop - start, *sizes[-1]) + cost(1, *own)
            if cost(block + 1 - start, rows, keys) <= apart:
                found[-1], sizes[-1] = (start, block + 1), (rows, keys)
                continue
        found.append((block, block + 1))
        sizes.append(own)
    return found


def _of_rows(queries: Tensor, group: Shared) -> Tensor:
    """Queries (rows, heads, width) by block: (blocks, heads, rows of a block, width)."""
    return queries[group.rows].transpose(1, 2)


def _ready(model: Decoder, device: str, dtype: torch.dtype | None) -> Decoder:
    """The model as it is wanted: a copy unless it is that already."""
    weight = model.embedding.weight
    place, dtype = torch.device(pick_device(device)), dtype or weight.dtype
    if place.type == "cuda" and not torch.cuda.is_available():
        raise WardroundError(
            f"simulate: there is no device {device} here; device=cpu works anywhere"
        )
    here = weight.device.type == place.type and place.index in (None, weight.device.index)
    if here and weight.dtype == dtype and not model.training:
        return model
    return copy.deepcopy(model).to(place, dtype).eval()


def _free_memory(device: torch.device) -> int:
    if device.type == "cuda":  # what torch keeps for itself is free, too
        kept = torch.cuda.memory_reserved(device) - torch.cuda.memory_allocated(device)
        return torch.cuda.mem_get_info(device)[0] + kept
    return psutil.virtual_memory().available


def _check(
    model: Decoder, prefixes: Sequence[Prefix], stops: Stops, clock: Clock, estimator: str
) -> None:
    """Raise `WardroundError` where sizes or values do not fit."""
    size = model.sizes.vocabulary
    shapes = {
        "stops.sets": (np.shape(stops.sets)[1:], (size,)),
        "stops.ends": (np.shape(stops.ends), (size,)),
        "clock.mean": (np.shape(clock.mean), (size,)),
    }
    if clock.quantiles is not None:
        shapes["clock.quantiles"] = (np.shape(clock.quantiles)[:1], (size,))
    for name, (found, wanted) in shapes.items():
        if found != wanted:
            raise WardroundError(
                f"simulate: {name} is made for {found or 'no'} tokens, the model knows {size}"
            )
    if estimator == "survival" and np.asarray(clock.mean)[stops.ends].any():
        raise WardroundError(
            "simulate: the survival estimator needs ends that take no time; "
            "an interval token is among stops.ends"
        )
    for i, prefix in enumerate(prefixes):
        if len(prefix.context) != len(prefixes[0].context):
            raise WardroundError(
                f"simulate: prefix {i} has {len(prefix.context)} static tokens, "
                f"the first has {len(prefixes[0].context)}"
            )
        if not len(prefix.context) + len(prefix.tokens):
            raise WardroundError(f"simulate: prefix {i} has no token at all to go on from")
        if not prefix.horizon >= 0:
            raise WardroundError(f"simulate: prefix {i}: a horizon of {prefix.horizon} seconds")
        for part in (prefix.context, prefix.tokens):
            if len(part) and not 0 <= part.min() <= part.max() < size:
                raise WardroundError(
                    f"simulate: prefix {i} holds a token outside the model's vocabulary "
                    f"(0 to {size - 1}); was it written with another vocabulary?"
                )

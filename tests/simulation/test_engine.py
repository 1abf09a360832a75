"""Cached, batched simulation against the plain loop: the same paths, token by token."""

from __future__ import annotations

from collections.abc import Sequence

import numpy as np
import pytest
import torch
from torch import Tensor, nn

from wardround.errors import WardroundError
from wardround.models.decoder import Decoder, DecoderConfig, rotate, rotation
from wardround.simulation import (
    HORIZON,
    MAX_TOKENS,
    STOPPED,
    Clock,
    Futures,
    Prefix,
    Stops,
    Window,
    simulate,
)
from wardround.simulation.sampling import draw, durations, streams, uniforms

VOCABULARY = 50
END = 7
CONTEXT = np.array([40, 41, 42])


class Untied(Decoder):
    """Scores by a matrix of its own: tied ones of random weights repeat the last token forever."""

    def __init__(self, config: DecoderConfig) -> None:
        super().__init__(config)
        self.head = nn.Parameter(torch.randn(config.vocabulary, config.width))

    def score(self, hidden: Tensor) -> Tensor:
        return hidden @ self.head.T


def decoder(positions: str = "learned", context: int = 64) -> Decoder:
    torch.manual_seed(1)
    sizes = DecoderConfig(
        vocabulary=VOCABULARY, context=context, layers=2, heads=4, width=32, hidden=48,
        positions=positions,  # type: ignore[arg-type]
    )  # fmt: skip
    model = Untied(sizes).eval()
    with torch.no_grad():
        for name, weight in model.named_parameters():
            if weight.ndim > 1 and name != "head":
                weight.mul_(10)  # so that attention is far from uniform
        model.head[END] *= 0.1  # rare, so that paths are long
    return model


def prefixes(lengths: Sequence[int], seed: int = 0, horizon: float = np.inf) -> list[Prefix]:
    """Cuts of one timeline, and as many of timelines of their own."""
    rng = np.random.default_rng(seed)
    stay = rng.integers(8, 40, 300)
    cuts = [Prefix(CONTEXT, stay[:n], horizon) for n in lengths]
    others = [Prefix(CONTEXT + 1, rng.integers(8, 40, n), horizon) for n in lengths]
    return cuts + others


def stops(max_tokens: int = 90) -> Stops:
    sets = np.zeros((2, VOCABULARY), bool)
    sets[0, END], sets[1, [11, 12]] = True, True
    return Stops(sets=sets, ends=sets[0], max_tokens=max_tokens)


def clock(drawn: bool = False) -> Clock:
    mean = np.zeros(VOCABULARY)
    mean[20:30] = np.arange(10) + 0.5
    return Clock(mean, mean[:, None] * np.linspace(0.5, 1.5, 5) if drawn else None)


def plain(
    model: Decoder, prefix: Prefix, stops: Stops, clock: Clock, *, future: int, seed: int = 0,
    greedy: bool = False, window: int = 64,
) -> tuple[list[int], list[Tensor], float, int, np.ndarray]:  # fmt: skip
    """One path without a cache: the whole window (learned) or sequence (rotary) for each token."""
    view = Window(window, len(prefix.context))
    timeline = [int(token) for token in prefix.tokens[view.opening(len(prefix.tokens)) :]]
    start, starts = 0, [0] * len(timeline)  # where the window began when a token was shown
    stream = streams(seed, np.array([prefix.stream], np.uint64), np.array([future], np.uint64))
    path: list[int] = []
    scores, time, first = [], 0.0, np.full(len(stops.sets), np.inf)
    while True:
        if view.context + len(timeline) - start > window:
            start += view.chunk
        if len(path):
            starts.append(start)
        if model.position is not None:
            tokens = torch.tensor([[*prefix.context, *timeline[start:]]])
            score = model(tokens)[0, -1]
        else:
            tokens = torch.tensor([[*prefix.context, *timeline]])
            score = model(tokens, attend=_banded(model, view.context, starts))[0, -1]
        counter = np.array([3 * len(path)])
        weights = (score - score.max()).exp()[None]
        token = int(
            score.argmax()
            if greedy
            else draw(weights, torch.from_numpy(uniforms(stream, counter)))[0]
        )
        time += durations(clock, np.array([token]), uniforms(stream, counter + 1))[0]
        scores.append(score)
        path.append(token)
        timeline.append(token)
        if time > prefix.horizon:
            return path, scores, time, HORIZON, first
        first[stops.sets[:, token] & np.isinf(first)] = time
        if stops.ends[token]:
            return path, scores, time, STOPPED, first
        if len(path) == stops.max_tokens:
            return path, scores, time, MAX_TOKENS, first


def _banded(model: Decoder, context: int, starts: list[int]):
    """Token m of the timeline sees the static tokens and timeline[starts[m] : m + 1]."""
    size = context + len(starts)
    places = torch.arange(size)
    began = torch.cat([torch.zeros(context, dtype=torch.long), torch.tensor(starts).long()])
    static = places < context
    dropped = ~static & (places[None, :] < (context + began)[:, None])
    hide = (places[None, :] > places[:, None]) | dropped
    turn = rotation(-began[None], model.sizes.head_width, model.sizes.rotary_base)

    def attend(layer: int, queries: Tensor, keys: Tensor, values: Tensor) -> Tensor:
        near = rotate(queries, turn) @ keys.transpose(-1, -2)
        scores = torch.where(static, near, queries @ keys.transpose(-1, -2))
        scores = scores / queries.shape[-1] ** 0.5
        return scores.masked_fill(hide, -torch.inf).softmax(-1) @ values

    return attend


@pytest.mark.parametrize("positions", ["learned", "rotary"])
@pytest.mark.parametrize("greedy", [True, False])
def test_paths_are_those_of_the_plain_loop(positions: str, greedy: bool) -> None:
    """Short prefixes, long ones that are cut, families, fewer slots than futures, moved windows."""
    model = decoder(positions)
    cohort = prefixes([0, 20, 54, 155])
    out = simulate(
        model, cohort, stops(), clock(drawn=True), futures=2, greedy=greedy, slots=7,
        keep_paths=True,
    )  # fmt: skip
    lengths = []
    with torch.inference_mode():
        for prefix, futures in zip(cohort, out, strict=True):
            for r in [0] if greedy else [0, 1]:
                path, _, time, reason, first = plain(
                    model, prefix, stops(), clock(drawn=True), future=r, greedy=greedy
                )
                assert futures.paths is not None
                assert futures.paths[r].tolist() == path
                assert futures.steps[r] == len(path)
                assert futures.clock[r] == pytest.approx(time)
                assert futures.reason[r] == reason
                np.testing.assert_allclose(futures.first[r], first)
                lengths.append(len(path))
    assert max(lengths) > 64  # some windows held nothing of their prefix any more


@pytest.mark.parametrize("positions", ["learned", "rotary"])
def test_scores_are_those_of_the_plain_loop_at_every_step(positions: str) -> None:
    model, [_, prefix] = decoder(positions), prefixes([50])
    seen: list[Tensor] = []
    whole = model.score
    model.score = lambda hidden: seen.append(whole(hidden)) or seen[-1]  # type: ignore[method-assign]
    simulate(model, [prefix], stops(), clock(), futures=1)
    model.score = whole  # type: ignore[method-assign]
    with torch.inference_mode():
        _, scores, *_ = plain(model, prefix, stops(), clock(), future=0)
    assert len(seen) == len(scores) > 15
    torch.testing.assert_close(torch.cat(seen), torch.stack(scores), rtol=1e-4, atol=1e-3)


@pytest.mark.parametrize(
    ("positions", "window"), [("learned", 32), ("rotary", 32), ("rotary", 100)]
)
def test_window_may_differ_from_the_context(positions: str, window: int) -> None:
    model, cohort = decoder(positions), prefixes([3, 90])
    out = simulate(
        model, cohort, stops(150), clock(), futures=1, seed=2, window=window, keep_paths=True
    )
    with torch.inference_mode():
        for prefix, futures in zip(cohort, out, strict=True):
            path, *_ = plain(model, prefix, stops(150), clock(), future=0, seed=2, window=window)
            assert futures.paths is not None
            assert futures.paths[0].tolist() == path


def same(one: Futures, other: Futures, rows: slice = slice(None)) -> None:
    assert one.paths is not None
    assert other.paths is not None
    assert [path.tolist() for path in one.paths] == [path.tolist() for path in other.paths[rows]]
    for name in ("first", "clock", "reason", "steps"):
        np.testing.assert_array_equal(getattr(one, name), getattr(other, name)[rows])


@pytest.mark.parametrize("positions", ["learned", "rotary"])
def test_futures_do_not_hang_on_the_batch(positions: str) -> None:
    """Slots, order, company, memory and calls that add futures change nothing."""
    model, cohort = decoder(positions), prefixes([0, 17, 33, 80], horizon=25.0)

    def futures(cohort: Sequence[Prefix], number: int = 4, **options: int) -> list[Futures]:
        return simulate(
            model, cohort, stops(), clock(drawn=True), futures=number, seed=5, keep_paths=True,
            **options,
        )  # fmt: skip

    expected = futures(cohort)
    for slots in (2, 1000):
        for one, other in zip(futures(cohort, slots=slots), expected, strict=True):
            same(one, other)
    for one, other in zip(futures(cohort[::-1], slots=9)[::-1], expected, strict=True):
        same(one, other)
    a_token = 2 * 2 * 32 * 4  # bytes: room for one prefix at a time, and for a few rows
    for one, other in zip(futures(cohort, memory=2 * 300 * a_token), expected, strict=True):
        same(one, other)
    same(futures(cohort[3:4])[0], expected[3])
    same(futures(cohort[3:4], 2, first_future=2)[0], expected[3], slice(2, None))


def test_seeds_and_keys() -> None:
    model, [prefix, _] = decoder(), prefixes([10])

    def paths(prefix: Prefix, seed: int) -> list[list[int]]:
        (out,) = simulate(
            model, [prefix], stops(20), clock(), futures=5, seed=seed, keep_paths=True
        )
        assert out.paths is not None
        return [path.tolist() for path in out.paths]

    assert paths(prefix, 0) == paths(prefix, 0)
    assert paths(prefix, 0) != paths(prefix, 1)
    assert len({tuple(path) for path in paths(prefix, 0)}) == 5
    keyed = [Prefix(prefix.context, prefix.tokens, prefix.horizon, key) for key in (1, 2)]
    assert paths(keyed[0], 0) != paths(keyed[1], 0)
    sooner = Prefix(prefix.context, prefix.tokens, 4.0)  # the same paths, ended earlier
    assert all(
        a[: len(b)] == b for a, b in zip(paths(prefix, 0), paths(sooner, 0), strict=True)
    )  # fmt: skip


def test_the_model_is_left_as_it_was() -> None:
    model = decoder().train()
    before = {name: value.clone() for name, value in model.state_dict().items()}
    one, _ = simulate(model, prefixes([10]), stops(5), clock(), futures=3, keep_paths=True)
    other, _ = simulate(model.eval(), prefixes([10]), stops(5), clock(), futures=3, keep_paths=True)
    same(one, other)  # dropout is off either way
    for name, value in model.state_dict().items():
        assert torch.equal(value, before[name])


def test_bfloat16_stays_near() -> None:
    """The first token's distribution by 4,000 futures, against float32's scores."""
    model, [prefix, _] = decoder(), prefixes([40])
    (out,) = simulate(
        model, [prefix], stops(1), clock(), futures=4000, dtype=torch.bfloat16, keep_paths=True
    )
    with torch.inference_mode():
        _, (scores,), *_ = plain(model, prefix, stops(1), clock(), future=0)
    assert out.paths is not None
    found = np.bincount(np.concatenate(out.paths), minlength=VOCABULARY) / 4000
    assert np.abs(found - scores.softmax(-1).numpy()).sum() / 2 < 0.1
    assert model.embedding.weight.dtype == torch.float32


def test_no_prefixes_no_futures() -> None:
    assert simulate(decoder(), [], stops(), clock()) == []


@pytest.mark.parametrize(
    ("change", "message"),
    [
        ({"futures": 0}, "futures must be 1"),
        ({"slots": 0}, "slots must be 1"),
        ({"temperature": 0.0}, "temperature must be above 0"),
        ({"roulette": 1.0}, "roulette must be"),
        ({"greedy": True, "estimator": "survival"}, "cannot be greedy"),
        ({"window": 65}, "longer than the model's positions reach"),
        ({"window": 6}, "leaves no room"),
        (
            {"stops": Stops(np.zeros((1, 9), bool), np.zeros(VOCABULARY, bool))},
            "stops.sets is made",
        ),
        (
            {"stops": Stops(np.zeros((1, VOCABULARY), bool), np.zeros(9, bool))},
            "stops.ends is made",
        ),
        ({"clock": Clock(np.zeros(9))}, "clock.mean is made for"),
        ({"clock": Clock(np.zeros(VOCABULARY), np.zeros((9, 3)))}, "clock.quantiles is made"),
        ({"clock": Clock(np.ones(VOCABULARY)), "estimator": "survival"}, "ends that take no time"),
        ({"prefixes": [Prefix(CONTEXT, np.array([VOCABULARY]), 1.0)]}, "outside the model's vocab"),
        ({"prefixes": [Prefix(np.array([-1]), np.array([1]), 1.0)]}, "outside the model's vocab"),
        ({"prefixes": [Prefix(CONTEXT[:0], CONTEXT[:0], 1.0)]}, "no token at all"),
        ({"prefixes": [Prefix(CONTEXT, CONTEXT, np.nan)]}, "horizon of nan"),
        (
            {"prefixes": [Prefix(CONTEXT, CONTEXT, 1.0), Prefix(CONTEXT[:1], CONTEXT, 1.0)]},
            "prefix 1 has 1 static tokens, the first has 3",
        ),
    ],
)
def test_mistakes(change: dict, message: str) -> None:
    call = {"prefixes": prefixes([4]), "stops": stops(3), "clock": clock()} | change
    with pytest.raises(WardroundError, match=message):
        simulate(decoder(), **call)


def test_scores_that_are_no_numbers() -> None:
    model = decoder()
    nn.init.constant_(model.norm.weight, np.nan)
    with pytest.raises(WardroundError, match="not numbers"):
        simulate(model, prefixes([4]), stops(3), clock())

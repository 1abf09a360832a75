"""Stop frequencies, times and the survival estimator on a chain whose truth is known exactly."""

from __future__ import annotations

import numpy as np
import pytest
import torch
from torch import Tensor

from wardround.models.decoder import Decoder, DecoderConfig
from wardround.simulation import (
    HORIZON,
    MAX_TOKENS,
    STOPPED,
    Clock,
    Futures,
    Prefix,
    Stops,
    simulate,
)

WELL, ILL, HOUR, ICU, DEATH, HOME = range(6)
#: P[i, j]: token j follows token i.
P = np.array(
    [
        [0.30, 0.20, 0.40, 0.00, 0.01, 0.09],
        [0.15, 0.30, 0.35, 0.10, 0.08, 0.02],
        [0.45, 0.40, 0.05, 0.03, 0.03, 0.04],
        [0.00, 0.50, 0.30, 0.00, 0.15, 0.05],
        [1.00, 0.00, 0.00, 0.00, 0.00, 0.00],
        [1.00, 0.00, 0.00, 0.00, 0.00, 0.00],
    ]
)
TAKES = np.array([0, 0, 1, 0, 0, 0])
SETS = np.eye(6, dtype=bool)[[DEATH, HOME, ICU]]
FUTURES = 6000


class Chain(Decoder):
    """The next token hangs on the last alone."""

    def __init__(self) -> None:
        super().__init__(
            DecoderConfig(vocabulary=6, context=40, layers=1, heads=1, width=2, hidden=1)
        )
        self.table = torch.from_numpy(P).float().log()

    def hidden(self, tokens: Tensor, **_: object) -> Tensor:  # type: ignore[override]
        return torch.nn.functional.one_hot(tokens, 6).float()

    def score(self, hidden: Tensor) -> Tensor:
        return self.table[hidden.argmax(-1)]


def chain(estimator: str = "count", horizon: float = np.inf, **options: object) -> Futures:
    stops = Stops(
        SETS, np.isin(np.arange(6), [DEATH, HOME]), int(options.pop("max_tokens", 10_000))
    )
    call = {"futures": FUTURES, "estimator": estimator} | options
    prefix = Prefix(np.array([WELL]), np.array([HOUR, ILL]), horizon)
    (out,) = simulate(Chain().eval(), [prefix], stops, Clock(TAKES.astype(float)), **call)
    return out


def reached(target: int, horizon: int | None, stop: tuple[int, ...] = (DEATH, HOME)) -> float:
    """P(target before the clock passes the horizon), from ILL at 0, by backward induction."""
    absorbing = {target, *stop}
    going = np.array([i for i in range(6) if i not in absorbing])
    inside = P[np.ix_(going, going)]
    instant, slow = inside * (TAKES[going] == 0), inside * (TAKES[going] == 1)
    if horizon is None:
        value = np.linalg.solve(np.eye(len(going)) - inside, P[going, target])
    else:
        value = np.zeros(len(going))
        for _ in range(horizon + 1):
            known = P[going, target] + slow @ value
            value = np.linalg.solve(np.eye(len(going)) - instant, known)
    return float(value[going.tolist().index(ILL)])


def error(sample: np.ndarray, truth: float) -> float:
    """Distance of a mean from the truth in its standard errors."""
    return abs(sample.mean() - truth) / (sample.std() / np.sqrt(len(sample)))


@pytest.mark.parametrize("horizon", [None, 0, 3, 8])
def test_frequencies_are_exact_probabilities(horizon: int | None) -> None:
    out = chain(horizon=np.inf if horizon is None else horizon)
    for column, token in enumerate([DEATH, HOME, ICU]):
        assert error(np.isfinite(out.first[:, column]), reached(token, horizon)) < 4
    ends = np.isfinite(out.first[:, :2]).any(axis=1)
    np.testing.assert_array_equal(out.reason, np.where(ends, STOPPED, HORIZON))
    if horizon is not None:
        assert (out.clock[~ends] == horizon + 1).all()  # the hour that passed the horizon
        assert (out.clock[ends] <= horizon).all()
    np.testing.assert_array_equal(out.first[:, :2].min(axis=1)[ends], out.clock[ends])


def test_times_are_exact_in_the_mean() -> None:
    """E[clock] = (I - Q)^-1 P d: each token adds its duration."""
    going = [WELL, ILL, HOUR, ICU]
    steps = np.linalg.inv(np.eye(4) - P[np.ix_(going, going)])
    out = chain()
    assert error(out.clock, (steps @ P[going] @ TAKES)[ILL]) < 4
    assert error(out.steps, steps.sum(axis=1)[ILL]) < 4
    drawn = chain(horizon=np.inf)
    assert np.isin(drawn.clock, np.arange(1000)).all()


def test_durations_are_drawn_from_quantiles() -> None:
    stops = Stops(SETS, np.isin(np.arange(6), [DEATH, HOME]))
    quantiles = TAKES[:, None] * np.array([0.0, 1.0, 6.0])  # mean: (0.5 + 3.5) / 2
    prefix = Prefix(np.array([WELL]), np.array([ILL]), np.inf)
    (out,) = simulate(
        Chain().eval(), [prefix], stops, Clock(TAKES * 2.0, quantiles), futures=FUTURES
    )
    means = chain()
    assert error(out.clock, 2 * means.clock.mean()) < 5
    assert out.clock.std() > 2 * means.clock.std()


@pytest.mark.parametrize("roulette", [0.0, 0.1, 0.9])
@pytest.mark.parametrize("horizon", [3, 8])
def test_survival_is_unbiased(horizon: int, roulette: float) -> None:
    out = chain("survival", horizon, roulette=roulette, seed=3)
    assert out.absorbed is not None
    assert out.survived is not None
    for column, token in enumerate([DEATH, HOME, ICU]):
        assert error(out.absorbed[:, column], reached(token, horizon)) < 4
    left = 1 - reached(DEATH, horizon) - reached(HOME, horizon)
    assert error(out.survived, left) < 4
    assert np.isinf(out.first[:, :2]).all()  # ends are never sampled
    whole = out.absorbed[:, :2].sum(axis=1) + out.survived
    if not roulette:
        np.testing.assert_allclose(whole, 1, rtol=1e-5)
        assert (out.reason == HORIZON).all()
    else:
        assert error(whole, 1) < 4


def test_survival_without_a_horizon_ends_by_roulette() -> None:
    out = chain("survival")
    assert out.absorbed is not None
    assert out.survived is not None
    assert error(out.absorbed[:, 0], reached(DEATH, None)) < 4
    assert (out.reason == STOPPED).all()
    assert not out.survived.any()


@pytest.mark.parametrize(("column", "token"), [(0, DEATH), (1, HOME)])
def test_survival_varies_less_than_counting(column: int, token: int) -> None:
    counted = np.isfinite(chain(horizon=8).first[:, column])
    absorbed = chain("survival", 8).absorbed
    assert absorbed is not None
    assert absorbed[:, column].var() < 0.5 * counted.var()


def test_survival_where_only_ends_can_follow() -> None:
    """All weight is absorbed at once, and nothing is sampled."""
    stops = Stops(np.eye(6, dtype=bool)[[WELL, ILL]], np.isin(np.arange(6), [WELL]))
    prefix = Prefix(np.array([WELL]), np.array([HOME]), 5.0)
    (out,) = simulate(
        Chain().eval(), [prefix], stops, Clock(TAKES.astype(float)), futures=3,
        estimator="survival", keep_paths=True,
    )  # fmt: skip
    assert out.absorbed is not None
    np.testing.assert_allclose(out.absorbed, [[1, 0]] * 3)
    assert (out.reason == STOPPED).all()
    assert not out.steps.any()


def test_max_tokens() -> None:
    out = chain(max_tokens=4, keep_paths=True)
    assert out.paths is not None
    cut = out.reason == MAX_TOKENS
    assert cut.any()
    assert (out.steps[cut] == 4).all()
    assert (out.steps <= 4).all()
    lengths = [len(path) for path in out.paths]
    np.testing.assert_array_equal(lengths, out.steps)
    assert error(cut, np.linalg.matrix_power(P[:4, :4], 4)[ILL].sum()) < 4


def test_temperature_sharpens() -> None:
    """At temperature T the next token follows P^(1/T), normalised."""
    sharp = P[ILL] ** 2 / (P[ILL] ** 2).sum()
    out = chain(max_tokens=1, temperature=0.5, keep_paths=True)
    assert out.paths is not None
    tokens = np.concatenate(out.paths)
    for token in (ILL, HOUR, DEATH):
        assert error(tokens == token, sharp[token]) < 4

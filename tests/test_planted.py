"""The planted process says the truth about the patients that it draws."""

from __future__ import annotations

import numpy as np
import polars as pl
import pytest
from scipy.stats import chi2
from sklearn.linear_model import LogisticRegression
from sklearn.metrics import roc_auc_score

from tests.planted import (
    ADMISSION,
    DAY,
    DEATH,
    DISCHARGE,
    ICU,
    INTERVALS,
    LABS,
    MARKER,
    QUESTIONS,
    START,
    STATES,
    TOKEN,
    TOKENS,
    Automaton,
    Beliefs,
    Exact,
    Planted,
    Sample,
)
from wardround.simulation.predictions import starts
from wardround.simulation.tasks import load_timeline_task
from wardround.store import PatientStore, known_at, open_store
from wardround.views.timeline import Timelines, Tokeniser


@pytest.fixture(scope="module")
def planted() -> Planted:
    return Planted(seed=1)


@pytest.fixture(scope="module")
def exact(planted: Planted) -> Exact:
    return planted.exact()


@pytest.fixture(scope="module")
def sample(planted: Planted) -> Sample:
    return planted.sample(2000)


@pytest.fixture(scope="module")
def beliefs(exact: Exact, sample: Sample) -> Beliefs:
    return exact.follow(sample.walks.tokens, sample.walks.offsets)


def test_the_filter_is_the_sum_over_all_hidden_courses(
    exact: Exact, planted: Planted, sample: Sample
) -> None:
    # Read from the declared edges, one hidden course after the other.
    automaton = Automaton(marker=False)
    lab_shares = {}
    for node, (lab, end) in automaton.values.items():
        breaks = [0.0, *planted.process.breaks[LABS[lab].token], np.inf]
        for k in range(10):
            below, above = (
                LABS[lab].cdf(np.array(breaks[k + i]), np.arange(STATES)) for i in (0, 1)
            )
            lab_shares[node, TOKEN[f"Q{k + 1}"]] = end, np.diag(above - below)
    edges = automaton.edges | lab_shares

    def total(node: int, state: int, tokens: list[int]) -> float:
        if not tokens:
            return 1.0
        end, matrix = edges[node, tokens[0]]
        onward = np.flatnonzero(matrix[state])
        return sum(matrix[state, s] * total(end, s, tokens[1:]) for s in onward)

    walks = sample.walks
    longer = np.flatnonzero(np.diff(walks.offsets) >= 24)[:5]
    for path in longer:
        tokens = walks.tokens[walks.offsets[path] :][:24]
        by_hand = sum(START[s] * total(0, s, tokens.tolist()) for s in range(STATES))
        assert np.exp(exact.log_probability(tokens).sum()) == pytest.approx(by_hand, rel=1e-9)


def test_next_token_probabilities_are_those_of_the_filter(exact: Exact, sample: Sample) -> None:
    tokens = sample.walks.tokens[: sample.walks.offsets[1]]
    said = exact.log_probability(tokens)
    for place in range(len(tokens)):
        following = exact.next_token(tokens[:place])
        assert following.sum() == pytest.approx(1)
        assert np.log(following[tokens[place]]) == pytest.approx(said[place])
    assert exact.next_token(tokens).sum() == 0
    assert exact.posterior(tokens[:9]).sum() == pytest.approx(1)


def test_tokens_come_as_often_as_the_filter_says(
    exact: Exact, sample: Sample, beliefs: Beliefs
) -> None:
    walks = sample.walks
    first = Beliefs(np.zeros(1), np.zeros(1, int), START[None])
    share = np.concatenate([exact.next_tokens(first), exact.next_tokens(beliefs)[:-1]])
    share[walks.offsets[:-1]] = share[0]
    seen = np.zeros_like(share)
    seen[np.arange(len(share)), walks.tokens] = 1
    # Surprises of a true predictor are a martingale: they add up to nothing, token by token...
    spread = np.sqrt((share * (1 - share)).sum(axis=0))
    z = ((seen - share).sum(axis=0))[spread > 3] / spread[spread > 3]
    assert len(z) > 45
    assert chi2.sf((z**2).sum(), len(z)) > 0.001
    # ... and so do those of the loss against the entropy.
    entropy = -(share * np.log(np.where(share > 0, share, 1))).sum(axis=1)
    surprise = -beliefs.log_probability - entropy
    assert abs(surprise.mean()) < 4 * surprise.std() / np.sqrt(len(surprise))


def test_entropy_rate_is_the_same_in_another_population(exact: Exact, beliefs: Beliefs) -> None:
    walks = Planted(seed=2).sample(2000).walks
    other = exact.follow(walks.tokens, walks.offsets).log_probability
    assert -other.mean() == pytest.approx(-beliefs.log_probability.mean(), abs=0.015)
    assert 1.5 < -other.mean() < 1.7  # nats a token


def test_history_is_worth_more_than_a_tenth_of_a_nat(sample: Sample, beliefs: Beliefs) -> None:
    # A model that knows the grammar of timelines and nothing of the patient: the shares of what
    # follows at each node of the process.
    walks = sample.walks
    counts = np.zeros((walks.nodes.max() + 1, len(TOKENS)))
    np.add.at(counts, (walks.nodes, walks.tokens), 1)
    shares = counts / np.maximum(counts.sum(axis=1, keepdims=True), 1)
    loss = -np.log(shares[walks.nodes, walks.tokens]).mean()
    assert loss > 0.12 - beliefs.log_probability.mean()


def _admissions(sample: Sample) -> tuple[np.ndarray, np.ndarray]:
    """Last token of each admission, and the token of its discharge."""
    tokens = sample.walks.tokens
    return tuple(np.flatnonzero(tokens == TOKEN[name]) for name in ("TRANSFER//ADMIT", DISCHARGE))


def _outcomes(sample: Sample) -> dict[str, tuple[np.ndarray, np.ndarray]]:
    """Where each question is asked, and what came of it."""
    tokens, times = sample.walks.tokens, sample.times
    admitted, left = _admissions(sample)
    died = tokens[left + 1] == TOKEN["DISCHARGE_LOCATION//DIED"]
    to_icu = np.cumsum(tokens == TOKEN[ICU])
    in_icu = to_icu[left] > to_icu[admitted]
    prolonged = times[left] - times[admitted] >= 10 * DAY
    path = sample.walks.path
    follows = np.append(path[left[:-1]] == path[admitted[1:]], False)
    gap = np.append(times[admitted[1:]] - times[left[:-1]], 0)
    back = follows & (gap <= 30 * DAY)
    return {
        "hospital-mortality": (admitted, died),
        "icu-admission": (admitted, in_icu),
        "icu-admission-or-death": (admitted, in_icu | died),
        "prolonged-stay": (admitted, prolonged),
        "composite": (admitted, in_icu | died | prolonged),
        "readmission-30d": (left[~died] + 2, back[~died]),
    }


@pytest.mark.parametrize(
    ("question", "prevalence", "auroc"),
    [
        ("hospital-mortality", (0.10, 0.15), (0.80, 0.90)),
        ("icu-admission", (0.15, 0.20), (0.78, 0.88)),
        ("icu-admission-or-death", (0.17, 0.25), (0.78, 0.88)),
        ("prolonged-stay", (0.09, 0.14), (0.65, 0.78)),
        ("composite", (0.21, 0.29), (0.78, 0.88)),
        ("readmission-30d", (0.22, 0.28), (0.65, 0.75)),
    ],
)
def test_exact_risks_are_calibrated(
    exact: Exact,
    sample: Sample,
    beliefs: Beliefs,
    question: str,
    prevalence: tuple[float, float],
    auroc: tuple[float, float],
) -> None:
    at, happened = _outcomes(sample)[question]
    risk = exact.risks(beliefs.at(at), question)
    assert abs((happened - risk).sum()) < 3.5 * np.sqrt((risk * (1 - risk)).sum())
    logit = np.log(risk / (1 - risk))
    slope = LogisticRegression(C=np.inf).fit(logit[:, None], happened).coef_[0, 0]
    information = risk * (1 - risk) * (logit - np.average(logit, weights=risk * (1 - risk))) ** 2
    assert abs(slope - 1) < 3.5 / np.sqrt(information.sum())
    assert prevalence[0] < happened.mean() < prevalence[1]
    assert auroc[0] < roc_auc_score(happened, risk) < auroc[1]


@pytest.mark.parametrize("place", ["ward", "icu", "ward 1 value", "home"])
@pytest.mark.parametrize("elapsed", [0.0, 6.3 * DAY])
def test_risks_agree_with_simulated_futures(exact: Exact, place: str, elapsed: float) -> None:
    process, paths = exact.process, 4000
    state = np.array([0.3, 0.1, 0.2, 0.1, 0.3])
    rng = np.random.default_rng(5)
    node = process.nodes[place]
    drawn = rng.choice(STATES, paths, p=state)
    walks = process.walk(np.full(paths, node), drawn, rng, until=(DISCHARGE, ADMISSION))
    seconds = walks.clock()
    at_home = place == "home"
    for question in (
        ("readmission-30d",)
        if at_home
        else ("hospital-mortality", "icu-admission", "prolonged-stay", "composite")
    ):
        asked = QUESTIONS[question]
        first = []
        for names in (asked.event, asked.competing):
            found = np.where(
                np.isin(walks.tokens, [TOKEN[name] for name in names]), seconds, np.inf
            )
            first.append(np.minimum.reduceat(found, walks.offsets[:-1]))
        event, competing = first
        # A death comes before the discharge of the same time.
        left = asked.horizon - elapsed
        happened = (event <= competing) & (event <= left)
        if asked.at_horizon:
            happened |= np.minimum(event, competing) > left
        happened &= np.isfinite(event) | asked.at_horizon
        belief = Beliefs(np.zeros(1), np.array([node]), state[None])
        risk = exact.risks(belief, question, elapsed)[0]
        assert abs(happened.mean() - risk) < 3.5 * np.sqrt(risk * (1 - risk) / paths), question


def test_risk_of_a_prefix(exact: Exact, sample: Sample, beliefs: Beliefs) -> None:
    tokens = sample.walks.tokens
    at = _admissions(sample)[0][0]
    risk, error = exact.risk(tokens[: at + 1], "hospital-mortality")
    assert (risk, error) == (
        pytest.approx(exact.risks(beliefs.at([at]), "hospital-mortality")[0]),
        0,
    )
    # A stay that has lasted ten days is prolonged.
    assert exact.risk(tokens[: at + 1], "prolonged-stay", 10 * DAY)[0] == 1
    assert 0 < exact.risk(tokens[: at + 1], "prolonged-stay", 9 * DAY)[0] < 1


def test_the_marker_makes_the_risk_jump() -> None:
    planted = Planted(seed=3, marker=True)
    exact, sample = planted.exact(), planted.sample(1500)
    walks = sample.walks
    beliefs = exact.follow(walks.tokens, walks.offsets)
    at = np.flatnonzero(walks.tokens == TOKEN[MARKER])
    assert 0.03 < len(at) / len(_admissions(sample)[0]) < 0.10
    for question in ("hospital-mortality", "icu-admission-or-death"):
        before, after = (exact.risks(beliefs.at(at - back), question) for back in (2, 0))
        assert (after - before).mean() > 0.35
        assert after.min() > 0.7
    # Whoever has not seen the marker cannot know: it comes to the well and to the ill alike.
    with pytest.raises(ValueError, match="cannot follow"):
        Planted().exact().follow(walks.tokens, walks.offsets)


def test_sequences_that_cannot_be_are_refused(exact: Exact) -> None:
    lactate, first = TOKEN[LABS[0].token], TOKEN["Q1"]
    assert exact.log_probability(np.array([lactate, first])).tolist()[0] == 0
    with pytest.raises(ValueError, match="token 2 cannot follow"):
        exact.log_probability(np.array([lactate, first, TOKEN[DEATH]]))
    shorter = Planted().exact([token for token in TOKENS if token != "Q1"])
    assert shorter.next_token(np.array([lactate])).sum() < 1


@pytest.fixture(scope="module")
def patients() -> tuple[Planted, int]:
    return Planted(seed=4, marker=True), 1200


@pytest.fixture(scope="module")
def store(patients: tuple[Planted, int], tmp_path_factory: pytest.TempPathFactory) -> PatientStore:
    planted, number = patients
    folder = tmp_path_factory.mktemp("planted") / "store"
    planted.write_store(folder, number)
    return open_store(folder)


def test_the_store_holds_the_stays(store: PatientStore, patients: tuple[Planted, int]) -> None:
    planted, number = patients
    sample = planted.sample(number)
    stays = store.stays().collect()
    hospital = stays.filter(pl.col("kind") == "hospital").sort("stay_id")
    admitted, left = _admissions(sample)
    for column, at in (("start", admitted), ("end", left)):
        assert (hospital[column].dt.epoch("s").to_numpy() == sample.times[at]).all()
    icu = stays.filter(pl.col("kind") == "icu").join(
        hospital, left_on="parent_id", right_on="stay_id"
    )
    assert len(icu) == (sample.walks.tokens == TOKEN[ICU]).sum()
    inside = (pl.col("start") >= pl.col("start_right")) & (pl.col("end") <= pl.col("end_right"))
    assert icu.select(inside.all()).item()
    assert store.splits()["split"].value_counts().filter(split="train")["count"].item() > 900


def test_results_are_known_later_than_drawn(store: PatientStore) -> None:
    events = store.events().collect()
    labs = events.filter(pl.col("code").str.starts_with("LAB//"))
    assert (labs["available_time"] >= labs["time"]).all()
    assert (labs["available_time"] > labs["time"]).mean() > 0.7
    # At an admission, its own three results are known, and no other of the stay.
    starts_ = store.stays().filter(pl.col("kind") == "hospital").collect()
    keys = starts_.select("subject_id", "stay_id", prediction_time="start")
    seen = known_at(
        events.lazy().drop("hadm_id", "stay_id").with_columns(stay=events["hadm_id"]), keys
    ).filter(pl.col("stay") == pl.col("stay_id"), pl.col("code").str.starts_with("LAB//"))
    counts = seen.group_by("stay_id").len().collect()
    assert len(counts) == len(keys)
    assert (counts["len"] == 3).all()


@pytest.fixture(scope="module")
def tokenised(
    store: PatientStore, tmp_path_factory: pytest.TempPathFactory
) -> tuple[Tokeniser, Timelines]:
    tokeniser = Tokeniser.fit(store)
    return tokeniser, tokeniser.write(store, tmp_path_factory.mktemp("planted") / "timelines")


def test_the_tokeniser_gives_the_tokens_that_were_emitted(
    patients: tuple[Planted, int], tokenised: tuple[Tokeniser, Timelines]
) -> None:
    planted, number = patients
    sample = planted.sample(number)
    tokeniser, timelines = tokenised
    assert (np.asarray(timelines.subjects) == sample.subjects).all()
    assert (np.asarray(timelines.offsets) == sample.walks.offsets).all()
    names = np.array(timelines.vocabulary.tokens, dtype=object)[np.asarray(timelines.tokens)]
    assert (names == sample.tokens(tokeniser.breaks)).all()
    known = sample.walks.tokens != TOKEN["TIMELINE_END"]
    assert (np.asarray(timelines.times)[known] == 1_000_000 * sample.times[known]).all()


def test_deciles_of_training_subjects_are_uniform(
    store: PatientStore, tokenised: tuple[Tokeniser, Timelines]
) -> None:
    tokeniser, timelines = tokenised
    train = store.splits().filter(pl.col("split") == "train")["subject_id"]
    part = timelines.select(train)
    tokens = np.asarray(part.tokens)
    for lab in LABS:
        at = np.flatnonzero(tokens == tokeniser.vocabulary.id(lab.token))
        low = tokeniser.vocabulary.id("Q1")
        counts = np.bincount(tokens[at + 1] - low, minlength=10)
        assert counts.max() - counts.min() <= 1


def test_interval_tokens_last_as_long_as_their_gaps(
    tokenised: tuple[Tokeniser, Timelines],
) -> None:
    tokeniser, _ = tokenised
    for token, (low, high) in list(INTERVALS.items())[:-1]:
        number = tokeniser.vocabulary.id(token)
        mean = tokeniser.durations.mean[number]
        count = tokeniser.vocabulary.counts[number]
        assert abs(mean - (low + high) / 2) < 4 * (high - low) / np.sqrt(12 * count)


def test_the_truth_about_a_tokeniser_is_calibrated_on_tasks(
    store: PatientStore, patients: tuple[Planted, int], tokenised: tuple[Tokeniser, Timelines]
) -> None:
    tokeniser, timelines = tokenised
    exact = patients[0].exact(tokeniser.vocabulary.tokens, tokeniser.breaks)
    beliefs = exact.follow(timelines.tokens, timelines.offsets)
    assert 1.5 < -beliefs.log_probability.mean() < 1.7
    for name in QUESTIONS:
        cohort = starts(load_timeline_task(name), store, timelines).frame
        risk = exact.risks(beliefs.at(cohort["token_index"].to_numpy() - 1), name)
        surprise = cohort["boolean_value"].to_numpy() - risk
        assert abs(surprise.sum()) < 3.5 * np.sqrt((risk * (1 - risk)).sum()), name


@pytest.mark.parametrize("name", list(QUESTIONS))
def test_questions_are_those_of_the_task_files(name: str) -> None:
    task, asked = load_timeline_task(name), QUESTIONS[name]
    assert (set(task.event), set(task.competing)) == (set(asked.event), set(asked.competing))
    assert (task.at_horizon == "event") == asked.at_horizon
    assert min(asked.horizon, 2 * 365.25 * DAY) == task.horizon

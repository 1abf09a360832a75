"""The words that carried a code, and the codes of a note that no run has seen."""

from __future__ import annotations

import json
from collections.abc import Mapping, Sequence
from dataclasses import replace
from pathlib import Path
from typing import Any

import numpy as np
import yaml

from wardround.errors import WardroundError
from wardround.evaluation import Excerpt, MultilabelEvaluation, Span
from wardround.store import PatientStore
from wardround.system import Suggestion
from wardround.systems.medical_coding.config import EXPLAINING, MedicalCodingConfig
from wardround.systems.medical_coding.fitting import (
    CONTROL,
    PRIOR,
    Fitted,
    documents_of,
    kind_of,
)
from wardround.systems.medical_coding.prepared import Coding
from wardround.training import load_model, predict_logits
from wardround.views.text import Corpus

#: Tokens nearer than so many characters are shown as one piece.
GAP = 3
#: A piece has at most so many tokens: attention that lies everywhere names no words.
LONGEST = 12
#: Pieces of a note shown for a code, at most.
PIECES = 3
#: A token counts that has at least this share of what the first one has.
SHARE = 0.2
#: Characters of a note around what is shown in a report.
AROUND = 160
#: Codes shown of a note in a report.
CODES = 3


def evidence_spans(weights: np.ndarray, spans: np.ndarray) -> list[Span]:
    """Pieces of a note that a code attended to, the heaviest first.

    Args:
        weights: (tokens,) attention, of sum 1.
        spans: (tokens, 2) characters of each token; empty ones (special tokens) are passed over.

    Returns:
        At most `PIECES`, each with the attention that it had in all.
    """
    real = np.flatnonzero(spans[:, 1] > spans[:, 0])
    if not len(real) or not weights[real].max() > 0:
        return []
    chosen = real[weights[real] >= SHARE * weights[real].max()]
    pieces: list[tuple[int, int, float, int]] = []
    for token in chosen.tolist():
        start, stop, weight = int(spans[token, 0]), int(spans[token, 1]), float(weights[token])
        if pieces and start - pieces[-1][1] <= GAP and pieces[-1][3] < LONGEST:
            first, end, before, count = pieces.pop()
            pieces.append((first, max(end, stop), before + weight, count + 1))
        else:
            pieces.append((start, stop, weight, 1))
    pieces.sort(key=lambda piece: -piece[2])
    return [Span(start=a, stop=b, weight=min(w, 1.0)) for a, b, w, _ in pieces[:PIECES]]


def suggest(
    run: Path, text: str, *, task: str | None = None, model: str | None = None
) -> list[Suggestion]:
    """Codes of a note, the most probable first, with the words that carried them.

    Args:
        run: a finished run of this system.
        text: of one discharge summary, as written.
        task: a code system of the run; its first unless told.
        model: a network of the run; the one with the best micro-F1 on tuning notes unless told.

    Returns:
        The codes above the model's threshold, and ten at least. Networks without label attention
        name no words.

    Raises:
        WardroundError: an empty note, or a task or model that the run has not.
    """
    if not text.strip():
        raise WardroundError("the note is empty; give the text of a discharge summary")
    config = MedicalCodingConfig.model_validate(yaml.safe_load((run / "config.yaml").read_text()))
    names = sorted(folder.parent.name for folder in (run / "work").glob("*/documents"))
    ordered = [name for name in config.code_systems if name in names]
    name = task or ordered[0]
    if name not in ordered:
        raise WardroundError(f"{run} has no code system {name!r}; it has {', '.join(ordered)}")
    tuned = json.loads((run / "evaluation" / name / "thresholds.json").read_text())
    learnt = [m for m in tuned["threshold"] if m not in (PRIOR, CONTROL)]
    if not learnt:
        raise WardroundError(f"{run} has no model that reads notes; run one, such as caml")
    chosen = model or max(learnt, key=tuned["tuning_f1_micro"].__getitem__)
    if chosen not in learnt:
        raise WardroundError(f"{run} has no model {chosen!r}; it has {', '.join(learnt)}")
    coding = Coding(name, run / "work" / name / "documents")
    labels = coding.cohort.labels
    tokeniser = Corpus.open(run / "work" / name / kind_of(chosen) / "corpus").tokeniser
    tokens = tokeniser.encode([text]).document(0)
    network = load_model(run / "model" / name / chosen)
    logits = predict_logits(network, documents_of(tokens), device="cpu", what="")[0]
    order = np.argsort(-logits, kind="stable")
    above = int((logits > tuned["threshold"][chosen]).sum())
    shown = order[: max(above, 10)]
    pieces = _evidence(network, tokens, tokeniser.spans(text), shown)
    rows = labels[shown].to_dicts()
    return [
        Suggestion(
            code=row["code"],
            description=row["description"],
            kind=row["kind"],
            probability=float(1 / (1 + np.exp(-np.float64(logits[label])))),
            suggested=bool(logits[label] > tuned["threshold"][chosen]),
            evidence=pieces[number],
            model=chosen,
        )
        for number, (label, row) in enumerate(zip(shown.tolist(), rows, strict=True))
    ]


def _evidence(
    network: Any, tokens: np.ndarray, spans: np.ndarray, codes: Sequence[int] | np.ndarray
) -> list[list[Span]]:
    if not hasattr(network, "explain"):
        return [[] for _ in codes]
    device = next(network.parameters()).device
    given = documents_of(tokens).batch(np.zeros(1, np.int64), network.padding)
    shares = network.eval().explain(*(part.to(device) for part in given), list(map(int, codes)))[0]
    weights = shares[:, : len(tokens)].float().cpu().numpy()
    return [evidence_spans(row, spans) for row in weights]


def excerpts(
    coding: Coding,
    fitted: Fitted,
    found: Mapping[str, MultilabelEvaluation],
    store: PatientStore,
    config: MedicalCodingConfig,
    ranks: Mapping[str, float],
) -> list[Excerpt]:
    """What the best network with label attention looked at in a few held-out notes.

    Shown are codes that were given rightly, one excerpt a code: the text around its heaviest words.
    """
    able = [model for model in config.models if model in EXPLAINING]
    if not able:
        return []
    model = max(able, key=ranks.__getitem__)
    network = load_model(fitted.folders[coding.name, model])
    evaluation = found[model]
    right = evaluation.true_positives
    counts = np.diff(right.indptr)
    picked = np.flatnonzero(counts >= CODES)[: config.excerpts]
    rows = coding.cohort.rows("held_out")[evaluation.documents[picked]]
    notes = _texts(coding, store, rows)
    corpus = coding.corpus(kind_of(model))
    shown = []
    for number, document in zip(picked.tolist(), rows.tolist(), strict=True):
        text = notes[document]
        columns = right.indices[right.indptr[number] : right.indptr[number + 1]]
        # The rarest codes say most of what was learnt.
        columns = evaluation.codes[columns[np.argsort(_support(evaluation)[columns])][:CODES]]
        spans = corpus.tokeniser.spans(text)
        pieces = _evidence(network, corpus.document(document), spans, columns)
        for column, evidence in zip(columns.tolist(), pieces, strict=True):
            label = coding.cohort.labels.row(column, named=True)
            shown.append(_excerpt(text, label, evidence, f"Document {document + 1}", model))
    return shown


def _support(evaluation: MultilabelEvaluation) -> np.ndarray:
    return evaluation.per_code["support"].to_numpy()


def _texts(coding: Coding, store: PatientStore, rows: np.ndarray) -> dict[int, str]:
    """Texts of documents by their number."""
    few = replace(coding.cohort, documents=coding.cohort.documents[rows])
    texts = [text for part in few.texts(store) for text in part["text"].to_list()]
    return dict(zip(rows.tolist(), texts, strict=True))


def _excerpt(
    text: str, label: Mapping[str, Any], evidence: Sequence[Span], title: str, model: str
) -> Excerpt:
    """The text around the heaviest piece, with every piece that lies in it."""
    first = evidence[0] if evidence else Span(start=0, stop=0, weight=0.0)
    begin, end = max(0, first.start - AROUND), min(len(text), first.stop + AROUND)
    while 0 < begin < first.start and not text[begin - 1].isspace():
        begin += 1
    heaviest = first.weight or 1.0
    inside = [
        Span(start=s.start - begin, stop=s.stop - begin, weight=s.weight / heaviest)
        for s in evidence
        if s.start >= begin and s.stop <= end
    ]
    described = f": {label['description']}" if label["description"] else ""
    return Excerpt(
        title=f"{label['code']}{described}",
        caption=f"{title}, {model}; {100 * first.weight:.0f} % of the attention on the first piece",
        text=text[begin:end],
        spans=sorted(inside, key=lambda span: span.start),
    )

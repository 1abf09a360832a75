"""Word vectors, encoder, and one fit a model under the schedule that all share."""

from __future__ import annotations

import json
from collections.abc import Callable
from dataclasses import asdict, dataclass, field
from pathlib import Path
from typing import Any

import numpy as np
import torch
from scipy.sparse import csr_matrix
from torch import nn

from wardround import __version__
from wardround.errors import WardroundError
from wardround.evaluation import evaluate_multilabel
from wardround.models import (
    CAML,
    LAAT,
    PLMCA,
    PLMICD,
    BagOfWords,
    BagOfWordsConfig,
    BiGRU,
    BiGRUConfig,
    CAMLConfig,
    ChunkedConfig,
    LAATConfig,
    MultiResCNN,
    MultiResCNNConfig,
    VanillaConv,
    VanillaConvConfig,
)
from wardround.progress import track
from wardround.systems.medical_coding.config import (
    SUBWORD_MODELS,
    MedicalCodingConfig,
    Recipe,
)
from wardround.systems.medical_coding.prepared import SUBWORDS, WORDS, Coding, Prepared
from wardround.training import (
    MaskedConfig,
    MultilabelConfig,
    SpecialTokens,
    TokenDocuments,
    fit_multilabel,
    fit_word_vectors,
    predict_logits,
    pretrain_masked,
    save_encoder,
    save_model,
)
from wardround.workdir import Workdir

CONTROL = "control_shuffled"
PRIOR = "frequency_prior"
#: Splits that a model predicts.
PREDICTED = ("tuning", "held_out")
#: Of what a network predicts for a split.
LOGITS = "{split}.npy"

_WORD_NETWORKS: dict[str, tuple[Callable[..., nn.Module], Callable[..., Any]]] = {
    "cnn": (VanillaConv, VanillaConvConfig),
    "bi_gru": (BiGRU, BiGRUConfig),
    "caml": (CAML, CAMLConfig),
    "multi_res_cnn": (MultiResCNN, MultiResCNNConfig),
    "laat": (LAAT, LAATConfig),
}


@dataclass
class Fitted:
    """Where the networks lie, by code system and model."""

    folders: dict[tuple[str, str], Path] = field(default_factory=dict)


def fit(prepared: Prepared, config: MedicalCodingConfig, workdir: Workdir) -> Fitted:
    """Fit every model that learns, and the one whose codes were dealt out anew."""
    if config.threads:
        torch.set_num_threads(config.threads)
    fitted = Fitted()
    models = [model for model in config.models if model != PRIOR]
    wanted = [
        (coding, model)
        for coding in prepared.codings.values()
        for model in [*models, *([CONTROL] if config.control else [])]
    ]
    for coding, model in track(wanted, "Models"):
        fitted.folders[coding.name, model] = _fit(coding, model, config, workdir)
    return fitted


def kind_of(model: str) -> str:
    """The tokens that a model reads."""
    return SUBWORDS if model in SUBWORD_MODELS else WORDS


def _fit(coding: Coding, model: str, config: MedicalCodingConfig, workdir: Workdir) -> Path:
    """The stage that holds a network and its logits."""
    network = config.control_model if model == CONTROL else model
    recipe: Recipe = getattr(config.recipes, network)
    kind = kind_of(network)
    begin: Path | None = None
    if kind == SUBWORDS:
        begin = config.encoder.path or _encoder(coding, config, workdir)
    elif network != "bag_of_words":
        begin = _vectors(coding, config, workdir)
    schedule = MultilabelConfig(
        learning_rate=recipe.learning_rate,
        weight_decay=recipe.weight_decay,
        batch=recipe.batch,
        paper_compat=config.paper_compat,
        clip=None if config.paper_compat else 1.0,
        **config.schedule.model_dump(),
    )
    where = f"model/{coding.name}/{model}"

    def build(folder: Path) -> None:
        torch.manual_seed(config.seed)
        built = _network(network, coding, recipe, config, begin)
        train = coding.split(kind, "train")
        targets = coding.cohort.targets
        truth = targets[coding.cohort.rows("train")]
        if model == CONTROL:
            truth = truth[np.random.default_rng(config.seed).permutation(truth.shape[0])]
        history = fit_multilabel(
            built,
            train,
            truth,
            coding.split(kind, "tuning"),
            targets[coding.cohort.rows("tuning")],
            mean_average_precision,
            schedule,
            checkpoint=workdir.path / "checkpoints" / f"{coding.name}-{model}.safetensors",
            seed=config.seed,
            device=config.device,
            what=f"{model} of {coding.name}",
        )
        save_model(built, folder)
        (folder / "history.json").write_text(json.dumps(asdict(history), indent=1))
        for split in PREDICTED:
            predict_logits(
                built,
                coding.split(kind, split),
                out=folder / LOGITS.format(split=split),
                device=config.device,
                what="",
            )

    inputs = {
        "documents": workdir.fingerprint(f"work/{coding.name}/documents"),
        "tokens": workdir.fingerprint(f"work/{coding.name}/{kind}"),
        "begin": _origin(kind, network, coding, config, workdir),
        "network": network,
        "recipe": recipe.model_dump(),
        "schedule": asdict(schedule),
        "seed": config.seed,
        "version": __version__,
    }
    return workdir.stage(where, build, inputs=inputs)


def mean_average_precision(logits: np.ndarray, targets: csr_matrix) -> float:
    """What chooses the epoch (Edin et al. 2023, section 4.3)."""
    return evaluate_multilabel(targets, logits, 0.0, areas=False).metrics["map"]


def _origin(
    kind: str, network: str, coding: Coding, config: MedicalCodingConfig, workdir: Workdir
) -> Any:
    """What a network's first weights depend on."""
    if kind == SUBWORDS:
        path = config.encoder.path
        return config.file_hashes() if path else workdir.fingerprint(f"model/{coding.name}/encoder")
    if network == "bag_of_words":
        return None
    return workdir.fingerprint(f"model/{coding.name}/vectors")


def _network(
    name: str, coding: Coding, recipe: Recipe, config: MedicalCodingConfig, begin: Path | None
) -> nn.Module:
    labels = len(coding.cohort.labels)
    sizes = dict(recipe.sizes)
    try:
        if name == "bag_of_words":
            return _bag(coding, labels, sizes)
        sizes["paper_compat"] = config.paper_compat
        if name in _WORD_NETWORKS:
            assert begin is not None
            vectors = np.load(begin / "vectors.npy")
            if recipe.dropout is not None:
                sizes["dropout"] = recipe.dropout
            build, sized = _WORD_NETWORKS[name]
            vocabulary, width = vectors.shape
            return build(
                sized(labels=labels, vocabulary=vocabulary, embedding=width, **sizes), vectors
            )
        sizes["gradient_checkpointing"] = config.encoder.gradient_checkpointing
        chunked = ChunkedConfig(labels=labels, **sizes)
    except TypeError as error:
        raise WardroundError(f"recipes.{name}.sizes: {error}") from error
    assert begin is not None
    encoder = _load_encoder(begin if config.encoder.path else begin / "encoder")
    return PLMICD(encoder, chunked) if name == "plm_icd" else PLMCA(encoder, chunked)


def _bag(coding: Coding, labels: int, sizes: dict[str, Any]) -> nn.Module:
    """The linear model on TF-IDF; the weights of words come from training documents."""
    corpus = coding.corpus(WORDS)
    found = np.zeros(len(corpus.tokeniser), np.int64)
    train = coding.split(WORDS, "train")
    for document in train:
        found[np.unique(document)] += 1
    weights = np.log((1 + len(train)) / (1 + found)) + 1
    return BagOfWords(BagOfWordsConfig(labels=labels, vocabulary=len(found), **sizes), weights)


def _vectors(coding: Coding, config: MedicalCodingConfig, workdir: Workdir) -> Path:
    """The stage that holds word vectors, one row a token of the vocabulary."""

    def build(folder: Path) -> None:
        size = len(coding.corpus(WORDS).tokeniser)
        found = fit_word_vectors(
            coding.split(WORDS, "train"),
            size,
            width=config.vectors.width,
            epochs=config.vectors.epochs,
            documents_at_least=1,  # the vocabulary has left out rare words already
            seed=config.seed,
        )
        matrix = found.matrix[found.recode]
        matrix[size - 2], matrix[size - 1] = found.matrix[found.unknown], 0.0
        np.save(folder / "vectors.npy", matrix)

    inputs = {
        "tokens": workdir.fingerprint(f"work/{coding.name}/{WORDS}"),
        "vectors": config.vectors.model_dump(),
        "seed": config.seed,
        "version": __version__,
    }
    return workdir.stage(f"model/{coding.name}/vectors", build, inputs=inputs)


def _encoder(coding: Coding, config: MedicalCodingConfig, workdir: Workdir) -> Path:
    """The stage that holds an encoder pretrained on the training documents."""
    own = config.encoder
    recipe = MaskedConfig(
        iterations=own.iterations,
        batch=own.batch,
        accumulation=1,
        learning_rate=own.learning_rate,
        warmup=own.warmup,
        evaluate_every=own.evaluate_every,
        precision=config.schedule.precision,
    )

    def build(folder: Path) -> None:
        from transformers import RobertaConfig, RobertaForMaskedLM

        tokeniser = coding.corpus(SUBWORDS).tokeniser
        (first,), (last,) = tokeniser.prefix, tokeniser.suffix
        size = len(tokeniser)  # of the tokeniser; one more stands for what is masked
        torch.manual_seed(config.seed)
        network = RobertaForMaskedLM(
            RobertaConfig(
                vocab_size=size + 1,
                hidden_size=own.width,
                num_hidden_layers=own.layers,
                num_attention_heads=own.heads,
                intermediate_size=own.hidden,
                max_position_embeddings=recipe.chunk + tokeniser.pad_id + 1,
                type_vocab_size=1,
                pad_token_id=tokeniser.pad_id,
                bos_token_id=first,
                eos_token_id=last,
            )
        )
        others = [first, last, *([] if tokeniser.unk_id is None else [tokeniser.unk_id])]
        history = pretrain_masked(
            network,
            coding.split(SUBWORDS, "train"),
            coding.split(SUBWORDS, "tuning"),
            SpecialTokens(mask=size, padding=tokeniser.pad_id, others=others),
            recipe,
            checkpoint=workdir.path / "checkpoints" / f"{coding.name}-encoder.safetensors",
            seed=config.seed,
            device=config.device,
            what=f"Encoder of {coding.name}",
        )
        save_encoder(network, folder / "encoder")
        (folder / "history.json").write_text(json.dumps(asdict(history), indent=1))

    inputs = {
        "tokens": workdir.fingerprint(f"work/{coding.name}/{SUBWORDS}"),
        "encoder": own.model_dump(mode="json"),
        "recipe": asdict(recipe),
        "seed": config.seed,
        "version": __version__,
    }
    return workdir.stage(f"model/{coding.name}/encoder", build, inputs=inputs)


def _load_encoder(path: Path) -> Any:
    from transformers import AutoModel

    try:
        return AutoModel.from_pretrained(path, local_files_only=True)
    except (OSError, ValueError, KeyError) as error:
        reason = " ".join(str(error).split())[:200]
        raise WardroundError(
            f"{path} holds no encoder that transformers reads ({reason}); encoder.path is a folder "
            "with config.json and model.safetensors"
        ) from error


def documents_of(tokens: np.ndarray) -> TokenDocuments:
    """One document, as prediction takes it."""
    return TokenDocuments(tokens, np.array([0, len(tokens)]))

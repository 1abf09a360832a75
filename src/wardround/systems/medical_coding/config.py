"""Settings of medical coding, with the published sizes as the `paper` preset."""

from __future__ import annotations

from collections.abc import Mapping
from pathlib import Path
from typing import Any, ClassVar, Literal, get_args

from pydantic import BaseModel, ConfigDict, Field, model_validator

from wardround.system import SystemConfig

WordModel = Literal["cnn", "bi_gru", "caml", "multi_res_cnn", "laat"]
SubwordModel = Literal["plm_icd", "plm_ca"]
Floor = Literal["frequency_prior", "bag_of_words"]
Model = Literal[Floor, WordModel, SubwordModel]
WORD_MODELS: tuple[WordModel, ...] = get_args(WordModel)
SUBWORD_MODELS: tuple[SubwordModel, ...] = get_args(SubwordModel)
#: Models whose label attention tells which words carried a code.
EXPLAINING: tuple[Model, ...] = ("caml", "multi_res_cnn", "laat", *SUBWORD_MODELS)


class Part(BaseModel):
    model_config = ConfigDict(extra="forbid", frozen=True)


class Documents(Part):
    """Which notes and codes make the task; see `wardround.cohorts.coding_documents`."""

    min_count: int = Field(10, ge=1, description="codes of fewer training documents are no labels")
    several: Literal["concatenate", "last", "separate"] | None = Field(
        None, description="what becomes of several notes of an admission"
    )
    split: Literal["stratified", "store"] = Field(
        "stratified", description="by subject, every code in its share; or the store's own"
    )
    split_seed: int = 10


class Text(Part):
    """How notes become tokens (Edin et al. 2023, `prepare_data/utils.py`)."""

    cleaning: Literal["published", "raw"] = Field(
        "published", description="lower case, letters and digits, no numbers; or as written"
    )
    max_words: int = Field(4_000, ge=1, description="the rest of a note is not read")
    min_documents: int = Field(3, ge=1, description="rarer words are unknown")
    subwords: int = Field(32_000, ge=300, description="of the vocabulary that is trained here")


class Vectors(Part):
    """Word vectors; see `wardround.training.fit_word_vectors`."""

    width: int = Field(100, ge=1)
    epochs: int = Field(5, ge=1)


class Encoder(Part):
    """The encoder of the PLM models: a checkpoint, or one that is pretrained on the training notes.

    Attributes:
        path: a folder of the Hugging Face format with its tokenizer, such as that of
            RoBERTa-base-PM-M3-Voc. Without one, the other settings hold.
    """

    path: Path | None = None
    layers: int = Field(12, ge=1)
    heads: int = Field(12, ge=1)
    width: int = Field(768, ge=8)
    hidden: int = Field(3_072, ge=8)
    iterations: int = Field(50_000, ge=1, description="of masked language modelling")
    batch: int = Field(256, ge=1, description="chunks of a step")
    warmup: int = Field(2_500, ge=0)
    learning_rate: float = Field(5e-4, gt=0)
    evaluate_every: int = Field(1_000, ge=1)
    gradient_checkpointing: bool = False


class Recipe(Part):
    """What differs from model to model (`configs/experiment/mimiciv_icd10`)."""

    learning_rate: float = Field(gt=0)
    weight_decay: float = Field(ge=0)
    batch: int = Field(ge=1)
    dropout: float | None = Field(None, ge=0, lt=1)
    sizes: dict[str, Any] = Field({}, description="of the network, where not as published")


class Recipes(Part):
    """One recipe a model."""

    bag_of_words: Recipe = Recipe(learning_rate=1e-1, weight_decay=0, batch=32)
    cnn: Recipe = Recipe(learning_rate=1e-3, weight_decay=1e-5, batch=8, dropout=0)
    bi_gru: Recipe = Recipe(learning_rate=1e-3, weight_decay=1e-4, batch=8, dropout=0)
    caml: Recipe = Recipe(learning_rate=5e-3, weight_decay=1e-3, batch=8, dropout=0.2)
    multi_res_cnn: Recipe = Recipe(learning_rate=5e-4, weight_decay=1e-4, batch=16, dropout=0.2)
    laat: Recipe = Recipe(learning_rate=1e-3, weight_decay=1e-3, batch=8, dropout=0.3)
    plm_icd: Recipe = Recipe(learning_rate=5e-5, weight_decay=0, batch=16)
    plm_ca: Recipe = Recipe(learning_rate=5e-5, weight_decay=0, batch=16)


class Schedule(Part):
    """What all models share; see `wardround.training.MultilabelConfig`."""

    epochs: int = Field(20, ge=1)
    patience: int | None = Field(6, ge=1)
    warmup: int = Field(2_000, ge=0)
    micro_tokens: int | None = Field(
        32_000, ge=1, description="read at once; gradients add up to those of the batch"
    )
    precision: Literal["auto", "bfloat16", "float32"] = "auto"


_TINY_SIZES: dict[str, dict[str, Any]] = {
    "bag_of_words": {},
    "cnn": {"sizes": {"channels": 200}},
    "bi_gru": {"sizes": {"hidden": 64}},
    "caml": {},
    "multi_res_cnn": {"learning_rate": 2e-3, "batch": 8, "sizes": {"channels": 25}},
    "laat": {"learning_rate": 2e-3, "sizes": {"hidden": 64, "projection": 64}},
    "plm_icd": {"learning_rate": 1e-3, "batch": 8},
    "plm_ca": {"learning_rate": 1e-3, "batch": 8},
}


class MedicalCodingConfig(SystemConfig):
    """Settings of a run of `medical-coding`.

    Attributes:
        code_systems: `icd9`, `icd10`, each also with a number of most frequent codes (`icd10-50`),
            and names of `patterns`.
        patterns: other code systems, by name: a regular expression over the store's codes whose
            group `code` is the label, such as `^HCPCS//(?P<code>.+)$`.
        models: those to run.
        control: also train one model on codes dealt out anew among the documents.
        control_model: which.
        excerpts: notes that the report shows with the words that carried a code; none is shown of
            credentialed data.
    """

    presets: ClassVar[Mapping[str, Mapping[str, Any]]] = {
        "tiny": {
            "code_systems": ["icd10"],
            "text": {"max_words": 1_500, "subwords": 3_000},
            "encoder": {
                "layers": 2,
                "heads": 2,
                "width": 64,
                "hidden": 256,
                "iterations": 300,
                "batch": 32,
                "warmup": 30,
                "learning_rate": 2e-3,
                "evaluate_every": 100,
            },
            "recipes": _TINY_SIZES,
            "schedule": {"epochs": 8, "patience": 3, "warmup": 50},
        },
        "paper": {},
    }

    code_systems: tuple[str, ...] = ("icd9", "icd10", "icd10-50")
    patterns: dict[str, str] = Field(default_factory=dict)
    models: tuple[Model, ...] = (*get_args(Floor), *WORD_MODELS, *SUBWORD_MODELS)
    documents: Documents = Documents()
    text: Text = Text()
    vectors: Vectors = Vectors()
    encoder: Encoder = Encoder()
    recipes: Recipes = Recipes()
    schedule: Schedule = Schedule()
    control: bool = True
    control_model: WordModel = "caml"
    excerpts: int = Field(3, ge=0)
    bootstrap: int = Field(1_000, ge=0)
    device: str = "auto"

    @model_validator(mode="before")
    @classmethod
    def _complete(cls, values: Any) -> Any:
        """A recipe that is given in part keeps what the published one says of the rest."""
        if isinstance(values, dict) and isinstance(values.get("recipes"), dict):
            published = Recipes().model_dump()
            given = values["recipes"]
            merged = {
                name: {**published.get(name, {}), **recipe} if isinstance(recipe, dict) else recipe
                for name, recipe in given.items()
            }
            values = {**values, "recipes": {**published, **merged}}
        return values

    @property
    def files(self) -> list[Path]:
        if self.encoder.path is None:
            return []
        return sorted(path for path in self.encoder.path.rglob("*") if path.is_file())

    @property
    def needs_words(self) -> bool:
        """Whether any model reads words."""
        return self.control or any(model in (*WORD_MODELS, "bag_of_words") for model in self.models)

    @property
    def needs_subwords(self) -> bool:
        """Whether any model reads sub-words."""
        return any(model in SUBWORD_MODELS for model in self.models)

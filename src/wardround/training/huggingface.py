"""Decoders as Hugging Face transformers knows them, out and in.

Learned positions make a `GPT2LMHeadModel`, rotary ones a `GPTNeoXForCausalLM`; both have biases
that ours lacks, which are zero.
"""

from __future__ import annotations

import json
from collections.abc import Sequence
from pathlib import Path
from typing import TYPE_CHECKING, Any

import torch
from safetensors import SafetensorError
from torch import Tensor

from wardround.errors import WardroundError
from wardround.models import Decoder, DecoderConfig

if TYPE_CHECKING:
    from transformers import PreTrainedModel

VOCABULARY = "vocab.json"
#: Our names of a block's weights and theirs.
GPT2 = {
    "before_attention": "ln_1",
    "attention.project": "attn.c_attn",
    "attention.out": "attn.c_proj",
    "before_expansion": "ln_2",
    "expand": "mlp.c_fc",
    "contract": "mlp.c_proj",
}
GPT_NEOX = {
    "before_attention": "input_layernorm",
    "attention.project": "attention.query_key_value",
    "attention.out": "attention.dense",
    "before_expansion": "post_attention_layernorm",
    "expand": "mlp.dense_h_to_4h",
    "contract": "mlp.dense_4h_to_h",
}
#: What theirs may say beyond the sizes and still be a network of ours.
EXPECTED: dict[str, dict[str, Any]] = {
    "gpt2": {
        "activation_function": "gelu",
        "layer_norm_epsilon": 1e-5,
        "scale_attn_weights": True,
        "scale_attn_by_inverse_layer_idx": False,
        "add_cross_attention": False,
        "tie_word_embeddings": True,
    },
    "gpt_neox": {
        "hidden_act": "gelu",
        "layer_norm_eps": 1e-5,
        "use_parallel_residual": False,
        "tie_word_embeddings": True,
    },
}


def export_hugging_face(model: Decoder, folder: Path, tokens: Sequence[str] | None = None) -> None:
    """Write a folder that `AutoModelForCausalLM.from_pretrained` reads.

    Args:
        model: the decoder.
        folder: gets `config.json` and `model.safetensors`; made where it is missing.
        tokens: names of the tokens by id, written as `vocab.json` (name -> id).

    Raises:
        WardroundError: as many names as tokens are needed.
    """
    if tokens is not None and len(tokens) != model.sizes.vocabulary:
        raise WardroundError(
            f"export: {len(tokens)} token names for a decoder of {model.sizes.vocabulary} tokens"
        )
    to_hugging_face(model).save_pretrained(folder)
    if tokens is not None:
        ids = {token: number for number, token in enumerate(tokens)}
        (folder / VOCABULARY).write_text(json.dumps(ids, ensure_ascii=False, indent=0))


def import_hugging_face(folder: Path) -> Decoder:
    """Read a folder that `export_hugging_face` or a training of the same network wrote.

    Raises:
        WardroundError: no such folder, or a network that ours cannot be, biases for one.
    """
    from transformers import AutoModelForCausalLM

    try:
        network = AutoModelForCausalLM.from_pretrained(
            folder, local_files_only=True, use_safetensors=True, dtype=torch.float32
        )
    except (OSError, ValueError, KeyError, RuntimeError, SafetensorError) as error:
        reason = " ".join(str(error).split())[:200]
        raise WardroundError(f"{folder} holds no Hugging Face model ({reason})") from error
    try:
        return from_hugging_face(network)
    except WardroundError as error:
        raise WardroundError(f"{folder}: {error}") from error


def to_hugging_face(model: Decoder) -> PreTrainedModel:
    """The same network in Hugging Face's words, in evaluation mode, with the same dropout."""
    from transformers import GPT2Config, GPT2LMHeadModel, GPTNeoXConfig, GPTNeoXForCausalLM

    sizes = model.sizes
    ends: dict[str, Any] = {"bos_token_id": None, "eos_token_id": None}
    network: PreTrainedModel
    if sizes.positions == "learned":
        network = GPT2LMHeadModel(
            GPT2Config(
                vocab_size=sizes.vocabulary,
                n_positions=sizes.context,
                n_embd=sizes.width,
                n_layer=sizes.layers,
                n_head=sizes.heads,
                n_inner=sizes.hidden,
                resid_pdrop=sizes.dropout,
                embd_pdrop=sizes.dropout,
                attn_pdrop=sizes.dropout,
                **EXPECTED["gpt2"],
                **ends,
            )
        )
    else:
        network = GPTNeoXForCausalLM(
            GPTNeoXConfig(
                vocab_size=sizes.vocabulary,
                max_position_embeddings=sizes.context,
                hidden_size=sizes.width,
                num_hidden_layers=sizes.layers,
                num_attention_heads=sizes.heads,
                intermediate_size=sizes.hidden,
                attention_dropout=sizes.dropout,
                hidden_dropout=sizes.dropout,
                attention_bias=False,
                rope_parameters={
                    "rope_type": "default",
                    "rope_theta": sizes.rotary_base,
                    "partial_rotary_factor": 1.0,
                },
                **EXPECTED["gpt_neox"],
                **ends,
            )
        )
    theirs = dict(network.named_parameters())
    ours = model.state_dict()
    with torch.no_grad():
        for name, other in _names(sizes).items():
            theirs.pop(other).copy_(_theirs(name, ours[name], sizes))
        for value in theirs.values():  # biases
            value.zero_()
    return network.eval()


def from_hugging_face(network: PreTrainedModel) -> Decoder:
    """The other way round.

    Raises:
        WardroundError: another kind of network, other settings of it, or biases.
    """
    config = network.config
    kind = config.model_type
    if kind not in EXPECTED:
        raise WardroundError(f"a {kind} is no decoder of ours; gpt2 and gpt_neox are read")
    for name, value in EXPECTED[kind].items():
        if getattr(config, name) != value:
            raise WardroundError(
                f"its {name} is {getattr(config, name)}, a decoder of ours has {value}"
            )
    if kind == "gpt2":
        sizes = DecoderConfig(
            vocabulary=config.vocab_size,
            context=config.n_positions,
            layers=config.n_layer,
            heads=config.n_head,
            width=config.n_embd,
            hidden=config.n_inner or 4 * config.n_embd,
            positions="learned",
            dropout=config.resid_pdrop,
        )
    else:
        rope = config.rope_parameters
        if rope["partial_rotary_factor"] != 1 or rope["rope_type"] != "default":
            raise WardroundError("its rotary positions turn a part of each head, or are scaled")
        sizes = DecoderConfig(
            vocabulary=config.vocab_size,
            context=config.max_position_embeddings,
            layers=config.num_hidden_layers,
            heads=config.num_attention_heads,
            width=config.hidden_size,
            hidden=config.intermediate_size,
            positions="rotary",
            dropout=config.hidden_dropout,
            rotary_base=rope["rope_theta"],
        )
    theirs = dict(network.named_parameters())
    model = Decoder(sizes)
    ours = model.state_dict()
    with torch.no_grad():
        for name, other in _names(sizes).items():
            value = _ours(name, theirs.pop(other), sizes)
            ours[name][: len(value)].copy_(value)  # rows that fill up the vocabulary stay
    if any(value.any() for value in theirs.values()):
        raise WardroundError("it has biases, a decoder of ours has none")
    return model.eval()


def _names(sizes: DecoderConfig) -> dict[str, str]:
    """Our names of all weights, and theirs."""
    if sizes.positions == "learned":
        names = {
            "embedding.weight": "transformer.wte.weight",
            "position.weight": "transformer.wpe.weight",
            "norm.weight": "transformer.ln_f.weight",
        }
        blocks, within = "transformer.h", GPT2
    else:
        names = {
            "embedding.weight": "gpt_neox.embed_in.weight",
            "norm.weight": "gpt_neox.final_layer_norm.weight",
        }
        blocks, within = "gpt_neox.layers", GPT_NEOX
    return names | {
        f"blocks.{number}.{name}.weight": f"{blocks}.{number}.{other}.weight"
        for number in range(sizes.layers)
        for name, other in within.items()
    }


def _theirs(name: str, weight: Tensor, sizes: DecoderConfig) -> Tensor:
    if name == "embedding.weight":
        return weight[: sizes.vocabulary]
    if sizes.positions == "learned":  # GPT-2 multiplies from the right
        return weight.T if name.startswith("blocks.") and weight.dim() == 2 else weight
    if name.endswith("attention.project.weight"):  # GPT-NeoX keeps a head's parts together
        return weight.unflatten(0, (3, sizes.heads, -1)).transpose(0, 1).flatten(0, 2)
    return weight


def _ours(name: str, weight: Tensor, sizes: DecoderConfig) -> Tensor:
    if sizes.positions == "learned":
        return weight.T if name.startswith("blocks.") and weight.dim() == 2 else weight
    if name.endswith("attention.project.weight"):
        return weight.unflatten(0, (sizes.heads, 3, -1)).transpose(0, 1).flatten(0, 2)
    return weight

"""An independent implementation of the network gives the same scores, and comes back the same."""

from __future__ import annotations

import json
from pathlib import Path
from typing import Any

import pytest
import torch

from wardround.errors import WardroundError
from wardround.models import Decoder, DecoderConfig
from wardround.training import export_hugging_face, import_hugging_face
from wardround.training.huggingface import from_hugging_face, to_hugging_face

VOCABULARY = 101


def decoder(positions: Any, **sizes: Any) -> Decoder:
    """All weights drawn wide, those of norms too, so that none hides."""
    torch.manual_seed(0)
    given = {"layers": 3, "heads": 4, "width": 32, "hidden": 96, **sizes}
    model = Decoder(DecoderConfig(VOCABULARY, 48, positions=positions, **given)).eval()
    with torch.no_grad():
        for value in model.parameters():
            value.add_(0.2 * torch.randn_like(value))
    return model


def tokens() -> torch.Tensor:
    return torch.randint(0, VOCABULARY, (3, 48), generator=torch.Generator().manual_seed(1))


@pytest.mark.parametrize(
    ("positions", "sizes", "kind"),
    [
        ("learned", {}, "GPT2LMHeadModel"),
        ("learned", {"hidden": 128, "layers": 1}, "GPT2LMHeadModel"),
        ("rotary", {}, "GPTNeoXForCausalLM"),
        ("rotary", {"heads": 2, "rotary_base": 500.0}, "GPTNeoXForCausalLM"),
    ],
)
@torch.no_grad()
def test_hugging_face_gives_the_same_scores(tmp_path: Path, positions, sizes, kind) -> None:
    from transformers import AutoModelForCausalLM

    model = decoder(positions, **sizes)
    export_hugging_face(model, tmp_path / "out", [f"LAB//{n}" for n in range(VOCABULARY)])
    theirs = AutoModelForCausalLM.from_pretrained(tmp_path / "out").eval()
    assert type(theirs).__name__ == kind
    ours = model(tokens())
    assert ours.std() > 0.3
    torch.testing.assert_close(theirs(tokens()).logits, ours, atol=1e-4, rtol=0)
    back = import_hugging_face(tmp_path / "out")
    assert back.sizes == model.sizes and not back.training
    assert torch.equal(back(tokens()), ours)
    names = json.loads((tmp_path / "out" / "vocab.json").read_text())
    assert names["LAB//7"] == 7 and len(names) == VOCABULARY


@pytest.mark.parametrize("positions", ["learned", "rotary"])
@torch.no_grad()
def test_greedy_continuations_agree(positions) -> None:
    """Theirs with its cache, ours run anew for each token."""
    model = decoder(positions)
    theirs = to_hugging_face(model)
    prefix = tokens()[:1, :20]
    found = theirs.generate(
        prefix, attention_mask=torch.ones_like(prefix), max_new_tokens=20, do_sample=False
    )
    ours = prefix
    for _ in range(20):
        ours = torch.cat([ours, model(ours)[:, -1:].argmax(-1)], dim=1)
    assert torch.equal(found, ours)


def test_names_must_fit(tmp_path: Path) -> None:
    with pytest.raises(WardroundError, match="3 token names for a decoder of 101"):
        export_hugging_face(decoder("learned"), tmp_path, ["a", "b", "c"])


@pytest.mark.parametrize(
    ("positions", "change", "message"),
    [
        ("learned", {"activation_function": "gelu_new"}, "activation_function is gelu_new"),
        ("rotary", {"use_parallel_residual": True}, "use_parallel_residual is True"),
        ("rotary", {"rope_parameters": {"partial_rotary_factor": 0.25}}, "a part of each head"),
    ],
)
def test_other_settings_are_refused(tmp_path: Path, positions, change, message) -> None:
    export_hugging_face(decoder(positions), tmp_path)
    file = tmp_path / "config.json"
    about = json.loads(file.read_text())
    for name, value in change.items():
        about[name] = {**about[name], **value} if isinstance(value, dict) else value
    file.write_text(json.dumps(about))
    with pytest.raises(WardroundError, match=message):
        import_hugging_face(tmp_path)


def test_biases_other_kinds_and_missing_files_are_refused(tmp_path: Path) -> None:
    from transformers import OPTConfig, OPTForCausalLM

    network = to_hugging_face(decoder("learned"))
    with torch.no_grad():
        network.transformer.h[1].mlp.c_fc.bias[3] = 0.1
    with pytest.raises(WardroundError, match="it has biases"):
        from_hugging_face(network)
    small = OPTConfig(vocab_size=20, hidden_size=8, num_hidden_layers=1, ffn_dim=8)
    small.num_attention_heads = 2
    with pytest.raises(WardroundError, match="a opt is no decoder of ours"):
        from_hugging_face(OPTForCausalLM(small))
    with pytest.raises(WardroundError, match="holds no Hugging Face model"):
        import_hugging_face(tmp_path)
    export_hugging_face(decoder("rotary"), tmp_path)
    weights = tmp_path / "model.safetensors"
    weights.write_bytes(weights.read_bytes()[:500])
    with pytest.raises(WardroundError, match="holds no Hugging Face model"):
        import_hugging_face(tmp_path)

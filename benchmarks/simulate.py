"""Speed of simulated futures at the size of ETHOS-ARES, against the plain way.

The plain way runs the whole window again for each token of each future, as the published loop
does (dropout off, scores of the last token only). Both use the same weights, which are random:
speed does not hang on them. Says how far a step is from what memory and arithmetic allow, both
measured in the same run, and checks that both ways take the same greedy paths and stop as often.

    python benchmarks/simulate.py [--futures 1 8 32] [--tokens N] [--dtype bfloat16]
"""

from __future__ import annotations

import argparse
import math
import time
from collections.abc import Callable

import numpy as np
import torch
from torch.nn import functional

from wardround.models.decoder import Decoder, DecoderConfig
from wardround.simulation import Clock, Prefix, Stops, Window, simulate

VOCABULARY, CONTEXT, KNOWN = 4400, 6, 1500
TARGETS = {1: 10, 32: 100}  # times the plain way's tokens a second


def seconds(work: Callable[[], object], device: str, times: int = 1) -> float:
    """The shortest of some runs."""
    taken = []
    for _ in range(times):
        began = time.perf_counter()
        work()
        if device == "cuda":
            torch.cuda.synchronize()
        taken.append(time.perf_counter() - began)
    return min(taken)


def limits(device: str, dtype: torch.dtype) -> tuple[float, float]:
    """Bytes a second read from memory, and operations a second of large matrix products."""
    big = torch.ones(2**28, device=device)  # 1 GiB: no cache holds it
    bandwidth = big.nbytes / seconds(big.sum, device, times=4)
    weight = torch.randn(3072, 768, device=device, dtype=dtype)
    inputs = torch.randn(1024, 768, device=device, dtype=dtype)
    taken = seconds(lambda: functional.linear(inputs, weight), device, times=10)
    return bandwidth, 2 * len(inputs) * weight.numel() / taken


def plain(
    model: Decoder, prefix: Prefix, futures: int, tokens: int, ends: np.ndarray, *, greedy: bool
) -> np.ndarray:
    """Futures by whole windows: (futures, tokens), -1 after an end."""
    device = model.embedding.weight.device
    window = Window(model.sizes.context, len(prefix.context))
    kept = prefix.tokens[window.opening(len(prefix.tokens)) :]
    shown = torch.from_numpy(np.concatenate([prefix.context, kept])).to(device).repeat(futures, 1)
    paths = torch.full((futures, tokens), -1, device=device)
    on = torch.arange(futures, device=device)
    is_end = torch.from_numpy(ends).to(device)
    generator = torch.Generator(device).manual_seed(0)
    for step in range(tokens):
        scores = model.score(model.hidden(shown)[:, -1]).float()
        if greedy:
            token = scores.argmax(-1)
        else:
            token = scores.softmax(-1).multinomial(1, generator=generator)[:, 0]
        paths[on, step] = token
        goes_on = ~is_end[token]
        on, shown = on[goes_on], torch.cat([shown, token[:, None]], dim=1)[goes_on]
        if not len(on):
            break
    return paths.cpu().numpy()


def least(sizes: DecoderConfig, size: int, futures: int, tokens: int) -> tuple[float, float]:
    """Bytes that an average step must read, and operations that it must do.

    Every weight but the positions once, the shared keys and values once, each path's own once.
    """
    weights = 12 * sizes.width**2 * sizes.layers + sizes.vocabulary * sizes.width
    own, shared = tokens // 2, CONTEXT + KNOWN
    cached = 2 * sizes.layers * sizes.width * (shared + futures * own)
    attention = 4 * sizes.layers * sizes.width * (shared + own)
    return float(size * (weights + cached)), float(futures * (2 * weights + attention))


def speed(numbers: list[int], tokens: int, dtype: torch.dtype, device: str) -> None:
    """Both ways at the published size."""
    torch.manual_seed(0)
    sizes = DecoderConfig(vocabulary=VOCABULARY)
    model = Decoder(sizes).to(device, dtype).eval()
    rng = np.random.default_rng(0)
    static, known = rng.integers(0, VOCABULARY, CONTEXT), rng.integers(0, VOCABULARY, KNOWN)
    prefix, nothing = Prefix(static, known, math.inf), np.zeros(VOCABULARY, bool)
    print(
        f"\n{sizes.layers} layers, width {sizes.width}, {sizes.heads} heads, context "
        f"{sizes.context}; prefix of {CONTEXT + KNOWN} tokens, paths of {tokens}; "
        f"{dtype} on {device}, {torch.get_num_threads()} threads"
    )

    def ours(futures: int, tokens: int) -> np.ndarray:
        stops, clock = Stops(nothing[None], nothing, tokens), Clock(np.zeros(VOCABULARY))
        options = {"futures": futures, "greedy": True, "keep_paths": True, "device": device}
        (out,) = simulate(model, [prefix], stops, clock, slots=futures, **options)
        return np.stack(out.paths or [])

    for futures in numbers:
        few = max(1, 3 // futures)
        theirs: list[np.ndarray] = []
        took = seconds(
            lambda n=futures, few=few, to=theirs: to.append(
                plain(model, prefix, n, few, nothing, greedy=True)
            ),
            device,
        )
        same = (ours(futures, few) == theirs[0]).all()  # warms up, too
        opening = seconds(lambda n=futures: ours(n, 1), device)
        whole = seconds(lambda n=futures: ours(n, tokens), device)
        step = (whole - opening) / (tokens - 1)
        rate, plain_rate = futures * tokens / whole, futures * few / took
        bandwidth, arithmetic = limits(device, dtype)
        moved, computed = least(sizes, dtype.itemsize, futures, tokens)
        bound = max(moved / bandwidth, computed / arithmetic)
        target = f" (target {TARGETS[futures]}x)" if futures in TARGETS else ""
        print(
            f"{futures} futures\n"
            f"  plain     {plain_rate:8.2f} tokens/s, {plain_rate / tokens:.4f} futures/s "
            f"({few} tokens each measured)\n"
            f"  simulate  {rate:8.2f} tokens/s, {rate / tokens:.4f} futures/s: "
            f"{rate / plain_rate:.0f}x{target}, prefix included\n"
            f"  prefix {opening:.2f} s, then {1000 * step:.1f} ms a step; {bandwidth / 1e9:.0f} "
            f"GB/s and {arithmetic / 1e9:.0f} GFLOP/s allow {1000 * bound:.1f} ms: "
            f"{bound / step:.0%} of the limit\n"
            f"  first greedy tokens of both ways {'identical' if same else 'DIFFER'}"
        )


def agreement(device: str) -> None:
    """Greedy paths and stop frequencies of both ways, on a small network."""
    torch.manual_seed(1)
    size, known, futures, tokens = 200, 60, 2000, 30
    model = Decoder(
        DecoderConfig(vocabulary=size, context=128, layers=2, heads=4, width=64, hidden=256)
    )
    for weight in model.parameters():
        weight.data.mul_(4 if weight.ndim > 1 else 1)
    model.to(device).eval()
    rng = np.random.default_rng(0)
    clock, nothing = Clock(np.zeros(size)), np.zeros(size, bool)
    prefixes = [
        Prefix(rng.integers(0, size, CONTEXT), rng.integers(0, size, n), math.inf)
        for n in range(5, known + 1, 5)
    ]
    stops = Stops(nothing[None], nothing, tokens)
    found = simulate(
        model, prefixes, stops, clock, futures=1, greedy=True, keep_paths=True, device=device
    )
    same = sum(
        bool((plain(model, prefix, 1, tokens, nothing, greedy=True)[0] == out.paths[0]).all())
        for prefix, out in zip(prefixes, found, strict=True)
        if out.paths
    )
    print(f"small network: {same} of {len(prefixes)} greedy paths of {tokens} tokens identical")

    ends, sets = np.arange(size) < 8, np.arange(size) < np.array([[3], [8]])
    (out,) = simulate(
        model, prefixes[-1:], Stops(sets, ends, tokens), clock, futures=futures, device=device
    )
    paths = plain(model, prefixes[-1], futures, tokens, ends, greedy=False)
    for number, name in enumerate(["a rare set of ends", "any end"]):
        ours = np.isfinite(out.first[:, number]).mean()
        theirs = (sets[number][paths] & (paths >= 0)).any(axis=1).mean()
        error = math.sqrt((ours * (1 - ours) + theirs * (1 - theirs)) / futures)
        print(
            f"  {name}: {ours:.4f} of {futures} futures against {theirs:.4f} the plain way, "
            f"{abs(ours - theirs) / max(error, 1e-9):.1f} standard errors apart"
        )


def main() -> None:
    parser = argparse.ArgumentParser(description=(__doc__ or "").splitlines()[0])
    parser.add_argument("--futures", type=int, nargs="+", default=[1, 8, 32])
    parser.add_argument("--tokens", type=int, default=128, help="length of a path")
    parser.add_argument("--dtype", choices=["float32", "bfloat16"], default="float32")
    parser.add_argument("--device", default="cuda" if torch.cuda.is_available() else "cpu")
    args = parser.parse_args()
    with torch.inference_mode():
        agreement(args.device)
        speed(args.futures, args.tokens, getattr(torch, args.dtype), args.device)


if __name__ == "__main__":
    main()

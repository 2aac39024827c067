"""The benchmark page: tables, the machine's limits, plots. Every figure comes from results.json."""

from __future__ import annotations

from pathlib import Path
from typing import Any

from benchmarks import workload

BODY = {"smollm2-135m": 106.2e6, "tiny": 0.9e6}
HEAD = {"smollm2-135m": 49152 * 576, "tiny": 0.0}
"""Weights multiplied for every token (attention and feed-forward), and for every token whose next is wanted (the head)."""

TITLES = {
    "step": "one GRPO step, SmolLM2-135M fp32, 8 x 8 rollouts, 45-token prompts, 16 new tokens",
    "step-shared-prefix": "the same, 300-token few-shot prompts",
    "step-tiny": "one GRPO step, tiny, 16 x 8 rollouts, 32 new tokens",
    "decode-64": "rollouts only, SmolLM2, 64 sequences of 32 tokens each",
    "rollout-64": "rollouts only, SmolLM2, 64 sequences, heavy-tailed lengths",
    "rollout-128": "rollouts only, SmolLM2, 128 sequences, heavy-tailed lengths",
}
WORK = {work.name: work for work in workload.ROWS}
PROMPT = {
    "step": (27, 15),
    "step-shared-prefix": (256, 15),
    "step-tiny": (8, 17),
    "decode-64": (27, 15),
    "rollout-64": (27, 15),
    "rollout-128": (27, 15),
}
"""Prompt tokens that all prompts of a row share, and those of its own that each has."""


def passes(name: str) -> list[tuple[float, float]]:
    """The least the row needs, as (GFLOP, GB of weights read) of each pass over the model: every distinct prompt prefix once,
    every decoding step, and of a training step one forward and backward pass over the same tokens."""
    work = WORK[name]
    body, head = BODY[work.model], HEAD[work.model]
    shared, own = PROMPT[name]
    sizes = workload.answers(work)
    prompts = len(sizes) // work.samples
    context, read = shared + prompts * own, 4e-9 * (body + head)
    running = [sum(size > at for size in sizes) for at in range(1, max(sizes))]
    found = [(2e-9 * (body * context + head * prompts), read)]
    found += [(2e-9 * (body + head) * rows, read) for rows in running]
    if not work.sequences:
        found.append((6e-9 * (body * (context + sum(sizes)) + head * sum(sizes)), 3 * read))
    return found


def least_seconds(name: str, machine: dict[str, float]) -> float:
    """The least time the row takes here: of each pass, its operations at the machine's rate or the reading of its weights."""
    return sum(max(gflop / machine["gflops"], gbytes / machine["gbytes"]) for gflop, gbytes in passes(name))


def fraction(name: str, result: dict[str, Any], machine: dict[str, float]) -> float:
    """Share of the machine's limit reached: the least time over the time taken."""
    return least_seconds(name, machine) / result["seconds"]["median"]


def lines(name: str, row: Any) -> str:
    """A row for the terminal."""
    if name == "scaling":
        return "\n".join(
            f"  {axis}: " + ", ".join(f"{p['x']:g}: {p['seconds']['median']:.1f} s" for p in points)
            for axis, points in row.items()
        )
    out = []
    for side, r in row.items():
        if "failure" in r:
            out.append(f"  {side:24s} {r['failure']}")
            continue
        slower = f"  {r['times_slower']['median']:.2f}x slower than anypo" if r["times_slower"] else ""
        out.append(
            f"  {side:24s} {r['seconds']['median']:7.2f} s  {r['tokens_per_second']['median']:7.1f} tokens/s  "
            f"{r['peak_gb']:5.1f} GB{slower}"
        )
    return "\n".join(out)


def write(results: dict[str, Any], docs: Path) -> None:
    """docs/performance.md and its plots."""
    machine = results["machine"]
    parts = [
        "# Performance\n",
        "Every row is measured with `make bench`: the sides run as processes side by side and take turns, one unit of work each, "
        "so that drift of the machine hits all alike. Figures are medians with the range in brackets; the factor is the median of "
        "turn-by-turn ratios of seconds per generated token (above 1: anypo is faster).\n",
        f"Machine of the last run: {machine['threads']} threads, {machine['gflops']:.0f} GFLOP/s in fp32 matrix products of "
        f"the model's own shape, {machine['gbytes']:.1f} GB/s memory traffic. *Of the limit* is the least time the work can take "
        "here over the time it took: at that rate, every distinct prompt prefix and every new token once, a training step's "
        "forward and backward pass over the same tokens once, and every decoding step at least one reading of all weights.\n",
    ]
    for name, title in TITLES.items():
        if name in results:
            parts.append(_table(name, title, results[name], machine))
    if "scaling" in results:
        _plot(results["scaling"], docs / "images" / "scaling.svg")
        parts.append("## How the cost of a step grows\n\n![seconds per GRPO step](images/scaling.svg)\n")
        parts.append("SmolLM2-135M, 4 prompts x 8 rollouts x 16 new tokens unless the axis says otherwise.\n")
    notes = docs / "performance-notes.md"
    if notes.exists():
        parts.append(notes.read_text())
    (docs / "performance.md").write_text("\n".join(parts))


def _table(name: str, title: str, row: dict[str, Any], machine: dict[str, float]) -> str:
    gflop, gbytes = (sum(column) for column in zip(*passes(name)))
    out = [
        f"## {title}\n",
        f"Least work: {gflop:,.0f} GFLOP and {gbytes:.3g} GB of weights read, {least_seconds(name, machine):.2f} s here.\n",
        "| side | seconds | tokens/s | peak memory | of the limit | anypo is faster by |",
        "| --- | --- | --- | --- | --- | --- |",
    ]
    for side, r in row.items():
        if "failure" in r:
            out.append(f"| {side} | {r['failure']} | | | | |")
            continue
        seconds, rate, slower = r["seconds"], r["tokens_per_second"], r["times_slower"]
        factor = f"**{slower['median']:.2f}x** [{slower['low']:.2f}, {slower['high']:.2f}]" if slower else ""
        out.append(
            f"| {side} | {seconds['median']:.2f} [{seconds['low']:.2f}, {seconds['high']:.2f}] | {rate['median']:.0f} | "
            f"{r['peak_gb']:.1f} GB | {fraction(name, r, machine):.0%} | {factor} |"
        )
    rooms = row.get("anypo", {}).get("rooms")
    if rooms:
        shares = ", ".join(
            f"{room} {value:.2f} s" for room, value in rooms.items() if value >= 0.005 and room != "step"
        )
        out.append(f"\nTime per room of anypo's last step: {shares}.")
    return "\n".join(out) + "\n"


def _plot(scaling: dict[str, Any], path: Path) -> None:
    import matplotlib

    matplotlib.use("svg")
    matplotlib.rcParams["svg.hashsalt"] = "anypo"  # the same picture, the same file
    import matplotlib.pyplot as plt

    path.parent.mkdir(parents=True, exist_ok=True)
    figure, axes = plt.subplots(1, len(scaling), figsize=(3.2 * len(scaling), 2.8), constrained_layout=True)
    for axis, (label, points) in zip(axes, scaling.items()):
        x = [p["x"] for p in points]
        middle = [p["seconds"]["median"] for p in points]
        low = [m - p["seconds"]["low"] for m, p in zip(middle, points)]
        high = [p["seconds"]["high"] - m for m, p in zip(middle, points)]
        axis.errorbar(x, middle, [low, high], marker="o", capsize=3, color="#2563eb")
        axis.set_xlabel(label)
        axis.set_ylim(bottom=0)
        axis.spines[["top", "right"]].set_visible(False)
        axis.grid(alpha=0.3)
    axes[0].set_ylabel("seconds per step")
    figure.savefig(path, metadata={"Date": None})
    plt.close(figure)

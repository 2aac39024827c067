"""The estimator table as CSV and as a self-contained plot."""

from __future__ import annotations

import csv
from collections.abc import Sequence
from pathlib import Path

from anypo.exact.bench import Setting
from anypo.exact.estimators import Measurement


def save_csv(measurements: Sequence[Measurement], path: Path) -> None:
    """One row per system and setting, every number with its standard error."""
    rows = [m.row() for m in measurements]
    with path.open("w", newline="") as file:
        writer = csv.DictWriter(file, list(rows[0]))
        writer.writeheader()
        writer.writerows(rows)


def save_plot(measurements: Sequence[Measurement], path: Path) -> None:
    """Bias against noise, a panel per setting; both axes are free of the estimator's scale."""
    from plotly.subplots import make_subplots

    settings = list(dict.fromkeys(m.setting for m in measurements))
    columns = min(2, len(settings))
    figure = make_subplots(
        rows=-(-len(settings) // columns),
        cols=columns,
        subplot_titles=[_title(s) for s in settings],
        vertical_spacing=0.12,
    )
    for place, setting in enumerate(settings):
        row, column = place // columns + 1, place % columns + 1
        shown = [m for m in measurements if m.setting == setting and not m.reason]
        figure.add_scatter(
            x=[m.angle_bias for m in shown],
            y=[m.snr for m in shown],
            error_x={"array": [m.angle_bias_se for m in shown], "thickness": 0.7},
            error_y={"array": [m.snr_se for m in shown], "thickness": 0.7},
            mode="markers+text",
            text=[m.system for m in shown],
            textposition="top center",
            textfont={"size": 9},
            marker={"size": 7, "color": [m.alignment for m in shown], "colorscale": "Viridis", "cmin": 0, "cmax": 1},
            hovertext=[_hover(m) for m in shown],
            hoverinfo="text",
            row=row,
            col=column,
        )
        figure.update_xaxes(title_text="bias left after the best rescaling", row=row, col=column)
        figure.update_yaxes(title_text="signal / noise of one batch", type="log", row=row, col=column)
    figure.update_layout(
        title="Policy-gradient estimators against the exact gradient (colour: mean cosine of one batch, 0 to 1)",
        showlegend=False,
        template="plotly_white",
        height=520 * -(-len(settings) // columns),
    )
    figure.write_html(path, include_plotlyjs=True, full_html=True)


def _title(s: Setting) -> str:
    extra = f", noise {s.noise:g}" if s.noise else ""
    extra += f", {s.versions} versions" if s.versions != "single" else ""
    return f"{s.reward} reward, group {s.group}, staleness {s.staleness}{extra}"


def _hover(m: Measurement) -> str:
    return (
        f"<b>{m.system}</b><br>bias {m.bias:.3f} ± {m.bias_se:.3f}<br>angle bias {m.angle_bias:.3f} ± {m.angle_bias_se:.3f}"
        f"<br>scale {m.scale:.3f}<br>snr {m.snr:.3f} ± {m.snr_se:.3f}<br>alignment {m.alignment:.3f}"
        f"<br>uphill {m.sign_direction:.0%}<br>ess {m.ess:.2f}"
    )

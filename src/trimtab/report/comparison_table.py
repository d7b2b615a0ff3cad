"""The comparison of two decoders as a table for a terminal and as plain values for JSON.

Knows nothing of runs or of how a rate is computed.

    >>> shares(Estimate(0.625, 0.5, 0.75))
    '62.5 % [50.0, 75.0]'
"""

import dataclasses
from typing import Any

import rich.box
import rich.table
import rich.text

from trimtab.errors import one_line
from trimtab.evaluation.comparison import Comparison
from trimtab.evaluation.metrics import Estimate


def comparison_table(first: str, second: str, compared: Comparison) -> rich.table.Table:
    """One row: how often the first wins, with and without what its length does, and both lengths."""
    left_out = f"; {compared.left_out} left out, without a finite reward" if compared.left_out else ""
    table = rich.table.Table(
        title=rich.text.Text(f"{one_line(first)} against {one_line(second)}"),
        title_justify="left",
        caption=rich.text.Text(
            f"by the gold reward on {compared.prompts} prompts{left_out}; a tie is half a win; 95 % intervals; "
            "lengths in characters"
        ),
        caption_justify="left",
        box=rich.box.SIMPLE_HEAD,
        show_edge=False,
    )
    cells = {
        "win rate": shares(compared.win_rate),
        "length-controlled": shares(compared.length_controlled),
        "won/tied/lost": f"{compared.wins}/{compared.ties}/{compared.losses}",
        "lengths": f"{compared.first_length:.0f} and {compared.second_length:.0f}",
    }
    for heading in cells:
        table.add_column(heading, no_wrap=True)
    table.add_row(*cells.values())
    return table


def comparison_values(first: str, second: str, reward: str, compared: Comparison) -> dict[str, Any]:
    """The same with all digits, and which reward judged."""
    rates = {"win_rate": compared.win_rate._asdict(), "length_controlled": compared.length_controlled._asdict()}
    return {"first": first, "second": second, "reward": reward, **dataclasses.asdict(compared), **rates}


def shares(estimate: Estimate) -> str:
    """A share with its interval, in percent."""
    return f"{100 * estimate.mean:.1f} % [{100 * estimate.low:.1f}, {100 * estimate.high:.1f}]"

"""How the shop's lines form groups, as a plain loop."""

import pandas as pd


def ticket_runs(mine: pd.DataFrame) -> list[list[int]]:
    """One person's lines by second, a ticket's lines together within a second, cut where the ticket changes.

    A leaflet is alone. Row labels of each group.
    """
    runs: list[list[int]] = []
    before = None
    for _, moment in mine.sort_values("at", kind="stable").groupby("at", sort=True):
        names = [f"alone {row}" if v == "leaflet" else t for row, t, v in moment[["ticket", "verb"]].itertuples()]
        for wanted in dict.fromkeys(names):
            for row, name in zip(moment.index, names, strict=True):
                if name != wanted:
                    continue
                if name != before:
                    runs.append([])
                runs[-1].append(row)
                before = name
    return runs

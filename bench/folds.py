"""``python -m bench.folds``: cross-validation in which the reviews of one film stay together.

The corpus lists the reviews of a film one after the other, at most thirty of them. Folds drawn row by row therefore ask
for films that training knows by name; films of next year are not known. Takes the parameters of training, to compare
choices: ``python -m bench.folds --alpha 0.3``.
"""

from typing import Any

import click
import joblib
import numpy as np
import pandas as pd
from sklearn.model_selection import GroupKFold, KFold

from cli import Command
from data.ingest import TABLE
from data.table import read_table
from training.models.ngram_fit import FOLDS, count, judge
from training.parameters import LogCountRatios, Ngram, choose, parameter_options

NEIGHBOURS = 60  # so that few films fall on both sides of a cut


def cross_validate(table: pd.DataFrame, parameters: LogCountRatios, together: bool) -> pd.DataFrame:
    """Return the share of right answers, before calibration, for each fold (rows) and source (columns)."""
    _, counts = count(table, parameters)
    training_rows = np.flatnonzero(table["split"] == "train")
    rows = table.iloc[training_rows].reset_index(drop=True)
    y = (table["sentiment"] == "positive").to_numpy()
    place = rows.groupby(["source", "sentiment"]).cumcount() // NEIGHBOURS
    groups = rows["source"] + rows["sentiment"] + place.astype(str)
    drawn = {"n_splits": FOLDS, "shuffle": True, "random_state": parameters.seed}
    folds = GroupKFold(**drawn).split(rows, groups=groups) if together else KFold(**drawn).split(rows)
    work = joblib.Parallel(n_jobs=-1, backend="threading", return_as="generator")
    splits = [(training_rows[rest], training_rows[fold], fold) for rest, fold in folds]
    judged = work(joblib.delayed(judge)(counts, y, seen, unseen, parameters) for seen, unseen, _ in splits)
    found = []
    for (_, unseen, fold), (scores, _) in zip(splits, judged, strict=True):
        right = pd.Series((scores >= 0) == y[unseen])
        found.append(right.groupby(rows["source"].iloc[fold].to_numpy()).mean())
    return pd.DataFrame(found).reset_index(drop=True)


@click.command(cls=Command, help="Cross-validate on the training rows of data/imdb.csv.")
@parameter_options
def main(model: str, **given: Any) -> None:
    """Print the accuracy of each fold."""
    chosen = choose(model, given)
    if type(chosen) is not Ngram or chosen.engine != "local":
        raise click.ClickException("folds are for model=ngram on this machine")
    click.echo(f"{chosen}")
    table = read_table(TABLE)
    for together, name in ((False, "rows at random"), (True, "neighbours together")):
        found = cross_validate(table, chosen, together)
        click.echo(f"\n{name}:\n{found.round(4).to_string()}\nmean   {found.mean().round(4).to_dict()}")


if __name__ == "__main__":
    main()

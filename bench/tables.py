"""Comparison of `nnx train` on tables with scikit-learn: the defaults of both, on the same rows.

    python bench/tables.py                   # all tables, five seeds each: prints the table, and writes it
    python bench/tables.py --only wine,titanic --seeds 0,1

Each table is a CSV file. nnx takes it by its command line, `nnx train FILE --seed N` and `nnx predict`, with nothing
set; scikit-learn's HistGradientBoosting and MLP have their defaults too, the latter after imputing, scaling and one-hot
encoding. All three learn from the same rows, and are judged on the same others: those that nnx holds out for that seed.
Needs no network: four tables come with scikit-learn, four are made here.
"""

from __future__ import annotations

import argparse
import io
import tempfile
import warnings
from collections.abc import Callable
from contextlib import redirect_stdout
from pathlib import Path
from typing import Any

import numpy as np
import pandas as pd
from sklearn import datasets
from sklearn.compose import TransformedTargetRegressor, make_column_transformer
from sklearn.ensemble import HistGradientBoostingClassifier, HistGradientBoostingRegressor
from sklearn.impute import SimpleImputer
from sklearn.metrics import accuracy_score, balanced_accuracy_score, log_loss, r2_score
from sklearn.neural_network import MLPClassifier, MLPRegressor
from sklearn.pipeline import make_pipeline
from sklearn.preprocessing import OneHotEncoder, StandardScaler

from nnx.cli import main
from nnx.cli.sets import Source, held_out

ROOT = Path(__file__).resolve().parent
WRITTEN = ROOT / "results" / "tables.md"
CONTENDERS = ("nnx", "HistGradientBoosting", "MLP")
Frame = Any


# ---- tables ----------------------------------------------------------------------------------------------------------


def shipped(load: Callable[..., Any]) -> Callable[[int], Frame]:
    return lambda seed: load(as_frame=True).frame


def titanic(seed: int) -> Frame:
    """Passengers of a ship: names, blanks, categories, and who survived."""
    random, n = np.random.RandomState(seed), 891
    pclass = random.choice([1, 2, 3], n, p=[0.24, 0.21, 0.55])
    female = random.random_sample(n) < 0.35
    age = np.clip(random.gamma(5, 6, n) + 4 * (3 - pclass), 0.5, 80).round(1)
    siblings, parents = random.poisson(0.5, n), random.poisson(0.4, n)
    fare = np.exp(random.normal(4.2 - 0.75 * pclass, 0.5)) * (1 + 0.3 * (siblings + parents)) + 4
    port = random.choice(["S", "C", "Q"], n, p=[0.72, 0.19, 0.09])
    family = siblings + parents
    logit = 3.6 * female - 1.2 * (pclass - 2) - 1.5 + 2.5 * (age < 12) - 0.03 * (age - 30) - 1.5 * (family > 3)
    logit += 0.4 * (port == "C") - 1.2 * (female & (pclass == 3)) + 0.3 * np.log(fare / 20)
    survived = random.random_sample(n) < 1 / (1 + np.exp(-logit))
    cabin = [f"{random.choice(list('ABCDE'))}{random.randint(1, 120)}" if u < (0.7 if c == 1 else 0.08) else None
             for c, u in zip(pclass, random.random_sample(n), strict=True)]  # fmt: skip
    return pd.DataFrame(
        {
            "PassengerId": np.arange(1, n + 1),
            "Pclass": pclass,
            "Name": [f"Family{random.randint(600)}, {'Mrs' if f else 'Mr'}. Given {i}" for i, f in enumerate(female)],
            "Sex": np.where(female, "female", "male"),
            "Age": np.where(random.random_sample(n) < 0.2, np.nan, age),
            "SibSp": siblings,
            "Parch": parents,
            "Ticket": [f"A/{random.randint(10**6)}" for _ in range(n)],
            "Fare": fare.round(4),
            "Cabin": cabin,
            "Embarked": np.where(random.random_sample(n) < 0.01, None, port),
            "Survived": survived.astype(int),
        }
    )


def houses(seed: int) -> Frame:
    """Houses with many columns of several kinds, and what they were sold for."""
    random, n = np.random.RandomState(seed), 1460
    quarters = [f"Quarter {chr(65 + i)}" for i in range(25)]
    worth = random.normal(0, 0.18, 25)
    quarter = random.choice(25, n, p=random.dirichlet(np.full(25, 3.0)))
    area = np.exp(random.normal(7.25, 0.33, n))
    lot = np.exp(random.normal(9.1, 0.5, n))
    quality, condition = np.clip(random.normal(6.1, 1.4, n).round(), 1, 10), random.randint(3, 9, n)
    built = np.clip(2010 - random.gamma(1.6, 24, n), 1880, 2010).round()
    baths, garage = 1 + random.binomial(2, 0.45, n), random.choice([0, 1, 2, 3], n, p=[0.06, 0.25, 0.56, 0.13])
    style = random.choice(["1Story", "2Story", "1.5Fin", "Split"], n, p=[0.5, 0.3, 0.11, 0.09])
    air = random.random_sample(n) < 0.93
    pool = random.random_sample(n) < 0.01
    basement = np.where(random.random_sample(n) < 0.03, 0, area * random.uniform(0.4, 1.0, n))
    price = 11.9 + 0.62 * (np.log(area) - 7.25) + 0.095 * (quality - 6) + 0.06 * garage + 0.03 * (condition - 5)
    price += 0.0022 * (built - 1970) + 0.08 * (np.log(lot) - 9.1) + worth[quarter] + 0.00007 * (basement - 900)
    price += 0.05 * (baths - 1) + 0.07 * air + 0.1 * pool + 0.004 * (quality - 6) ** 2 + random.normal(0, 0.11, n)
    return pd.DataFrame(
        {
            "Id": np.arange(1, n + 1),
            "LotFrontage": np.where(random.random_sample(n) < 0.18, np.nan, (lot**0.46).round()),
            "LotArea": lot.round(),
            "Neighborhood": [quarters[i] for i in quarter],
            "HouseStyle": style,
            "OverallQual": quality,
            "OverallCond": condition,
            "YearBuilt": built,
            "TotalBsmtSF": basement.round(),
            "CentralAir": np.where(air, "Y", "N"),
            "GrLivArea": area.round(),
            "FullBath": baths,
            "GarageType": np.where(garage == 0, None, random.choice(["Attchd", "Detchd", "BuiltIn"], n)),
            "GarageCars": garage,
            "PoolQC": np.where(pool, "Gd", None),
            "MoSold": random.randint(1, 13, n),
            "YrSold": random.randint(2006, 2011, n),
            "SalePrice": (np.exp(price) / 100).round() * 100,
        }
    )


def california(seed: int) -> Frame:
    """Districts on a map: skewed numbers, a price that depends on where, and is cut at the top."""
    random, n = np.random.RandomState(seed), 8000
    centres = np.array([[34.05, -118.25], [37.77, -122.42], [32.72, -117.16], [38.58, -121.49], [36.74, -119.79]])
    pull = np.array([0.9, 1.5, 0.8, 0.2, -0.3])
    which = random.choice(5, n, p=[0.4, 0.25, 0.12, 0.13, 0.1])
    place = centres[which] + random.standard_normal((n, 2)) * [0.45, 0.45]
    near = np.exp(-((place[:, None] - centres) ** 2).sum(axis=2) / 0.15)
    coast = np.abs(place[:, 1] + 118.5 + 0.9 * (place[:, 0] - 34.0))
    income = np.exp(random.normal(1.25, 0.45, n))
    age, people = np.clip(random.normal(28, 12, n), 1, 52).round(), np.exp(random.normal(7.0, 0.7, n)).round() + 3
    rooms = np.exp(random.normal(1.6, 0.25, n)) + 0.25 * income + (random.random_sample(n) < 0.01) * 40
    occupancy = np.exp(random.normal(1.05, 0.25, n)) + (random.random_sample(n) < 0.003) * 100
    price = 0.35 + 0.42 * income + near @ pull - 0.35 * np.minimum(coast, 1.5) + 0.006 * age
    price = price - 0.25 * np.log(occupancy) + 0.05 * income * near[:, 1] + random.normal(0, 0.42, n)
    return pd.DataFrame(
        {
            "MedInc": income.round(4),
            "HouseAge": age,
            "AveRooms": rooms.round(4),
            "AveBedrms": (rooms * random.normal(0.2, 0.02, n)).round(4),
            "Population": people,
            "AveOccup": occupancy.round(4),
            "Latitude": place[:, 0].round(2),
            "Longitude": place[:, 1].round(2),
            "MedHouseVal": np.clip(price, 0.15, 5.0).round(3),
        }
    )


def imbalanced(seed: int) -> Frame:
    """Payments, of which three in a hundred are fraud."""
    random, n = np.random.RandomState(seed), 6000
    amount, hour = np.exp(random.normal(3.5, 1.2, n)), random.randint(0, 24, n)
    country = random.choice(["DE", "FR", "US", "NG", "BR", "CN"], n, p=[0.4, 0.2, 0.2, 0.05, 0.08, 0.07])
    device = random.choice(["phone", "laptop", "terminal"], n, p=[0.5, 0.3, 0.2])
    account, tries, distance = random.exponential(900, n), random.poisson(0.3, n), random.exponential(60, n)
    noise = random.standard_normal((n, 4))
    logit = -5.7 + 0.8 * (np.log(amount) - 3.5) + 1.6 * ((hour < 5) & (device != "terminal")) + 1.1 * tries
    logit += (
        1.5 * np.isin(country, ["NG", "BR"]) - 0.0012 * account + 0.012 * distance + 0.9 * noise[:, 0] * noise[:, 1]
    )
    return pd.DataFrame(
        {
            "amount": amount.round(2),
            "hour": hour,
            "country": country,
            "device": device,
            "account_days": account.round(),
            "failed_logins": tries,
            "distance_km": np.where(random.random_sample(n) < 0.07, np.nan, distance.round(1)),
            **{f"v{i}": noise[:, i].round(5) for i in range(4)},
            "fraud": np.where(random.random_sample(n) < 1 / (1 + np.exp(-logit)), "yes", "no"),
        }
    )


TABLES: dict[str, Callable[[int], Frame]] = {
    "titanic": titanic,
    "houses": houses,
    "wine": shipped(datasets.load_wine),
    "breast cancer": shipped(datasets.load_breast_cancer),
    "diabetes": shipped(datasets.load_diabetes),
    "digits": shipped(datasets.load_digits),
    "california": california,
    "imbalanced": imbalanced,
}


# ---- contenders ------------------------------------------------------------------------------------------------------


def of_nnx(file: Path, frame: Frame, label: str, test: np.ndarray, task: str, seed: int) -> tuple[Any, Any]:
    """Train and predict by the command line; return answers, and the classes' probabilities."""
    model, inputs, answers = (file.with_suffix(end) for end in (".safetensors", ".test.csv", ".answers.csv"))
    frame.loc[test].drop(columns=label).to_csv(inputs, index=False)
    chosen = ["--task", task] if task == "regression" else []
    with redirect_stdout(io.StringIO()):
        code = main(["train", str(file), "--label", label, *chosen, "--seed", str(seed), "--save", str(model),
                     "--overwrite", "--quiet"])  # fmt: skip
        asked = [] if task == "regression" else ["--probabilities"]
        code = code or main(["predict", str(model), str(inputs), "--output", str(answers), *asked])
    if code:
        raise SystemExit(f"{file.name}: nnx failed")
    read = pd.read_csv(answers, dtype={"class": str})
    if task == "regression":
        return read["prediction"].to_numpy(), None
    shares = read.drop(columns="class")
    shares.columns = [name[2:-1] for name in shares.columns]
    return read["class"].to_numpy(), shares


def of_sklearn(
    name: str, frame: Frame, label: str, columns: list[str], test: np.ndarray, task: str, seed: int
) -> tuple[Any, Any]:
    """Fit one of scikit-learn's with its defaults on the columns that nnx uses."""
    x = frame[columns].copy()
    named = [column for column in columns if not pd.api.types.is_numeric_dtype(x[column])]
    y = frame[label].astype(str) if task == "classification" else frame[label]
    if name == "MLP":
        learner: Any = MLPClassifier(random_state=seed)
        if task == "regression":  # it scales no target, and without that gets nowhere
            learner = TransformedTargetRegressor(MLPRegressor(random_state=seed), transformer=StandardScaler())
        numbers = make_pipeline(SimpleImputer(strategy="median"), StandardScaler())
        names = OneHotEncoder(handle_unknown="infrequent_if_exist", min_frequency=5)
        for column in named:
            x[column] = x[column].fillna("missing").astype(str)
        parts = ((numbers, [c for c in columns if c not in named]), (names, named))
        model = make_pipeline(make_column_transformer(*parts), learner)
    else:
        kind: Any = HistGradientBoostingRegressor if task == "regression" else HistGradientBoostingClassifier
        x = x.astype(dict.fromkeys(named, "category"))
        model = kind(random_state=seed)
    with warnings.catch_warnings():
        warnings.simplefilter("ignore")  # the MLP has not converged by its 200 epochs
        model.fit(x[~test], y[~test])
    if task == "regression":
        return model.predict(x[test]), None
    return model.predict(x[test]), pd.DataFrame(model.predict_proba(x[test]), columns=model.classes_)


def race(name: str, seeds: list[int], made: int) -> dict[str, dict[str, list[float]]]:
    """Return the scores of each contender for each seed, by metric."""
    frame = TABLES[name](made)
    label = frame.columns[-1]
    scores: dict[str, dict[str, list[float]]] = {contender: {} for contender in CONTENDERS}
    with tempfile.TemporaryDirectory() as folder:
        file = Path(folder) / f"{name}.csv"
        frame.to_csv(file, index=False)
        for seed in seeds:
            reading = Source(str(file), seed, label=label, task="regression" if name == "diabetes" else "auto").read(
                file
            )
            task, test = reading.target.task, held_out(reading.target.y, seed)
            used = [encoder.name for encoder in reading.learn(~test)[0].used if encoder.kind != "text"]
            for contender in CONTENDERS:
                if contender == "nnx":
                    answers, shares = of_nnx(file, frame, label, test, task, seed)
                else:
                    answers, shares = of_sklearn(contender, frame, label, used, test, task, seed)
                wanted = frame.loc[test, label].to_numpy()
                for metric, value in judge(task, name, wanted, answers, shares).items():
                    scores[contender].setdefault(metric, []).append(value)
    return scores


def judge(task: str, name: str, wanted: Any, answers: Any, shares: Any) -> dict[str, float]:
    if task == "regression":
        return {"R2": r2_score(wanted, answers)}
    wanted = wanted.astype(str)
    found = {"accuracy": accuracy_score(wanted, answers)}
    if name == "imbalanced":
        found["balanced accuracy"] = balanced_accuracy_score(wanted, answers)
    return {**found, "log loss": log_loss(wanted, shares.div(shares.sum(axis=1), axis=0), labels=list(shares.columns))}


# ---- the table -------------------------------------------------------------------------------------------------------

HEAD = """\
# Tables: nnx's defaults beside scikit-learn's

`python bench/tables.py` writes this: {seeds} seeds each, mean ± standard deviation on the rows held out. All have their
defaults and learn from the same rows: `nnx train` with `nnx predict`, HistGradientBoosting, and MLP (imputed, scaled,
one-hot, targets scaled). titanic, houses, california and imbalanced are made; `--made N` makes other samples of them.
The defaults were chosen on other samples of these four, on other splits of those that come with scikit-learn, and on
two tables that are not here.

| table | metric | {contenders} | nnx is |
|---|---|{lines}---|
"""


def rows_of(name: str, scores: dict[str, dict[str, list[float]]]) -> list[tuple[str, bool]]:
    """Return lines of the table, and whether nnx is no worse there than the lower of the others."""
    lines = []
    for metric in scores["nnx"]:
        means = {c: float(np.mean(scores[c][metric])) for c in CONTENDERS}
        sign = -1 if metric == "log loss" else 1
        rank = sum(sign * means[c] > sign * means["nnx"] + 1e-12 for c in CONTENDERS)
        cells = " | ".join(f"{means[c]:.4f} ± {np.std(scores[c][metric]):.4f}" for c in CONTENDERS)
        place = ("best", "between", "last")[rank]
        lines.append((f"| {name} | {metric} | {cells} | {place} |", rank < 2))
    return lines


def run() -> None:
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("--seeds", default="0,1,2,3,4", help="of the rows held out and of all that is random")
    parser.add_argument("--only", default=",".join(TABLES), help="names of tables, with commas between")
    parser.add_argument("--made", type=int, default=0, help="seed of the tables that are made")
    parser.add_argument("--write", type=Path, help="write the table here; all of it goes to bench/results/tables.md")
    options = parser.parse_args()
    seeds, names = [int(seed) for seed in options.seeds.split(",")], options.only.split(",")
    head = HEAD.format(seeds=len(seeds), contenders=" | ".join(CONTENDERS), lines="---|" * len(CONTENDERS))
    text, good = head, 0
    print(head, end="")
    for name in names:
        scores = race(name, seeds, options.made)
        rows = rows_of(name, scores)
        good += rows[0][1]
        for line, _ in rows:
            print(line, flush=True)
            text += f"{line}\n"
    last = f"\nBy its first metric nnx is no worse than the lower of the others on {good} tables of {len(names)}.\n"
    print(last)
    written = options.write or (WRITTEN if names == list(TABLES) and options.made == 0 and len(seeds) == 5 else None)
    if written is not None:
        written.write_text(text + last, encoding="utf-8")


if __name__ == "__main__":
    run()

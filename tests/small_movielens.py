"""A made-up MovieLens folder and a configuration for it, small enough for tests."""

from pathlib import Path

import numpy as np
import yaml

from tests.datasets.movielens_files import Movie, Rating, User, write_100k

_GENRES = ("Comedy", "Drama", "Comedy|Drama", "War", "Comedy|War")


def write_folder(folder: Path) -> Path:
    """Writes 30 users' ratings of 60 movies, in sessions of twelve."""
    rng = np.random.default_rng(0)
    movies = [
        Movie(m, _GENRES[m % len(_GENRES)], 1950 + m % 50, f"Film {m}")
        for m in range(1, 61)
    ]
    users = [User(u, 20 + u) for u in range(1, 31)]
    ratings = [
        Rating(user.id, int(movie), int(rng.integers(1, 6)), session * 100_000 + 60 * n)
        for user in users
        for session, chosen in enumerate(rng.permutation(60)[:36].reshape(3, 12) + 1)
        for n, movie in enumerate(chosen)
    ]
    return write_100k(folder, users, movies, ratings)


def write_config(path: Path, movielens: Path, **sections: object) -> Path:
    """Writes a two-tower configuration with a cross tower, whole sections replaced."""
    config: dict[str, object] = {
        "data": {"source": "movielens", "path": str(movielens)},
        "schema": {
            "features": [
                {"kind": "categorical", "name": "user_id", "owner": "query"},
                {"kind": "text", "name": "query", "owner": "query"},
                {"kind": "sequence", "name": "history", "shares": "movie_id"},
                {"kind": "categorical", "name": "movie_id", "owner": "doc"},
                {
                    "kind": "numeric",
                    "name": "popularity",
                    "owner": "doc",
                    "standardize": True,
                    "point_in_time": True,
                },
                {"kind": "numeric", "name": "co_likes", "owner": "cross"},
            ],
            "tasks": [{"name": "click"}, {"name": "like"}],
        },
        "model": {
            "query_tower": {"units": [8], "output": 8},
            "doc_tower": {"units": [8], "output": 8},
            "cross_tower": {"units": [4]},
        },
        "training": {"epochs": 1, "batch_size": 16, "metrics": ["ndcg@5"]},
        "evaluation": {
            "metrics": ["ndcg@5", "gauc"],
            "baselines": {"popularity": "popularity"},
            "samples": 50,
        },
        "export": {"k": 5, "warmup_lengths": [4]},
    }
    path.write_text(yaml.safe_dump(config | sections), encoding="utf-8")
    return path

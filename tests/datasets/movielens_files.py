"""Writes tiny MovieLens folders in each public format, from made-up rows."""

from collections.abc import Sequence
from pathlib import Path
from typing import NamedTuple

GENRES = [
    "unknown",
    *("Action", "Adventure", "Animation", "Children's", "Comedy", "Crime"),
    *("Documentary", "Drama", "Fantasy", "Film-Noir", "Horror", "Musical"),
    *("Mystery", "Romance", "Sci-Fi", "Thriller", "War", "Western"),
]


class Movie(NamedTuple):
    id: int
    genres: str = "Comedy"  # separated by |
    year: int | None = 1995
    name: str = ""

    @property
    def title(self) -> str:
        name = self.name or f"Film {self.id}"
        return name if self.year is None else f"{name} ({self.year})"


class User(NamedTuple):
    id: int
    age: int = 25
    gender: str = "F"
    occupation: str = "writer"


class Rating(NamedTuple):
    user: int
    movie: int
    stars: int
    time: int


def write_100k(
    folder: Path,
    users: Sequence[User],
    movies: Sequence[Movie],
    ratings: Sequence[Rating],
    *,
    encoding: str = "latin-1",
) -> Path:
    folder.mkdir(parents=True, exist_ok=True)
    items = []
    for movie in movies:
        own = movie.genres.split("|")
        flags = "|".join("1" if genre in own else "0" for genre in GENRES)
        items.append(f"{movie.id}|{movie.title}|01-Jan-1995||http://x|{flags}\n")
    people = [f"{u.id}|{u.age}|{u.gender}|{u.occupation}|00000\n" for u in users]
    rows = ["\t".join(map(str, rating)) + "\n" for rating in ratings]
    (folder / "u.item").write_text("".join(items), encoding)
    (folder / "u.user").write_text("".join(people), encoding)
    (folder / "u.data").write_text("".join(rows), encoding)
    return folder


def write_1m(
    folder: Path,
    users: Sequence[User],
    movies: Sequence[Movie],
    ratings: Sequence[Rating],
    *,
    encoding: str = "latin-1",
) -> Path:
    folder.mkdir(parents=True, exist_ok=True)
    items = [f"{m.id}::{m.title}::{m.genres}\n" for m in movies]
    people = [f"{u.id}::{u.gender}::{u.age}::{u.occupation}::00000\n" for u in users]
    rows = ["::".join(map(str, rating)) + "\n" for rating in ratings]
    (folder / "movies.dat").write_text("".join(items), encoding)
    (folder / "users.dat").write_text("".join(people), encoding)
    (folder / "ratings.dat").write_text("".join(rows), encoding)
    return folder


def write_recbole(
    folder: Path,
    users: Sequence[User],
    movies: Sequence[Movie],
    ratings: Sequence[Rating],
) -> Path:
    folder.mkdir(parents=True, exist_ok=True)
    items = [
        "item_id:token\tmovie_title:token_seq\trelease_year:token\tclass:token_seq"
    ]
    for m in movies:
        name = m.name or f"Film {m.id}"
        items.append(f"{m.id}\t{name}\t{m.year or ''}\t{m.genres.replace('|', ' ')}")
    people = [
        "user_id:token\tage:token\tgender:token\toccupation:token\tzip_code:token"
    ]
    people += ["\t".join(map(str, user)) + "\t00000" for user in users]
    rows = ["user_id:token\titem_id:token\trating:float\ttimestamp:float"]
    rows += ["\t".join(map(str, rating)) for rating in ratings]
    (folder / "ml-100k.item").write_text("\n".join(items) + "\n")
    (folder / "ml-100k.user").write_text("\n".join(people) + "\n")
    (folder / "ml-100k.inter").write_text("\n".join(rows) + "\n")
    return folder

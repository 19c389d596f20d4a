"""config.json of a Hugging Face folder to `Arch` and back, by the `CONFIG` tables of the families."""

from __future__ import annotations

import json
import pathlib
import re
from collections.abc import Mapping, Sequence
from dataclasses import fields, replace
from typing import Any

from research.models import FAMILIES
from research.models.arch import Arch, validate, with_head
from research.models.config_keys import REQUIRED, Key
from research.types import UserError, did_you_mean

NAME = "config.json"
GENERATION = "generation_config.json"
LARGEST = 2**31 - 1  # of any size: ids and shapes are counted in 32 bits
KINDS = {field.name: type(field.default) for field in fields(Arch)}
HEADS = {"tied", "head_transform", "head_bias", "pooler"}  # told by the tensors
RATES = {"dropout", "attention_dropout", "activation_dropout"}  # T5 has one for all; the function is the same
UNSAID = HEADS | RATES | {"init"}
PROBLEMS = {
    "single_label_classification": "single_label",
    "multi_label_classification": "multi_label",
    "regression": "regression",
}
MOST_LABELS = 2**20


def read(folder: pathlib.Path, name: str = NAME) -> dict[str, Any]:
    """Return the config.json of `folder`, or another file that holds a JSON object.

    Raises:
        UserError: There is none, or it is not a JSON object; get the whole folder, or mend the file.
    """
    path = folder / name
    try:
        config = json.loads(path.read_text(encoding="utf-8"))
    except FileNotFoundError:
        raise UserError(f"{path} is missing: give a folder as save_pretrained of transformers writes it") from None
    except OSError as error:
        raise UserError(f"{path} cannot be read ({error.strerror}): check the path and its permissions") from None
    except (ValueError, RecursionError) as error:
        raise UserError(f"{path} is not JSON ({error}): mend it or fetch it anew") from None
    if not isinstance(config, dict):
        raise UserError(f"{path} holds {_shown(config)}, not a JSON object: mend it or fetch it anew")
    return config


def to_arch(config: Mapping[str, Any], where: str = NAME) -> Arch:
    """Return what `config` describes, with its LM head; nothing is allocated, and no code that it names is run.

    Which heads a file holds and whether its output projection is tied, only its tensors say; see `as_named` for heads
    for labels.

    Args:
        config: As `read` returns it.
        where: What error messages call it.

    Raises:
        UserError: An unsupported model_type, a missing key, a value of the wrong type, or one that we have no
            equal of; the message names the key, its value and what it may be.
    """
    kind = config.get("model_type")
    if not isinstance(kind, str) or kind not in FAMILIES:
        known = ", ".join(FAMILIES)
        said = "has no model_type" if kind is None else f"model_type {_shown(kind)} is not supported"
        near = did_you_mean(kind, FAMILIES) if isinstance(kind, str) else ""
        raise UserError(f"{where}: {said}{near or ': it must be one of the supported ones'} (supported: {known})")
    family = FAMILIES[kind]
    for name, value in family.FIXED.items():
        if config.get(name) not in (None, value):
            said = f"{where}: {name} is {_shown(config[name])}"
            raise UserError(f"{said}, but only {_shown(value)} is supported: such a model cannot be loaded")
    like = next(iter(family.PRESETS.values()))  # what CONFIG leaves out is the same for the whole family
    found: dict[str, Any] = {}
    for key in family.CONFIG:
        found |= _fields(key, config, found, where)
    if found.get("decoder_layers") == found["layers"]:
        found["decoder_layers"] = 0
    if found["vocab_size"] < 1:  # which means, to `validate`, that the tokenizer will tell
        raise UserError(f"{where}: vocab_size is {found['vocab_size']}: it must be at least 1")
    try:
        return validate(replace(like, **found))
    except UserError as error:
        names = {field: key.names[0] for key in family.CONFIG for field in key.fields}
        said = re.sub(r"arch\.(\w+)", lambda match: names.get(match[1], match[0]), str(error))
        raise UserError(f"{where}: {said}") from None


def as_named(config: Mapping[str, Any], where: str = NAME) -> Arch:
    """Return what `config` describes, with the head for labels of the class that it names, if that has one.

    Raises:
        UserError: As `to_arch`, or labels that are not numbered from 0.
    """
    arch = to_arch(config, where)
    classes, named = FAMILIES[arch.family].CLASSES, config.get("architectures")
    for head in ("sequence", "tokens"):
        if isinstance(named, list) and classes.get(head) in named:
            return with_head(arch, head, len(_names(config, where)))
    return arch


def labels(folder: pathlib.Path) -> tuple[tuple[str, ...], str]:
    """Return (names of the labels in the order of their ids, problem) of a folder's model; () and "" where it has none.

    The problem is single_label, multi_label or regression, as research.objectives.classification has it; where the file
    says none it is what `transformers` would take it for. Numbers have no names; tags are single labels of tokens.

    Raises:
        UserError: As `as_named`, or a problem_type that there is not.
    """
    config, where = read(folder), str(folder / NAME)
    arch = as_named(config, where)
    if arch.head == "vocabulary":
        return (), ""
    said = config.get("problem_type") if arch.head == "sequence" else "single_label_classification"
    if said is None:
        said = "regression" if arch.labels == 1 else "single_label_classification"
    if not isinstance(said, str) or said not in PROBLEMS:
        raise UserError(f"{where}: problem_type is {_shown(said)}, but only {', '.join(PROBLEMS)} are supported")
    return () if said == "regression" else _names(config, where), PROBLEMS[said]


def _names(config: Mapping[str, Any], where: str) -> tuple[str, ...]:
    """Return the names of the labels of `config`, in the order of their ids."""
    found = config.get("id2label")
    if found is None:
        count = config.get("num_labels", 2)  # the default of transformers, which old files leave out
        if type(count) is not int or not 0 < count <= MOST_LABELS:
            said = f"{where}: num_labels is {_shown(count)}"
            raise UserError(f"{said}: it must be a whole number of at least 1 and at most {MOST_LABELS}")
        return _numbered(count)
    ids = [str(id_) for id_ in range(len(found))] if isinstance(found, dict) else []
    if not ids or found.keys() != set(ids) or not all(isinstance(name, str | int) for name in found.values()):
        raise UserError(f"{where}: id2label is {_shown(found)}: it must name the labels 0, 1, 2, ...")
    return tuple(str(found[id_]) for id_ in ids)


def _numbered(count: int) -> tuple[str, ...]:
    """Return the names that `transformers` gives to `count` labels without any."""
    return tuple(f"LABEL_{id_}" for id_ in range(count))


def to_config(
    arch: Arch,
    *,
    pad: int | None,
    bos: int | None,
    eos: int | None,
    decoder_start: int | None = None,
    dtype: str = "float32",
    labels: Sequence[str] = (),
    problem: str = "",
) -> dict[str, Any]:
    """Return the config.json with which `transformers` builds the same model; `as_named` undoes it.

    Only dropout rates may be lost: where the family has fewer of them (T5 has one), those of its own count.

    Args:
        arch: With its vocab_size; where it has no head, the class named is the one without.
        pad, bos, eos: The tokenizer's ids, None where it has none.
        decoder_start: The id that an encoder-decoder's targets are shifted right with.
        dtype: Of the tensors in the file.
        labels: Names of the labels in the order of their ids; empty: LABEL_0, LABEL_1, ... as `transformers` has it.
        problem: single_label, multi_label or regression; empty: a regression where there is one label. Of a whole
            sequence only.

    Raises:
        UserError: An id outside the vocabulary, not one name for each label, or a field for which the family's
            config.json has no words.
    """
    family = FAMILIES[arch.family]
    if not arch.vocab_size:
        raise UserError("arch.vocab_size is 0: set it to the number of ids of the tokenizer")
    ids = {"pad_token_id": pad, "bos_token_id": bos, "eos_token_id": eos}
    if arch.structure == "encoder-decoder":
        ids["decoder_start_token_id"] = decoder_start
    for name, number in ids.items():
        if number is not None and not 0 <= number < arch.vocab_size:
            raise UserError(f"{name} {number} is not below arch.vocab_size {arch.vocab_size}: use its own tokenizer")
    like = next(iter(family.PRESETS.values()))
    headless = (like.head_transform or like.head_bias) and not (arch.head_transform or arch.head_bias)
    head = "none" if headless and arch.head == "vocabulary" else arch.head
    config = {"architectures": [family.CLASSES[head]], "model_type": arch.family}
    for key in family.CONFIG:
        config |= dict.fromkeys(key.names, _theirs(key, _explicit(arch)))
    config |= family.FIXED | {name: number for name, number in ids.items() if number is not None} | {"dtype": dtype}
    if arch.structure == "encoder-decoder":
        config["forced_eos_token_id"] = None  # BART's default is 2, whatever the vocabulary
    if arch.head != "vocabulary":
        config |= labelled(arch, labels, problem)
    _check_same(_explicit(arch), _explicit(as_named(config)))
    return config


def labelled(arch: Arch, labels: Sequence[str], problem: str) -> dict[str, Any]:
    """Return what config.json says of a head for labels: their names, and the rate of dropout before it.

    Raises:
        UserError: There is not one name for each label.
    """
    names = tuple(labels) or _numbered(arch.labels)
    if not arch.labels or len(names) != arch.labels or len(set(names)) < len(names):
        raise UserError(f"{len(set(names))} different label names, but arch.labels is {arch.labels}: name each of them")
    ids = {name: id_ for id_, name in enumerate(names)}
    config = {"id2label": {str(id_): name for name, id_ in ids.items()}, "label2id": ids}
    config["classifier_dropout"] = arch.dropout
    if arch.head == "sequence":
        problem = problem or ("regression" if arch.labels == 1 else "single_label")
        config["problem_type"] = next(word for word, meaning in PROBLEMS.items() if meaning == problem)
    return config


def _fields(key: Key, config: Mapping[str, Any], found: Mapping[str, Any], where: str) -> dict[str, Any]:
    """Return the fields of ours that `key` sets, given those `found` so far."""
    first, *others = key.names
    value = _value(key, first, config, where)
    for name in others:
        if (other := _value(key, name, config, where)) != value:
            raise UserError(
                f"{where}: {first} is {_shown(value)} but {name} is {_shown(other)}: only equal ones are supported"
            )
    if key.words:
        value = key.words[value]
        return dict(zip(key.fields, value, strict=True)) if isinstance(value, tuple) else {key.fields[0]: value}
    if key.plus:
        value -= found[key.plus] if isinstance(key.plus, str) else key.plus
    return dict.fromkeys(key.fields, value)


def _value(key: Key, name: str, config: Mapping[str, Any], where: str) -> Any:
    """Return the value of `name`, or what its absence means, if it is of the type that our field has."""
    value = config.get(name)
    if value is None:
        if key.absent is REQUIRED:
            raise UserError(f"{where}: {name} is missing: add it, or fetch the file anew")
        value = key.absent(config) if callable(key.absent) else key.absent
    if key.words:
        if not isinstance(value, str) or value not in key.words:
            raise UserError(f"{where}: {name} is {_shown(value)}, but only {', '.join(key.words)} are supported")
        return value
    kind = KINDS[key.fields[0]]
    if kind is bool and not isinstance(value, bool):
        raise UserError(f"{where}: {name} is {_shown(value)}: it must be true or false")
    if kind is int and (type(value) is not int or abs(value) > LARGEST):
        raise UserError(f"{where}: {name} is {_shown(value)}: it must be a whole number of at most {LARGEST}")
    if kind is float and (type(value) not in (int, float) or not abs(value) <= LARGEST):
        raise UserError(f"{where}: {name} is {_shown(value)}: it must be a number")
    return kind(value)


def _theirs(key: Key, arch: Arch) -> Any:
    """Return the value that `key` has for `arch`."""
    values = tuple(getattr(arch, field) for field in key.fields)
    if key.words:
        ours = values if len(values) > 1 else values[0]
        return next((word for word, meaning in key.words.items() if meaning == ours), None)
    return values[0] + (getattr(arch, key.plus) if isinstance(key.plus, str) else key.plus) if key.plus else values[0]


def _explicit(arch: Arch) -> Arch:
    """Return `arch` with the sizes written out that 0 stands for, and without those that it has no use for."""
    unused = {"max_length": 512} if arch.positions == "relative" else {"relative_buckets": 32, "relative_distance": 128}
    depth = arch.depth if arch.structure == "encoder-decoder" else 0
    return replace(arch, decoder_layers=depth, head_width=arch.attention_width // arch.heads, **unused)


def _check_same(arch: Arch, back: Arch) -> None:
    """Refuse an architecture that its config.json, read `back`, does not describe."""
    if back.position_offset != arch.position_offset:  # RoBERTa counts positions from the padding id
        raise UserError(
            f"arch.position_offset is {arch.position_offset}, but with this padding id {arch.family} has "
            f"{back.position_offset}: renumber the table with research.interop.export.as_published first"
        )
    for name in [field.name for field in fields(Arch) if field.name not in UNSAID]:
        ours, theirs = getattr(arch, name), getattr(back, name)
        if ours != theirs:
            said = f"arch.{name} is {ours}, but this {arch.family}'s config.json says {theirs}"
            raise UserError(f"{said}: such a model cannot be exchanged")


def _shown(value: Any) -> str:
    """Return a value as JSON, cut to a readable length."""
    text = json.dumps(value)
    return text if len(text) <= 60 else f"{text[:57]}..."


def ends(folder: pathlib.Path, size: int) -> tuple[int | None, tuple[int, ...]]:
    """Return (the id that the decoder of an encoder-decoder begins with, the ids that end a text) of a folder.

    generation_config.json says so where there is one, as to `transformers`; else config.json does.

    Raises:
        UserError: A file is not JSON, or an id is not one of the `size` that the embedding has.
    """
    known = read(folder)
    if (folder / GENERATION).exists():
        known = known | {name: id_ for name, id_ in read(folder, GENERATION).items() if id_ is not None}
    start, stop = known.get("decoder_start_token_id"), known.get("eos_token_id")
    stop = tuple(stop) if isinstance(stop, list) else () if stop is None else (stop,)
    for name, id_ in [("decoder_start_token_id", start), *(("eos_token_id", each) for each in stop)]:
        if id_ is not None and (not isinstance(id_, int) or not 0 <= id_ < size):
            raise UserError(f"{folder}: {name} is {_shown(id_)}: it must be the id of a token, below {size}")
    return start, stop

"""Tokenizers: load a published one, or train one; and the little of it that objectives need to know."""

from __future__ import annotations

import json
import os
import pathlib
import re
import unicodedata
from collections import Counter
from collections.abc import Iterable
from dataclasses import dataclass
from typing import TYPE_CHECKING, Literal

import numpy as np

from research.data import hub
from research.types import UserError, Vocabulary

if TYPE_CHECKING:
    import tokenizers
    from transformers import PreTrainedTokenizerFast

Kind = Literal["wordpiece", "bpe", "unigram", "character", "word"]
Template = Literal["kind", "cls", "eos", "none"]

BERT_NAMES = {"pad": "[PAD]", "unk": "[UNK]", "bos": "[CLS]", "eos": "[SEP]", "mask": "[MASK]"}
NAMES = {"pad": "<pad>", "unk": "<unk>", "bos": "<s>", "eos": "</s>", "mask": "<mask>"}
MODES = ("[NLU]", "[S2S]", "[NLG]")  # UL2's R, S and X (Tay et al., 2022, section 3.1)
TEMPLATES = {"wordpiece": "cls", "unigram": "eos"}  # BERT's and T5's; GPT-2's byte-level BPE adds nothing
ENOUGH_SENTINELS = 20  # below this, none are taken away from span corruption to serve as mode tokens
SENTENCE_END = re.compile(r"[.!?…。！？]+[\"'”’)\]]*")


@dataclass(frozen=True)
class Tokenizer:
    """A published tokenizer to load, or one to train on the cleaned training text."""

    path: str = ""
    """Folder or hub id of a tokenizer to load; empty: train one as the other fields say."""
    kind: Kind = "bpe"
    """BERT's WordPiece, GPT-2's byte-level BPE, T5's Unigram, single characters, or whitespace-separated words."""
    size: int = 8192
    """Vocabulary size in all, special tokens and sentinels included; less where the text has fewer pieces."""
    lowercase: bool = False
    """Lower-case the text first (and strip accents, for wordpiece), as uncased BERT."""
    template: Template = "kind"
    """Special tokens around a text: [CLS] .. [SEP], an eos after it, none; `kind`: as wordpiece (cls), unigram (eos)
    and the others (none) are published."""
    sentinels: int = 100
    """How many of T5's <extra_id_0>, ... to add; each costs an embedding row (of 105 beside 65 characters)."""
    min_frequency: int = 2
    """Occurrences from which a piece enters the vocabulary (wordpiece, bpe, word; a character enters at once)."""
    sample: int = 100_000_000
    """Characters of training text that the training reads: the first of each source, shared by mixture weight."""


def promised(config: Tokenizer) -> Vocabulary:
    """Return what is known of the tokenizer that `train` will return, before any text is read: its special tokens.

    Beside them it has one ordinary token; ids are not those that the tokenizer will give.
    """
    taken = len(MODES) if config.sentinels >= ENOUGH_SENTINELS else 0
    size = len(NAMES) + config.sentinels + 1
    sentinels, ordinary = np.arange(len(NAMES), size - 1, dtype=np.int32)[::-1], np.arange(size) == size - 1
    return Vocabulary(
        size=size,
        pad=0,
        eos=1,
        mask=2,
        sentinels=sentinels[: config.sentinels - taken],
        modes=sentinels[config.sentinels - taken :],
        special=~ordinary,
        continues=np.zeros(size, bool),
        ends_sentence=ordinary,
    )


def train(config: Tokenizer, documents: Iterable[str]) -> PreTrainedTokenizerFast:
    """Return a tokenizer trained on `documents`, with the special tokens of every objective.

    Ids run: pad, unk, bos, eos, mask (unigram: pad, eos, unk, as T5), the learned pieces, then the sentinels downward
    so that <extra_id_0> is the last id, as in T5 (Raffel et al., 2020, section 3.1.4).

    Raises:
        UserError: `size` leaves no room for pieces beside the special tokens: raise it, or lower `sentinels`; or
            there is no text.
    """
    from tokenizers import AddedToken

    if config.size < config.sentinels + len(NAMES) + 1:
        raise UserError(
            f"a tokenizer of size {config.size} has no room for text beside {len(NAMES)} special tokens and "
            f"{config.sentinels} sentinels: raise --data.tokenizer.size or lower --data.tokenizer.sentinels"
        )
    names = BERT_NAMES if config.kind == "wordpiece" else NAMES
    sentinels = [f"<extra_id_{i}>" for i in range(config.sentinels)]
    spelled = re.compile("|".join(map(re.escape, [*names.values(), "<extra_id_"])))  # as WikiText spells <unk>
    text = [spelled.sub(" ", document) for document in documents]
    if not any(text):
        raise UserError("no text to train a tokenizer on: the training split is empty after cleaning")
    order = ("pad", "eos", "unk", "bos", "mask") if config.kind == "unigram" else ("pad", "unk", "bos", "eos", "mask")
    room = config.size - config.sentinels
    backend = _trained(config, [names[name] for name in order], names["unk"], room, text)
    backend.add_special_tokens([AddedToken(name, normalized=False, special=True) for name in reversed(sentinels)])
    _add_template(backend, config, names)
    return _wrap(backend, names, sentinels)


def _trained(config: Tokenizer, special: list[str], unk: str, size: int, text: list[str]) -> tokenizers.Tokenizer:
    """Return the trained tokenizer of a kind, of at most `size` ids, of which `special` are the first."""
    from tokenizers import Regex, decoders, models, normalizers, pre_tokenizers, trainers
    from tokenizers import Tokenizer as Backend

    options = {"vocab_size": size, "special_tokens": special, "show_progress": False}
    frequency = {"min_frequency": config.min_frequency}
    normalizer = normalizers.Lowercase() if config.lowercase else None
    match config.kind:
        case "wordpiece":
            return _wordpiece(config, special, unk, size, text)
        case "bpe":
            model, trainer = models.BPE(), trainers.BpeTrainer
            options |= frequency | {"initial_alphabet": pre_tokenizers.ByteLevel.alphabet()}
            split, decoder = pre_tokenizers.ByteLevel(add_prefix_space=False), decoders.ByteLevel()
        case "unigram":
            # Repeatable only up to the fourth digit of its scores: the trainer sums over words in no fixed order.
            model, trainer = models.Unigram(), trainers.UnigramTrainer
            options |= {"unk_token": unk}
            normalizer = normalizers.Sequence([normalizers.NFKC()] + ([normalizer] if normalizer else []))
            split = pre_tokenizers.Sequence([pre_tokenizers.WhitespaceSplit(), pre_tokenizers.Metaspace()])
            decoder = decoders.Metaspace()
        case "character":
            model, trainer = models.WordLevel(unk_token=unk), trainers.WordLevelTrainer
            split, decoder = pre_tokenizers.Split(Regex(r"[\s\S]"), "isolated"), decoders.Fuse()
        case "word":
            model, trainer = models.WordLevel(unk_token=unk), trainers.WordLevelTrainer
            options |= frequency
            split, decoder = pre_tokenizers.WhitespaceSplit(), None
    backend = Backend(model)
    backend.normalizer, backend.pre_tokenizer = normalizer, split
    if decoder is not None:
        backend.decoder = decoder
    backend.train_from_iterator(text, trainer(**options))
    return backend


def _wordpiece(config: Tokenizer, special: list[str], unk: str, size: int, text: list[str]) -> tokenizers.Tokenizer:
    """Return BERT's tokenizer with pieces learned from `text`, the same pieces every time.

    The library numbers ##-letters in the order of a randomly seeded hash map, and breaks ties between merges by those
    numbers. Listing them all as special tokens fixes their numbers; a second tokenizer then takes over the pieces.
    """
    from tokenizers import Tokenizer as Backend
    from tokenizers import decoders, models, normalizers, pre_tokenizers, trainers

    backend = Backend(models.WordPiece(unk_token=unk))
    backend.normalizer = normalizers.BertNormalizer(lowercase=config.lowercase)
    backend.pre_tokenizer, backend.decoder = pre_tokenizers.BertPreTokenizer(), decoders.WordPiece()
    counts: Counter[str] = Counter()
    for document in text:
        counts.update(document)
    normal: Counter[str] = Counter()
    for character, count in counts.items():
        normal.update(dict.fromkeys(backend.normalizer.normalize_str(character).replace(" ", ""), count))
    common = sorted(normal, key=lambda c: (-normal[c], c))[: min(1000, size // 8)]  # as BERT; the rest are unknown
    inside = [f"##{c}" for c in sorted(common) if unicodedata.category(c)[0] in "LNM" and not _is_ideograph(c)]
    trainer = trainers.WordPieceTrainer(
        vocab_size=size,
        min_frequency=config.min_frequency,
        special_tokens=special + inside,
        initial_alphabet=common,
        limit_alphabet=len(common),
        show_progress=False,
    )
    backend.train_from_iterator(text, trainer)
    final = Backend(models.WordPiece(vocab=backend.get_vocab(), unk_token=unk))
    final.normalizer, final.pre_tokenizer, final.decoder = backend.normalizer, backend.pre_tokenizer, backend.decoder
    final.add_special_tokens(special)
    return final


def _add_template(backend: tokenizers.Tokenizer, config: Tokenizer, names: dict[str, str]) -> None:
    from tokenizers import processors

    template = TEMPLATES.get(config.kind, "none") if config.template == "kind" else config.template
    if template == "none":
        return
    bos, eos = names["bos"], names["eos"]
    single, pair = {
        "cls": (f"{bos} $A {eos}", f"{bos} $A {eos} $B:1 {eos}:1"),
        "eos": (f"$A {eos}", f"$A {eos} $B {eos}"),
    }[template]
    ids = [(name, backend.token_to_id(name)) for name in (bos, eos)]
    backend.post_processor = processors.TemplateProcessing(single=single, pair=pair, special_tokens=ids)


def _wrap(backend: tokenizers.Tokenizer, names: dict[str, str], sentinels: list[str]) -> PreTrainedTokenizerFast:
    from transformers import PreTrainedTokenizerFast

    return PreTrainedTokenizerFast(
        tokenizer_object=backend,
        pad_token=names["pad"],
        unk_token=names["unk"],
        bos_token=names["bos"],
        eos_token=names["eos"],
        cls_token=names["bos"],
        sep_token=names["eos"],
        mask_token=names["mask"],
        extra_special_tokens=sentinels,
        clean_up_tokenization_spaces=False,  # its default would delete the space of " ." when decoding
    )


def save(tokenizer: PreTrainedTokenizerFast, folder: str | os.PathLike) -> None:
    """Write `tokenizer` as a folder that `AutoTokenizer.from_pretrained` loads."""
    folder = pathlib.Path(folder)
    tokenizer.save_pretrained(folder)
    path = folder / "tokenizer_config.json"
    config = json.loads(path.read_text(encoding="utf-8"))
    if config.get("tokenizer_class") == "TokenizersBackend":  # transformers 5's name, which transformers 4 cannot load
        config["tokenizer_class"] = "PreTrainedTokenizerFast"
        path.write_text(json.dumps(config, indent=2, ensure_ascii=False) + "\n", encoding="utf-8")


def load(path: str) -> PreTrainedTokenizerFast:
    """Return the tokenizer of a folder, or of a hub id, whose cached copy comes first; code from the hub never runs.

    Raises:
        UserError: no such folder; not a tokenizer; a hub id that cannot be fetched (use a local folder); or a
            tokenizer without the fast form that offsets need.
    """
    from transformers import AutoTokenizer

    def attempt(**options: bool) -> PreTrainedTokenizerFast | str:
        try:
            return AutoTokenizer.from_pretrained(path, trust_remote_code=False, **options)
        except Exception as error:  # transformers and the hub client raise many kinds; each is the user's path to mend
            return str(error).strip().partition("\n")[0]

    local = os.path.isdir(path)
    if not local and not re.fullmatch(r"[\w-][\w.-]*(/[\w-][\w.-]*)?", path):
        raise UserError(f"no tokenizer folder at {path!r}: give an existing folder, or a hub id such as 'gpt2'")
    found = attempt(local_files_only=True)
    if isinstance(found, str) and not local:
        found = attempt() if _hub_answers() else "the hub cannot be reached"  # its client would try for a minute
    if isinstance(found, str) and local:
        raise UserError(f"no tokenizer that AutoTokenizer can load in the folder {path!r}: {found}")
    if isinstance(found, str):
        raise UserError(
            f"no folder {path!r}, and no tokenizer of that hub id: {found}; give --data.tokenizer.path a local folder "
            "with tokenizer.json and tokenizer_config.json, or check the id and the network"
        )
    if not found.is_fast:
        raise UserError(f"the tokenizer {path!r} has no fast form (tokenizer.json): convert it first")
    return found


def _hub_answers() -> bool:
    """Return whether the hub may be asked and can be reached."""
    from huggingface_hub import constants

    return not constants.HF_HUB_OFFLINE and hub.answers(constants.ENDPOINT)


def fingerprint(tokenizer: PreTrainedTokenizerFast) -> str:
    """Return a hash of everything that decides which ids a text gets: 32 hexadecimal digits."""
    import xxhash

    special = json.dumps(tokenizer.special_tokens_map, sort_keys=True, default=str)
    return xxhash.xxh3_128_hexdigest((tokenizer.backend_tokenizer.to_str() + special).encode())


def vocabulary(tokenizer: PreTrainedTokenizerFast) -> Vocabulary:
    """Return what objectives know of `tokenizer`; V = its highest id + 1 (holes between ids are special).

    The unknown token is ordinary, as in BERT's code and in WikiText's published perplexities: it stands for a word of
    the text, so it is masked and scored like one (unless it is also the eos, as in GPT-2).

    `continues` is a table over ids, so it judges a token by itself. WordPiece: it has the ## prefix. Byte-level BPE
    and SentencePiece: it has no leading space and begins with a letter, digit or mark; punctuation, newlines and CJK
    characters begin words, as BERT's basic tokenizer splits them. The limit: a word after a newline or an opening
    bracket is taken as that token's continuation. Tokenizers of whole words, and BPE that marks the ends of words,
    continue nothing.
    """
    ids = {id_: token for token, id_ in tokenizer.get_vocab().items()}
    size = max(len(tokenizer), max(ids) + 1)
    added = {id_ for id_, token in tokenizer.added_tokens_decoder.items() if token.special}
    unk = tokenizer.unk_token_id
    eos = tokenizer.eos_token_id if tokenizer.eos_token_id is not None else tokenizer.sep_token_id
    named = {tokenizer.pad_token_id, tokenizer.mask_token_id, tokenizer.bos_token_id, tokenizer.cls_token_id, eos}

    special = np.ones(size, bool)  # holes stay so
    special[list(ids)] = False
    special[[i for i in added | set(tokenizer.all_special_ids) if i != unk]] = True
    special[[i for i in named if i is not None]] = True

    found = {token: id_ for id_, token in ids.items()}
    sentinels = [found[f"<extra_id_{i}>"] for i in range(len(ids)) if f"<extra_id_{i}>" in found]
    modes = [found[name] for name in MODES if name in found]
    if len(modes) < len(MODES):
        taken = len(MODES) if len(sentinels) >= ENOUGH_SENTINELS else 0
        modes, sentinels = sentinels[len(sentinels) - taken :], sentinels[: len(sentinels) - taken]
    special[sentinels + modes] = True

    continues, ends = np.zeros(size, bool), np.zeros(size, bool)
    style = _style(tokenizer)
    for id_, token in ids.items():
        if not special[id_] and id_ != unk:
            text = _surface(token, style)
            continues[id_] = text not in ("", token) if style == "wordpiece" else _goes_on(text, style)
            ends[id_] = SENTENCE_END.fullmatch(text.strip()) is not None
    return Vocabulary(
        size=size,
        pad=tokenizer.pad_token_id,
        eos=eos,
        mask=tokenizer.mask_token_id,
        sentinels=np.asarray(sentinels, np.int32),
        modes=np.asarray(modes, np.int32),
        special=special,
        continues=continues,
        ends_sentence=ends,
    )


def _style(tokenizer: PreTrainedTokenizerFast) -> str:
    """Return how the tokens of a tokenizer spell words: wordpiece, bytes, metaspace, character or whole."""
    pipeline = json.loads(tokenizer.backend_tokenizer.to_str())
    parts = json.dumps([pipeline["pre_tokenizer"], pipeline["decoder"], pipeline["normalizer"]], ensure_ascii=False)
    kind = pipeline["model"].get("type")
    if kind == "WordPiece":
        return "wordpiece"
    if kind == "WordLevel":
        split = pipeline["pre_tokenizer"] or {}
        return "character" if split.get("type") == "Split" and split.get("behavior") == "Isolated" else "whole"
    if '"ByteLevel"' in parts:
        return "bytes"
    return "metaspace" if "▁" in parts else "whole"


def _surface(token: str, style: str) -> str:
    """Return the text that a token stands for, with its leading space; U+FFFD for parts of characters."""
    match style:
        case "bytes":
            return b"".join([BYTES.get(c) or c.encode() for c in token]).decode("utf-8", "replace")
        case "metaspace":
            return token.replace("▁", " ")
        case "wordpiece":
            return token.removeprefix("##")
    return token


def _goes_on(text: str, style: str) -> bool:
    """Whether a token of this text continues the word before it: no space before, and not a word of its own."""
    if style == "whole" or not text:
        return False
    first = text[0]
    if first == "\ufffd":  # the rest of a character that an earlier token began, or the beginning of a rare one
        return True
    return unicodedata.category(first)[0] in "LNM" and not _is_ideograph(first)


def _is_ideograph(character: str) -> bool:
    """Whether a character stands for a word without spaces around it: Chinese and Japanese."""
    return "\u2e80" <= character <= "\u9fff"


def _byte_table() -> dict[str, bytes]:
    """Return the byte that each character of byte-level BPE stands for (GPT-2's bytes_to_unicode, inverted)."""
    printable = [*range(0x21, 0x7F), *range(0xA1, 0xAD), *range(0xAE, 0x100)]
    others = [b for b in range(256) if b not in printable]
    return {chr(b): bytes([b]) for b in printable} | {chr(256 + i): bytes([b]) for i, b in enumerate(others)}


BYTES = _byte_table()

"""The describer's tokenizer: byte-pair encoding of words, read from a folder or trained."""

import json
from collections.abc import Iterable
from pathlib import Path

from tokenizers import Regex, Tokenizer
from tokenizers.models import BPE
from tokenizers.normalizers import Replace
from tokenizers.pre_tokenizers import Sequence, Split, WhitespaceSplit
from tokenizers.trainers import BpeTrainer

from detector.errors import ErrorCode, QCError

TOKENIZER, VOCABULARY, MERGES = "tokenizer.json", "vocab.json", "merges.txt"
BEGIN, PADDING, END, UNKNOWN = "<s>", "<pad>", "</s>", "<unk>"
WORD_END = "</w>"


def load(folder: Path) -> Tokenizer:
    """tokenizer.json, or else BioGPT's own vocab.json and merges.txt.

    Raises QCError: bundle-incomplete without either, bundle-mismatch on unreadable content.
    """
    if (folder / TOKENIZER).is_file():
        try:
            return Tokenizer.from_file(str(folder / TOKENIZER))
        except Exception as error:  # the Rust binding raises plain Exception
            raise QCError(ErrorCode.BUNDLE_MISMATCH, f"describer {TOKENIZER}: {error}") from None
    for name in (VOCABULARY, MERGES):
        if not (folder / name).is_file():
            raise QCError(
                ErrorCode.BUNDLE_INCOMPLETE,
                f"describer: neither {TOKENIZER} nor {VOCABULARY} with {MERGES} is there",
            )
    try:
        vocabulary = json.loads((folder / VOCABULARY).read_text(encoding="utf-8"))
        merges = (folder / MERGES).read_text(encoding="utf-8").splitlines()
        return from_biogpt(vocabulary, merges)
    except (ValueError, TypeError) as error:
        raise QCError(ErrorCode.BUNDLE_MISMATCH, f"describer vocabulary: {error}") from None


def from_biogpt(vocabulary: dict[str, int], merges: Iterable[str]) -> Tokenizer:
    """BioGPT's tokenizer for our closed lexicon.

    Moses tokenization reduces to splitting words, marks and hyphens ("crown @-@ rump") for plain
    lower-case English without digits, quotes or abbreviations, so sacremoses is not needed (but for
    a full stop before a small letter, which Moses leaves on its word). Merges
    can pass through a subword that the vocabulary lacks; it gets an id past the vocabulary's end,
    which `Describer` refuses if it ever comes out.
    """
    pairs = [(parts[0], parts[1]) for parts in map(str.split, merges) if len(parts) >= 2]
    subword_ids = dict(vocabulary)
    for left, right in pairs:
        for subword in (left, right, left + right):
            subword_ids.setdefault(subword, len(subword_ids))
    tokenizer = _words(
        BPE(vocab=subword_ids, merges=pairs, unk_token=UNKNOWN, end_of_word_suffix=WORD_END)
    )
    tokenizer.normalizer = Replace("-", " @-@ ")
    return tokenizer


def train(texts: Iterable[str], vocabulary_size: int) -> Tokenizer:
    """A tokenizer of at most `vocabulary_size` subwords; special ids 0-3 as BioGPT's."""
    tokenizer = _words(BPE(unk_token=UNKNOWN, end_of_word_suffix=WORD_END))
    trainer = BpeTrainer(
        vocab_size=vocabulary_size,
        special_tokens=[BEGIN, PADDING, END, UNKNOWN],
        end_of_word_suffix=WORD_END,
        show_progress=False,
    )
    tokenizer.train_from_iterator(texts, trainer)
    return _renumber(tokenizer)


def _renumber(tokenizer: Tokenizer) -> Tokenizer:
    """The same subwords under ids that depend on the texts alone: the trainer numbers the letters
    that end words in an order that changes from run to run."""
    merges = [(left, right) for left, right in json.loads(tokenizer.to_str())["model"]["merges"]]
    special = [BEGIN, PADDING, END, UNKNOWN]
    merged = [left + right for left, right in merges]
    letters = sorted(tokenizer.get_vocab().keys() - {*special, *merged})
    subwords = list(dict.fromkeys([*special, *letters, *merged]))
    again = _words(
        BPE(
            vocab={subword: number for number, subword in enumerate(subwords)},
            merges=merges,
            unk_token=UNKNOWN,
            end_of_word_suffix=WORD_END,
        )
    )
    again.add_special_tokens(special)
    return again


def _words(model: BPE) -> Tokenizer:
    tokenizer = Tokenizer(model)
    tokenizer.pre_tokenizer = Sequence([Split(Regex("[,;:.]"), "isolated"), WhitespaceSplit()])
    return tokenizer

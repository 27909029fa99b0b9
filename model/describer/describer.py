"""From detections to one sentence: BioGPT, decoded under a grammar of the detections."""

import json
from collections import OrderedDict
from collections.abc import Sequence
from functools import lru_cache
from pathlib import Path

import torch
from huggingface_hub.errors import StrictDataclassError
from safetensors import SafetensorError
from safetensors.torch import load_file, save_file
from tokenizers import Tokenizer
from transformers import BioGptConfig, BioGptForCausalLM, DynamicCache

from detector.boxes import Detection
from detector.errors import ErrorCode, QCError
from model.describer import tokenizer as subwords
from model.describer.grammar import Writer
from model.describer.lexicon import (
    NAMES,
    NOTHING,
    PLACES,
    Mention,
    Wording,
    prompt,
    select_mentions,
)

CONFIG, WEIGHTS = "config.json", "model.safetensors"
TIED = "output_projection.weight"
MAX_STRUCTURES = 20
ROWS = 32
"""At most so many pictures are decoded together, which bounds the memory of the key-value cache."""
SENTENCES = 65_536
"""So many sentences are kept for pictures whose structures lie alike (some 300 bytes each)."""


class Describer:
    """Describes the detections of a picture in English noun phrases, and nothing else.

    Decoding is greedy over the tokens that the grammar allows (`model.describer.grammar`):
    deterministic, finite, true to the detections whatever the weights. BioGPT: Luo et al. 2022,
    doi 10.1093/bib/bbac409.
    """

    def __init__(self, model: BioGptForCausalLM, tokenizer: Tokenizer) -> None:
        """Raises QCError (bundle-mismatch) if the tokenizer cannot spell the lexicon."""
        self.model = model.eval()
        self.tokenizer = tokenizer
        self.spell = lru_cache(maxsize=4096)(self._spell)
        self._sentences: OrderedDict[tuple[tuple[Mention, ...], Wording], str] = OrderedDict()
        for piece in _pieces():
            self.spell(piece)

    @classmethod
    def load(cls, folder: Path, device: str | torch.device = "cpu") -> "Describer":
        """From config.json, model.safetensors and tokenizer.json (or BioGPT's vocab.json and
        merges.txt) in a local folder; weights of any float type become float32.

        Raises QCError: bundle-incomplete on a missing file, bundle-mismatch on a wrong one.
        """
        for name in (CONFIG, WEIGHTS):
            if not (folder / name).is_file():
                raise QCError(ErrorCode.BUNDLE_INCOMPLETE, f"describer: {name} is missing")
        tokenizer = subwords.load(folder)
        try:
            config = BioGptConfig(**json.loads((folder / CONFIG).read_text(encoding="utf-8")))
            weights = load_file(folder / WEIGHTS)
        except (ValueError, TypeError, StrictDataclassError, SafetensorError) as error:
            first_line = str(error).strip().splitlines()[0] if str(error).strip() else "unreadable"
            raise QCError(ErrorCode.BUNDLE_MISMATCH, f"describer: {first_line}") from None
        return cls(_build(config, weights).to(device), tokenizer)

    def save(self, folder: Path) -> None:
        """Write the three files that `load` reads; weights as float16."""
        folder.mkdir(parents=True, exist_ok=True)
        weights = {
            name: tensor.detach().to("cpu", torch.float16).contiguous()
            for name, tensor in self.model.state_dict().items()
            if name != TIED
        }
        save_file(weights, folder / WEIGHTS)
        (folder / WEIGHTS).chmod(0o644)  # safetensors writes for the owner alone
        self.model.config.to_json_file(folder / CONFIG, use_diff=False)
        self.tokenizer.save(str(folder / subwords.TOKENIZER))

    def describe(
        self,
        detections: Sequence[Detection],
        width: float,
        height: float,
        wording: Wording = Wording.GROUPED,
    ) -> str:
        """One sentence; boxes in pixels of a picture (or region) of `width` x `height`."""
        return self.describe_batch([detections], [(width, height)], wording)[0]

    def describe_batch(
        self,
        detections: Sequence[Sequence[Detection]],
        sizes: Sequence[tuple[float, float]],
        wording: Wording = Wording.GROUPED,
    ) -> list[str]:
        """One sentence for each picture's detections and (width, height), in order.

        Without a detection it is `lexicon.NOTHING`. At most MAX_STRUCTURES are named (fewer if the
        model's positions run out), the most confident first to stay.
        """
        mentions = [
            self.mentions_that_fit(boxes, *size, wording)
            for boxes, size in zip(detections, sizes, strict=True)
        ]
        self._write_missing([named for named in mentions if named], wording)
        texts = [self._sentences[named, wording] if named else NOTHING for named in mentions]
        while len(self._sentences) > SENTENCES:
            self._sentences.popitem(last=False)
        return texts

    def _write_missing(self, mentions: Sequence[tuple[Mention, ...]], wording: Wording) -> None:
        """Write the sentences that are not kept yet, each once.

        The model sees nothing of a picture but its mentions, so that equal ones have one sentence.
        """
        missing = [
            named for named in dict.fromkeys(mentions) if (named, wording) not in self._sentences
        ]
        for start in range(0, len(missing), ROWS):
            batch = missing[start : start + ROWS]
            for named, text in zip(batch, self.write(batch, wording), strict=True):
                self._sentences[named, wording] = text
        for named in mentions:
            self._sentences.move_to_end((named, wording))

    def mentions_that_fit(
        self, detections: Sequence[Detection], width: float, height: float, wording: Wording
    ) -> tuple[Mention, ...]:
        """The mentions of a description, as many as the model has positions for, prompt and answer
        together; empty if there is not even room for one."""
        positions = int(self.model.config.max_position_embeddings)
        for limit in range(MAX_STRUCTURES, 0, -1):
            mentions = select_mentions(detections, width, height, limit)
            answer = sum(self._longest(mention) for mention in mentions)
            if len(self.encode_prompt(mentions, wording)) + answer <= positions:
                return mentions
        return ()

    def encode_prompt(self, mentions: Sequence[Mention], wording: Wording) -> list[int]:
        """Token ids of the prompt, `</s>` first, as in BioGPT's training."""
        return [int(self.model.config.eos_token_id), *self.spell(prompt(mentions, wording))]

    @torch.inference_mode()
    def write(self, mentions: Sequence[tuple[Mention, ...]], wording: Wording) -> list[str]:
        """A description for each row's mentions: greedy decoding of all rows at once, with a
        key-value cache.

        Each step feeds the tokens written since the step before: one chosen by the model and those
        that followed without alternative. Rows write different numbers of tokens, so their chunks
        are padded on the left and masked; positions count real tokens only.
        """
        writers = [Writer(row_mentions, self.spell) for row_mentions in mentions]
        chunks = [self.encode_prompt(row_mentions, wording) for row_mentions in mentions]
        for chunk, writer in zip(chunks, writers, strict=True):
            chunk += writer.write_forced()
        device = self.model.device
        cache = DynamicCache(config=self.model.config)
        mask = torch.zeros((len(mentions), 0), dtype=torch.long, device=device)
        while not all(writer.is_finished for writer in writers):
            ids, fresh = _pad(chunks, int(self.model.config.pad_token_id), device)
            mask = torch.cat((mask, fresh), dim=1)
            positions = (mask.cumsum(1) - 1).clamp(min=0)[:, -ids.shape[1] :]
            logits = self.model(
                input_ids=ids,
                attention_mask=mask,
                position_ids=positions,
                past_key_values=cache,
                logits_to_keep=1,
            ).logits[:, -1]
            chunks = [
                _choose(writer, row) for writer, row in zip(writers, logits.cpu(), strict=True)
            ]
        return [writer.text for writer in writers]

    def _longest(self, mention: Mention) -> int:
        """The most tokens a mention can take: alone in its group, with the mark that ends it."""
        place = PLACES[mention.place]
        names = max(len(self.spell(name)) for name in NAMES[mention.label])
        return names + len(self.spell(f"in the {place}")) + len(self.spell(";"))

    def _spell(self, piece: str) -> tuple[int, ...]:
        ids = tuple(self.tokenizer.encode(piece, add_special_tokens=False).ids)
        unknown = self.tokenizer.token_to_id(subwords.UNKNOWN)
        if not ids or unknown in ids or max(ids) >= self.model.config.vocab_size:
            raise QCError(
                ErrorCode.BUNDLE_MISMATCH, f"describer: the tokenizer cannot spell {piece!r}"
            )
        return ids


def _choose(writer: Writer, logits: torch.Tensor) -> list[int]:
    """Write the likeliest allowed token and what it entails; nothing if the row is done."""
    if writer.is_finished:
        return []
    allowed = writer.allowed()
    token = allowed[int(logits[allowed].argmax())]
    writer.write(token)
    return [token, *writer.write_forced()]


def _pad(
    chunks: Sequence[Sequence[int]], padding: int, device: torch.device
) -> tuple[torch.Tensor, torch.Tensor]:
    """(ids, mask), each (rows, longest chunk), padded on the left."""
    longest = max(map(len, chunks))
    ids = [[padding] * (longest - len(chunk)) + list(chunk) for chunk in chunks]
    mask = [[0] * (longest - len(chunk)) + [1] * len(chunk) for chunk in chunks]
    return torch.tensor(ids, device=device), torch.tensor(mask, device=device)


def _pieces() -> list[str]:
    names = [name for of_label in NAMES.values() for name in of_label]
    return [*names, *PLACES, *(f"in the {place}" for place in PLACES), "and", ",", ";", ":", "."]


def _build(config: BioGptConfig, weights: dict[str, torch.Tensor]) -> BioGptForCausalLM:
    """The model with exactly these weights (the tied output projection may be left out)."""
    with torch.device("meta"):
        model = BioGptForCausalLM(config)
    weights.setdefault(TIED, weights.get("biogpt.embed_tokens.weight", torch.empty(0)))
    try:
        model.load_state_dict({k: v.float() for k, v in weights.items()}, assign=True)
    except RuntimeError as error:
        detail = str(error).strip().splitlines()[-1].strip()
        raise QCError(ErrorCode.BUNDLE_MISMATCH, f"describer weights: {detail}") from None
    model.tie_weights()
    return model

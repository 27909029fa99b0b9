"""Train the describer: random layouts, reference sentences, one plain loop.

The command: `qc-model train describer --out runs/describer --seed 0 --steps 1500`.
"""

import logging
import random
from collections.abc import Iterator, Sequence
from dataclasses import asdict, dataclass
from pathlib import Path
from typing import Any

import torch
from transformers import BioGptConfig, BioGptForCausalLM

from detector.anatomy import LABELS, View
from model.describer import tokenizer as subwords
from model.describer.describer import WEIGHTS, Describer
from model.describer.lexicon import (
    NAMES,
    PLACES,
    Mention,
    Wording,
    enumerate_names,
    group_by_place,
    join,
    prompt,
    reading_order,
)
from training.data.samples import file_hash
from training.recipes import DescriberRecipe
from training.train import runs

log = logging.getLogger(__name__)

IGNORED = -100  # The target that torch's cross entropy leaves out.
CHECKPOINTS = 20  # Of a training.


@dataclass(frozen=True, slots=True)
class DescriberFacts:
    """Figures of a training, as training.json stores them.

    `free_exact` is the share of held-out sentences that the model writes word for word by itself;
    `held_exact` the share when decoding is constrained by the grammar, as in serving.
    """

    settings: DescriberRecipe
    parameters: int
    first_loss: float
    last_loss: float
    free_exact: float
    held_exact: float


def describer(
    out: Path,
    seed: int = 0,
    steps: int = 1500,
    base: Path | None = None,
    *,
    resume: bool = False,
) -> None:
    """Train the describer into OUT; BASE: fine-tune the BioGPT of that local folder instead."""
    train_describer(out, DescriberRecipe(seed=seed, steps=steps), base, resume=resume)


def train_describer(
    out: Path, settings: DescriberRecipe, base: Path | None = None, *, resume: bool = False
) -> DescriberFacts:
    """Train, save (see `Describer.save`) with the facts beside it in training.json.

    Deterministic by seed on one machine and thread count. A checkpoint after each twentieth of the
    steps allows `resume`, to the same losses. The held-out layouts come from another random stream
    than the training's. Raises UsageError on a checkpoint of another run, QCError on a loss that is
    not finite.
    """
    torch.manual_seed(settings.seed)
    model_of = Describer.load(base) if base else fresh(settings)
    model = model_of.model.train()
    optimiser = torch.optim.AdamW(
        model.parameters(), lr=settings.learning_rate, betas=(0.9, 0.98), weight_decay=0.01
    )
    schedule = torch.optim.lr_scheduler.OneCycleLR(
        optimiser,
        max_lr=settings.learning_rate,
        total_steps=settings.steps,
        pct_start=min(0.5, settings.warmup / settings.steps),
    )
    chance = random.Random(settings.seed)
    stream = examples(chance)
    losses: list[float] = []
    run = asdict(settings) | {"base": None if base is None else file_hash(base / WEIGHTS)}
    checkpoint = out / runs.CHECKPOINT
    if resume and checkpoint.is_file():
        with runs.reading(checkpoint):
            state = torch.load(checkpoint, weights_only=True)
            runs.check_resumed(state["run"], run)
            model.load_state_dict(state["network"])
            optimiser.load_state_dict(state["optimizer"])
            schedule.load_state_dict(state["schedule"])
            chance.setstate(state["chance"])
            losses = state["losses"]
        log.info("resumed after step %d of %d", len(losses), settings.steps)
    interval = max(1, settings.steps // CHECKPOINTS)
    for step in range(len(losses), settings.steps):
        # Dropout of a step, which a base may have, is the same after a resumption.
        torch.manual_seed(settings.seed + 1_000_003 * (step + 1))
        ids, targets = collate(model_of, [next(stream) for _ in range(settings.batch)])
        loss = model_loss(model, ids, targets)
        runs.check_loss(loss.item(), step)
        optimiser.zero_grad(set_to_none=True)
        loss.backward()  # type: ignore[no-untyped-call]
        torch.nn.utils.clip_grad_norm_(model.parameters(), 1.0)
        optimiser.step()
        schedule.step()
        losses.append(loss.item())
        if step % 50 == 0 or step == settings.steps - 1:
            log.info("step %d of %d, loss %.4f", step, settings.steps, losses[-1])
        if (step + 1) % interval == 0 or step == settings.steps - 1:
            _save_checkpoint(
                checkpoint,
                {
                    "network": model.state_dict(),
                    "optimizer": optimiser.state_dict(),
                    "schedule": schedule.state_dict(),
                    "chance": chance.getstate(),
                    "losses": losses,
                    "run": run,
                },
            )
    model.eval()
    free, constrained = exact_rates(model_of, random.Random(-1 - settings.seed), settings.held_out)
    facts = DescriberFacts(
        settings=settings,
        parameters=sum(weight.numel() for weight in model.parameters()),
        first_loss=_mean(losses[:10]),
        last_loss=_mean(losses[-10:]),
        free_exact=free,
        held_exact=constrained,
    )
    runs.check_network(model)
    model_of.save(out)
    runs.write_facts(out, asdict(facts))
    return facts


def fresh(settings: DescriberRecipe) -> Describer:
    """A describer with random weights and a tokenizer trained on our own sentences."""
    stream = examples(random.Random(settings.seed))
    texts = (
        f"{prompt(mentions, wording)} {pieces}" for mentions, wording, pieces in _texts(stream)
    )
    tokenizer = subwords.train(texts, settings.vocabulary)
    config = BioGptConfig(
        vocab_size=tokenizer.get_vocab_size(),
        hidden_size=settings.hidden,
        num_hidden_layers=settings.layers,
        num_attention_heads=settings.heads,
        intermediate_size=4 * settings.hidden,
        max_position_embeddings=settings.positions,
        # The task is exact copying; dropout only slows a model this small.
        hidden_dropout_prob=0.0,
        attention_probs_dropout_prob=0.0,
    )
    return Describer(BioGptForCausalLM(config), tokenizer)


Example = tuple[tuple[Mention, ...], Wording]


def examples(chance: random.Random) -> Iterator[Example]:
    """Endless random layouts: half of them a view's structures, half any structures anywhere."""
    wordings = [Wording.GROUPED, *Wording]  # The wording of serving twice as often.
    while True:
        mentions = _view_layout(chance) if chance.random() < 0.5 else _any_layout(chance)
        yield mentions, chance.choice(wordings)


def reference(mentions: Sequence[Mention], wording: Wording) -> list[str]:
    """The pieces of the sentence to learn, in reading order (`lexicon.join` makes it text)."""
    pieces: list[str] = []
    for place, group in group_by_place(mentions):
        if wording is Wording.SINGLE:
            for mention in group:
                pieces += [_name(mention, wording), f"in the {place}", ";"]
            continue
        names = enumerate_names([_name(mention, wording) for mention in group])
        pieces += [place, ":", *names] if wording is Wording.PLACED else [*names, f"in the {place}"]
        pieces += [";"]
    return [*pieces[:-1], "."]


def collate(model_of: Describer, batch: Sequence[Example]) -> tuple[torch.Tensor, torch.Tensor]:
    """(ids, targets), each (rows, longest), padded on the right; only the answer is a target."""
    rows: list[tuple[list[int], list[int]]] = []
    for mentions, wording in batch:
        question = model_of.encode_prompt(mentions, wording)
        answer = [
            token for piece in reference(mentions, wording) for token in model_of.spell(piece)
        ]
        rows.append((question + answer, [IGNORED] * len(question) + answer))
    longest = max(len(ids) for ids, _ in rows)
    padding = int(model_of.model.config.pad_token_id)
    ids = [ids + [padding] * (longest - len(ids)) for ids, _ in rows]
    targets = [targets + [IGNORED] * (longest - len(targets)) for _, targets in rows]
    return torch.tensor(ids), torch.tensor(targets)


def model_loss(model: BioGptForCausalLM, ids: torch.Tensor, targets: torch.Tensor) -> torch.Tensor:
    """Mean cross entropy of the answers' tokens; padding stands after them and
    has no loss."""
    logits = model(input_ids=ids).logits[:, :-1]
    return torch.nn.functional.cross_entropy(
        logits.flatten(0, 1), targets[:, 1:].flatten(), ignore_index=IGNORED
    )


@torch.inference_mode()
def exact_rates(model_of: Describer, chance: random.Random, count: int) -> tuple[float, float]:
    """(free, constrained) share of word-for-word sentences on `count` layouts; see DescriberFacts.

    Free greedy decoding gives the reference exactly if each of its tokens is the likeliest after
    those before it, so that one pass over the reference is enough.
    """
    stream = examples(chance)
    free = constrained = 0
    for _ in range(0, count, 50):
        batch = [next(stream) for _ in range(50)]
        ids, targets = collate(model_of, batch)
        likeliest = model_of.model(input_ids=ids).logits[:, :-1].argmax(-1)
        is_right = (likeliest == targets[:, 1:]) | (targets[:, 1:] == IGNORED)
        free += int(is_right.all(dim=1).sum())
        for wording in Wording:
            layouts = [mentions for mentions, each in batch if each is wording]
            texts = model_of.write(layouts, wording)
            constrained += sum(
                text == join(reference(mentions, wording))
                for mentions, text in zip(layouts, texts, strict=True)
            )
    total = 50 * len(range(0, count, 50))
    return free / total, constrained / total


def _texts(stream: Iterator[Example]) -> Iterator[tuple[tuple[Mention, ...], Wording, str]]:
    for _ in range(2000):
        mentions, wording = next(stream)
        yield mentions, wording, " ".join(reference(mentions, wording))


def _view_layout(chance: random.Random) -> tuple[Mention, ...]:
    """Most structures of one view, close together: neighbours share a cell or lie one apart."""
    view = chance.choice([View.NT, View.CRL, View.HEAD, View.ABDOMEN])
    of_view = [label.code for label in LABELS if label.view is view]
    labels = [code for code in of_view if chance.random() < 0.8] or of_view[:1]
    row, column = chance.randrange(3), chance.randrange(3)
    return _sorted(Mention(code, 3 * _near(chance, row) + _near(chance, column)) for code in labels)


def _any_layout(chance: random.Random) -> tuple[Mention, ...]:
    """Labels of any view in any place: mostly few, up to sixteen."""
    most = chance.choice((4, 8, 16))
    codes = chance.sample([label.code for label in LABELS], chance.randint(1, most))
    return _sorted(Mention(code, chance.randrange(len(PLACES))) for code in codes)


def _near(chance: random.Random, third: int) -> int:
    return min(max(third + chance.choice((-1, 0, 0, 1)), 0), 2)


def _sorted(mentions: Iterator[Mention]) -> tuple[Mention, ...]:
    return tuple(sorted(mentions, key=reading_order))


def _name(mention: Mention, wording: Wording) -> str:
    names = NAMES[mention.label]
    return names[-1] if wording is Wording.SYNONYM else names[0]


def _save_checkpoint(path: Path, state: dict[str, Any]) -> None:
    path.parent.mkdir(parents=True, exist_ok=True)
    partial = path.with_suffix(".partial")
    torch.save(state, partial)
    partial.replace(path)


def _mean(values: Sequence[float]) -> float:
    return sum(values) / len(values)

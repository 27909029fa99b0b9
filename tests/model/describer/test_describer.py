import json
import random
import re

import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st
from safetensors.torch import load_file, save_file
from transformers import BioGptConfig, BioGptForCausalLM

from detector.anatomy import LABELS
from detector.boxes import Detection
from detector.errors import ErrorCode, QCError
from model.describer import describer as describer_module
from model.describer import tokenizer as subwords
from model.describer.describer import MAX_STRUCTURES, Describer
from model.describer.grammar import Writer
from model.describer.lexicon import (
    NAMES,
    NOTHING,
    PLACES,
    Mention,
    Wording,
    grid_cell,
    prompt,
    select_mentions,
)
from tests.support import anatomy_synonyms as synonyms

CODES = [label.code for label in LABELS]
MARKS = "in the , ; : . and"


def random_describer(seed, positions=384):
    """Random weights: whatever holds of its sentences is enforced while decoding."""
    torch.manual_seed(seed)
    texts = [name for names in NAMES.values() for name in names] + list(PLACES) + list(Wording)
    tokenizer = subwords.train([*texts, MARKS], 260)
    config = BioGptConfig(
        vocab_size=tokenizer.get_vocab_size(),
        hidden_size=32,
        num_hidden_layers=2,
        num_attention_heads=2,
        intermediate_size=64,
        max_position_embeddings=positions,
        initializer_range=0.5,
    )
    return Describer(BioGptForCausalLM(config), tokenizer)


@pytest.fixture(scope="module")
def describer():
    return random_describer(0)


def picture(chance, most=8):
    """Random detections of 1000 x 800 pixels; labels may come more than once."""
    detections = []
    for code in chance.choices(CODES, k=chance.randint(1, most)):
        x, y = chance.uniform(0, 950), chance.uniform(0, 750)
        detections.append(Detection(code, (x, y, x + 40, y + 40), chance.uniform(0.3, 1)))
    return detections


@pytest.mark.parametrize("seed", range(3))
def test_random_weights_name_only_what_was_detected(seed):
    describer = random_describer(seed)
    chance = random.Random(seed)
    pictures = [picture(chance) for _ in range(20)]
    for wording in (Wording.GROUPED, Wording.SYNONYM):
        texts = describer.describe_batch(pictures, [(1000, 800)] * 20, wording)
        for detections, text in zip(pictures, texts, strict=True):
            detected = {detection.label for detection in detections}
            assert synonyms.undetected(text, detected) == set(), text
            assert synonyms.named(text) >= detected - {"CP?"}, text
            assert not re.search(synonyms.JUDGEMENTS, text, re.IGNORECASE), text


def test_the_judge_knows_every_structure_apart():
    for code, names in NAMES.items():
        for name in names:
            assert synonyms.named(f"the {name} in the upper left") == {code}
    assert synonyms.named("a cranial bone and skin") == {"CB", "NS"}
    assert synonyms.named("the stomach bubble beside the cord insertion") == {"S", "UI"}
    assert synonyms.undetected("Nasal bone in the centre.", {"CB"}) == {"NB"}
    assert synonyms.named("in the upper left; in it; centre") == set()


def test_described_places_are_those_of_the_boxes(describer):
    chance = random.Random(5)
    for _ in range(10):
        detections = picture(chance, 4)
        text = describer.describe(detections, 1000, 800).lower()
        assert text.endswith(".")
        places = {PLACES[grid_cell(d.bbox, 1000, 800)] for d in detections}
        named_places = set(re.findall("|".join(sorted(PLACES, key=len, reverse=True)), text))
        assert named_places == places


def test_nothing_detected(describer):
    assert describer.describe([], 100, 100) == NOTHING
    two = [Detection("S", (0, 0, 10, 10), 0.9)]
    texts = describer.describe_batch([[], two, []], [(100, 100)] * 3)
    assert texts[0] == texts[2] == NOTHING
    assert "upper left" in texts[1].lower()


def test_a_batch_gives_the_same_descriptions_as_single_pictures():
    chance = random.Random(3)
    pictures = [picture(chance, most) for most in (1, 12, 3, 7, 2)]
    sizes = [(1000, 800)] * 5
    # Each with the same weights, and no sentence kept from before.
    singly = [random_describer(0).describe(detections, 1000, 800) for detections in pictures]
    assert random_describer(0).describe_batch(pictures, sizes) == singly
    assert random_describer(0).describe_batch(pictures[::-1], sizes) == singly[::-1]


def test_structures_that_lie_alike_are_written_once(describer, monkeypatch):
    """A sentence depends on labels and places alone, so that the model is asked once for each."""
    writer = random_describer(0)
    calls = []
    write = writer.write
    monkeypatch.setattr(
        writer,
        "write",
        lambda mentions, wording: calls.append(mentions) or write(mentions, wording),
    )
    near = [Detection("S", (10, 10, 20, 20), 0.9), Detection("UC", (500, 500, 600, 600), 0.8)]
    moved = [Detection("UC", (510, 480, 590, 620), 0.3), Detection("S", (0, 0, 15, 25), 0.4)]
    elsewhere = [Detection("S", (900, 700, 950, 750), 0.9)]
    sizes = [(1000, 800)] * 3
    expected = [describer.describe(boxes, 1000, 800) for boxes in (near, moved, elsewhere)]
    assert expected[0] == expected[1] != expected[2]
    assert writer.describe_batch([near, moved, elsewhere], sizes) == expected
    assert writer.describe_batch([elsewhere, near, moved], sizes) == expected[2:] + expected[:2]
    assert [len(mentions) for mentions in calls] == [2]
    other_wording = next(wording for wording in Wording if wording is not Wording.GROUPED)
    writer.describe(near, 1000, 800, other_wording)
    assert len(calls) == 2


def test_the_number_of_sentences_in_memory_is_bounded(monkeypatch):
    monkeypatch.setattr(describer_module, "SENTENCES", 2)
    writer = random_describer(0)
    chance = random.Random(4)
    pictures = [picture(chance, 3) for _ in range(6)]
    expected = [random_describer(0).describe(boxes, 1000, 800) for boxes in pictures]
    assert writer.describe_batch(pictures, [(1000, 800)] * 6) == expected
    assert [writer.describe(boxes, 1000, 800) for boxes in pictures] == expected


def test_label_outside_the_vocabulary(describer):
    with pytest.raises(QCError) as caught:
        describer.describe([Detection("HEART", (0, 0, 1, 1), 0.5)], 10, 10)
    assert caught.value.code is ErrorCode.BUNDLE_MISMATCH


def test_positions_bound_what_is_named():
    small = random_describer(1, positions=40)
    detections = [
        Detection(code, (10, 10, 20, 20), 0.3 + 0.03 * i) for i, code in enumerate(CODES[:13])
    ]
    named = synonyms.named(small.describe(detections, 300, 300))
    assert 0 < len(named) < 13
    assert named == {d.label for d in sorted(detections, key=lambda d: -d.confidence)[: len(named)]}


def test_as_many_as_the_vocabulary_holds(describer):
    detections = [Detection(code, (10, 10, 20, 20), 0.5) for code in CODES]
    assert len(synonyms.named(describer.describe(detections, 300, 300))) == MAX_STRUCTURES


@st.composite
def walks(draw):
    places = draw(
        st.sets(st.tuples(st.sampled_from(CODES), st.integers(0, 8)), min_size=1, max_size=12)
    )
    return tuple(Mention(*pair) for pair in sorted(places)), draw(st.randoms(use_true_random=False))


def by_letters(piece):
    """The finest spelling: any two phrases that begin alike share their first tokens."""
    return tuple(map(ord, f"{piece} "))


@settings(max_examples=60)
@given(walks())
def test_every_walk_ends_having_named_each_mention_once(walk):
    mentions, chance = walk
    writer = Writer(mentions, by_letters)
    steps = 0
    while not writer.is_finished:
        writer.write(chance.choice(writer.allowed()))
        steps += 1
        assert steps < 80 * len(mentions)
    text = writer.text.lower()
    assert writer.allowed() == []
    assert text.endswith(".")
    for code in {mention.label for mention in mentions}:
        times = sum(len(re.findall(rf"\b{re.escape(name)}\b", text)) for name in NAMES[code])
        assert times == sum(mention.label == code for mention in mentions)
    assert synonyms.undetected(text, {mention.label for mention in mentions}) == set()


def test_a_token_that_is_not_allowed_is_refused():
    writer = Writer((Mention("S", 4),), by_letters)
    with pytest.raises(ValueError, match="not allowed"):
        writer.write(ord("q"))


@given(
    st.tuples(*[st.floats(-50, 150, allow_nan=False)] * 4),
    st.floats(1, 100),
    st.floats(1, 100),
)
def test_every_box_has_a_place(box, width, height):
    assert 0 <= grid_cell(box, width, height) <= 8


def test_places_read_like_a_page():
    corners = [(x, y, x + 2, y + 2) for y in (0, 14, 28) for x in (0, 14, 28)]
    assert [grid_cell(box, 30, 30) for box in corners] == list(range(9))


def test_one_mention_a_label_and_place():
    near = [Detection("NT", (0, 0, 2, 2), 0.4), Detection("NT", (1, 1, 3, 3), 0.9)]
    assert select_mentions(near, 90, 90, 20) == (Mention("NT", 0),)


def test_save_and_load_give_the_same_sentences(describer, tmp_path):
    describer.save(tmp_path)
    loaded = Describer.load(tmp_path)
    assert next(loaded.model.parameters()).dtype is torch.float32
    again = tmp_path / "again"
    loaded.save(again)
    assert (again / "model.safetensors").read_bytes() == (
        tmp_path / "model.safetensors"
    ).read_bytes()
    chance = random.Random(1)
    for mentioned in (picture(chance) for _ in range(5)):
        assert loaded.describe(mentioned, 1000, 800) == Describer.load(again).describe(
            mentioned, 1000, 800
        )
    assert (tmp_path / "tokenizer.json").stat().st_size < 200_000


def broken(folder, what):
    weights = load_file(folder / "model.safetensors")
    match what:
        case "missing tensor":
            weights.pop("biogpt.layer_norm.weight")
        case "extra tensor":
            weights["stowaway"] = torch.zeros(1)
        case "wrong shape":
            weights["biogpt.layer_norm.weight"] = torch.zeros(3)
        case "truncated":
            content = (folder / "model.safetensors").read_bytes()
            (folder / "model.safetensors").write_bytes(content[: len(content) // 2])
            return
        case "config":
            (folder / "config.json").write_text("{")
            return
        case "size":
            config = json.loads((folder / "config.json").read_text())
            (folder / "config.json").write_text(json.dumps(config | {"vocab_size": "many"}))
            return
        case "tokenizer":
            (folder / "tokenizer.json").write_text("{}")
            return
    save_file(weights, folder / "model.safetensors")


@pytest.mark.parametrize(
    "what",
    [
        *("missing tensor", "extra tensor", "wrong shape", "truncated", "config", "size"),
        "tokenizer",
    ],
)
def test_a_wrong_file_is_one_clear_line(describer, tmp_path, what):
    describer.save(tmp_path)
    broken(tmp_path, what)
    with pytest.raises(QCError) as caught:
        Describer.load(tmp_path)
    assert caught.value.code is ErrorCode.BUNDLE_MISMATCH
    assert "describer" in caught.value.message
    assert "\n" not in caught.value.message


@pytest.mark.parametrize("name", ["config.json", "model.safetensors", "tokenizer.json"])
def test_a_missing_file_is_named(describer, tmp_path, name):
    describer.save(tmp_path)
    (tmp_path / name).unlink()
    with pytest.raises(QCError) as caught:
        Describer.load(tmp_path)
    assert caught.value.code is ErrorCode.BUNDLE_INCOMPLETE
    assert name in caught.value.message


def test_a_tokenizer_that_cannot_spell_the_names_is_refused(describer, tmp_path):
    describer.save(tmp_path)
    subwords.train(["stomach in the centre"], 60).save(str(tmp_path / "tokenizer.json"))
    with pytest.raises(QCError, match="cannot spell"):
        Describer.load(tmp_path)


def biogpt_files(shared_data, folder):
    """vocab.json and merges.txt as the published BioGPT folder has them: word ends marked </w>
    instead of fairseq's @@, special tokens first, filled up to 42,384."""
    lines = (shared_data / "tokenizers/biogpt_dict.txt").read_text(encoding="utf-8").splitlines()
    words = ["<s>", "<pad>", "</s>", "<unk>"]
    for line in lines:
        word = line.rsplit(" ", 1)[0]
        words.append(word[:-2] if word.endswith("@@") else f"{word}</w>")
    while len(words) < 42_384:
        words.append(f"madeupword{len(words):04d}")
    vocabulary = {word: index for index, word in enumerate(words)}
    (folder / "vocab.json").write_text(json.dumps(vocabulary), encoding="utf-8")
    codes = (shared_data / "tokenizers/biogpt_bpecodes").read_text(encoding="utf-8")
    (folder / "merges.txt").write_text(codes, encoding="utf-8")


def test_biogpts_own_vocabulary_spells_the_names(shared_data, tmp_path):
    """A narrow model over the real vocabulary of 42,384 and its real merges."""
    biogpt_files(shared_data, tmp_path)
    config = BioGptConfig(
        hidden_size=16, num_hidden_layers=1, num_attention_heads=2, intermediate_size=32
    )
    BioGptForCausalLM(config).half().save_pretrained(tmp_path)
    describer = Describer.load(tmp_path)
    mentioned = [
        Detection("CRL", (0, 0, 10, 10), 0.9),
        Detection("IT", (70, 70, 90, 90), 0.8),
    ]
    text = describer.describe(mentioned, 90, 90)
    assert synonyms.named(text) == {"CRL", "IT"}
    spelled = [describer.tokenizer.id_to_token(i) for i in describer.spell("crown-rump extent.")]
    assert "@-@</w>" in spelled
    assert spelled[-1] == ".</w>"


def test_same_ids_as_transformers_tokenizer(shared_data, tmp_path):
    pytest.importorskip("sacremoses", reason="transformers' BioGptTokenizer needs sacremoses")
    from transformers import BioGptTokenizer

    biogpt_files(shared_data, tmp_path)
    theirs = BioGptTokenizer(str(tmp_path / "vocab.json"), str(tmp_path / "merges.txt"))
    ours = subwords.load(tmp_path)
    everything = tuple(Mention(code, i % 9) for i, code in enumerate(CODES))
    for wording in Wording:
        # Up to its full stop: Moses leaves one on its word if a small letter follows.
        text = prompt(everything, wording).split(".")[0]
        for ending in ("", "."):
            assert [2, *ours.encode(text + ending).ids] == theirs(text + ending)["input_ids"]

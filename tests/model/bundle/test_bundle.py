"""Bundles: what is accepted, what is refused, and building one from parts."""

import hashlib
import json
import os
import pickle
import shutil
import struct

import pytest
import torch
from safetensors.torch import load_file, save_file
from tokenizers import Tokenizer
from tokenizers.models import WordLevel
from tokenizers.pre_tokenizers import Whitespace
from tokenizers.processors import TemplateProcessing
from transformers import BioGptConfig, BioGptForCausalLM, PreTrainedTokenizerFast

from detector.anatomy import View
from detector.errors import ErrorCode, QCError
from detector.yolo.yolo import build_network, save_detector
from model.bundle import bundle
from model.bundle import manifest as manifest_file
from model.bundle.build import build
from model.bundle.bundle import MANIFEST, Bundle, verify, write_manifest
from model.describer import tokenizer as subwords
from model.describer.describer import Describer
from model.describer.lexicon import NAMES, PLACES
from model.spatialclip.checkpoint import save_spatialclip
from model.spatialclip.network import SpatialClip, SpatialClipConfig

CLIP_TOWER = {
    "hidden_size": 16,
    "intermediate_size": 32,
    "num_hidden_layers": 1,
    "num_attention_heads": 2,
    "projection_dim": 32,
}
CLIP = {
    "projection_dim": 32,
    "vision_config": {**CLIP_TOWER, "image_size": 32, "patch_size": 16},
    "text_config": {
        **CLIP_TOWER,
        "vocab_size": 40,
        "max_position_embeddings": 77,
        "bos_token_id": 0,
        "eos_token_id": 2,
        "pad_token_id": 1,
    },
}


def write_tokenizer(folder):
    words = ["<s>", "<pad>", "</s>", "<unk>", "in", "the", "centre"]
    tokenizer = Tokenizer(WordLevel({w: i for i, w in enumerate(words)}, unk_token="<unk>"))
    tokenizer.pre_tokenizer = Whitespace()
    tokenizer.post_processor = TemplateProcessing(
        single="<s> $A </s>", special_tokens=[("<s>", 0), ("</s>", 2)]
    )
    PreTrainedTokenizerFast(
        tokenizer_object=tokenizer, bos_token="<s>", pad_token="<pad>", eos_token="</s>"
    ).save_pretrained(folder)


@pytest.fixture(scope="module")
def parts(tmp_path_factory):
    """detector/, describer/, clip/ (Hugging Face) and spatialclip/ (ours), all tiny and random."""
    torch.manual_seed(0)
    folder = tmp_path_factory.mktemp("parts")
    save_detector(folder / "detector", build_network("yolo11n.yaml", 2), ("NT", "NB"), 64)
    texts = [name for of_label in NAMES.values() for name in of_label] + list(PLACES)
    tokenizer = subwords.train([*texts, "in the , ; : . and"], 320)
    config = BioGptConfig(
        vocab_size=tokenizer.get_vocab_size(),
        hidden_size=16,
        num_hidden_layers=1,
        num_attention_heads=2,
        intermediate_size=32,
        max_position_embeddings=256,
    )
    Describer(BioGptForCausalLM(config), tokenizer).save(folder / "describer")
    model = SpatialClip(SpatialClipConfig(CLIP, label_dim=8, heads=4, ffn=32))
    model.trimodal_clip.clip_model.save_pretrained(folder / "clip")
    write_tokenizer(folder / "clip")
    save_spatialclip(folder / "spatialclip", SpatialClip.from_clip(folder / "clip", ffn=32))
    write_tokenizer(folder / "spatialclip")
    return folder


def make(parts, out, **changes):
    arguments = {
        "detector": parts / "detector",
        "describer": parts / "describer",
        "spatialclip": parts / "spatialclip",
        "out": out,
        "name": "tiny",
        "version": "1.2",
    }
    return build(**{**arguments, **changes})


@pytest.fixture(scope="module")
def built(parts, tmp_path_factory):
    return make(parts, tmp_path_factory.mktemp("built") / "tiny").path


@pytest.fixture
def folder(built, tmp_path):
    return shutil.copytree(built, tmp_path / "bundle")


def refused(folder, code, *words):
    with pytest.raises(QCError) as caught:
        Bundle.open(folder)
    assert caught.value.code is code
    assert "\n" not in caught.value.message
    for word in words:
        assert word in caught.value.message
    assert caught.value.message in verify(folder)


# --- open and verify ------------------------------------------------------------------------------


def test_opens(folder):
    opened = Bundle.open(folder)
    assert (opened.id.name, opened.id.version) == ("tiny", "1.2")
    assert opened.model_id == hashlib.sha256((folder / MANIFEST).read_bytes()).hexdigest()
    assert opened.manifest["vocabulary"] == ["NT", "NB"]
    assert verify(folder) == []
    assert Bundle.open(str(folder)).model_id == opened.model_id


def test_every_part_loads_and_runs(folder):
    opened = Bundle.open(folder)
    detector, clip = opened.detector(), opened.spatialclip()
    picture = torch.zeros(48, 64, 3, dtype=torch.uint8).numpy()
    detections = detector.detect([picture], confidence=0.0)
    words = opened.describer().describe_batch(detections, [(64, 48)])
    preprocessor = opened.preprocessor()
    inputs = preprocessor.batch([preprocessor.letterbox(picture)], words, detections, [(64, 48)])
    out = clip(**inputs.arguments())
    assert out.logit.isfinite().all()
    assert opened.outlier().score(out.image[0].detach().numpy()) == 0
    assert opened.calibration.calibrate(0.0, View.NT) == 0.5


@pytest.mark.parametrize(
    "name",
    [
        "detector/weights.safetensors",
        "describer/model.safetensors",
        "spatialclip/config.json",
        "outlier.safetensors",
        "MODEL_CARD.md",
    ],
)
def test_missing_file(folder, name):
    (folder / name).unlink()
    refused(folder, ErrorCode.BUNDLE_INCOMPLETE, name, "copy")


def test_tampered_byte(folder):
    path = folder / "spatialclip" / "weights.safetensors"
    content = bytearray(path.read_bytes())
    content[-1] ^= 1
    path.write_bytes(content)
    refused(folder, ErrorCode.BUNDLE_MISMATCH, "spatialclip/weights.safetensors", "hash")


def test_extra_file(folder):
    (folder / "detector" / "notes.txt").write_text("hello")
    refused(folder, ErrorCode.BUNDLE_INCOMPLETE, "detector/notes.txt", "remove")


def test_no_manifest(tmp_path):
    refused(tmp_path, ErrorCode.BUNDLE_INCOMPLETE, MANIFEST)
    refused(tmp_path / "nowhere", ErrorCode.BUNDLE_INCOMPLETE, "bundle build")


def _edit(folder, **changes):
    manifest = json.loads((folder / MANIFEST).read_text())
    (folder / MANIFEST).write_text(json.dumps({**manifest, **changes}))


@pytest.mark.parametrize(
    "changes",
    [
        {"format": 2},
        {"vocabulary": ["XX"]},
        {"vocabulary": []},
        {"vocabulary": [[]]},
        {"views": ["FOOT"]},
        {"views": [{}]},
        {"name": None},
        {"thresholds": []},
        {"files": {"../secret": "0" * 64}},
        {"files": {"/secret": "0" * 64}},
        {"files": {"a": 1}},
        {"files": {"a": "0"}},
        {"files": {"./a": "0" * 64}},
        {"metrics": {"AUROC": float("nan")}},
    ],
)
def test_invalid_manifest(folder, changes):
    _edit(folder, **changes)
    refused(folder, ErrorCode.BUNDLE_MISMATCH, MANIFEST)


@pytest.mark.parametrize("content", [b"", b"{", b"[]", b"\xff\xfe", b"null", b"[" * 10**5])
def test_manifest_that_is_none(folder, content):
    (folder / MANIFEST).write_bytes(content)
    refused(folder, ErrorCode.BUNDLE_MISMATCH, MANIFEST)


def test_required_file_left_out_of_the_manifest(folder):
    files = json.loads((folder / MANIFEST).read_text())["files"]
    files.pop("detector/weights.safetensors")
    (folder / "detector" / "weights.safetensors").unlink()
    _edit(folder, files=files)
    refused(folder, ErrorCode.BUNDLE_INCOMPLETE, "detector/weights.safetensors")


def test_no_pickle_even_if_listed(folder):
    (folder / "detector" / "best.pt").write_bytes(b"x")
    files = json.loads((folder / MANIFEST).read_text())["files"]
    _edit(folder, files={**files, "detector/best.pt": hashlib.sha256(b"x").hexdigest()})
    refused(folder, ErrorCode.BUNDLE_MISMATCH, "best.pt", "pickle")


def _listed(folder, *names):
    """The manifest's hashes made true again, as an attacker would."""
    files = json.loads((folder / MANIFEST).read_text())["files"]
    hashes = {n: hashlib.sha256((folder / n).read_bytes()).hexdigest() for n in names}
    _edit(folder, files={**files, **hashes})


@pytest.mark.parametrize("what", ["file", "folder", "outside", "loop", "manifest", "pipe"])
def test_links_and_pipes_are_refused(folder, tmp_path, what):
    secret = tmp_path / "secret.safetensors"
    weights = folder / "detector" / "weights.safetensors"
    if what == "file":
        weights.rename(secret)
        weights.symlink_to(secret)
    elif what == "folder":
        (folder / "detector").rename(tmp_path / "detector")
        (folder / "detector").symlink_to(tmp_path / "detector")
    elif what == "outside":
        (folder / "extra").symlink_to("/etc/hostname")
    elif what == "loop":
        (folder / "extra").symlink_to(folder)
    elif what == "manifest":
        (folder / MANIFEST).rename(tmp_path / MANIFEST)
        (folder / MANIFEST).symlink_to(tmp_path / MANIFEST)
    else:
        weights.unlink()
        os.mkfifo(weights)
    assert any("is a link or no file" in problem for problem in verify(folder))
    with pytest.raises(QCError):
        Bundle.open(folder)


@pytest.mark.parametrize("value", [float("nan"), float("inf"), float("-inf")])
@pytest.mark.parametrize("kind", [torch.float16, torch.float32, torch.float64, torch.bfloat16])
def test_weights_that_are_not_finite_are_refused(folder, value, kind):
    name = "spatialclip/weights.safetensors"
    weights = load_file(folder / name)
    weights["classifier.bias"] = torch.full((1,), value, dtype=kind)
    save_file(weights, folder / name)
    _listed(folder, name)
    refused(folder, ErrorCode.BUNDLE_MISMATCH, name, "classifier.bias", "no numbers")


def _with_header(path, change):
    content = path.read_bytes()
    (length,) = struct.unpack("<Q", content[:8])
    header = json.loads(content[8 : 8 + length])
    change(header)
    text = json.dumps(header).encode()
    path.write_bytes(struct.pack("<Q", len(text)) + text + content[8 + length :])


def _first(header):
    return header[min(name for name in header if name != "__metadata__")]


@pytest.mark.parametrize(
    "lie",
    [
        lambda h: _first(h).update(data_offsets=[0, 2**62]),
        lambda h: _first(h).update(shape=[2**40]),
        lambda h: _first(h).update(shape=[-1]),
        lambda h: _first(h).update(dtype="U1024"),
        lambda h: h.pop(min(name for name in h if name != "__metadata__")),
        lambda h: h.update(extra={"dtype": "F32", "shape": [1], "data_offsets": [0, 4]}),
    ],
)
def test_a_safetensors_header_that_lies_is_refused(folder, lie):
    name = "detector/weights.safetensors"
    _with_header(folder / name, lie)
    _listed(folder, name)
    refused(folder, ErrorCode.BUNDLE_MISMATCH, name, "no sound safetensors file")


@pytest.mark.parametrize(
    "content",
    [b"", b"\0" * 7, struct.pack("<Q", 2**63), struct.pack("<Q", 2) + b"[]", b"PK\3\4" * 20],
)
def test_what_is_no_safetensors_is_refused(folder, content):
    name = "describer/model.safetensors"
    (folder / name).write_bytes(content)
    _listed(folder, name)
    refused(folder, ErrorCode.BUNDLE_MISMATCH, name, "no sound safetensors file")


def test_json_of_any_size_is_not_read(folder, monkeypatch):
    monkeypatch.setattr(manifest_file, "MAX_TEXT_BYTES", 2000)
    refused(folder, ErrorCode.BUNDLE_MISMATCH, MANIFEST, "bytes")
    monkeypatch.setattr(manifest_file, "MAX_TEXT_BYTES", (folder / MANIFEST).stat().st_size)
    name = "spatialclip/tokenizer.json"
    (folder / name).write_text(" " * 10**6)
    _listed(folder, name)
    assert any(name in problem and "bytes" in problem for problem in verify(folder))


@pytest.mark.parametrize(
    "changes",
    [
        {"thresholds": {"detection": "x", "view": 0.5, "review": [0.4, 0.6]}},
        {"thresholds": {"detection": 0.2, "view": 0.5, "review": [0.6, 0.4]}},
        {"criteria": {}},
        {"calibration": {"temperature": 0, "bias": 0, "views": {}}},
        {"real_views": ["SPINE"]},
        {"real_views": "NT"},
    ],
)
def test_verify_names_unusable_facts(folder, changes):
    _edit(folder, **changes)
    (problem,) = verify(folder)
    assert next(iter(changes)) in problem


def test_a_detector_s_architecture_runs_nothing(folder, tmp_path):
    """ultralytics evaluates the activation of a model file unless it is told not to."""
    path, mark = folder / "detector" / "architecture.yaml", tmp_path / "ran"
    code = f"activation: __import__('pathlib').Path({str(mark)!r}).touch()\n"
    path.write_text(code + path.read_text())
    _listed(folder, "detector/architecture.yaml")
    with pytest.raises(QCError, match="detector"):
        Bundle.open(folder).detector()
    assert not mark.exists()


def test_verify_names_every_problem(folder):
    (folder / "MODEL_CARD.md").write_text("other")
    (folder / "outlier.safetensors").unlink()
    (folder / "x.txt").write_text("")
    assert len(verify(folder)) == 3


def test_unusable_calibration(folder):
    facts = json.loads((folder / MANIFEST).read_text())
    write_manifest(folder, {**facts, "calibration": {"temperature": 0, "bias": 0, "views": {}}})
    with pytest.raises(QCError, match="calibration"):
        _ = Bundle.open(folder).calibration


def test_views_with_real_evidence(folder):
    facts = json.loads((folder / MANIFEST).read_text())
    assert Bundle.open(folder).real_views == set(View), "an older bundle says nothing of it"
    write_manifest(folder, {**facts, "real_views": ["NT"]})
    assert Bundle.open(folder).real_views == {View.NT}
    write_manifest(folder, {**facts, "real_views": ["SPINE"]})
    with pytest.raises(QCError, match="real_views"):
        _ = Bundle.open(folder).real_views


def test_names_are_of_shipped_bundles(folder, tmp_path, monkeypatch):
    monkeypatch.setattr(bundle, "_shipped_folder", lambda: tmp_path)
    assert bundle.shipped_bundles() == ("bundle",)
    assert Bundle.open("bundle").path == folder


# --- manifest -------------------------------------------------------------------------------------


def test_manifest_is_reproducible_and_follows_the_content(folder):
    facts = json.loads((folder / MANIFEST).read_text())
    first = write_manifest(folder, facts)
    assert write_manifest(folder, facts) == first == Bundle.open(folder).model_id
    (folder / "MODEL_CARD.md").write_text("other")
    assert write_manifest(folder, facts) != first
    assert write_manifest(folder, {**facts, "seeds": {"detector": 1}}) != first
    assert Bundle.open(folder).manifest["seeds"] == {"detector": 1}


def test_manifest_needs_its_facts_and_files(folder):
    facts = json.loads((folder / MANIFEST).read_text())
    before = (folder / MANIFEST).read_bytes()
    with pytest.raises(QCError, match="metrics"):
        write_manifest(folder, {k: v for k, v in facts.items() if k != "metrics"})
    (folder / "outlier.safetensors").unlink()
    with pytest.raises(QCError, match="outlier"):
        write_manifest(folder, facts)
    assert (folder / MANIFEST).read_bytes() == before


# --- build ----------------------------------------------------------------------------------------


def test_build_from_a_hugging_face_clip(parts, tmp_path):
    new_bundle = make(parts, tmp_path / "out", spatialclip=parts / "clip")
    model = new_bundle.spatialclip()
    assert (
        len(model.trimodal_clip.clip_model.text_model.embeddings.position_embedding.weight) == 117
    )
    theirs = load_file(parts / "clip" / "model.safetensors")["visual_projection.weight"]
    own = model.trimodal_clip.clip_model.visual_projection.weight
    assert torch.allclose(own, theirs, atol=1e-3)
    assert any("untrained" in note for note in new_bundle.manifest["training"]["notes"])


@pytest.mark.parametrize("suffix", [".pt", ".safetensors"])
@pytest.mark.parametrize("fusion", ["gated", "concat"])
def test_build_from_a_published_checkpoint(parts, tmp_path, suffix, fusion):
    torch.manual_seed(1)
    trained = SpatialClip.from_clip(parts / "clip", fusion=fusion)
    state = {
        name: tensor.clone()
        for name, tensor in trained.state_dict().items()
        if not name.startswith(("view_head", "missing_tokens"))
    }
    labels = "trimodal_clip.spatial_encoder.label_embedding.weight"
    state[labels] = state[labels][:14].clone()
    path = tmp_path / f"checkpoint{suffix}"
    if suffix == ".pt":
        torch.save({"model_state_dict": state, "global_step": 7, "config": {"a": 1}}, path)
    else:
        save_file(state, path)
    new_bundle = make(parts, tmp_path / "out", spatialclip=path, clip=parts / "clip", trust=True)
    model = new_bundle.spatialclip()
    assert model.config.fusion == fusion
    assert torch.allclose(model.classifier.weight, trained.classifier.weight, atol=1e-3)
    assert any("view_head" in note for note in new_bundle.manifest["training"]["notes"])


def test_build_from_pickles_needs_trust(parts, tmp_path):
    network = build_network("yolo11n.yaml", 2)
    network.names, network.args = {0: "NT", 1: "nasal bone"}, {"imgsz": 64}
    torch.save({"model": network}, tmp_path / "best.pt")
    describer = shutil.copytree(parts / "describer", tmp_path / "describer")
    weights = load_file(describer / "model.safetensors")
    torch.save(weights, describer / "pytorch_model.bin")
    (describer / "model.safetensors").unlink()
    torch.save({}, tmp_path / "checkpoint.pt")
    for changes in (
        {"detector": tmp_path / "best.pt"},
        {"describer": describer},
        {"spatialclip": tmp_path / "checkpoint.pt", "clip": parts / "clip"},
    ):
        with pytest.raises(QCError, match="--trust"):
            make(parts, tmp_path / "out", **changes)
        assert not (tmp_path / "out").exists()
    new_bundle = make(
        parts, tmp_path / "out", detector=tmp_path / "best.pt", describer=describer, trust=True
    )
    assert new_bundle.manifest["vocabulary"] == ["NT", "NB"]
    assert not [p for p in new_bundle.path.rglob("*") if p.suffix in (".pt", ".bin")]
    new_bundle.describer()


class Malicious:
    """Leaves a mark when it is unpickled."""

    def __init__(self, mark):
        self.mark = mark

    def __reduce__(self):
        return (os.mkdir, (str(self.mark),))


def test_nothing_of_a_pickle_is_run_without_trust(parts, tmp_path):
    mark = tmp_path / "ran"
    (tmp_path / "raw.pt").write_bytes(pickle.dumps(Malicious(mark)))
    torch.save({"model": Malicious(mark)}, tmp_path / "best.pt")
    describer = shutil.copytree(parts / "describer", tmp_path / "describer")
    (describer / "model.safetensors").unlink()
    torch.save({"a": Malicious(mark)}, describer / "pytorch_model.bin")
    clip = {"clip": parts / "clip"}
    for changes in (
        {"detector": tmp_path / "best.pt"},
        {"detector": tmp_path / "raw.pt"},
        {"describer": describer},
        {"spatialclip": tmp_path / "best.pt", **clip},
        {"spatialclip": tmp_path / "raw.pt", **clip},
    ):
        with pytest.raises(QCError, match="--trust"):
            make(parts, tmp_path / "out", **changes)
        assert not mark.exists()


def test_a_state_dict_needs_no_code_to_run_even_with_trust(parts, tmp_path, monkeypatch):
    """What torch reads as weights only is never unpickled freely."""
    state = SpatialClip.from_clip(parts / "clip").state_dict()
    torch.save({"model_state_dict": dict(state), "config": {"a": 1}}, tmp_path / "c.pt")
    free, load = [], torch.load

    def spy(*args, weights_only, **more):
        free.append(not weights_only)
        return load(*args, weights_only=weights_only, **more)

    monkeypatch.setattr(torch, "load", spy)
    arguments = {"spatialclip": tmp_path / "c.pt", "clip": parts / "clip", "trust": True}
    make(parts, tmp_path / "out", **arguments)
    assert free == [False]


def test_weights_that_are_not_finite_make_no_bundle(parts, tmp_path):
    source = shutil.copytree(parts / "detector", tmp_path / "detector")
    weights = load_file(source / "weights.safetensors")
    name = next(name for name, tensor in weights.items() if tensor.is_floating_point())
    weights[name] = torch.full_like(weights[name], float("nan"))
    save_file(weights, source / "weights.safetensors")
    with pytest.raises(QCError, match="no numbers"):
        make(parts, tmp_path / "out", detector=source)
    assert not (tmp_path / "out").exists()


@pytest.mark.parametrize(
    ("changes", "word"),
    [
        ({"detector": "nowhere"}, "architecture.yaml"),
        ({"detector": "nowhere.pt"}, "nowhere.pt"),
        ({"describer": "nowhere"}, "config.json"),
        ({"spatialclip": "nowhere.pt"}, "CLIP"),
        ({"spatialclip": "nowhere.safetensors", "clip": "clip"}, "nowhere"),
        ({"spatialclip": "empty"}, "safetensors"),
    ],
)
def test_build_refuses_in_one_line_and_leaves_nothing(parts, tmp_path, changes, word):
    (parts / "empty").mkdir(exist_ok=True)
    with pytest.raises(QCError, match=word) as caught:
        make(
            parts,
            tmp_path / "out",
            **{key: parts / value for key, value in changes.items()},
            trust=True,
        )
    assert "\n" not in caught.value.message
    assert list(tmp_path.iterdir()) == []


def test_build_never_overwrites(parts, tmp_path):
    with pytest.raises(QCError, match="new folder"):
        make(parts, tmp_path)


def test_build_takes_facts(parts, tmp_path):
    new_bundle = make(parts, tmp_path / "out", facts={"metrics": {"AUROC": 0.97}})
    assert new_bundle.manifest["metrics"] == {"AUROC": 0.97}

"""The tri-modal model: fusion, missing modalities, stages, checkpoints."""

import pytest
import torch
from transformers import CLIPModel

from detector.anatomy import View
from detector.errors import ErrorCode, QCError
from model.spatialclip.checkpoint import load_checkpoint, load_spatialclip, save_spatialclip
from model.spatialclip.network import (
    VIEWS,
    SpatialClip,
    SpatialClipConfig,
    extend_text_positions,
    full_config,
    small_config,
)
from model.spatialclip.stages import Stage, parameter_groups, set_stage


def tiny_config(**changes):
    def tower(**own):
        return {
            "hidden_size": 16,
            "intermediate_size": 32,
            "num_hidden_layers": 3,
            "num_attention_heads": 2,
            "projection_dim": 24,
            **own,
        }

    clip = {
        "projection_dim": 24,
        "vision_config": tower(image_size=32, patch_size=16),
        "text_config": tower(
            vocab_size=40,
            max_position_embeddings=117,
            bos_token_id=0,
            eos_token_id=2,
            pad_token_id=1,
        ),
    }
    return SpatialClipConfig(clip, **{"label_dim": 8, "heads": 4, "ffn": 32, **changes})


def tiny(**changes):
    torch.manual_seed(0)
    return SpatialClip(tiny_config(**changes)).eval()


def batch(rows=3, seed=0):
    g = torch.Generator().manual_seed(seed)
    return {
        "pixel_values": torch.randn(rows, 3, 32, 32, generator=g),
        "input_ids": torch.cat(
            (
                torch.zeros(rows, 1).long(),
                torch.randint(3, 40, (rows, 6), generator=g),
                torch.full((rows, 1), 2),
            ),
            1,
        ),
        "attention_mask": torch.ones(rows, 8).long(),
        "boxes": torch.rand(rows, 4, 4, generator=g) * 0.4 + 0.05,
        "labels": torch.randint(0, 20, (rows, 4), generator=g),
        "confidences": torch.rand(rows, 4, generator=g),
        "box_mask": torch.ones(rows, 4).bool(),
    }


@pytest.mark.parametrize("fusion", ["gated", "concat"])
def test_shapes_and_norms(fusion):
    out = tiny(fusion=fusion)(**batch())
    assert out.logit.shape == (3,)
    assert out.view_logits.shape == (3, 5)
    assert torch.allclose(out.gates.sum(-1), torch.ones(3))
    for feature in (out.image, out.text, out.spatial):
        assert torch.allclose(feature.norm(dim=-1), torch.ones(3), atol=1e-5)


def test_a_view_offset_is_added_to_the_view_logits_and_stored(tmp_path):
    offset = (1.5, 0.0, -0.5, 0.0, 0.0)
    plain, shifted = tiny(), tiny(view_offset=offset)
    before, after = plain(**batch()), shifted(**batch())
    assert torch.allclose(after.view_logits - before.view_logits, torch.tensor(offset), atol=1e-6)
    assert torch.equal(after.logit, before.logit)
    save_spatialclip(tmp_path, shifted)
    assert load_spatialclip(tmp_path).config.view_offset == offset
    with pytest.raises(ValueError, match="view_offset has 2 of 5 views"):
        tiny(view_offset=(1.0, 2.0))


def test_view_order():
    assert VIEWS == (View.HEAD, View.NT, View.CRL, View.ABDOMEN, View.OTHER)


def test_each_modality_matters():
    model, inputs = tiny(), batch()
    base = model(**inputs).logit
    for key in ("pixel_values", "boxes", "confidences"):
        assert not torch.allclose(model(**{**inputs, key: inputs[key] * 0.5}).logit, base)
    words = inputs["input_ids"].clone()
    words[:, 2] = (words[:, 2] + 1) % 37 + 3
    assert not torch.allclose(model(**{**inputs, "input_ids": words}).logit, base)


@pytest.mark.parametrize("lost", [0, 1, 2])
def test_a_missing_modality_gets_no_gate_and_has_no_effect(lost):
    model, inputs = tiny(), batch()
    present = torch.ones(3, 3).bool()
    present[:, lost] = False
    out = model(**inputs, present=present)
    assert out.gates[:, lost].abs().max() == 0
    assert torch.allclose(out.gates.sum(-1), torch.ones(3))
    other = batch(seed=1)
    keys = [("pixel_values",), ("input_ids",), ("boxes", "labels", "confidences")][lost]
    changed = model(**{**inputs, **{k: other[k] for k in keys}}, present=present)
    assert torch.allclose(out.logit, changed.logit, atol=1e-6)
    assert torch.allclose(out.view_logits, changed.view_logits, atol=1e-6)


@pytest.mark.parametrize("fusion", ["gated", "concat"])
def test_nothing_present_is_no_nan(fusion):
    out = tiny(fusion=fusion)(**batch(), present=torch.zeros(3, 3).bool())
    assert all(value.isfinite().all() for value in out)
    assert torch.allclose(out.gates.sum(-1), torch.ones(3))


def test_no_boxes_is_no_nan_forward_or_backward():
    model, inputs = tiny().train(), batch()
    inputs["box_mask"] = torch.zeros(3, 4).bool()
    out = model(**inputs)
    (out.logit.sum() + out.view_logits.sum() + out.spatial[:, 0].sum()).backward()
    assert all(value.isfinite().all() for value in out)
    assert all(p.grad.isfinite().all() for p in model.parameters() if p.grad is not None)


def test_half_precision_autocast():
    with torch.autocast("cpu", torch.bfloat16):
        out = tiny()(**batch())
    assert all(value.isfinite().all() for value in out)


def test_text_is_read_at_its_end_and_not_beyond():
    """End token number 2 makes transformers' own pooling take the highest token instead."""
    model, inputs = tiny(), batch()
    text = model.trimodal_clip.encode_text(inputs["input_ids"], inputs["attention_mask"])
    padded = torch.cat((inputs["input_ids"], torch.full((3, 4), 39)), 1)
    mask = torch.cat((inputs["attention_mask"], torch.zeros(3, 4).long()), 1)
    assert torch.allclose(text, model.trimodal_clip.encode_text(padded, mask), atol=1e-5)
    last = inputs["input_ids"].clone()
    last[:, -2] = 3 + (last[:, -2] + 5) % 37
    moved = model.trimodal_clip.encode_text(last, inputs["attention_mask"])
    assert (text - moved).abs().max() > 1e-4


def test_pooling_equals_clips_own_for_its_usual_end_token():
    config = tiny_config()
    config.clip["text_config"]["eos_token_id"] = 39
    torch.manual_seed(0)
    model, inputs = SpatialClip(config).eval(), batch()
    ids = inputs["input_ids"].clamp(max=38)
    ids[:, -1] = 39
    clip = model.trimodal_clip.clip_model
    theirs = clip.get_text_features(ids, inputs["attention_mask"]).pooler_output
    ours = model.trimodal_clip.encode_text(ids, inputs["attention_mask"])
    assert torch.allclose(ours, theirs / theirs.norm(dim=-1, keepdim=True), atol=1e-5)


def test_extended_text_positions():
    config = tiny_config()
    config.clip["text_config"]["max_position_embeddings"] = 77
    clip = SpatialClip(config).trimodal_clip.clip_model
    before = clip.text_model.embeddings.position_embedding.weight.detach().clone()
    extend_text_positions(clip, 117)
    after = clip.text_model.embeddings.position_embedding.weight
    assert after.shape == (117, 16)
    assert torch.equal(after[:77], before)
    noise = after[77:] - before[-1]
    assert 0.01 < noise.std() < 0.03
    clip.text_model(input_ids=torch.zeros(1, 117).long())
    extend_text_positions(clip, 77)
    assert len(clip.text_model.embeddings.position_embedding.weight) == 117


# --- stages ---------------------------------------------------------------------------------------


@pytest.mark.parametrize("stage", list(Stage))
def test_optimiser_holds_every_trainable_parameter_once(stage):
    model = tiny()
    groups = parameter_groups(model, stage, vision_layers=2, text_layers=1)
    grouped = [id(p) for group in groups for p in group["params"]]
    trainable = [id(p) for p in model.parameters() if p.requires_grad]
    assert len(grouped) == len(set(grouped))
    assert set(grouped) == set(trainable)
    torch.optim.AdamW(groups)


@pytest.mark.parametrize("stage", [Stage.FUSION, Stage.PROJECTION, Stage.TOP])
def test_what_is_trained(stage):
    model = tiny()
    set_stage(model, Stage.ALL)
    set_stage(model, stage, vision_layers=2, text_layers=1)
    trained = {name for name, p in model.named_parameters() if p.requires_grad}
    assert {n for n, _ in model.named_parameters() if "spatial_encoder" in n} <= trained
    assert {"gate_proj.weight", "classifier.weight", "view_head.bias", "missing_tokens"} <= trained
    clip = {n.removeprefix("trimodal_clip.clip_model.") for n in trained if "clip_model" in n}
    assert ("trimodal_clip.logit_scale" in trained) == (stage >= Stage.PROJECTION)
    if stage is Stage.FUSION:
        assert not clip
    else:
        assert {"visual_projection.weight", "text_projection.weight"} <= clip
        layers = {
            n.split(".layers.")[0] + n.split(".layers.")[1][:1] for n in clip if "layers" in n
        }
        top = {"vision_model.encoder1", "vision_model.encoder2", "text_model.encoder2"}
        assert layers == (top if stage is Stage.TOP else set())


@pytest.mark.parametrize("stage", [Stage.FUSION, Stage.PROJECTION, Stage.TOP])
def test_what_is_not_trained_gathers_no_gradient(stage):
    """Upstream's gradients of what no optimiser holds pile up, and clipping shrinks the others."""
    model = tiny().train()
    groups = parameter_groups(model, stage, vision_layers=2, text_layers=1)
    trained = {id(p) for group in groups for p in group["params"]}
    model(**batch()).logit.sum().backward()
    assert all(p.grad is None for p in model.parameters() if id(p) not in trained)


def test_one_step_moves_all_that_is_trained_and_nothing_else():
    model = tiny().train()
    optimizer = torch.optim.AdamW(parameter_groups(model, 1, head_lr=1e-2, projection_lr=1e-2))
    before = {name: p.detach().clone() for name, p in model.named_parameters()}
    inputs = batch()
    present = torch.tensor([[True, True, True], [False, True, True], [True, False, True]])
    for k in range(2):
        p = present if k == 0 else ~torch.eye(3).bool()
        out = model(**inputs, present=p)
        contrast = model.trimodal_clip.scale() * (out.image * out.text).sum()
        optimizer.zero_grad()
        (out.logit.square().sum() + out.view_logits.square().sum() + contrast).backward()
        optimizer.step()
    for name, p in model.named_parameters():
        assert torch.equal(p, before[name]) != p.requires_grad, name


# --- checkpoints ----------------------------------------------------------------------------------


def upstream(model, rows=14, positions=77):
    """A state dict as the published code writes it: 14 labels, no view head, no missing tokens."""
    state = {
        name: torch.randn(tensor.shape, generator=torch.Generator().manual_seed(i))
        for i, (name, tensor) in enumerate(model.state_dict().items())
        if not name.startswith(("view_head.", "missing_tokens"))
    }
    labels = "trimodal_clip.spatial_encoder.label_embedding.weight"
    key = "trimodal_clip.clip_model.text_model.embeddings.position_embedding.weight"
    state[labels] = state[labels][:rows]
    state[key] = state[key][:positions]
    state["trimodal_clip.clip_model.text_model.embeddings.position_ids"] = torch.arange(77)[None]
    return state


def test_published_key_prefixes():
    names = tiny().state_dict().keys()
    for prefix in (
        "trimodal_clip.clip_model.vision_model.",
        "trimodal_clip.clip_model.text_projection.weight",
        "trimodal_clip.spatial_encoder.",
        "trimodal_clip.logit_scale",
        "gate_proj.weight",
        "classifier.weight",
    ):
        assert any(name.startswith(prefix) for name in names), prefix


def test_published_checkpoint_loads():
    model = tiny()
    fresh = model.trimodal_clip.spatial_encoder.label_embedding.weight.detach().clone()
    state = upstream(model)
    report = load_checkpoint(model, state)
    assert set(report.missing) == {"view_head.weight", "view_head.bias", "missing_tokens"}
    assert len(report.unexpected) == 1
    assert len(report.resized) == 2
    own = model.state_dict()
    labels = "trimodal_clip.spatial_encoder.label_embedding.weight"
    assert torch.equal(own[labels][:14], state[labels])
    assert torch.equal(own[labels][14:], fresh[14:])
    for name in ("gate_proj.weight", "classifier.bias", "trimodal_clip.logit_scale"):
        assert torch.equal(own[name], state[name])
    assert model(**batch()).logit.isfinite().all()


def test_spatial_encoder_under_other_names_is_matched_by_what_it_is():
    model = tiny()
    state = upstream(model)
    others = {
        "geometry_projection": "geo_fc",
        "label_embedding": "category_embed",
        "mlp": "fusion_net",
        "cls_token": "cls",
        "transformer": "encoder",
        "norm": "ln_out",
    }
    prefix = "trimodal_clip.spatial_encoder."
    renamed = {}
    for name, tensor in state.items():
        if name.startswith(prefix):
            part, dot, rest = name.removeprefix(prefix).partition(".")
            name = prefix + others[part] + dot + rest
        renamed[name] = tensor
    report = load_checkpoint(model, dict(sorted(renamed.items())))
    assert report.renamed
    own = model.state_dict()
    for name, tensor in state.items():
        if name.startswith(prefix) and "label" not in name:
            assert torch.equal(own[name], tensor), name


@pytest.mark.parametrize(
    ("change", "code"),
    [
        (lambda s: s.pop("classifier.weight"), ErrorCode.BUNDLE_INCOMPLETE),
        (lambda s: s.update({"extra.weight": torch.ones(2)}), ErrorCode.BUNDLE_MISMATCH),
        (lambda s: s.update({"classifier.weight": torch.ones(1, 7)}), ErrorCode.BUNDLE_MISMATCH),
        (
            lambda s: s.pop("trimodal_clip.spatial_encoder.norm.weight"),
            ErrorCode.BUNDLE_INCOMPLETE,
        ),
    ],
)
def test_anything_else_is_refused_and_changes_nothing(change, code):
    model = tiny()
    before = {name: tensor.clone() for name, tensor in model.state_dict().items()}
    state = upstream(model)
    change(state)
    with pytest.raises(QCError) as caught:
        load_checkpoint(model, state)
    assert caught.value.code is code
    assert "\n" not in caught.value.message
    assert all(torch.equal(t, before[n]) for n, t in model.state_dict().items())


def test_folder_round_trip(tmp_path):
    model, inputs = tiny(), batch()
    save_spatialclip(tmp_path, model)
    again = load_spatialclip(tmp_path)
    assert again.config == model.config
    assert all(p.dtype is torch.float32 for p in again.parameters())
    assert torch.allclose(again(**inputs).logit, model(**inputs).logit, atol=1e-2)


@pytest.mark.parametrize("name", ["config.json", "weights.safetensors"])
def test_folder_without_a_file(tmp_path, name):
    save_spatialclip(tmp_path, tiny())
    (tmp_path / name).unlink()
    with pytest.raises(QCError, match=name) as caught:
        load_spatialclip(tmp_path)
    assert caught.value.code is ErrorCode.BUNDLE_INCOMPLETE


def test_folder_of_other_sizes(tmp_path):
    save_spatialclip(tmp_path, tiny())
    config = tmp_path / "config.json"
    config.write_text(config.read_text().replace('"ffn": 32', '"ffn": 33'))
    with pytest.raises(QCError) as caught:
        load_spatialclip(tmp_path)
    assert caught.value.code is ErrorCode.BUNDLE_MISMATCH
    assert "\n" not in caught.value.message


def test_on_a_pretrained_clip(tmp_path):
    config = tiny_config()
    config.clip["text_config"]["max_position_embeddings"] = 77
    clip = SpatialClip(config).trimodal_clip.clip_model
    clip.logit_scale.data.fill_(3.0)
    clip.save_pretrained(tmp_path)
    model = SpatialClip.from_clip(tmp_path, heads=4)
    ours = model.trimodal_clip
    assert ours.logit_scale == 3.0
    assert torch.equal(ours.clip_model.visual_projection.weight, clip.visual_projection.weight)
    assert len(ours.clip_model.text_model.embeddings.position_embedding.weight) == 117
    assert isinstance(ours.clip_model, CLIPModel)
    save_spatialclip(tmp_path / "saved", model)
    load_spatialclip(tmp_path / "saved")


def test_small_size():
    model = SpatialClip(small_config(1000))
    assert sum(p.numel() for p in model.parameters()) < 7_000_000
    assert SpatialClipConfig.from_json(model.config.to_json()) == model.config


def test_full_size_is_the_published():
    clip = full_config().clip
    assert clip["projection_dim"] == 768
    assert clip["vision_config"]["num_hidden_layers"] == 24
    assert clip["text_config"]["max_position_embeddings"] == 117

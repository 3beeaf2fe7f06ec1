"""Backbones: weights from the hub's cache alone, and one clear line where there are none."""

from pathlib import Path

import numpy as np
import pytest

from loopworks.core.errors import NotFound, Unreachable
from loopworks.data.features.backbone import FILE, load

pytestmark = [pytest.mark.train, pytest.mark.slow]  # importing timm and torch takes seconds
NAME = "test_vit.r160_in1k"


def test_weights_that_are_not_here_are_one_line_and_no_wait(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr("huggingface_hub.try_to_load_from_cache", lambda repo, file: None)
    with pytest.raises(Unreachable, match="weights of resnet18 must be on this machine") as raised:
        load("resnet18")
    assert "hf download timm/resnet18" in raised.value.hint


def test_a_network_that_timm_does_not_know_is_refused() -> None:
    with pytest.raises(NotFound, match="timm network 'resnet18nope' does not exist"):
        load("resnet18nope")


def test_weights_that_are_here_describe_images(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    import timm
    from safetensors.torch import save_file

    save_file(timm.create_model(NAME).state_dict(), tmp_path / FILE)
    monkeypatch.setattr("huggingface_hub.try_to_load_from_cache", lambda repo, file: str(tmp_path / FILE))
    found = load(NAME)
    assert found.rule is not None
    batch = np.random.default_rng(0).integers(0, 256, (2, found.rule.height, found.rule.width, 3), np.uint8)
    rows = found.describe(batch)
    assert rows.shape == (2, found.width)
    assert (rows == found.describe(batch)).all()
    assert not np.allclose(rows[0], rows[1])

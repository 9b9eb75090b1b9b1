"""Devices and number formats: what "auto" is, what is refused, what there is on each machine."""

from types import SimpleNamespace

import pytest
import torch

from implicitrm_sk._device import resolve_device, resolve_dtype


def with_devices(monkeypatch, *, cuda=False, mps=False, bf16=False):
    monkeypatch.setattr(torch.cuda, "is_available", lambda: cuda)
    monkeypatch.setattr(torch.cuda, "is_bf16_supported", lambda: bf16)
    monkeypatch.setattr(torch.backends.mps, "is_available", lambda: mps)


@pytest.mark.parametrize(
    ("available", "expected"),
    [
        ({}, "cpu"),
        ({"mps": True}, "mps"),
        ({"cuda": True}, "cuda"),
        ({"cuda": True, "mps": True}, "cuda"),
    ],
)
def test_auto_device(monkeypatch, available, expected):
    with_devices(monkeypatch, **available)
    assert resolve_device("auto").type == expected


def test_named_device():
    assert resolve_device("cpu") == torch.device("cpu")


@pytest.mark.parametrize("device", ["gpu", "", "cpu:x", "cuda:99", "xla"])
def test_unusable_device(device):
    with pytest.raises(ValueError, match=r"(?s)^device=.* cannot be used: .*'auto', 'cpu'") as info:
        resolve_device(device)
    assert repr(device) in str(info.value)
    assert len(str(info.value)) < 300


@pytest.mark.parametrize(
    ("dtype", "device", "bf16", "expected"),
    [
        ("auto", "cpu", False, (torch.float32, None)),
        ("auto", "mps", False, (torch.float32, None)),
        ("auto", "cuda", True, (torch.float32, torch.bfloat16)),
        ("auto", "cuda", False, (torch.float32, None)),
        ("bfloat16", "cpu", False, (torch.float32, torch.bfloat16)),
        ("float32", "cuda", True, (torch.float32, None)),
        ("float64", "cpu", False, (torch.float64, None)),
    ],
)
def test_dtype(monkeypatch, dtype, device, bf16, expected):
    with_devices(monkeypatch, bf16=bf16)
    assert resolve_dtype(dtype, SimpleNamespace(type=device)) == expected

# SPDX-License-Identifier: Apache-2.0
"""The table of chips and the names of topologies."""

import sys
from types import SimpleNamespace

import pytest

from bert_jax.base.errors import UserError
from bert_jax.mesh.chips import CHIPS, find_chip, parse_topology, topology_devices
from bert_jax.mesh.peak import device_peak


@pytest.mark.parametrize(
    ("kind", "name"),
    [
        ("TPU v5 lite", "v5e"),  # not v5p, whose kind "TPU v5" is the beginning of this one
        ("TPU v5", "v5p"),
        ("TPU v6 lite", "v6e"),
        ("TPU v4", "v4"),
        ("NVIDIA H200", "H200"),
        ("NVIDIA H100 80GB HBM3", "H100"),
        ("NVIDIA H100 PCIe", "H100 PCIe"),
        ("NVIDIA H100 NVL", "H100 NVL"),
        ("NVIDIA H200 NVL", "H200 NVL"),
        ("NVIDIA GH200 480GB", "GH200"),
        ("NVIDIA GH200 144G HBM3e", "GH200 144GB"),
        ("NVIDIA A100-SXM4-40GB", "A100 40GB"),
        ("NVIDIA A100-SXM4-80GB", "A100"),
    ],
)
def test_device_kinds(kind, name):
    assert find_chip(kind).name == name


def test_an_unknown_chip_has_no_peak():
    assert find_chip("cpu") is None
    assert device_peak(SimpleNamespace(platform="gpu", device_kind="Abacus 3000")) == (None, None)


def test_a_known_chip_says_where_its_peak_is_from():
    peak, source = device_peak(SimpleNamespace(platform="gpu", device_kind="NVIDIA H200"))
    assert peak == 989.5e12
    assert source == "vendor, dense bf16: nvidia.com/en-us/data-center/h200 (SXM)"


@pytest.mark.parametrize(("name", "intensity"), [("v5e", 240), ("v6e", 560), ("H200", 206)])
def test_flops_for_a_byte_of_memory(name, intensity):
    """Two figures of the table against a third that is often quoted: v5e needs 240 FLOPs for each byte."""
    chip = next(chip for chip in CHIPS if chip.name == name)
    assert chip.bf16_flops / chip.memory_bandwidth == pytest.approx(intensity, rel=0.01)


def test_names_of_topologies():
    one, two = parse_topology("v5e:16x16"), parse_topology("2xv5e:4x4")
    assert (one.chip.name, one.shape, one.slices, str(one)) == ("v5e", "16x16", 1, "v5e:16x16")
    assert (two.chip.name, two.shape, two.slices, str(two)) == ("v5e", "4x4", 2, "2xv5e:4x4")
    assert parse_topology("v5e:4x4", slices=2) == two


@pytest.mark.parametrize(
    ("text", "message"),
    [
        ("v5e:3x3", "there is no topology 'v5e:3x3': the shapes of v5e are 1x1, 2x2, 2x4, 4x4, 4x8, 8x8, 8x16, 16x16"),
        ("v5e:2x2x2", "the shapes of v5e are"),  # the compiler would take it, and no such slice can be had
        ("v5e", "the shapes of v5e are"),
        ("v9:2x2", "there is no topology 'v9:2x2': write a TPU and a shape, such as v4:8x16x16, v5e:8x16, .* or local"),
        ("", "there is no topology ''"),
        ("0xv5e:4x4", "0 slices are not possible"),
    ],
)
def test_topologies_that_do_not_exist(text, message):
    with pytest.raises(UserError, match=message):
        parse_topology(text)


def test_slices_are_said_once():
    with pytest.raises(UserError, match="both say how many slices"):
        parse_topology("2xv5e:4x4", slices=2)


def test_without_libtpu_the_package_is_named(monkeypatch):
    monkeypatch.setitem(sys.modules, "libtpu", None)
    with pytest.raises(UserError, match=r"libtpu is not installed: pip install 'bert-jax\[plan\]'"):
        topology_devices(parse_topology("v5e:4x4"))


@pytest.mark.parametrize(("text", "devices", "kind"), [("v5e:2x4", 8, "v5e"), ("2xv5e:2x2", 8, "v5e"), ("v4:2x2x1", 4, "v4"),
                                                        ("v5p:2x2x2", 8, "v5p"), ("v6e:2x2", 4, "v6e")])  # fmt: skip
def test_devices_that_are_not_there(text, devices, kind):
    """A chip is one device, v4's two cores included; slices are told apart."""
    pytest.importorskip("libtpu", reason="libtpu is not installed: pip install 'bert-jax[plan]'")
    topology = parse_topology(text)
    found = topology_devices(topology)
    assert len(found) == devices
    assert find_chip(found[0].device_kind).name == kind
    if topology.slices > 1:
        assert [device.slice_index for device in found] == [0] * 4 + [1] * 4

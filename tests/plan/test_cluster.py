"""Clusters in words: what is understood, and one clear line for everything else."""

import pytest
from hypothesis import given
from hypothesis import strategies as st

from monosem.errors import InputError
from monosem.plan.cluster import GPUS_PER_NODE, parse_cluster, this_machine


def test_what_is_understood():
    eight = parse_cluster("8xH200")
    assert eight.gpus == 8 and eight.kind == "H200" and len(eight.nodes) == 1
    many = parse_cluster(" 20 x h100 ")
    assert many.gpus == 20 and [node.gpus for node in many.nodes] == [8, 8, 4]
    two = parse_cluster("2x(16 CPU, 24 GiB)")
    assert two.kind is None and two.cores == 32 and {node.memory for node in two.nodes} == {24 * 2**30}
    full = parse_cluster("4x(8 A100, 96 cpus, 1.5 TiB, 400 Gbit)").nodes[0]
    assert (full.kind, full.gpus, full.cores, full.memory, full.network) == ("A100", 8, 96, 1.5 * 2**40, 50e9)
    assert len(parse_cluster("2x(16 CPU, 24 GiB)+1x(4 CPU, 8 GB)").nodes) == 3
    assert this_machine().cores >= 1 and this_machine().nodes[0].memory > 2**30


@pytest.mark.parametrize(
    "text, says",
    [
        ("", "is not understood"),
        ("H200", "is not understood"),
        ("8xH20", "did you mean H200?"),
        ("8xTPU", "no known GPU"),
        ("0xH200", "not between 1"),
        ("999999999xH200", "not between 1"),
        ("99999999999999999999xH200", "is not understood"),
        ("-1xH200", "is not understood"),
        ("1.5xH200", "is not understood"),
        ("8xH200+", "is not understood"),
        ("8xH200+2xH100", "one kind only"),
        ("2x(16 CPU)", "needs its CPU and GiB"),
        ("2x()", "is not understood"),
        ("2x(16 CPU, 24 GiB", "is not understood"),
        ("2x(16 CPU, 24 GiB, 16 CPU)", "told twice"),
        ("2x(0 CPU, 24 GiB)", "above 0"),
        ("2x(1.5 CPU, 24 GiB)", "whole number"),
        ("2x(16 CPU, 24 Gib, 3 bananas)", "no known GPU"),
        ("2x(16 CPU, 1e9 GiB)", "is not understood"),
        ("2x((16 CPU, 24 GiB))", "is not understood"),
        ("\u0668xH200", "one"),
        ("8xH200\n; rm -rf /", "is not understood"),
        ("x" * 100_000, "is not understood"),
    ],
)
def test_what_is_not(text, says):
    if text == "\u0668xH200":  # an Arabic eight is an eight
        assert parse_cluster(text).gpus == 8
        return
    with pytest.raises(InputError) as error:
        parse_cluster(text)
    line = str(error.value)
    assert says in line and len(line) < 300 and line.startswith("--cluster ")


@given(st.text(max_size=40))
def test_any_text_is_a_cluster_or_an_input_error(text):
    try:
        found = parse_cluster(text)
    except InputError as error:
        assert "\n" not in str(error)
    else:
        assert found.nodes


@given(st.integers(1, 5000))
def test_every_gpu_is_on_a_node(n):
    nodes = parse_cluster(f"{n}xL4").nodes
    assert sum(node.gpus for node in nodes) == n and max(node.gpus for node in nodes) <= GPUS_PER_NODE

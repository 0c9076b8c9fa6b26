"""The section `compression`: its names, their keys, and what is told of a mistake."""

from dataclasses import replace

import pytest

from fedknow_ray.config import load_config
from fedknow_ray.config.compression import Int8Compression, NoCompression, TopKCompression
from fedknow_ray.errors import ConfigError
from fedknow_ray.registry import Registry


def test_updates_are_sent_as_they_are_unless_a_config_says_otherwise(load):
    assert load().compression == NoCompression()
    assert load().to_dict()["compression"] == {"name": "none"}


@pytest.mark.parametrize(
    ("text", "expected"),
    [
        ("{name: int8}", Int8Compression()),
        ("{name: topk}", TopKCompression(fraction=0.01)),
        ("{name: topk, fraction: 1}", TopKCompression(fraction=1.0)),
        ("{}", NoCompression()),
    ],
)
def test_a_name_decides_which_keys_there_are(load, text, expected):
    config = load(f"compression: {text}")
    assert config.compression == expected
    assert load(f"compression: {config.to_dict()['compression']}").compression == expected


def test_it_can_be_set_from_outside(load):
    assert load("{}", "compression.name=topk", "compression.fraction=0.1").compression == TopKCompression(fraction=0.1)


@pytest.mark.parametrize(
    ("text", "message"),
    [
        ("int8", "compression: must be a mapping of keys, got 'int8'; write compression: {name: int8}"),
        ("{name: int}", "compression.name: unknown compression 'int'; did you mean 'int8'?"),
        ("{name: int8, fraction: 0.1}", "compression.fraction: unknown key; known: name"),
        ("{name: topk, fraction: 0}", "compression.fraction: must be greater than 0, got 0"),
        ("{name: topk, fraction: 1.5}", "compression.fraction: must be at most 1, got 1.5"),
        ("{fraction: 0.1}", "compression.fraction: unknown key; known: name"),
    ],
)
def test_a_mistake_is_told(faults_of, text, message):
    assert faults_of(f"compression: {text}") == [f"x.yaml:1: {message}"]


def test_a_method_that_shortens_its_updates_itself_goes_with_no_other_compression(catalogue, tmp_path):
    methods = Registry("method")
    methods.register("sparse", replace(catalogue.methods.get("fedavg"), shortens_updates=True))
    (tmp_path / "x.yaml").write_text("method: {name: sparse}\ncompression: {name: int8}")
    with pytest.raises(ConfigError) as caught:
        load_config(tmp_path / "x.yaml", catalogue=replace(catalogue, methods=methods))
    (fault,) = caught.value.faults
    assert str(fault).endswith(
        "x.yaml:2: compression.name: 'int8' does not go with method sparse, which sends a part of its update by a rule "
        "of its own; leave compression out, or choose another method"
    )
    (tmp_path / "x.yaml").write_text("method: {name: sparse}")
    assert load_config(tmp_path / "x.yaml", catalogue=replace(catalogue, methods=methods)).method.name == "sparse"

from __future__ import annotations

import json

import pytest

from dure.agent.__main__ import main
from dure.agent.config import ConfigError, load_config, read_token
from dure.engines.local import Devices, LocalPool

TOML = """
cluster_id = "nhn-gwangju"
url = "http://127.0.0.1:8080"
token_file = "token"
root = "state"
engine = "local"

[[pools]]
pool_id = "h200"
nodes = 2
gpus_per_node = 8

[[pools]]
pool_id = "here"
devices = "nvml"
"""


@pytest.fixture
def write(tmp_path):
    def write(text, name="agent.toml"):
        path = tmp_path / name
        path.write_text(text)
        return path

    return write


def test_toml_and_json_say_the_same(write):
    config = load_config(write(TOML))
    assert config.cluster_id == "nhn-gwangju"
    assert config.pools == (
        LocalPool(pool_id="h200", nodes=2, gpus_per_node=8),
        LocalPool(pool_id="here", devices=Devices.NVML),
    )
    pools = [
        {"pool_id": "h200", "nodes": 2, "gpus_per_node": 8},
        {"pool_id": "here", "devices": "nvml"},
    ]
    same = {
        "cluster_id": "nhn-gwangju",
        "url": "http://127.0.0.1:8080",
        "token_file": "token",
        "root": "state",
        "engine": "local",
        "pools": pools,
    }
    assert load_config(write(json.dumps(same), "agent.json")) == config


@pytest.mark.parametrize(
    ("old", "new", "sentence"),
    [
        ('engine = "local"', 'engine = "slurm"', "engine is 'slurm'"),
        ("nodes = 2", 'nodes = "2"', "it must be a valid integer"),
        ("nodes = 2", "nodes = 0", "nodes of pool h200 is 0"),
        ("nodes = 2", "nodes = 2\nname = 1", "name is not a field"),
        ("nodes = 2", "nodes = 1979-05-27", "holds a date"),
        ("nodes = 2", "nodes =", "cannot be read"),
        ('"http:', '"ftp:', "must start with https"),
        ('"nhn-gwangju"', '"NHN"', "cluster_id 'NHN' is not an id"),
        ('pool_id = "here"', 'pool_id = "h200"', "names a pool_id twice"),
    ],
)
def test_what_is_wrong_is_one_sentence_and_exit_code_2(write, capsys, old, new, sentence):
    path = write(TOML.replace(old, new))
    with pytest.raises(ConfigError, match=sentence):
        load_config(path)
    assert main(["--config", str(path)]) == 2
    assert capsys.readouterr().err.count("\n") == 1


def test_a_token_that_others_can_read_is_refused(write, tmp_path):
    token = write("dure-abc\n", "token")
    token.chmod(0o640)
    with pytest.raises(ConfigError, match="make its mode 0600") as raised:
        read_token(token)
    assert "dure-abc" not in str(raised.value)
    token.chmod(0o600)
    assert read_token(token) == "dure-abc"
    with pytest.raises(ConfigError, match="cannot be read"):
        read_token(tmp_path / "none")

from __future__ import annotations

import json

import pytest

from dure.agent.__main__ import main
from dure.agent.config import ConfigError, load_config, read_token
from dure.engines.local import Devices, LocalPool
from dure.engines.ray import RayPool, RaySite
from dure.engines.slurm import SlurmPool, SlurmSite

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
        ('engine = "local"', 'engine = "lsf"', "engine is 'lsf'; it must be one of 'local', 'sl"),
        ('engine = "local"', "engine = 1", "engine is None; it must be one of"),
        ('engine = "local"', "", "engine is missing"),
        ('engine = "local"', 'engine = "slurm"', r"pools\[0\].nodes is not a field"),
        ('engine = "local"', 'engine = "local"\ninterval_s = 601', "interval_s is 601"),
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


SLURM = """
cluster_id = "nhn-national"
url = "https://dure.example.kr"
token_file = "token"
root = "/shared/dure"
interval_s = 120

[engine]
type = "slurm"
slurm_conf = "/etc/slurm/slurm.conf"
account = "national"
accounts = { climate = "natl-climate" }

[[pools]]
pool_id = "nhn-b200"
partition = "gpu"
gpu_type = "b200"
cpus_per_gpu = 16
"""


def test_a_slurm_site_is_read(write):
    config = load_config(write(SLURM))
    assert config.interval_s == 120
    assert config.engine == SlurmSite(
        type="slurm",
        slurm_conf="/etc/slurm/slurm.conf",
        account="national",
        accounts={"climate": "natl-climate"},
    )
    assert config.pools == (
        SlurmPool(pool_id="nhn-b200", partition="gpu", gpu_type="b200", cpus_per_gpu=16),
    )


@pytest.mark.parametrize(
    ("old", "new", "sentence"),
    [
        ('partition = "gpu"', "", r"pools\[0\].partition is missing"),
        (
            'partition = "gpu"',
            'partition = "gpu,cpu"',
            "partition of pool nhn-b200 'gpu,cpu' is no",
        ),
        ('gpu_type = "b200"', 'gpu_type = "b200\\n"', "gpu_type of pool nhn-b200 'b200"),
        ("cpus_per_gpu = 16", "cpus_per_gpu = 0", "cpus_per_gpu of pool nhn-b200 is 0"),
        ('"natl-climate"', '"a b"', "account of project climate 'a b' is not a name of Slurm's"),
        ('"/etc/slurm/slurm.conf"', '"slurm.conf"', "slurm_conf 'slurm.conf' must be an absolute"),
        ('type = "slurm"', 'type = "slurm"\nsettle_s = 5', "settle_s is 5; it must be from 6"),
        ('type = "slurm"', 'type = "slurm"\nsocket = 5', "engine.socket is not a field"),
    ],
)
def test_what_is_wrong_of_a_slurm_site_is_one_sentence(write, old, new, sentence):
    assert old in SLURM
    with pytest.raises(ConfigError, match=sentence):
        load_config(write(SLURM.replace(old, new)))


def test_a_site_without_slurm_is_told_so(write, tmp_path, capsys):
    write("dure-abc", "token").chmod(0o600)
    text = SLURM.replace('"/shared/dure"', '"state"')
    text = text.replace('type = "slurm"', 'type = "slurm"\nbin_dir = "/nowhere"')
    assert main(["--config", str(write(text))]) == 2
    assert "sinfo cannot be run" in capsys.readouterr().err


RAY = """
cluster_id = "kakao-ray"
url = "https://dure.example.kr"
token_file = "token"
root = "/shared/dure"

[engine]
type = "ray"
dashboard = "http://127.0.0.1:8265"
token_file = "/etc/dure/ray-token"
python = "/opt/ray/bin/python"

[[pools]]
pool_id = "kakao-a100"
gpus_per_node = 8
gpu_type = "A100"
"""


def test_a_ray_site_is_read(write):
    config = load_config(write(RAY))
    assert config.engine == RaySite(
        type="ray",
        dashboard="http://127.0.0.1:8265",
        token_file="/etc/dure/ray-token",
        python="/opt/ray/bin/python",
    )
    assert config.pools == (RayPool(pool_id="kakao-a100", gpus_per_node=8, gpu_type="A100"),)


@pytest.mark.parametrize(
    ("old", "new", "sentence"),
    [
        ('"http://127.0.0.1:8265"', '"127.0.0.1:8265"', "must start with https:// or http://"),
        ('token_file = "/etc/dure/ray-token"\n', "", "token_file must be given, or without_token"),
        ("[engine]", "[engine]\nwithout_token = true", "token_file must be given, or without_tok"),
        ('"/opt/ray/bin/python"', '"python"', "python 'python' must be an absolute path"),
        ("gpus_per_node = 8", "gpus_per_node = 0", "gpus_per_node of pool kakao-a100 is 0"),
        ('"A100"', '"A 100"', "gpu_type of pool kakao-a100 'A 100' is not one of Ray's"),
        ("[engine]", "[engine]\ntimeout_s = 0", "timeout_s is 0; it must be from 1 to 600"),
    ],
)
def test_what_is_wrong_of_a_ray_site_is_one_sentence(write, old, new, sentence):
    assert old in RAY
    with pytest.raises(ConfigError, match=sentence):
        load_config(write(RAY.replace(old, new)))


def test_a_site_without_ray_is_told_so(write, tmp_path, capsys):
    write("dure-abc", "token").chmod(0o600)
    write("ray-token", "ray-token").chmod(0o600)
    text = RAY.replace('"/shared/dure"', '"state"').replace("8265", "9")
    text = text.replace("/etc/dure/ray-token", str(tmp_path / "ray-token"))
    assert main(["--config", str(write(text))]) == 2
    assert "Ray at http://127.0.0.1:9 did not answer" in capsys.readouterr().err


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

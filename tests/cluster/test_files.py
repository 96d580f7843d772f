"""The cluster files are valid for Ray, pinned, closed and free of secrets."""

from __future__ import annotations

import re
from copy import deepcopy
from pathlib import Path
from typing import Any

import jsonschema
import pytest
import yaml

pytest.importorskip("ray.autoscaler._private.util")
from ray.autoscaler._private.util import prepare_config, validate_config

ROOT = Path(__file__).resolve().parents[2]
FILES = [ROOT / "cluster.yaml", *sorted((ROOT / "clusters").glob("*.yaml"))]
CLOUD = [file for file in FILES if file.name != "cluster.local.yaml"]
SECRETS = re.compile(
    r"AKIA[0-9A-Z]{16}|-----BEGIN|(?i:password|secret|token)\s*[:=]\s*['\"]?[0-9a-zA-Z+/_-]{16,}|\b[0-9a-f]{32,}\b"
)

pytestmark = pytest.mark.filterwarnings("ignore::DeprecationWarning")


@pytest.fixture(params=FILES, ids=lambda file: file.name)
def file(request) -> Path:
    return request.param


def read(file: Path) -> dict[str, Any]:
    return yaml.safe_load(file.read_text())


def starts(config: dict[str, Any]) -> dict[str, str]:
    """Return the command that starts Ray on the head and on a worker."""
    found = {}
    for part in ("head", "worker"):
        commands = [command for command in config[f"{part}_start_ray_commands"] if "ray start" in command]
        assert len(commands) == 1
        found[part] = commands[0]
    return found


def test_there_is_a_file_for_each_place_to_run():
    assert [file.name for file in FILES] == ["cluster.yaml", "cluster.gcp.yaml", "cluster.local.yaml"]


def test_ray_accepts_the_file(file):
    validate_config(prepare_config(read(file)))


@pytest.mark.parametrize(
    "change",
    [
        lambda config: config.update(idle_timeout_minute=5),
        lambda config: config["auth"].update(ssh_usr="ubuntu"),
        lambda config: config.update(max_workers="eight"),
        lambda config: config.update(setup_commands="pip install ray"),
    ],
)
def test_ray_refuses_a_misspelt_key_or_a_wrong_type(file, change):
    config = deepcopy(read(file))
    change(config)
    # A wrong type may already break the filling in of defaults, before Ray looks at the schema.
    with pytest.raises((jsonschema.ValidationError, TypeError)):
        validate_config(prepare_config(config))


def test_every_node_installs_the_project_with_the_pinned_versions(file):
    installs = [command for command in read(file)["setup_commands"] if "pip install" in command]
    assert len(installs) == 1
    assert "-c ~/raydistill/constraints.txt" in installs[0]
    assert installs[0].endswith("~/raydistill")
    pins = dict(line.split("==") for line in (ROOT / "constraints.txt").read_text().split() if "==" in line)
    assert {"ray", "torch", "transformers", "optuna", "datasets"} <= set(pins)


def test_every_node_asks_for_the_token(file):
    config = read(file)
    for command in starts(config).values():
        before, _, _ = command.partition("ray start")
        assert "export RAY_AUTH_MODE=token" in before
    login = [command for command in config["setup_commands"] if ".bashrc" in command]
    assert any("export RAY_AUTH_MODE=token" in command for command in login)


def test_the_token_travels_as_a_file_that_only_its_owner_reads(file):
    config = read(file)
    mounts = [remote for remote, local in config["file_mounts"].items() if local == "~/.ray/auth_token"]
    assert len(mounts) == 1
    assert mounts[0].endswith("/.ray/auth_token")
    assert config["setup_commands"][0] == "chmod 700 ~/.ray && chmod 600 ~/.ray/auth_token"
    commands = [command for key, value in config.items() if key.endswith("commands") for command in value]
    assert not any("RAY_AUTH_TOKEN" in command or "cat ~/.ray" in command for command in commands)


def test_the_dashboard_listens_on_loopback_only(file):
    head = starts(read(file))["head"]
    assert re.findall(r"--dashboard-host[= ](\S+)", head) == ["127.0.0.1"]
    assert "0.0.0.0" not in file.read_text()


def test_there_is_no_secret_in_the_file(file):
    assert SECRETS.findall(file.read_text()) == []


@pytest.mark.parametrize("text", ["aws: AKIAABCDEFGHIJKLMNOP", "token: 3f1c8c7ce2b14d0e9d4b", "x=" + "0a" * 16])
def test_a_secret_would_be_found(text):
    assert SECRETS.search(text)


@pytest.mark.parametrize("file", CLOUD, ids=lambda file: file.name)
def test_workers_come_on_demand_and_idle_ones_are_ended(file):
    config = prepare_config(read(file))
    head = config["available_node_types"][config["head_node_type"]]
    workers = [kind for name, kind in config["available_node_types"].items() if name != config["head_node_type"]]
    assert head["resources"] == {"CPU": 0}
    assert 0 < config["idle_timeout_minutes"] <= 15
    for worker in workers:
        assert worker["min_workers"] == 0
        assert 0 < worker["max_workers"] <= config["max_workers"]
        assert worker["resources"]["GPU"] >= 1


@pytest.mark.parametrize(
    ("name", "key"), [("cluster.yaml", "IamInstanceProfile"), ("clusters/cluster.gcp.yaml", "serviceAccounts")]
)
def test_workers_have_a_line_for_their_right_to_a_bucket_that_ray_accepts(name, key):
    """Ray gives rights to the head alone; checkpoints in a bucket are written by workers."""
    text, n_lines = re.subn(rf"^( +)# ({key}: )", r"\1\2", (ROOT / name).read_text(), flags=re.MULTILINE)
    assert n_lines == 1
    config = yaml.safe_load(text)
    validate_config(prepare_config(deepcopy(config)))
    assert {kind for kind, settings in config["available_node_types"].items() if key in settings["node_config"]} == {
        "gpu_worker"
    }
    granted = yaml.safe_dump(config["available_node_types"]["gpu_worker"]["node_config"][key])
    assert "raydistill-worker" in granted
    assert "raydistill-worker" in (ROOT / "docs" / "cluster.md").read_text()


def test_aws_workers_are_spot_and_all_machines_are_closed_and_encrypted():
    config = read(ROOT / "cluster.yaml")
    for name, kind in config["available_node_types"].items():
        node = kind["node_config"]
        # With a group of one's own Ray makes none, and opens nothing.
        assert node["SecurityGroupIds"]
        assert node["MetadataOptions"] == {"HttpTokens": "required"}
        assert all(disk["Ebs"]["Encrypted"] for disk in node["BlockDeviceMappings"])
        assert (node.get("InstanceMarketOptions") == {"MarketType": "spot"}) == (name != config["head_node_type"])
    assert config["provider"]["cache_stopped_nodes"] is False


def test_all_machines_share_a_folder(file):
    commands = read(file)["setup_commands"]
    assert any("/mnt/raydistill" in command and ("mount" in command or "test -w" in command) for command in commands)


def test_what_must_be_changed_cannot_be_taken_for_a_real_value(file):
    """Ray must not start anything by accident from an unedited file."""
    text = "\n".join(line for line in file.read_text().splitlines() if not line.lstrip().startswith("#"))
    assert text.count("CHANGE_ME") >= 3
    assert not re.search(r"\b(ami|sg|fs|subnet)-[0-9a-f]{8,}", text)

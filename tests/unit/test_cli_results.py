"""The commands on results, as a person calls them: exit codes, what is written, what is printed."""

import json
import os
import subprocess
import sys
from pathlib import Path

import pytest

from stuntime.cli import main
from tests.results import EVERY_VERDICT, SANDBOX, SCENARIO, document, plan, write


def test_aggregate_writes_and_passes(tmp_path, capsys):
    """Twelve passes: exit 0, JUnit and the aggregate are there, the table fits 80 columns and has no colour."""
    assert main(["aggregate", str(SANDBOX), "--output", str(tmp_path / "new" / "out")]) == 0
    assert sorted(path.name for path in (tmp_path / "new" / "out").iterdir()) == ["aggregate.json", "junit.xml"]
    told = capsys.readouterr().out
    assert "12 pass" in told
    assert "\x1b" not in told
    assert max(len(line) for line in told.splitlines() if "JUnit" not in line) <= 80


@pytest.mark.parametrize(
    ("value", "code"), [({"stuntime_s": 5.1}, 1), ({"stuntime_s": None}, 1), ({"migration": None}, 4), ({}, 0)]
)
def test_the_exit_code_is_the_verdict(tmp_path, value, code):
    """Any failure is 1, else any error is 4, else 0."""
    plan(write(tmp_path, document(**value)), [SCENARIO])
    assert main(["aggregate", str(tmp_path), "--output", str(tmp_path)]) == code


def test_every_verdict_is_told(tmp_path, capsys):
    """What failed has a sentence; documents that cannot be read are named with a way out."""
    assert main(["aggregate", str(EVERY_VERDICT), "--output", str(tmp_path)]) == 1
    told = capsys.readouterr()
    assert f"fail {SCENARIO}: over-threshold: 6.200 s" in told.out
    assert "\x1b" not in told.out
    for name in ("newer.json", "package.json", "ovn-localnet.from-static-node.static.ipv4.json"):
        assert name in told.err


def test_policy_options(tmp_path):
    """A thresholds file, a baseline and published ranges decide."""
    thresholds, baseline, published = (tmp_path / name for name in ("t.yaml", "b.json", "p.json"))
    thresholds.write_text("networks:\n  ovn-localnet: {threshold: 0.4}\n")
    results, output = str(SANDBOX), str(tmp_path / "out")
    assert main(["aggregate", results, "--output", output, "--thresholds", str(thresholds)]) == 1
    assert main(["baseline", "create", results, "--author", "A", "--output", str(baseline)]) == 4
    assert not baseline.exists()
    create = ["baseline", "create", results, "--author", "A", "--output", str(baseline), "--at-least", "1"]
    assert main(create) == 0
    assert main(["baseline", "show", str(baseline)]) == 0
    assert main(["publish", results, "--format", "json", "--output", str(published)]) == 0
    policy = ["--baseline", str(baseline), "--published", str(published)]
    assert main(["aggregate", results, "--output", output, *policy]) == 0
    found = json.loads((tmp_path / "out" / "aggregate.json").read_text())["scenarios"][0]
    assert (found["threshold_s"], found["threshold_from"], found["published_s"]) == (1.276, "the baseline", [0.3, 0.4])


def test_bad_policy_is_a_usage_error_with_its_line(tmp_path, capsys):
    """A thresholds file that cannot be is told before anything else is done."""
    thresholds = tmp_path / "t.yaml"
    thresholds.write_text("global:\n  threshold: 500ms\n")
    assert main(["aggregate", str(SANDBOX), "--output", str(tmp_path / "out"), "--thresholds", str(thresholds)]) == 2
    assert "t.yaml:2: threshold is '500ms'" in capsys.readouterr().err
    assert not (tmp_path / "out").exists()


def test_compare_exit_codes(tmp_path, capsys):
    """A regression is 1 only when it was asked to be."""
    for name, start in (("a", 0.2), ("b", 0.4)):
        write(tmp_path / name, *(document(repetition=n, stuntime_s=start + n / 1000) for n in range(1, 7)))
    sides = [str(tmp_path / "a"), str(tmp_path / "b")]
    assert main(["compare", *sides]) == 0
    assert "regression" in capsys.readouterr().out
    assert main(["compare", *sides, "--fail-on-regression", "--json"]) == 1
    assert json.loads(capsys.readouterr().out)["pairs"][0]["finding"] == "regression"
    assert main(["compare", *reversed(sides), "--fail-on-regression"]) == 0
    (tmp_path / "a" / "results" / "torn.json").write_text("{")
    assert main(["compare", *reversed(sides), "--fail-on-regression"]) == 4


def test_tables_fit_80_columns(tmp_path, capsys):
    """Also the tables of a baseline and of a comparison."""
    baseline = str(tmp_path / "b.json")
    main(["baseline", "create", str(SANDBOX), "--author", "A", "--output", baseline, "--at-least", "1"])
    main(["compare", baseline, str(SANDBOX)])
    rows = [line for line in capsys.readouterr().out.splitlines() if line.startswith(("from-", "to-", "between-"))]
    assert len(rows) == 24
    assert max(map(len, rows)) <= 80


@pytest.mark.parametrize("command", ["aggregate", "report"])
def test_an_output_that_cannot_be_written(tmp_path, command):
    """Exit 2, and nothing half-written is left."""
    (tmp_path / "file").write_text("in the way")
    assert main([command, str(SANDBOX), "--output", str(tmp_path / "file" / "out")]) == 2
    assert [path.name for path in tmp_path.iterdir()] == ["file"]


def test_a_full_disk_leaves_nothing_half_written(tmp_path):
    """Where a file cannot grow (as on a full disk) the old one stays as it was and no temporary one is left."""
    page = tmp_path / "report.html"
    page.write_text("old")
    limited = f"ulimit -f 8; exec {sys.executable} -m stuntime report {SANDBOX} --output {page}"
    environment = {**os.environ, "PYTHONDONTWRITEBYTECODE": "1"}
    done = subprocess.run(
        ["bash", "-c", limited], env=environment, cwd=Path(__file__).parents[2], capture_output=True, check=False
    )
    assert done.returncode == 2, done.stderr
    assert page.read_text() == "old"
    assert [path.name for path in tmp_path.iterdir()] == ["report.html"]


@pytest.mark.parametrize(
    "arguments",
    [
        ["aggregate", "{}", "--output", "{}"],
        ["report", "{}", "--output", "{}/p"],
        ["publish", "{}"],
        ["compare", "{}", "{}"],
    ],
)
def test_an_empty_directory_is_a_usage_error(tmp_path, arguments):
    """Nothing to judge is no pass."""
    assert main([argument.format(tmp_path) for argument in arguments]) == 2


@pytest.mark.parametrize(
    "command",
    [["aggregate"], ["report"], ["publish"], ["compare"], ["baseline"]]
    + [["baseline", action] for action in ("create", "show", "thresholds")],
)
def test_help_has_an_example(capsys, command):
    """Every command explains itself with an example."""
    with pytest.raises(SystemExit) as done:
        main([*command, "--help"])
    assert done.value.code == 0
    assert "example: stuntime" in capsys.readouterr().out


def test_no_color_and_pipes(tmp_path):
    """On a terminal there is colour unless NO_COLOR is set; in a pipe there never is."""
    command = f"{sys.executable} -m stuntime aggregate {SANDBOX} --output {tmp_path}"
    root = Path(__file__).parents[2]
    told = {}
    for name, extra in (("colour", {}), ("plain", {"NO_COLOR": "1"})):
        environment = {k: v for k, v in os.environ.items() if k != "NO_COLOR"} | {"TERM": "xterm"} | extra
        done = subprocess.run(
            ["script", "-qec", command, "/dev/null"], env=environment, cwd=root, capture_output=True, check=False
        )
        told[name] = done.stdout
    assert b"\x1b[32m" in told["colour"]
    assert b"\x1b[32m" not in told["plain"]


@pytest.mark.parametrize(("testbed", "refused"), [("ssh", True), ("kubevirt", False)])
def test_a_run_is_resumed_on_its_own_testbed(tmp_path, testbed, refused):
    """`--resume` bears the --testbed of the run, which a person repeats from the command before, and no other one."""
    output = plan(tmp_path, [SCENARIO], testbed=testbed)
    words = ("suite", "--testbed", "kubevirt", "--resume", str(output), "--kubeconfig", "none")
    done = subprocess.run([sys.executable, "-m", "stuntime", *words], capture_output=True, text=True, check=False)
    assert done.returncode != 0
    assert ("goes on with the plan" in done.stderr) is refused

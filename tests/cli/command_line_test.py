"""`semipd`: every command is listed, only the chosen one is imported, a user's error is one line and code 2."""

from __future__ import annotations

import subprocess
import sys

import pytest

from semipd_cli.__main__ import COMMANDS, main


def test_help_lists_every_command(capsys: pytest.CaptureFixture[str]) -> None:
    with pytest.raises(SystemExit) as ended:
        main(["--help"])
    assert ended.value.code == 0
    listed = capsys.readouterr().out
    assert all(command.name in listed for command in COMMANDS)


@pytest.mark.parametrize(
    ("arguments", "message"),
    [
        pytest.param(
            ["set-partition", "--prefill", "0", "--decode", "9"],
            "--prefill: got '0', allowed: an integer 1..100",
            id="percent 0",
        ),
        pytest.param(
            ["set-partition", "--prefill", "x", "--decode", "9"],
            "--prefill: got 'x', allowed: an integer 1..100",
            id="no number",
        ),
        pytest.param(
            ["set-partition", "--prefill", "9"],
            "--decode: got nothing, allowed: an integer 1..100 (required, unless --auto)",
            id="half a split",
        ),
        pytest.param(
            ["set-partition", "--prefill", "9", "--decode", "9", "--auto"],
            "--auto: got '--auto with a split', allowed: --auto alone, or --prefill and --decode",
            id="both",
        ),
        pytest.param(
            ["up", "-f", "absent.yaml"],
            "-f: got 'absent.yaml', allowed: a readable file (No such file or directory)",
            id="no file",
        ),
        pytest.param(
            ["up", "-f", "x", "--port", "0"], "--port: got '0', allowed: an integer 1..65535", id="port 0"
        ),
        pytest.param(
            ["up", "-f", "x", "--cluster-period", "nan"],
            "--cluster-period: got 'nan', allowed: seconds 0.5..3600",
            id="no seconds",
        ),
    ],
)
def test_a_wrong_argument_is_one_line_and_code_2(
    arguments: list[str], message: str, capsys: pytest.CaptureFixture[str]
) -> None:
    assert main(arguments) == 2
    assert capsys.readouterr().err == f"semipd: {message}\n"


@pytest.mark.parametrize("arguments", [[], ["unheard-of"], ["up"]])
def test_what_argparse_refuses_is_code_2_too(
    arguments: list[str], capsys: pytest.CaptureFixture[str]
) -> None:
    with pytest.raises(SystemExit) as ended:
        main(arguments)
    assert ended.value.code == 2
    assert "semipd" in capsys.readouterr().err


@pytest.mark.slow
def test_help_imports_no_command() -> None:
    script = (
        "import contextlib, sys\nfrom semipd_cli.__main__ import main\n"
        "with contextlib.suppress(SystemExit): main(['--help'])\n"
        "print(*sys.modules)"
    )
    done = subprocess.run(
        [sys.executable, "-c", script], capture_output=True, text=True, check=True, timeout=60
    )
    loaded = set(done.stdout.splitlines()[-1].split())
    assert not loaded & {"httpx", "pydantic", "yaml", "torch", "semipd_cli.up", "semipd_agent"}

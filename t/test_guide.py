"""The guide to writing a balancer: what it shows is what happens."""
import re
import subprocess

import pytest

from moongate import BINARY, ROOT

GUIDE = ROOT / "lua" / "writing-a-balancer.md"


def steps():
    """Scripts and commands with their output, in the order of the page: ("gateway.lua", text), ("$ ...", output)."""
    text = GUIDE.read_text()
    for script, name, command in re.findall(r"^```lua\n(-- (\S+)\n.*?)^```|^    \$ ([^\n]*\n(?:    [^\n]*\n|\n(?=    ))*)", text, re.M | re.S):
        if name:
            yield name, script
        else:
            line, *output = command.split("\n")
            yield "$ " + line, "\n".join(each[4:] for each in output).strip("\n")


def test_each_command_of_the_guide_prints_what_the_guide_says(tmp_path):
    shown, printed = [], []
    for name, text in steps():
        if not name.startswith("$ "):
            (tmp_path / name).parent.mkdir(exist_ok=True)
            (tmp_path / name).write_text(text)
            continue
        done = subprocess.run(["bash", "-c", name[2:].replace("moongate", str(BINARY), 1)], cwd=tmp_path, timeout=60,
                              capture_output=True, text=True, check=True)
        shown.append(name + "\n" + text)
        printed.append(name + "\n" + done.stdout.strip("\n"))

    assert len(shown) >= 5
    assert printed == shown


def test_the_guides_balancer_is_checked_as_any_script_is(tmp_path):
    scripts = dict(step for step in steps() if not step[0].startswith("$ "))
    (tmp_path / "balance").mkdir()
    (tmp_path / "balance" / "mine.lua").write_text(scripts["balance/mine.lua"])
    (tmp_path / "gateway.lua").write_text(scripts["gateway.lua"].replace('"mine"', 'require "balance.mine" { flor = 1 }'))

    done = subprocess.run([BINARY, "check", "gateway.lua"], cwd=tmp_path, timeout=20, capture_output=True, text=True)

    assert done.returncode == 1
    assert 'gateway.lua:6: balance.mine: unknown key "flor"; did you mean "floor"?' in done.stderr

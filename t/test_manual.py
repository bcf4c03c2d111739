"""test_manual.py - the man page, the shells' completions and the systemd unit say what the binary does; pages' links lead somewhere."""
import re
import subprocess

import pytest

import moongate

PACKAGE = moongate.ROOT / "scripts" / "package"


def text_of(name):
    return (PACKAGE / name).read_text()


def told_by_help():
    text = moongate.run("--help").stdout
    return options_in(text), set(re.findall(r"^  moongate ([a-z][a-z-]*) ", text, re.M))


def options_in(text):
    return set(re.findall(r"--[a-z][a-z-]*", text))


def options_of_sim():
    return options_in(moongate.run("sim", "--help").stdout)


def completed(*words):
    """What bash offers for the last of these words."""
    script = 'source "$1"; shift; COMP_WORDS=("$@"); COMP_CWORD=$(($# - 1)); _moongate; printf "%s\\n" "${COMPREPLY[@]}"'
    done = subprocess.run(["bash", "--norc", "-c", script, "bash", PACKAGE / "moongate.bash", *words], check=True,
                          capture_output=True, text=True, timeout=10)
    return set(done.stdout.split())


def test_the_man_page_is_well_formed():
    done = subprocess.run(["mandoc", "-Tlint", "-Wwarning", PACKAGE / "moongate.1"], capture_output=True, text=True, timeout=10)
    assert (done.returncode, done.stdout) == (0, "")


def test_the_man_page_tells_every_option_and_verb_and_no_other():
    options, verbs = told_by_help()
    options |= options_of_sim()
    listed = "".join(re.findall(r"^\.It F.*$", text_of("moongate.1"), re.M))
    assert {"-" + each for each in re.findall(r"Fl (-[a-z-]+)", listed)} == options
    assert set(re.findall(r"^\.It Cm (\S+)", text_of("moongate.1"), re.M)) == verbs


def test_bash_completes_every_option_and_verb_and_no_other(tmp_path, monkeypatch):
    monkeypatch.chdir(tmp_path)
    (tmp_path / "gateway.lua").touch()
    options, verbs = told_by_help()
    assert completed("moongate", "--") == options
    assert completed("moongate", "") == verbs | {"gateway.lua"}
    assert completed("moongate", "check", "gate") == {"gateway.lua"}
    assert completed("moongate", "sim", "--") == options_of_sim()
    assert completed("moongate", "sim", "gateway.lua", "--") == options_of_sim()
    assert completed("moongate", "sim", "gate") == {"gateway.lua"}
    assert completed("moongate", "sim", "gateway.lua", "--view", "") == {"shared", "own"}
    assert completed("moongate", "--log", "") == {"debug", "info", "warn", "error", "none"}
    assert completed("moongate", "log-level", "") == {"debug", "info", "warn", "error", "none", "default"}


def test_zsh_offers_every_option_and_verb_and_no_other():
    options, verbs = told_by_help()
    text = text_of("moongate.zsh")
    assert set(re.findall(r"'\*?(--[a-z-]+)\[", text)) == options | options_of_sim()
    assert set(re.search(r"verbs=\((.*)\)", text)[1].split()) == verbs
    subprocess.run(["zsh", "-n", PACKAGE / "moongate.zsh"], check=True, timeout=10)


@pytest.fixture
def unit(tmp_path):
    made = tmp_path / "moongate.service"
    made.write_text(text_of("moongate.service").replace("/usr/bin/moongate", moongate.BINARY))
    return made


def test_systemd_finds_nothing_wrong_in_the_unit(unit):
    done = subprocess.run(["systemd-analyze", "verify", "--man=no", unit], capture_output=True, text=True, timeout=30)
    assert done.returncode == 0 and "moongate.service" not in done.stderr, done.stderr


def test_the_unit_exposes_little(unit):
    done = subprocess.run(["systemd-analyze", "security", "--offline=true", "--threshold=20", unit], timeout=30,
                          capture_output=True, text=True)
    assert done.returncode == 0, done.stdout + done.stderr


def test_systemds_socket_is_where_the_default_script_listens():
    listens = re.findall(r'^gate\.listen "(.*)"$', text_of("gateway.lua"), re.M)
    assert re.findall(r"^ListenStream=(.*)$", text_of("moongate.socket"), re.M) == listens != []


def test_the_default_script_is_right():
    done = moongate.run("check", PACKAGE / "gateway.lua")
    assert done.returncode == 0, done.stderr


def test_what_is_installed_is_uninstalled_but_for_the_users_script(tmp_path):
    def make(target):
        subprocess.run(["make", "-s", "-C", moongate.ROOT, target, "PREFIX=/usr", f"DESTDIR={tmp_path}"],
                       check=True, timeout=60, capture_output=True)

    make("install-files")
    installed = {str(each.relative_to(tmp_path)) for each in tmp_path.rglob("*") if each.is_file()}
    assert installed >= {"usr/share/man/man1/moongate.1", "usr/share/bash-completion/completions/moongate",
                         "usr/share/zsh/site-functions/_moongate", "usr/lib/systemd/system/moongate.service", "usr/lib/systemd/system/moongate.socket",
                         "etc/moongate/gateway.lua", "usr/share/moongate/scripts/auth/basic.lua"}
    (tmp_path / "etc/moongate/gateway.lua").write_text("-- mine\n")
    make("install-files")
    make("uninstall")
    left = [each for each in tmp_path.rglob("*") if each.is_file()]
    assert left == [tmp_path / "etc/moongate/gateway.lua"] and left[0].read_text() == "-- mine\n"


def anchors_of(page):
    """As the forges make them: of each heading, outside of code."""
    text = re.sub(r"^```.*?^```", "", page.read_text(), flags=re.M | re.S)
    return {re.sub(r"[^\w\- ]", "", heading.lower()).replace(" ", "-") for heading in re.findall(r"^#+ (.+)$", text, re.M)}


PAGES = sorted(page for page in moongate.ROOT.rglob("*.md") if "build" not in page.relative_to(moongate.ROOT).parts)


@pytest.mark.parametrize("page", PAGES, ids=lambda page: str(page.relative_to(moongate.ROOT)))
def test_every_link_of_a_page_leads_somewhere(page):
    for place, anchor in re.findall(r"\]\((?!http)([^)#]*)#?([^)]*)\)", page.read_text()):
        target = (page.parent / place).resolve() if place else page
        assert target.exists(), f"{place} is not there"
        assert not anchor or anchor in anchors_of(target), f"{place}#{anchor} is no heading"

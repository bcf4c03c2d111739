"""phases.py - the table of phases: what a request must meet so that each is reached, and what follows from its deeds."""
from dataclasses import dataclass

from moongate import ROOT

HOOK_LINE = 5               # of gateway.lua, where each script below has the body of its hook


@dataclass
class Phase:
    name: str
    arguments: str
    method: str = "GET"
    status: int = 200       # when nobody interferes
    body: bytes = b"origin"
    thrown: int = 500       # the status after an error; 0: the client sees the connection end; None: all is as usual
    answer: str = 'return 418, "from the hook\\n"'
    answered: tuple = (418, b"from the hook\n")
    dead: bool = False      # the peer that is tried first refuses
    last: bool = False      # there is no peer that lives
    waits: bool = True      # while the client waits: its leaving cancels


PHASES = {phase.name: phase for phase in (
    Phase("connect", "conn", thrown=0, answer="return false", answered=None),
    Phase("request", "req"),
    Phase("access", "req"),
    Phase("handle", "req, next"),
    Phase("request_body", "req, chunk", method="POST", answer='return chunk and "replaced" or nil',
          answered=(200, b"origin")),
    Phase("balance", "req, peers", answer="return peers[2]", answered=(200, b"second")),
    Phase("attempt", "req, peer"),
    Phase("retry", "req, failure", dead=True, answer="return false", answered=(502, None)),
    Phase("response", "req, res"),
    # The head has gone out when the body is at work, so an error can only cut it.
    Phase("response_body", "req, res, chunk", thrown=0, answer='return chunk and "hooked" or nil',
          answered=(200, b"hooked")),
    Phase("error", "req, err", status=502, body=None, dead=True, last=True),
    # What log returns or throws comes too late for the client.
    Phase("log", "req, res", thrown=None, answered=(200, b"origin"), waits=False),
)}


def script(phase, deed, peers, before="", upstream=""):
    """A gateway with one hook, which begins at HOOK_LINE and says in the log that it ran. Peers are tried in order."""
    quoted = ", ".join(f'"{peer}"' for peer in peers)
    return f"""local package_path = package.path; package.path = "{ROOT}/scripts/?.lua;" .. package.path
            {before}
            gate.use {{ name = "staged", {phase.name} = function({phase.arguments})
                gate.log.info("{phase.name} began"); {deed}
                end }}
            gate.route {{ "/*", upstream = gate.upstream("app", {{ peers = {{ {quoted} }}, {upstream} balance = function(_, peers)
                local first
                for _, p in ipairs(peers) do
                    if not first or p.address == "{peers[0]}" then first = p end
                end
                return first
            end }}) }}
        """


def peers_of(phase, first, second, dead):
    """What stands behind the gateway for this phase: addresses in the order in which they are tried."""
    peers = [dead] if phase.dead else []
    peers += [] if phase.last else [str(first)]
    if not phase.dead:
        peers.append(str(second))
    return peers
